//! What `init` needs to write a configuration: paths as the file must name them, TOML texts, and a private file.

use std::io;
use std::path::{self, Path, PathBuf};

/// Why a configuration cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
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

/// A path of the command line as the configuration must write it: paths in it are relative to its own folder.
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
