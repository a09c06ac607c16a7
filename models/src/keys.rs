//! Hyper-parameters by name: what a command line sets, and what a search goes through.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::methods::Method;
use crate::params::{Params, ParamsError, Sums};

/// One numeric hyper-parameter of [`Params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// [`Params::learning_rate`].
    LearningRate,
    /// [`Params::momentum`].
    Momentum,
    /// [`Params::lambda`].
    Lambda,
    /// [`Params::rich_samples`].
    RichSamples,
    /// [`Params::clip`].
    Clip,
    /// [`Params::batch`].
    Batch,
    /// [`Params::epochs`].
    Epochs,
    /// [`Params::min_samples_to_share`].
    MinSamples,
    /// [`Params::start_scale`].
    StartScale,
    /// [`Params::tau`].
    Tau,
    /// One of a method's own settings, see [`Method::settings`].
    Own(&'static str),
}

/// A name that no hyper-parameter has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a hyper-parameter; they are {names}", names = names())]
pub struct UnknownKey(pub String);

impl Key {
    /// The hyper-parameters that do not belong to one method, in the order tables show them.
    pub const COMMON: [Self; 10] = [
        Self::LearningRate,
        Self::Momentum,
        Self::Lambda,
        Self::RichSamples,
        Self::Clip,
        Self::Batch,
        Self::Epochs,
        Self::MinSamples,
        Self::StartScale,
        Self::Tau,
    ];

    /// The common ones, then every method's own, each name once.
    pub fn all() -> Vec<Self> {
        let own: BTreeSet<&'static str> =
            Method::ALL.into_iter().flat_map(Method::settings).map(|setting| setting.name).collect();
        Self::COMMON.into_iter().chain(own.into_iter().map(Self::Own)).collect()
    }

    /// The name used on command lines and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::LearningRate => "lr",
            Self::Momentum => "momentum",
            Self::Lambda => "lambda",
            Self::RichSamples => "rich-samples",
            Self::Clip => "clip",
            Self::Batch => "batch",
            Self::Epochs => "epochs",
            Self::MinSamples => "min-samples",
            Self::StartScale => "start-scale",
            Self::Tau => "tau",
            Self::Own(name) => name,
        }
    }
}

impl Params {
    /// Whether a hyper-parameter makes a difference to the method with these values.
    pub fn reads(&self, key: Key) -> bool {
        let method = self.method;
        match key {
            Key::LearningRate | Key::Momentum | Key::Clip | Key::Batch | Key::Epochs => {
                !method.is_one_shot() && method.sends_heads() && !method.sends_gradient()
            }
            Key::Lambda | Key::RichSamples => method.has_balanced_step(),
            Key::MinSamples => method.sends_prototypes() || method.needs() != Sums::Nothing,
            Key::StartScale => !method.is_one_shot() && self.start.needs() != Sums::Nothing,
            Key::Tau => true,
            Key::Own(name) => self.own(name).is_some(),
        }
    }

    /// The value of a hyper-parameter; `None` for a setting that the method does not have.
    pub fn value(&self, key: Key) -> Option<f64> {
        // Through text, so that 0.1 stays 0.1.
        let plain = |value: f32| alloc::format!("{value}").parse().ok();
        match key {
            Key::LearningRate => plain(self.learning_rate),
            Key::Momentum => plain(self.momentum),
            Key::Lambda => plain(self.lambda),
            Key::RichSamples => Some(self.rich_samples.into()),
            Key::Clip => plain(self.clip),
            Key::Batch => Some(self.batch.into()),
            Key::Epochs => Some(self.epochs.into()),
            Key::MinSamples => Some(self.min_samples_to_share.into()),
            Key::StartScale => plain(self.start_scale),
            Key::Tau => plain(self.tau),
            Key::Own(name) => self.own(name).and_then(plain),
        }
    }

