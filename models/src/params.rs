//! Methods by name and their hyper-parameters, checked once.

use alloc::borrow::ToOwned;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

/// How the fleet learns its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// One head, plain cross-entropy (McMahan et al., AISTATS 2017).
    #[serde(rename = "fedavg")]
    FedAvg,
    /// One head, logits shifted by the fleet's log class prior (Menon et al., ICLR 2021, equation 10).
    LogitAdjusted,
    /// Two heads and gradient prototypes (Yang et al., TMLR 2024).
    #[serde(rename = "redgrape")]
    RedGrape,
    /// RedGrape balancing on local rich classes only.
    #[serde(rename = "redgrape-no-prototypes")]
    RedGrapeNoPrototypes,
    /// RedGrape with one head doing both jobs.
    #[serde(rename = "redgrape-no-supplementary")]
    RedGrapeNoSupplementary,
    /// RedGrape with the fleet's class means instead of gradients: never stale, `C` times fewer bytes.
    #[serde(rename = "redgrape-live")]
    RedGrapeLive,
    /// One-shot nearest class mean from pure sums.
    Ncm,
    /// One-shot class-weighted ridge regression from pure sums.
    Ridge,
    /// One-shot linear discriminant analysis from pure sums, uniform prior.
    Lda,
}

impl Method {
    /// Every method, in the order tables show them.
    pub const ALL: [Self; 9] = [
        Self::FedAvg,
        Self::LogitAdjusted,
        Self::RedGrape,
        Self::RedGrapeNoPrototypes,
        Self::RedGrapeNoSupplementary,
        Self::RedGrapeLive,
        Self::Ncm,
        Self::Ridge,
        Self::Lda,
    ];

    /// The name used on command lines, in configuration files and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::FedAvg => "fedavg",
            Self::LogitAdjusted => "logit-adjusted",
            Self::RedGrape => "redgrape",
            Self::RedGrapeNoPrototypes => "redgrape-no-prototypes",
            Self::RedGrapeNoSupplementary => "redgrape-no-supplementary",
            Self::RedGrapeLive => "redgrape-live",
            Self::Ncm => "ncm",
            Self::Ridge => "ridge",
            Self::Lda => "lda",
        }
    }

    /// Whether the whole method is one exchange of pure sums, without local training.
    pub fn is_one_shot(self) -> bool {
        matches!(self, Self::Ncm | Self::Ridge | Self::Lda)
    }

    /// Whether a supplementary head is trained beside the main one.
    pub fn has_supplementary_head(self) -> bool {
        matches!(self, Self::RedGrape | Self::RedGrapeNoPrototypes | Self::RedGrapeLive)
    }

    /// Whether devices send gradient prototypes every round.
    pub fn sends_prototypes(self) -> bool {
        matches!(self, Self::RedGrape | Self::RedGrapeNoSupplementary)
    }

    /// Whether a balanced step follows every local step, once there is something to balance with.
    pub fn balances(self) -> bool {
        self.has_supplementary_head() || self == Self::RedGrapeNoSupplementary
    }

    /// What devices must have told the aggregator before the first round of training.
    pub fn needs(self) -> Sums {
        match self {
            Self::FedAvg | Self::RedGrape | Self::RedGrapeNoPrototypes | Self::RedGrapeNoSupplementary => Sums::Nothing,
            Self::LogitAdjusted => Sums::Counts,
            Self::RedGrapeLive | Self::Ncm => Sums::Means,
            Self::Ridge | Self::Lda => Sums::SecondMoment,
        }
    }
}

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

/// A method name nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a method; the methods are fedavg, logit-adjusted, redgrape, redgrape-no-prototypes, redgrape-no-supplementary, redgrape-live, ncm, ridge and lda"
)]
pub struct UnknownMethod(pub String);

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        Self::ALL.into_iter().find(|method| method.name() == name).ok_or_else(|| UnknownMethod(name.to_owned()))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
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
}

impl Params {
    /// The published defaults for a method and a number of classes (see DESIGN.md, "hyper-parameters").
    pub fn defaults(method: Method, classes: usize) -> Self {
        let live = method == Method::RedGrapeLive;
        Self {
            method,
            learning_rate: 0.1,
            momentum: if live { 0.0 } else { 0.9 },
            lambda: if live { 1.0 } else { 0.1 },
            rich_samples: if classes >= 100 { 2 } else { 8 },
            clip: 1.0,
            batch: 64,
            epochs: 5,
            min_samples_to_share: 1,
        }
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
        Ok(ValidParams(self))
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
    fn names_round_trip() {
        for method in Method::ALL {
            assert_eq!(method.name().parse::<Method>(), Ok(method));
            assert_eq!(serde_json::to_value(method).unwrap(), method.name());
        }
        assert!("fedsgd".parse::<Method>().unwrap_err().to_string().contains("redgrape-live"));
    }

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
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    use alloc::string::ToString;
}
