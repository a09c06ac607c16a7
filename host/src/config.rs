//! Configuration: one TOML file, overridden by the environment.
//!
//! `GRAPEVINE_SECTION__KEY=value` sets `key` in `[section]`; two underscores go one table deeper, and `GRAPEVINE_KEY`
//! sets a key outside every section. A value is read as TOML where it is TOML (`true`, `5`, `["a", "b"]`) and fits,
//! and as plain text otherwise, so `30s` needs no quotes.
//!
//! Types of a configuration derive `Deserialize` with `#[serde(deny_unknown_fields)]`: that is what finds misspelled
//! keys. Durations are `humantime_serde` strings in those types.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// What every variable that overrides a setting begins with.
pub const PREFIX: &str = "GRAPEVINE_";
/// Variables with that prefix that are no settings: the log filter, and the path of the configuration itself.
pub const RESERVED: [&str; 2] = [crate::log::VARIABLE, "GRAPEVINE_CONFIG"];

/// Between the parts of a key in a variable's name.
const SEPARATOR: &str = "__";
/// Jaro-Winkler similarity above which another key is suggested.
const ALIKE: f64 = 0.75;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no file.
    #[error("there is no configuration at {}; {advice}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// How to make one.
        advice: String,
    },
    /// The operating system refused.
    #[error("could not read {}; check that it is a text file and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Not TOML, a value of the wrong kind, or a missing key.
    #[error("{place}: {reason}")]
    Invalid {
        /// File and line, or the variable.
        place: String,
        /// The fault.
        reason: String,
    },
    /// A key that means nothing.
    #[error("{place}: unknown key `{key}`; {advice}")]
    UnknownHyperParameter {
        /// File and line, or the variable.
        place: String,
        /// The key.
        key: String,
        /// A similar key, or all that are known there.
        advice: String,
    },
}

/// Reads the file at `path` with `environment` over it (see [`environment`]). `advice` completes the sentence about a
/// missing file, for example "run `aggregator init` to write one".
///
/// # Errors
/// If the file is missing or cannot be read, or a key or a value in it or in the environment cannot be used.
pub fn load<T: DeserializeOwned>(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
    advice: &str,
) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            return ConfigError::Missing { path: path.to_owned(), advice: advice.to_owned() };
        }
        ConfigError::Io { path: path.to_owned(), source }
    })?;
    parse(&text, path, environment)
}

/// As [`load`], with the file's text already read from `path`.
///
/// # Errors
/// If the text is no TOML, or a key or a value in it or in the environment is missing, unknown or of the wrong kind.
pub fn parse<T: DeserializeOwned>(
    text: &str,
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let mut overrides: Vec<Override> = environment.into_iter().filter_map(Override::parse).collect();
    overrides.sort_by(|a, b| a.name.cmp(&b.name));
    let in_file = |error: &toml::de::Error| explain(&file_place(path, text, error), error);
    let file: Table = toml::from_str(text).map_err(|error| in_file(&error))?;
    loop {
        let error = match merge(&file, &overrides, None)?.try_into() {
            Ok(config) => return Ok(config),
            Err(error) => error,
        };
        let Some(culprit) = culprit::<T>(&file, &overrides, &error) else {
            // Only a deserialisation from the text knows lines; its fault is this one when no variable is to blame,
            // unless a variable would have supplied what it misses.
            let from_text = toml::from_str::<T>(text).err().filter(|other| other.message() == error.message());
            return Err(in_file(from_text.as_ref().unwrap_or(&error)));
        };
        let suspect = &mut overrides[culprit];
        if suspect.value.is_str() {
            return Err(explain(&suspect.name, &error));
        }
        suspect.value = Value::String(suspect.text.clone());
    }
}

/// This process's environment, without what is not text.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// A path that a configuration names, seen from the current folder: it is relative to the configuration.
pub fn beside(config: &Path, path: &Path) -> PathBuf {
    config.parent().map_or_else(|| path.to_owned(), |folder| folder.join(path))
}

/// The line, from 1, of a byte offset.
pub fn line_of(text: &str, offset: usize) -> usize {
    let end = offset.min(text.len());
    text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count() + 1
}

/// One variable that sets a key.
struct Override {
    name: String,
    keys: Vec<String>,
    text: String,
    value: Value,
}

impl Override {
    fn parse((name, text): (String, String)) -> Option<Self> {
        if RESERVED.contains(&name.as_str()) {
            return None;
        }
        let keys: Vec<String> = name.strip_prefix(PREFIX)?.to_lowercase().split(SEPARATOR).map(str::to_owned).collect();
        let value = text.parse().unwrap_or_else(|_| Value::String(text.clone()));
        Some(Self { name, keys, text, value })
    }

    fn apply(&self, table: &mut Table) -> Result<(), ConfigError> {
        let (last, sections) = self.keys.split_last().expect("splitting a text gives at least one part");
        let mut table = table;
        for section in sections {
            let entry = table.entry(section.as_str()).or_insert_with(|| Value::Table(Table::new()));
            table = entry.as_table_mut().ok_or_else(|| ConfigError::Invalid {
                place: self.name.clone(),
                reason: format!("`{section}` is no section; check the name of this environment variable"),
            })?;
        }
        table.insert(last.clone(), self.value.clone());
        Ok(())
    }
}

