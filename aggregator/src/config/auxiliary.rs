//! The aggregator's own samples: a text file with one sample on each line.

use std::fs;
use std::path::{Path, PathBuf};

use grapevine_models::{Samples, Shape};

use crate::round::Auxiliary;

/// Most bytes of the file.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Why the samples cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuxiliaryError {
    /// The operating system refused.
    #[error("cannot read {}; check the path and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// More than anybody needs.
    #[error("{} is larger than {} MB; a few samples of each class are enough", path.display(), MAX_BYTES >> 20)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line that is no sample.
    #[error(
        "{}, line {line}: {reason}; a line is the features as the extractor's manifest standardises them, then the class, \
         all separated by commas", path.display()
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// Nothing at all of a class.
    #[error("{} has no sample of class `{class}`; it needs a few of every class", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The class.
        class: String,
    },
}

/// Reads samples with `shape.features()` features and one of the `classes` each. Empty lines count for nothing.
pub(super) fn load(path: &Path, shape: Shape, classes: &[String]) -> Result<Auxiliary, AuxiliaryError> {
    let io = |source| AuxiliaryError::Io { path: path.to_owned(), source };
    if fs::metadata(path).map_err(io)?.len() > MAX_BYTES {
        return Err(AuxiliaryError::TooLarge { path: path.to_owned() });
    }
    let text = fs::read_to_string(path).map_err(io)?;
    let mut auxiliary = Auxiliary { features: Vec::new(), labels: Vec::new() };
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let fault = |reason| AuxiliaryError::Line { path: path.to_owned(), line: number, reason };
        read_line(line, shape, classes, &mut auxiliary).map_err(fault)?;
    }
    let has = |class: usize| auxiliary.labels.iter().any(|label| usize::from(*label) == class);
    match (0..classes.len()).find(|class| !has(*class)) {
        Some(class) => Err(AuxiliaryError::Missing { path: path.to_owned(), class: classes[class].clone() }),
        None => Ok(auxiliary),
    }
}

fn read_line(line: &str, shape: Shape, classes: &[String], into: &mut Auxiliary) -> Result<(), String> {
    let wanted = shape.features();
    // A class may have commas in its name.
    let parts: Vec<&str> = line.splitn(wanted + 1, ',').map(str::trim).collect();
    let (class, features) = parts.split_last().ok_or("it is empty")?;
    if features.len() != wanted {
        return Err(format!("it has {} features, the extractor gives {wanted}", features.len()));
    }
    let label = classes.iter().position(|known| known == class).ok_or(format!("`{class}` is not a class"))?;
    let start = into.features.len();
    for feature in features {
        into.features.push(feature.parse().map_err(|_| format!("`{feature}` is not a number"))?);
    }
    let label = u16::try_from(label).expect("a shape has at most 1,000 classes");
    Samples::new(shape, &into.features[start..], &[label]).map_err(|_| "a feature is not finite or absurdly large")?;
    into.labels.push(label);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Auxiliary, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("auxiliary.csv");
        fs::write(&path, text).unwrap();
        let classes = ["cat".to_owned(), "dog, small".to_owned()];
        load(&path, Shape::new(2, 2).unwrap(), &classes).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_become_samples() {
        let auxiliary = read("0.5,-1,cat\n\n 1e-1 , 2 , dog, small \n").unwrap();
        assert_eq!(auxiliary, Auxiliary { features: vec![0.5, -1.0, 0.1, 2.0], labels: vec![0, 1] });
    }

    #[test]
    fn faults_name_the_line_and_what_is_wrong() {
        for (text, expected) in [
            ("1,2,cat\n1,cat\n", "line 2: it has 1 features, the extractor gives 2"),
            ("1,x,cat\n", "line 1: `x` is not a number"),
            ("1,NaN,cat\n", "line 1: a feature is not finite"),
            ("1,1e9,cat\n", "line 1: a feature is not finite or absurdly large"),
            ("1,2,cow\n", "line 1: `cow` is not a class"),
            ("1,2,cat\n", "has no sample of class `dog, small`"),
            ("", "has no sample of class `cat`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
        let missing = load(Path::new("/nowhere/a.csv"), Shape::new(2, 2).unwrap(), &[]).unwrap_err().to_string();
        assert!(missing.starts_with("cannot read /nowhere/a.csv"), "{missing}");
    }
}
