//! Hyper-parameters, checked once.

use serde::{Deserialize, Serialize};

use crate::methods::{MAX_SETTINGS, Method, Setting};

/// How much of the pure sums a method needs; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Sums {
    /// No statistics.
    Nothing,
    /// Samples per class.
    Counts,
    /// Counts and class sums.
    Means,
    /// Counts, class sums and the second moment of all features.
    SecondMoment,
}

/// Where the main head starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// At zero: every class equally likely.
    Zeros,
    /// At the nearest class mean, see [`crate::oneshot::ncm`].
    Ncm,
    /// At linear discriminant analysis, see [`crate::oneshot::lda`].
    Lda,
    /// At linear discriminant analysis of posterior class means, see [`crate::oneshot::posterior_lda`].
    Posterior,
}

impl Start {
    /// What devices must have told the aggregator for this start.
    pub fn needs(self) -> Sums {
        match self {
            Self::Zeros => Sums::Nothing,
            Self::Ncm => Sums::Means,
            Self::Lda | Self::Posterior => Sums::SecondMoment,
        }
    }
}

/// Hyper-parameters as written by a person; [`Params::check`] makes them usable.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Params {
    /// The method.
    pub method: Method,
    /// Step size of local training, for standardised features.
    pub learning_rate: f32,
    /// Momentum of the local step; starts at zero every round.
    pub momentum: f32,
    /// Weight of the balanced step against the local one.
    pub lambda: f32,
    /// Samples `T` a device must hold of a class to be rich in it.
    pub rich_samples: u16,
    /// Global L2 norm to which the local gradient is clipped.
    pub clip: f32,
    /// Samples per mini-batch.
    pub batch: u16,
    /// Passes over the local data per round, `E`.
    pub epochs: u16,
    /// Samples a device must hold of a class before its prototype or its sums of that class leave the device. One
    /// sample's prototype or mean reveals the sample, so deployments use 5. Heads are trained on all samples.
    pub min_samples_to_share: u16,
    /// Where the main head starts.
    pub start: Start,
    /// What the start is multiplied with: a smaller head is less sure of itself and easier to move.
    pub start_scale: f32,
    /// Whether the head in use is the mean of the main heads of the last half of the rounds.
    pub averaged: bool,
    /// The dial: times [`Method::dial`] it is added to the bias of the head in use, above 0 for the frequent classes, below 0
    /// for the rare ones.
    pub tau: f32,
    /// The method's own settings, in the order of [`Method::settings`]; zeros behind them.
    pub own: [f32; MAX_SETTINGS],
}

impl Params {
    /// The published defaults for a method and a number of classes (see DESIGN.md, "hyper-parameters").
    pub fn defaults(method: Method, classes: usize) -> Self {
        let mut own = [0.0; MAX_SETTINGS];
        own.iter_mut().zip(method.settings()).for_each(|(value, setting)| *value = setting.default);
        let mut params = Self {
            method,
            learning_rate: 0.1,
            momentum: 0.9,
            lambda: 0.1,
            rich_samples: if classes >= 100 { 2 } else { 8 },
            clip: 1.0,
            batch: 64,
            epochs: 5,
            min_samples_to_share: 1,
            start: Start::Zeros,
            start_scale: 1.0,
            averaged: false,
            tau: 0.0,
            own,
        };
        method.adjust_defaults(&mut params, classes);
        params
    }

    /// One of the method's own settings by name.
    pub fn own(&self, name: &str) -> Option<f32> {
        self.method.settings().iter().zip(self.own).find(|(setting, _)| setting.name == name).map(|(_, value)| value)
    }

    /// Changes one of the method's own settings; `false` if it has none of that name.
    pub fn set_own(&mut self, name: &str, value: f32) -> bool {
        let place = self.method.settings().iter().position(|setting| setting.name == name);
        if let Some(place) = place {
            self.own[place] = value;
        }
        place.is_some()
    }

    /// Refuses what could not be trained with.
    pub fn check(self) -> Result<ValidParams, ParamsError> {
        let refuse = |name, value, allowed| Err(ParamsError { name, value, allowed });
        if !(self.learning_rate > 0.0 && self.learning_rate <= 100.0) {
            return refuse("learning_rate", self.learning_rate, "above 0, at most 100");
        }
        if !(0.0..1.0).contains(&self.momentum) {
            return refuse("momentum", self.momentum, "at least 0, below 1");
        }
        if !(0.0..=1_000.0).contains(&self.lambda) {
            return refuse("lambda", self.lambda, "0 to 1000");
        }
        if !(self.clip > 0.0 && self.clip.is_finite()) {
            return refuse("clip", self.clip, "above 0");
        }
        if !(self.start_scale > 0.0 && self.start_scale <= 100.0) {
            return refuse("start_scale", self.start_scale, "above 0, at most 100");
        }
        if !(-10.0..=10.0).contains(&self.tau) {
            return refuse("tau", self.tau, "-10 to 10");
        }
        for (name, value, most) in [
            ("rich_samples", self.rich_samples, 10_000),
            ("batch", self.batch, 4_096),
            ("epochs", self.epochs, 1_000),
            ("min_samples_to_share", self.min_samples_to_share, 10_000),
        ] {
            if value == 0 || value > most {
                return refuse(name, f32::from(value), "a whole number from 1 (batch at most 4096, epochs 1000)");
            }
        }
        self.check_own()?;
        Ok(ValidParams(self))
    }

