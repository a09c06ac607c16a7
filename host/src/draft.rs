//! What `init` needs to write a configuration: paths as the file must name them, TOML texts, and a private file.

use std::io;
use std::path::{self, Path, PathBuf};

use clap::Args;
use grapevine_protocol::FleetId;

use crate::class_list::{self, ClassFileError, ClassListError};

/// Why a configuration cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// Nobody said that it may be replaced.
    #[error("{} exists; give --force to replace it, or another path with --config", path.display())]
    Exists {
        /// The configuration.
        path: PathBuf,
    },
    /// The file of class names cannot be read.
    #[error(transparent)]
    ClassFile(#[from] ClassFileError),
    /// The class names cannot be a fleet's.
    #[error(transparent)]
    ClassList(#[from] ClassListError),
    /// TOML is UTF-8.
    #[error("{} is not UTF-8 and cannot stand in a configuration; rename it", path.display())]
    NotText {
        /// The path.
        path: PathBuf,
    },
    /// The system does not say.
    #[error("cannot find out where {} is", path.display())]
    Where {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file's permissions cannot be changed.
    #[error("cannot protect {}, which holds a password", path.display())]
    Protect {
        /// The configuration.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// What every `init` is told on its command line.
#[derive(Clone, Debug, Args)]
pub struct DraftArguments {
    /// The fleet's name.
    #[arg(long, value_name = "NAME")]
    pub fleet: FleetId,
    /// The frozen extractor's manifest, the `.toml` file beside an `.onnx` file.
    #[arg(long, value_name = "FILE")]
    pub extractor: PathBuf,
    /// The fleet's class names; everywhere the same in the same order.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required_unless_present = "classes_file")]
    pub classes: Vec<String>,
    /// A text file with one class name a line, instead of --classes.
    #[arg(long, value_name = "FILE", conflicts_with = "classes")]
    pub classes_file: Option<PathBuf>,
    /// Replace a configuration that exists.
    #[arg(long)]
    pub force: bool,
}

impl DraftArguments {
    /// The class names, checked; refuses to replace a configuration unless that was asked for.
    ///
    /// # Errors
    /// If `target` exists and may not be replaced, or the class names cannot be read or used.
    pub fn class_list(&self, target: &Path) -> Result<Vec<String>, DraftError> {
        if target.exists() && !self.force {
            return Err(DraftError::Exists { path: target.to_owned() });
        }
        let classes = match &self.classes_file {
            Some(file) => class_list::read(file)?,
            None => self.classes.iter().map(|name| class_list::canonical(name)).collect(),
        };
        class_list::check(&classes)?;
        Ok(classes)
    }
}

/// A path of the command line as the configuration must write it: paths in it are relative to its own folder.
///
/// # Errors
/// If the path is empty or not UTF-8, or the current folder cannot be found out.
pub fn seen_from(config: &Path, path: &Path) -> Result<PathBuf, DraftError> {
    if path.to_str().is_none() {
        return Err(DraftError::NotText { path: path.to_owned() });
    }
    if config.parent().is_none_or(|folder| folder.as_os_str().is_empty()) {
        return Ok(path.to_owned());
    }
    path::absolute(path).map_err(|source| DraftError::Where { path: path.to_owned(), source })
}

/// A password is for its owner alone.
///
/// # Errors
/// If the permissions of the file cannot be changed.
#[cfg(unix)]
pub fn keep_secret(config: &Path) -> Result<(), DraftError> {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(config, Permissions::from_mode(0o600))
        .map_err(|source| DraftError::Protect { path: config.to_owned(), source })
}

/// A password is for its owner alone; here the folder's own rules have to see to that.
#[cfg(not(unix))]
pub fn keep_secret(_config: &Path) -> Result<(), DraftError> {
    Ok(())
}

/// A text as TOML.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Texts as a TOML array: on one line if they are few, one a line if they are many.
pub fn quoted_list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    match texts.len() {
        ..=12 => format!("[{}]", texts.join(", ")),
        13.. => format!("[\n  {},\n]", texts.join(",\n  ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_elsewhere_names_whole_paths() {
        let seen = |config: &str| seen_from(Path::new(config), Path::new("a/b.toml")).unwrap();
        assert_eq!(seen("c.toml"), Path::new("a/b.toml"));
        assert!(seen("etc/c.toml").is_absolute() && seen("etc/c.toml").ends_with("a/b.toml"));
    }

    #[test]
    fn lists_are_toml() {
        for count in [2, 40] {
            let texts: Vec<String> = (0..count).map(|number| format!("it's \"{number}\"")).collect();
            let table: toml::Table = format!("list = {}", quoted_list(&texts)).parse().unwrap();
            let list = table["list"].as_array().unwrap();
            assert!(list.iter().zip(&texts).all(|(value, text)| value.as_str() == Some(text)), "{list:?}");
            assert_eq!(list.len(), count);
        }
    }
}
