//! The matrix product of training beside the plain one of three loops, on the same numbers.

use alloc::vec;
use alloc::vec::Vec;

use grapevine_models::evaluate::{Tally, largest};
use grapevine_models::{Head, Samples, Shape};

/// d, C and n: a batch on a device, or what the board's memory holds.
pub const SIZES: [usize; 3] = if cfg!(feature = "hosted") { [256, 32, 64] } else { [64, 16, 32] };

/// A head and samples to classify: hardly more than one matrix product.
pub struct Work {
    shape: Shape,
    head: Head,
    features: Vec<f32>,
    labels: Vec<u16>,
}

impl Work {
    /// Numbers without a pattern.
    pub fn new() -> Self {
        let [d, classes, count] = SIZES;
        let numbers = |count: usize, factor: usize| -> Vec<f32> {
            (0..count).map(|at| (at * factor % 251) as f32 / 251.0 - 0.5).collect()
        };
        Self {
            shape: Shape::new(classes, d).expect("within limits"),
            head: Head { weight: numbers(classes * d, 97), bias: numbers(classes, 31) },
            features: numbers(count * d, 59),
            labels: (0..count).map(|at| (at % classes) as u16).collect(),
        }
    }

    /// Multiplications, and as many additions.
    pub fn multiplications(&self) -> usize {
        SIZES.iter().product()
    }

    /// Samples classified right, with the kernel of training.
    #[inline(never)]
    pub fn tiled(&self) -> f64 {
        let samples = Samples::new(self.shape, &self.features, &self.labels).expect("made to fit");
        Tally::of(&self.head, &samples).accuracy().balanced()
    }

    /// The same, with three loops.
    #[inline(never)]
    pub fn plain(&self) -> f64 {
        let [d, classes, count] = SIZES;
        let mut logits = vec![0.0; count * classes];
        for (logits, sample) in logits.chunks_exact_mut(classes).zip(self.features.chunks_exact(d)) {
            for ((logit, row), bias) in logits.iter_mut().zip(self.head.weight.chunks_exact(d)).zip(&self.head.bias) {
                *logit = *bias;
                for (weight, feature) in row.iter().zip(sample) {
                    *logit += weight * feature;
                }
            }
        }
        let is_right = |(logits, label): (&[f32], &u16)| largest(logits) == usize::from(*label);
        let right = logits.chunks_exact(classes).zip(&self.labels).filter(|pair| is_right(*pair)).count();
        // Every class has as many samples as any other, so this is the balanced accuracy.
        right as f64 / count as f64
    }
}

impl Default for Work {
    fn default() -> Self {
        Self::new()
    }
}
