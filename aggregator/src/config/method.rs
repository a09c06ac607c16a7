//! The section on the method: its name, and hyper-parameters by the names of their table.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use grapevine_host::config::beside;
use grapevine_models::hyper_parameters::MIN_SAMPLES_TO_SHARE;
use grapevine_models::{HyperParameter, Method, Params, ValidParams};
use grapevine_protocol::Encoding;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{ConfigError, DEFAULT_METHOD, DEFAULT_MIN_SAMPLES_TO_SHARE};

/// How the fleet learns. A hyper-parameter that is absent has the published value of the method.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodSection {
    /// The method.
    pub name: Method,
    /// How weights and gradients are written.
    pub encoding: Encoding,
    /// The aggregator's own samples, for a method that needs some.
    pub auxiliary: Option<PathBuf>,
    /// Hyper-parameters by name.
    pub values: BTreeMap<&'static str, f64>,
}

impl Default for MethodSection {
    fn default() -> Self {
        Self {
            name: DEFAULT_METHOD,
            encoding: Encoding::F32,
            auxiliary: None,
            // Of one sample, everything would be known.
            values: [(MIN_SAMPLES_TO_SHARE.name, f64::from(DEFAULT_MIN_SAMPLES_TO_SHARE))].into(),
        }
    }
}

impl MethodSection {
    /// The hyper-parameters of a fleet with so many classes. `path` is where the configuration lies.
    pub(super) fn params(&self, classes: usize, path: &Path) -> Result<ValidParams, ConfigError> {
        let mut params = Params::defaults(self.name, classes);
        for (name, value) in &self.values {
            let Some(parameter) = params.all().find(|parameter| parameter.name == *name) else {
                return Err(ConfigError::OtherMethod { path: path.to_owned(), key: name, method: self.name });
            };
            let set = params.with(parameter, *value);
            params = set.map_err(|fault| ConfigError::Params { path: path.to_owned(), fault })?;
        }
        params.check().map_err(|fault| ConfigError::Params { path: path.to_owned(), fault })
    }

    /// The file with the aggregator's own samples, seen from the current folder; a method that needs them must have it,
    /// and any other must not.
    pub(super) fn auxiliary(&self, path: &Path) -> Result<Option<PathBuf>, ConfigError> {
        match (&self.auxiliary, self.name.auxiliary()) {
            (Some(file), Some(_)) => Ok(Some(beside(path, file))),
            (None, None) => Ok(None),
            (Some(_), None) => {
                Err(ConfigError::OtherMethod { path: path.to_owned(), key: "auxiliary", method: self.name })
            }
            (None, Some(samples)) => {
                Err(ConfigError::NoAuxiliary { path: path.to_owned(), method: self.name, samples })
            }
        }
    }
}

impl<'de> Deserialize<'de> for MethodSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(SectionVisitor)
    }
}

struct SectionVisitor;

impl<'de> Visitor<'de> for SectionVisitor {
    type Value = MethodSection;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a section with the settings of a method")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MethodSection, A::Error> {
        let mut section = MethodSection::default();
        while let Some(Key(key)) = map.next_key()? {
            match key {
                NAME => section.name = map.next_value()?,
                ENCODING => section.encoding = map.next_value()?,
                AUXILIARY => section.auxiliary = Some(map.next_value()?),
                name => {
                    let parameter: &HyperParameter = name.parse().expect("keys are checked");
                    let text = map.next_value::<Written>()?.text();
                    let refused = || {
                        let allowed = parameter.allowed();
                        de::Error::custom(format_args!("[method]: `{name}` is {text}; it must be {allowed}"))
                    };
                    section.values.insert(parameter.name, parameter.parse(&text).ok_or_else(refused)?);
                }
            }
        }
        Ok(section)
    }
}

/// The value of a hyper-parameter as a person wrote it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a hyper-parameter is a number, a word, true or false")]
enum Written {
    Flag(bool),
    Count(i64),
    Number(f64),
    Text(String),
}

impl Written {
    fn text(self) -> String {
        match self {
            Self::Flag(flag) => flag.to_string(),
            Self::Count(count) => count.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        }
    }
}

const NAME: &str = "name";
const ENCODING: &str = "encoding";
const AUXILIARY: &str = "auxiliary";

/// A key that the section may have.
struct Key(&'static str);

impl Key {
    fn all() -> BTreeSet<&'static str> {
        let names = HyperParameter::all().into_iter().map(|parameter| parameter.name);
        names.chain([NAME, ENCODING, AUXILIARY]).collect()
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a setting")
            }

            fn visit_str<E: de::Error>(self, key: &str) -> Result<Key, E> {
                let known = Key::all();
                // In the words of a derived implementation, which the reader of configurations looks for.
                let names = || known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                let unknown = || E::custom(format_args!("unknown field `{key}`, expected one of {}", names()));
                known.get(key).map(|key| Key(key)).ok_or_else(unknown)
            }
        }

        deserializer.deserialize_identifier(KeyVisitor)
    }
}
