//! Linear classifier heads: a weight `[class][feature]` and a bias `[class]`.

use alloc::vec;
use alloc::vec::Vec;

use crate::limits::MAX_PARAMETER_VALUE;
use crate::shape::Shape;

/// Bias of a class that nobody holds, or that nobody may share: never chosen, and still a finite number.
pub(crate) const ABSENT_BIAS: f32 = -1.0e4;
/// The same after it was scaled or moved by a method.
const UNLEARNED_BIAS: f32 = -1.0e2;

/// One linear head: `logits = weight * features + bias`. Both vectors are contiguous, row-major.
///
/// ```
/// use grapevine_models::Head;
///
/// // Two classes of two features: a sample is of the class with the larger feature.
/// let head = Head { weight: vec![1.0, 0.0, 0.0, 1.0], bias: vec![0.0, 0.5] };
/// let mut logits = [0.0; 2];
/// head.logits(&[3.0, 2.0], &mut logits);
/// assert_eq!(logits, [3.0, 2.5]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// `[class][feature]`.
    pub weight: Vec<f32>,
    /// `[class]`.
    pub bias: Vec<f32>,
}

/// The two heads of RedGrape. Inference uses `main` alone; methods without a supplementary head keep it at zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Heads {
    /// `W, b`: pulled towards balance, used for inference.
    pub main: Head,
    /// `Ŵ, b̂`: lets the sum fit the local long-tailed data.
    pub supplementary: Head,
}

/// Why numbers are not a head.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum HeadError {
    /// The lengths do not fit the shape.
    #[error(
        "a head of {expected_weights} weights and {expected_biases} biases was expected, got {weights} and {biases}"
    )]
    Length {
        /// `C * d` of the fleet.
        expected_weights: usize,
        /// `C` of the fleet.
        expected_biases: usize,
        /// Weights received.
        weights: usize,
        /// Biases received.
        biases: usize,
    },
    /// A NaN or an infinity.
    #[error("a head parameter is not a finite number")]
    NotFinite,
    /// A parameter beyond [`MAX_PARAMETER_VALUE`].
    #[error("a head parameter is {0:e}; the limit is {limit:e}", limit = MAX_PARAMETER_VALUE)]
    TooLarge(f32),
}

impl Head {
    /// A head of zeros: every class equally likely.
    pub fn zeros(shape: Shape) -> Self {
        Self { weight: vec![0.0; shape.weights()], bias: vec![0.0; shape.classes()] }
    }

    /// Whether a class was left out of what the head learned, because no device holds it or may share it: its weights are
    /// zero and its bias is so low that it is never chosen.
    pub fn is_unlearned(&self, class: usize) -> bool {
        let features = self.weight.len() / self.bias.len().max(1);
        let row = self.weight.get(class * features..(class + 1) * features);
        row.is_some_and(|row| row.iter().all(|weight| *weight == 0.0))
            && self.bias.get(class).is_some_and(|bias| *bias <= UNLEARNED_BIAS)
    }

    /// Whether the head learned nothing at all: it says the same of every sample.
    pub fn is_blank(&self) -> bool {
        self.weight.iter().all(|weight| *weight == 0.0)
    }

    /// `W + Ŵ` and `b + b̂`.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        sum.weight.iter_mut().zip(&other.weight).for_each(|(sum, v)| *sum += v);
        sum.bias.iter_mut().zip(&other.bias).for_each(|(sum, v)| *sum += v);
        sum
    }

    /// The same head with `tau * direction` added to its bias `[C]`, see [`crate::Method::logit_offset`].
    pub fn shifted(&self, direction: &[f32], tau: f32) -> Self {
        let mut head = self.clone();
        head.bias.iter_mut().zip(direction).for_each(|(bias, entry)| *bias += tau * entry);
        head
    }

    /// Refuses wrong lengths, non-finite and absurdly large parameters.
    ///
    /// # Errors
    /// If the lengths do not fit the shape, or a parameter is not finite or beyond [`MAX_PARAMETER_VALUE`].
    pub fn check(&self, shape: Shape) -> Result<(), HeadError> {
        if self.weight.len() != shape.weights() || self.bias.len() != shape.classes() {
            return Err(HeadError::Length {
                expected_weights: shape.weights(),
                expected_biases: shape.classes(),
                weights: self.weight.len(),
                biases: self.bias.len(),
            });
        }
        for &value in self.weight.iter().chain(&self.bias) {
            if !value.is_finite() {
                return Err(HeadError::NotFinite);
            }
            if value.abs() > MAX_PARAMETER_VALUE {
                return Err(HeadError::TooLarge(value));
            }
        }
        Ok(())
    }

    /// Writes the logits of one sample, `features [d]` into `logits [C]`.
    ///
    /// # Panics
    /// If the lengths do not fit the head.
    pub fn logits(&self, features: &[f32], logits: &mut [f32]) {
        assert_eq!(logits.len(), self.bias.len(), "one logit per class");
        assert_eq!(features.len() * logits.len(), self.weight.len(), "one weight per class and feature");
        let rows = self.weight.chunks_exact(features.len().max(1));
        for ((logit, row), bias) in logits.iter_mut().zip(rows).zip(&self.bias) {
            *logit = bias + row.iter().zip(features).map(|(w, h)| w * h).sum::<f32>();
        }
    }
}

impl Heads {
    /// Two heads of zeros: where every run starts.
    pub fn zeros(shape: Shape) -> Self {
        Self { main: Head::zeros(shape), supplementary: Head::zeros(shape) }
    }

    /// `W + Ŵ` and `b + b̂`.
    pub(crate) fn summed(&self) -> Head {
        self.main.plus(&self.supplementary)
    }

    /// Checks both heads, see [`Head::check`].
    ///
    /// # Errors
    /// If the lengths do not fit the shape, or a parameter is not finite or beyond [`MAX_PARAMETER_VALUE`].
    pub fn check(&self, shape: Shape) -> Result<(), HeadError> {
        self.main.check(shape)?;
        self.supplementary.check(shape)
    }
}
