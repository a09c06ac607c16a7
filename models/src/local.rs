//! What a device minimises in a round of training.

use crate::train::Balance;

/// What a device minimises: a loss on its own samples, held back to the received heads, balanced with something.
#[derive(Clone, Copy, Debug)]
pub struct Local<'a> {
    /// The loss on its own samples, seen by the sum of both heads.
    pub loss: Loss<'a>,
    /// `mu` of the term `mu / 2 * |W - W_received|²` that is added to the loss.
    pub proximal: f32,
    /// What the main head is balanced with.
    pub balance: Balance<'a>,
}

/// The loss of one sample with logits `z` of class `y`; a mini-batch takes the mean.
#[derive(Clone, Copy, Debug)]
pub enum Loss<'a> {
    /// Cross-entropy.
    CrossEntropy,
    /// Cross-entropy of `z + log prior`, for class shares `[C]`.
    Shifted(&'a [f32]),
    /// `-(1 - p_y)^gamma log p_y` with `p = softmax(z)`.
    Focal(f32),
    /// Cross-entropy times the weight of class `y`, for weights `[C]`.
    Weighted(&'a [f32]),
}

impl Local<'_> {
    /// Plain cross-entropy.
    pub const PLAIN: Self = Self { loss: Loss::CrossEntropy, proximal: 0.0, balance: Balance::Nothing };
}
