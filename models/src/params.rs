//! The values of the hyper-parameters. What they are called and may be stands in [`crate::hyper_parameters`].

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::method::Method;
use crate::statistics::Sums;

/// Most hyper-parameters that a method may have of its own.
pub const MAX_METHOD_PARAMS: usize = 6;

/// Where the main head starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Init {
    /// At zero: every class equally likely.
    Zeros,
    /// At the nearest class mean, see [`crate::oneshot::ncm`].
    Ncm,
    /// At linear discriminant analysis, see [`crate::oneshot::lda`].
    Lda,
    /// At linear discriminant analysis of posterior class means, see [`crate::oneshot::posterior_lda`].
    Posterior,
}

impl Init {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Zeros, Self::Ncm, Self::Lda, Self::Posterior];
    /// What they are called, in the same order.
    pub const NAMES: [&'static str; 4] = ["zeros", "ncm", "lda", "posterior"];

    /// What devices must have told the aggregator for this start.
    pub fn needs(self) -> Sums {
        match self {
            Self::Zeros => Sums::Nothing,
            Self::Ncm => Sums::Means,
            Self::Lda | Self::Posterior => Sums::SecondMoment,
        }
    }
}

impl From<Init> for f32 {
    /// Its place in [`Init::ALL`].
    fn from(init: Init) -> Self {
        Init::ALL.iter().position(|one| *one == init).unwrap_or_default() as Self
    }
}

/// Hyper-parameters as written by a person; [`Params::check`] makes them usable.
///
/// ```
/// use grapevine_models::{Method, Params};
///
/// let params = Params { learning_rate: 0.05, ..Params::defaults(Method::RedGrape, 10) };
/// assert!(params.check().is_ok());
/// let error = Params { learning_rate: -1.0, ..params }.check().unwrap_err();
/// assert!(error.to_string().starts_with("`learning_rate` is -1; it must be"));
/// ```
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
    pub init: Init,
    /// What the start is multiplied with: a smaller head is less sure of itself and easier to move.
    pub init_scale: f32,
    /// Whether the inference head is the mean of the main heads of the last half of the rounds.
    pub averaged: bool,
    /// Times [`Method::logit_offset`] it is added to the bias of the inference head: above 0 for the frequent classes, below 0
    /// for the rare ones.
    pub tau: f32,
    /// The hyper-parameters of this method alone, in the order of [`Method::method_params`]; zeros behind them.
    pub method_params: [f32; MAX_METHOD_PARAMS],
}

/// A hyper-parameter outside its range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{name}` is {value}; it must be {allowed}")]
pub struct ParamsError {
    /// Which one.
    pub name: &'static str,
    /// What it was.
    pub value: f32,
    /// What it may be, to end the sentence "it must be".
    pub allowed: String,
}

/// [`Params`] that passed [`Params::check`]. Values that do not pass cannot be decoded, either.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Params", into = "Params")]
pub struct ValidParams(pub(crate) Params);

impl From<ValidParams> for Params {
    fn from(params: ValidParams) -> Self {
        params.0
    }
}

impl core::ops::Deref for ValidParams {
    type Target = Params;

    fn deref(&self) -> &Params {
        &self.0
    }
}
