//! What a device minimises in a round of training.

use alloc::vec;
use alloc::vec::Vec;

use super::balance::Balance;
use crate::exp::{focal_error, softmax_error};
use crate::head::Head;
use crate::prior::log_prior;

/// What a device minimises: a loss on its own samples, held back to the received heads, corrected, balanced with
/// something.
#[derive(Clone, Copy, Debug)]
pub struct LocalObjective<'a> {
    /// The loss on its own samples, seen by the sum of both heads.
    pub loss: Loss<'a>,
    /// `mu` of the term `mu / 2 * |W - W_received|²` that is added to the loss.
    pub proximal: f32,
    /// Added to the gradient of the main head in every step.
    pub correction: Option<&'a Head>,
    /// What the main head is balanced with.
    pub balance: Balance<'a>,
}

/// The loss of one sample with logits `z` of class `y`; a mini-batch takes the mean.
#[derive(Clone, Copy, Debug)]
pub enum Loss<'a> {
    /// Cross-entropy.
    CrossEntropy,
    /// Cross-entropy of `z + log prior`, for class shares `[C]`.
    LogitAdjusted(&'a [f32]),
    /// `-(1 - p_y)^gamma log p_y` with `p = softmax(z)`.
    Focal(f32),
    /// Cross-entropy times the weight of class `y`, for weights `[C]`.
    Weighted(&'a [f32]),
}

impl LocalObjective<'_> {
    /// Plain cross-entropy.
    pub const PLAIN: Self =
        Self { loss: Loss::CrossEntropy, proximal: 0.0, correction: None, balance: Balance::Nothing };
}

impl Loss<'_> {
    /// What the loss adds to the bias that it sees, `[C]`.
    pub(super) fn adjustment(self, classes: usize) -> Vec<f32> {
        match self {
            Self::LogitAdjusted(prior) => log_prior(prior),
            Self::CrossEntropy | Self::Focal(_) | Self::Weighted(_) => vec![0.0; classes],
        }
    }

    /// Turns the logits of one sample into `share` times the loss's gradient in them; the adjustment is in the logits.
    pub(super) fn error(self, row: &mut [f32], label: usize, share: f32) {
        match self {
            Self::CrossEntropy | Self::LogitAdjusted(_) => softmax_error(row, label, share),
            Self::Focal(gamma) => focal_error(row, label, share, gamma),
            Self::Weighted(weights) => softmax_error(row, label, share * weights[label]),
        }
    }
}
