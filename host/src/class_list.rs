//! Which names may be a fleet's classes: the same rule on every device and on the aggregator.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use grapevine_models::limits::MAX_CLASSES;
use serde::{Deserialize, Deserializer};
use unicode_normalization::UnicodeNormalization;

/// What some editors put in front of a text.
const BYTE_ORDER_MARK: char = '\u{feff}';
/// Most characters of a class name.
const MAX_NAME_CHARS: usize = 100;

/// Why names are not a class list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassListError {
    /// Too few or too many.
    #[error("`classes` lists {count} names; a fleet has 2 to {max} classes", max = MAX_CLASSES)]
    Count {
        /// How many there are.
        count: usize,
    },
    /// The same name twice.
    #[error("`classes` lists `{name}` twice; give every class a name of its own")]
    Twice {
        /// The name.
        name: String,
    },
    /// A name that cannot be a folder of images.
    #[error(
        "`{name}` cannot be a class: devices keep images in folders of that name, so use 1 to {max} characters without \
         `/` or `\\`, not beginning with a dot",
        max = MAX_NAME_CHARS
    )]
    Name {
        /// The name.
        name: String,
    },
}

/// A file of class names cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}; give a text file with one class name a line", path.display())]
pub struct ClassFileError {
    path: PathBuf,
    source: io::Error,
}

/// A name as every part of a fleet compares it: a letter with an accent is one character (NFC), however the file system
/// or the editor spelt it, and a byte order mark and blanks around the name are not part of it.
pub fn canonical(name: &str) -> String {
    name.trim_start_matches(BYTE_ORDER_MARK).trim().nfc().collect()
}

/// A class list of a configuration, each name in its [`canonical`] form; for serde's `deserialize_with`.
///
/// # Errors
/// If the value is no list of texts.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<String>::deserialize(deserializer)?.iter().map(|name| name.nfc().collect()).collect())
}

/// Two to [`MAX_CLASSES`] distinct names that can be folders.
///
/// # Errors
/// If there are too few or too many names, a name stands there twice, or a name cannot be a folder.
pub fn check(classes: &[String]) -> Result<(), ClassListError> {
    if !(2..=MAX_CLASSES).contains(&classes.len()) {
        return Err(ClassListError::Count { count: classes.len() });
    }
    let mut seen = BTreeSet::new();
    for name in classes {
        if !can_be_folder(name) {
            return Err(ClassListError::Name { name: name.escape_debug().take(MAX_NAME_CHARS).collect() });
        }
        if !seen.insert(canonical(name)) {
            return Err(ClassListError::Twice { name: name.clone() });
        }
    }
    Ok(())
}

/// The names in a file, one a line, in their [`canonical`] form; empty lines are passed over. They are not checked yet.
///
/// # Errors
/// If the file cannot be read, or is no text.
pub fn read(path: &Path) -> Result<Vec<String>, ClassFileError> {
    let text = fs::read_to_string(path).map_err(|source| ClassFileError { path: path.to_owned(), source })?;
    Ok(lines(&text))
}

/// The names in a text, one a line, in their [`canonical`] form; empty lines are passed over.
pub fn lines(text: &str) -> Vec<String> {
    text.lines().map(canonical).filter(|line| !line.is_empty()).collect()
}

fn can_be_folder(name: &str) -> bool {
    let plain = |character: char| !matches!(character, '/' | '\\') && !character.is_control();
    (1..=MAX_NAME_CHARS).contains(&name.chars().count())
        && name.chars().all(plain)
        && !name.starts_with('.')
        && name.trim().len() == name.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_lists_are_distinct_names_of_folders() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(check(&list(&["a", "b"])), Ok(()));
        assert_eq!(check(&list(&["a"])), Err(ClassListError::Count { count: 1 }));
        assert_eq!(check(&list(&["a", "b", "a"])), Err(ClassListError::Twice { name: "a".into() }));
        let accents = check(&list(&["cafe\u{301}", "caf\u{e9}"])).unwrap_err();
        assert!(matches!(accents, ClassListError::Twice { .. }), "they look the same: {accents}");
        for bad in ["", " a", "a/b", "a\\b", ".hidden", "..", "a\nb", &"x".repeat(101)] {
            let error = check(&list(&["a", bad])).unwrap_err();
            assert!(matches!(error, ClassListError::Name { .. }) && !error.to_string().contains('\n'), "{bad:?}");
        }
    }

    #[test]
    fn a_file_has_a_name_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("classes.txt");
        fs::write(&path, "  cat\n\ndog \n").unwrap();
        assert_eq!(read(&path).unwrap(), ["cat", "dog"]);
        fs::write(&path, "\u{feff}cat\r\ncafe\u{301}\r\n\r\n").unwrap();
        assert_eq!(read(&path).unwrap(), ["cat", "caf\u{e9}"], "a mark of the editor is no part of a name");
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("; give a text file with one class name a line"), "{error}");
    }
}
