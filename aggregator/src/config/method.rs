//! The section on the method: what all methods share, and the settings that only some have.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use grapevine_host::config::beside;
use grapevine_models::{Method, Params, Start, ValidParams};
use grapevine_protocol::Encoding;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{ConfigError, DEFAULT_METHOD, DEFAULT_MIN_SAMPLES_TO_SHARE};

/// How the fleet learns; what is absent has the published value of the method.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodSection {
    /// The method.
    pub name: Method,
    /// Step size of local training.
    pub learning_rate: Option<f32>,
    /// Momentum of the local step.
    pub momentum: Option<f32>,
    /// Weight of the balanced step against the local one.
    pub lambda: Option<f32>,
    /// Samples a device must hold of a class to be rich in it.
    pub rich_samples: Option<u16>,
    /// L2 norm to which the local gradient is clipped.
    pub clip: Option<f32>,
    /// Samples per mini-batch.
    pub batch: Option<u16>,
    /// Passes over the local data per round.
    pub epochs: Option<u16>,
    /// Where the main head starts.
    pub start: Option<Start>,
    /// What the start is multiplied with.
    pub start_scale: Option<f32>,
    /// Whether the head in use is the mean over the last half of the rounds.
    pub averaged: Option<bool>,
    /// How far the head in use is turned to the frequent classes.
    pub tau: Option<f32>,
    /// Samples of a class below which nothing about it leaves a device.
    pub min_samples_to_share: u16,
    /// How weights and gradients are written.
    pub encoding: Encoding,
    /// The aggregator's own samples, for a method that needs some.
    pub auxiliary: Option<PathBuf>,
    /// Settings of single methods by name, see [`Method::settings`].
    pub own: BTreeMap<&'static str, f32>,
}

impl Default for MethodSection {
    fn default() -> Self {
        Self {
            name: DEFAULT_METHOD,
            learning_rate: None,
            momentum: None,
            lambda: None,
            rich_samples: None,
            clip: None,
            batch: None,
            epochs: None,
            start: None,
            start_scale: None,
            averaged: None,
            tau: None,
            min_samples_to_share: DEFAULT_MIN_SAMPLES_TO_SHARE,
            encoding: Encoding::F32,
            auxiliary: None,
            own: BTreeMap::new(),
        }
    }
}

impl MethodSection {
    /// The hyper-parameters of a fleet with so many classes. `path` is where the configuration lies.
    pub(super) fn params(&self, classes: usize, path: &Path) -> Result<ValidParams, ConfigError> {
        let defaults = Params::defaults(self.name, classes);
        let mut params = Params {
            method: self.name,
            learning_rate: self.learning_rate.unwrap_or(defaults.learning_rate),
            momentum: self.momentum.unwrap_or(defaults.momentum),
            lambda: self.lambda.unwrap_or(defaults.lambda),
            rich_samples: self.rich_samples.unwrap_or(defaults.rich_samples),
            clip: self.clip.unwrap_or(defaults.clip),
            batch: self.batch.unwrap_or(defaults.batch),
            epochs: self.epochs.unwrap_or(defaults.epochs),
            min_samples_to_share: self.min_samples_to_share,
            start: self.start.unwrap_or(defaults.start),
            start_scale: self.start_scale.unwrap_or(defaults.start_scale),
            averaged: self.averaged.unwrap_or(defaults.averaged),
            tau: self.tau.unwrap_or(defaults.tau),
            own: defaults.own,
        };
        for (key, value) in &self.own {
            if !params.set_own(key, *value) {
                return Err(ConfigError::OtherMethod { path: path.to_owned(), key, method: self.name });
            }
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
        while let Some(SectionKey(key)) = map.next_key()? {
            match key {
                "name" => section.name = map.next_value()?,
                "learning_rate" => section.learning_rate = Some(map.next_value()?),
                "momentum" => section.momentum = Some(map.next_value()?),
                "lambda" => section.lambda = Some(map.next_value()?),
                "rich_samples" => section.rich_samples = Some(map.next_value()?),
                "clip" => section.clip = Some(map.next_value()?),
                "batch" => section.batch = Some(map.next_value()?),
                "epochs" => section.epochs = Some(map.next_value()?),
                "start" => section.start = Some(map.next_value()?),
                "start_scale" => section.start_scale = Some(map.next_value()?),
                "averaged" => section.averaged = Some(map.next_value()?),
                "tau" => section.tau = Some(map.next_value()?),
                "min_samples_to_share" => section.min_samples_to_share = map.next_value()?,
                "encoding" => section.encoding = map.next_value()?,
                "auxiliary" => section.auxiliary = Some(map.next_value()?),
                own => drop(section.own.insert(own, map.next_value()?)),
            }
        }
        Ok(section)
    }
}

/// The keys of the section that are not settings of single methods.
const COMMON_KEYS: [&str; 15] = [
    "name",
    "learning_rate",
    "momentum",
    "lambda",
    "rich_samples",
    "clip",
    "batch",
    "epochs",
    "start",
    "start_scale",
    "averaged",
    "tau",
    "min_samples_to_share",
    "encoding",
    "auxiliary",
];

/// A key that the section may have.
struct SectionKey(&'static str);

impl SectionKey {
    fn all() -> BTreeSet<&'static str> {
        let own = Method::ALL.into_iter().flat_map(Method::settings).map(|setting| setting.name);
        own.chain(COMMON_KEYS).collect()
    }
}

impl<'de> Deserialize<'de> for SectionKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl Visitor<'_> for KeyVisitor {
            type Value = SectionKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a setting")
            }

            fn visit_str<E: de::Error>(self, key: &str) -> Result<SectionKey, E> {
                let known = SectionKey::all();
                // In the words of a derived implementation, which the reader of configurations looks for.
                let names = || known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                let unknown = || E::custom(format_args!("unknown field `{key}`, expected one of {}", names()));
                known.get(key).map(|key| SectionKey(key)).ok_or_else(unknown)
            }
        }

        deserializer.deserialize_identifier(KeyVisitor)
    }
}