fn merge(file: &Table, overrides: &[Override], without: Option<usize>) -> Result<Table, ConfigError> {
    let mut merged = file.clone();
    for (_, each) in overrides.iter().enumerate().filter(|(index, _)| Some(*index) != without) {
        each.apply(&mut merged)?;
    }
    Ok(merged)
}

/// The variable without which the fault would be another or none.
fn culprit<T: DeserializeOwned>(file: &Table, overrides: &[Override], error: &toml::de::Error) -> Option<usize> {
    (0..overrides.len()).find(|index| {
        let Ok(merged) = merge(file, overrides, Some(*index)) else { return false };
        merged.try_into::<T>().err().is_none_or(|other| other.message() != error.message())
    })
}

fn file_place(path: &Path, text: &str, error: &toml::de::Error) -> String {
    match error.span() {
        Some(span) => format!("{}, line {}", path.display(), line_of(text, span.start)),
        None => path.display().to_string(),
    }
}

/// Serde lists the known keys after the unknown one, each in backticks.
fn explain(place: &str, error: &toml::de::Error) -> ConfigError {
    let place = place.to_owned();
    let message = error.message();
    if message.starts_with("missing field `") {
        return ConfigError::Invalid { place, reason: format!("{message}; give it a value") };
    }
    if !message.starts_with("unknown field `") {
        return ConfigError::Invalid { place, reason: message.replace('\n', "; ") };
    }
    let mut names = message.split('`').skip(1).step_by(2);
    let key = names.next().unwrap_or_default().to_owned();
    let known: Vec<&str> = names.collect();
    let likeness = |name: &str| strsim::jaro_winkler(&key, name);
    let best = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let advice = match best.filter(|name| likeness(name) >= ALIKE) {
        Some(name) => format!("did you mean `{name}`?"),
        None if known.is_empty() => "no keys are known there".to_owned(),
        None => format!("known there: `{}`", known.join("`, `")),
    };
    ConfigError::UnknownHyperParameter { place, key, advice }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Config {
        fleet: String,
        #[serde(default)]
        mqtt: Mqtt,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Mqtt {
        keep_alive: String,
        queue: u32,
        topics: Vec<String>,
    }

    const FILE: &str = "fleet = \"north\"\n[mqtt]\nkeep_alive = \"30s\"\nqueue = 4\n";

    fn with(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        parse(text, Path::new("a.toml"), environment)
    }

    fn refusal(text: &str, environment: &[(&str, &str)]) -> String {
        with(text, environment).unwrap_err().to_string()
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let environment = [
            ("GRAPEVINE_FLEET", "7"),
            ("GRAPEVINE_MQTT__KEEP_ALIVE", "5s"),
            ("GRAPEVINE_MQTT__QUEUE", "9"),
            ("GRAPEVINE_MQTT__TOPICS", "[\"a\", \"b\"]"),
            ("GRAPEVINE_LOG", "debug"),
            ("HOME", "/root"),
        ];
        let config = with(FILE, &environment).unwrap();
        assert_eq!(config.fleet, "7", "a number where text belongs is text");
        let topics = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(config.mqtt, Mqtt { keep_alive: "5s".to_owned(), queue: 9, topics });
        assert_eq!(with("", &[("GRAPEVINE_FLEET", "south")]).unwrap().fleet, "south");
    }

    #[test]
    fn an_unknown_key_is_refused_with_place_and_suggestion() {
        let typo = FILE.replace("keep_alive", "keepalive");
        let expected = "a.toml, line 3: unknown key `keepalive`; did you mean `keep_alive`?";
        assert_eq!(refusal(&typo, &[]), expected);
        assert_eq!(refusal(&typo, &[("GRAPEVINE_MQTT__QUEUE", "1")]), expected, "a line beside a blameless variable");
        let far = refusal("fleet = 'x'\nzzz = 1\n", &[]);
        assert_eq!(far, "a.toml, line 2: unknown key `zzz`; known there: `fleet`, `mqtt`");
        let variable = refusal(FILE, &[("GRAPEVINE_MQTT__QUEU", "1")]);
        assert_eq!(variable, "GRAPEVINE_MQTT__QUEU: unknown key `queu`; did you mean `queue`?");
    }

    #[test]
    fn a_bad_value_names_its_place() {
        let line = refusal("fleet = 'x'\n[mqtt]\nqueue = 'many'\n", &[]);
        assert!(line.starts_with("a.toml, line 3: invalid type"), "{line}");
        let variable = refusal(FILE, &[("GRAPEVINE_MQTT__QUEUE", "many")]);
        assert!(variable.starts_with("GRAPEVINE_MQTT__QUEUE: invalid type"), "{variable}");
        let section = refusal(FILE, &[("GRAPEVINE_FLEET__NAME", "x")]);
        assert!(section.starts_with("GRAPEVINE_FLEET__NAME: `fleet` is no section"), "{section}");
        let missing = refusal("", &[("GRAPEVINE_MQTT__QUEUE", "1")]);
        assert!(missing.contains("a.toml") && missing.contains("missing field `fleet`; give it a value"), "{missing}");
        let syntax = refusal("fleet = \n", &[]);
        assert!(syntax.starts_with("a.toml, line 1: "), "{syntax}");
    }

    #[test]
    fn a_missing_file_says_how_to_make_one() {
        let error = load::<Config>(Path::new("/nowhere/a.toml"), [], "run `aggregator init` to write one").unwrap_err();
        let expected = "there is no configuration at /nowhere/a.toml; run `aggregator init` to write one";
        assert_eq!(error.to_string(), expected);
    }
}