    fn check_own(&self) -> Result<(), ParamsError> {
        let settings = self.method.settings();
        for (setting, &value) in settings.iter().zip(&self.own) {
            if !setting.allows(value) {
                return Err(ParamsError { name: setting.name, value, allowed: setting.allowed });
            }
        }
        match self.own[settings.len()..].iter().find(|value| **value != 0.0) {
            Some(&value) => Err(ParamsError { name: "own", value, allowed: "0 behind the method's own settings" }),
            None => Ok(()),
        }
    }
}

impl Setting {
    fn allows(&self, value: f32) -> bool {
        // A NaN is in no range.
        (self.least..=self.most).contains(&value) && !(self.whole && libm::truncf(value) != value)
    }
}

/// A hyper-parameter outside its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{name}` is {value}; it must be {allowed}")]
pub struct ParamsError {
    /// Which one.
    pub name: &'static str,
    /// What it was.
    pub value: f32,
    /// What it may be.
    pub allowed: &'static str,
}

/// [`Params`] that passed [`Params::check`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValidParams(Params);

impl ValidParams {
    /// What devices must have told the aggregator before the first round of training: for the method, for the start of
    /// its main head, or for the prior of `tau`.
    pub fn needs(&self) -> Sums {
        let prior = if self.tau == 0.0 { Sums::Nothing } else { Sums::Counts };
        let start = if self.method.is_one_shot() { Sums::Nothing } else { self.start.needs() };
        self.method.needs().max(start).max(prior)
    }
}

impl core::ops::Deref for ValidParams {
    type Target = Params;

    fn deref(&self) -> &Params {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_refuse_nan_and_out_of_range() {
        let good = Params::defaults(Method::RedGrape, 10);
        assert!(good.check().is_ok());
        for bad in [
            Params { learning_rate: f32::NAN, ..good },
            Params { learning_rate: 0.0, ..good },
            Params { momentum: 1.0, ..good },
            Params { lambda: -0.1, ..good },
            Params { lambda: f32::INFINITY, ..good },
            Params { clip: 0.0, ..good },
            Params { batch: 0, ..good },
            Params { epochs: 1_001, ..good },
            Params { rich_samples: 0, ..good },
            Params { min_samples_to_share: 0, ..good },
            Params { start_scale: 0.0, ..good },
            Params { start_scale: f32::NAN, ..good },
            Params { tau: 10.5, ..good },
            Params { tau: f32::NEG_INFINITY, ..good },
            Params { own: [1.0; MAX_SETTINGS], ..good },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn defaults_of_every_method_are_valid_and_every_own_setting_is_checked() {
        for method in Method::ALL {
            for classes in [2, 10, 100, 1_000] {
                let defaults = Params::defaults(method, classes);
                assert!(defaults.check().is_ok(), "{method}: {:?}", defaults.check());
                for setting in method.settings() {
                    for (value, fits) in [
                        (setting.least, true),
                        (setting.most, true),
                        (setting.most * 2.0 + 1.0, false),
                        (setting.least - 1.0, false),
                        (setting.least + 0.5, !setting.whole),
                        (f32::NAN, false),
                    ] {
                        let mut params = defaults;
                        assert!(params.set_own(setting.name, value));
                        assert_eq!(params.check().is_ok(), fits, "{method}: {} = {value}", setting.name);
                        assert_eq!(params.own(setting.name).map(f32::to_bits), Some(value.to_bits()));
                    }
                }
                let mut params = defaults;
                assert!(!params.set_own("nothing", 1.0) && params.own("nothing").is_none());
            }
        }
    }

    #[test]
    fn sums_are_gathered_for_the_start_and_the_prior_too() {
        let needs = |params: Params| params.check().unwrap().needs();
        let plain = Params::defaults(Method::FedAvg, 10);
        assert_eq!(needs(plain), Sums::Nothing);
        assert_eq!(needs(Params { tau: -1.0, ..plain }), Sums::Counts);
        assert_eq!(needs(Params { start: Start::Ncm, tau: -1.0, ..plain }), Sums::Means);
        assert_eq!(needs(Params { start: Start::Lda, ..plain }), Sums::SecondMoment);
        assert_eq!(needs(Params { start: Start::Lda, ..Params::defaults(Method::Ncm, 10) }), Sums::Means);
    }
}
