//! What both forms of training share: clipping, rescaling, and the step of one tensor.

use super::config::TrainingConfig;
use crate::kernel::vectorised;

/// The factor that clips a local gradient of these weight and bias norms, over the tensors of all trained heads.
pub(super) fn clip_factor(config: &TrainingConfig, (weight, bias): (f64, f64)) -> f32 {
    let heads = if config.supplementary { 2.0 } else { 1.0 };
    let total = libm::sqrt(heads * (weight * weight + bias * bias));
    f64::min(1.0, f64::from(config.clip) / (total + 1e-6)) as f32
}

/// What rescales a gradient of norm `own` to the norm `target`; a zero gradient stays zero.
pub(super) fn rescale_factor(target: f64, own: f64) -> f32 {
    let ratio = (target / own) as f32;
    if own > 0.0 && ratio.is_finite() { ratio } else { 0.0 }
}

/// The step of one tensor in either form, in one pass over memory: momentum, both heads, and their sum.
#[derive(Clone, Copy)]
pub(super) struct Step {
    learning_rate: f32,
    momentum: f32,
    clip: f32,
    both_heads: bool,
}

/// What a step reads and writes; equal lengths.
pub(super) struct Tensor<'a> {
    pub(super) main: &'a mut [f32],
    pub(super) supplementary: &'a mut [f32],
    pub(super) summed: &'a mut [f32],
    pub(super) momentum: &'a mut [f32],
    pub(super) gradient: &'a [f32],
    /// Added to the main head: the balanced step, without its factor.
    pub(super) balanced: &'a [f32],
    /// `lr * lambda * rescale`.
    pub(super) balanced_factor: f32,
}

impl Step {
    pub(super) fn new(config: &TrainingConfig, clip: f32) -> Self {
        Self { learning_rate: config.learning_rate, momentum: config.momentum, clip, both_heads: config.supplementary }
    }

    pub(super) fn apply(self, tensor: Tensor<'_>) {
        vectorised!(_ => self.apply_in_lanes(tensor));
    }

    #[inline(always)]
    fn apply_in_lanes(self, tensor: Tensor<'_>) {
        let rows = tensor.main.iter_mut().zip(tensor.summed).zip(tensor.momentum).zip(tensor.gradient);
        let rows = rows.zip(tensor.balanced);
        if self.both_heads {
            for (((((w, sum), m), g), balanced), v) in rows.zip(tensor.supplementary) {
                *m = self.momentum * *m + self.clip * g;
                let local = self.learning_rate * *m;
                *v -= local;
                *w -= local + tensor.balanced_factor * balanced;
                *sum = *w + *v;
            }
        } else {
            for ((((w, sum), m), g), balanced) in rows {
                *m = self.momentum * *m + self.clip * g;
                *w -= self.learning_rate * *m + tensor.balanced_factor * balanced;
                *sum = *w;
            }
        }
    }
}