    /// The same with one hyper-parameter set. Refuses what [`Params::check`] refuses, fractions of whole numbers, and
    /// settings that the method does not have.
    pub fn with(self, key: Key, value: f64) -> Result<Self, ParamsError> {
        let refused = |allowed| ParamsError { name: key.name(), value: value as f32, allowed };
        let whole = || {
            let is_whole = (0.0..=f64::from(u16::MAX)).contains(&value) && value == libm::trunc(value);
            if is_whole { Ok(value as u16) } else { Err(refused("a whole number from 1")) }
        };
        let params = match key {
            Key::LearningRate => Self { learning_rate: value as f32, ..self },
            Key::Momentum => Self { momentum: value as f32, ..self },
            Key::Lambda => Self { lambda: value as f32, ..self },
            Key::RichSamples => Self { rich_samples: whole()?, ..self },
            Key::Clip => Self { clip: value as f32, ..self },
            Key::Batch => Self { batch: whole()?, ..self },
            Key::Epochs => Self { epochs: whole()?, ..self },
            Key::MinSamples => Self { min_samples_to_share: whole()?, ..self },
            Key::StartScale => Self { start_scale: value as f32, ..self },
            Key::Tau => Self { tau: value as f32, ..self },
            Key::Own(name) => {
                let mut params = self;
                if !params.set_own(name, value as f32) {
                    return Err(refused("left out: the method has no such setting"));
                }
                params
            }
        };
        params.check().map(|_| params)
    }
}

impl FromStr for Key {
    type Err = UnknownKey;

    fn from_str(name: &str) -> Result<Self, UnknownKey> {
        Self::all().into_iter().find(|key| key.name() == name).ok_or_else(|| UnknownKey(name.to_owned()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

fn names() -> String {
    let names: Vec<&str> = Key::all().into_iter().map(Key::name).collect();
    let (last, others) = names.split_last().expect("there are hyper-parameters");
    alloc::format!("{} and {last}", others.join(", "))
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn every_name_leads_back_and_the_refusal_lists_them_all() {
        let refusal = "no-such".parse::<Key>().unwrap_err().to_string();
        for key in Key::all() {
            assert_eq!(key.name().parse(), Ok(key));
            assert!(refusal.contains(key.name()), "{key}");
        }
    }

    #[test]
    fn a_value_is_set_where_it_belongs() {
        let params = Params::defaults(Method::RedGrape, 10);
        for key in Key::COMMON {
            let changed = params.with(key, 0.5).or_else(|_| params.with(key, 3.0)).unwrap();
            assert_ne!(changed, params, "{key}");
            assert!(matches!(changed.value(key), Some(value) if value == 0.5 || value == 3.0), "{key}");
            assert!(params.with(key, f64::NAN).is_err(), "{key}");
        }
        assert_eq!(params.with(Key::Batch, 16.0).unwrap().batch, 16);
        assert_eq!(params.value(Key::Lambda), Some(0.1));
        assert!(params.with(Key::Epochs, 2.5).unwrap_err().to_string().contains("whole number"));
    }

    #[test]
    fn settings_belong_to_their_methods() {
        let (with, without) = (Params::defaults(Method::FedProx, 10), Params::defaults(Method::FedAvg, 10));
        let key: Key = "mu".parse().unwrap();
        assert_eq!(with.with(key, 0.5).unwrap().value(key), Some(0.5));
        assert!(with.reads(key) && !without.reads(key) && without.value(key).is_none());
        assert!(without.with(key, 0.5).unwrap_err().to_string().contains("no such setting"));
    }

    #[test]
    fn methods_tell_what_they_read() {
        let reads = |method, key| Params::defaults(method, 10).reads(key);
        assert!(reads(Method::RedGrape, Key::Lambda) && !reads(Method::FedAvg, Key::Lambda));
        assert!(Key::COMMON.into_iter().filter(|key| reads(Method::Lda, *key)).eq([Key::MinSamples, Key::Tau]));
        assert!(!reads(Method::FedAvg, Key::MinSamples));
        let of_a_descent = ["min-samples", "start-scale", "tau", "pull"].map(|name| name.parse().unwrap());
        assert!(Key::all().into_iter().filter(|key| reads(Method::RedGrapePlus, *key)).eq(of_a_descent));
    }
}
