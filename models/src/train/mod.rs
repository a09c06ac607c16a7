//! Local training: one device, one round.
//!
//! The same steps in two forms. With many samples the heads themselves are updated (`primal`). With fewer samples than
//! features every update is a combination of the samples' features, so the coefficients are updated instead (`dual`):
//! the same numbers up to rounding, for a fraction of the work. Most devices of most fleets are of the second kind.

mod balance;
mod dual;
mod primal;
mod samples;
mod whole;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::ControlFlow;

use crate::exp::{focal_error, softmax_error};
use crate::head::{Head, Heads};
use crate::kernel::vectorised;
use crate::local::{Local, Loss};
use crate::params::ValidParams;
use crate::prior::log_prior;
use crate::sampling::Plan;

pub use balance::Balance;
use balance::BalancedSet;
use dual::Dual;
use primal::Primal;
pub use samples::{Samples, SamplesError};
pub(crate) use whole::whole_gradient;

/// One device's training in one round. Make it, call [`LocalTraining::run`], take the heads.
///
/// Per mini-batch: the gradient of the summed head `(W + Ŵ) h + b + b̂`, clipped over all tensors together, moves both
/// heads with momentum; then the balanced gradient of the main head, rescaled per tensor to the norm of the local one
/// before clipping, moves the main head alone (Yang et al., algorithm 1).
pub struct LocalTraining<'a> {
    form: Form<'a>,
}

enum Form<'a> {
    Primal(Box<Primal<'a>>),
    Dual(Box<Dual<'a>>),
}

impl<'a> LocalTraining<'a> {
    /// Prepares a round: `balanced` holds the indices of the samples drawn from rich classes, see [`Plan`].
    pub fn new(samples: Samples<'a>, heads: Heads, local: Local<'a>, balanced: &[u32], params: ValidParams) -> Self {
        let set = BalancedSet::new(&samples, local.balance, balanced, &params);
        if local.proximal == 0.0 && Dual::is_quicker(&samples, set.as_ref(), &params) {
            return Self { form: Form::Dual(Box::new(Dual::new(samples, heads, set, local.loss, params))) };
        }
        Self { form: Form::Primal(Box::new(Primal::new(samples, heads, set, local, params))) }
    }

    /// Every mini-batch of every epoch of a plan.
    pub fn run(&mut self, plan: &mut Plan) {
        self.run_while(plan, &mut || true);
    }

    /// As [`run`](Self::run), asking `goes_on` before every mini-batch. Says whether it came to the end.
    pub fn run_while(&mut self, plan: &mut Plan, goes_on: &mut dyn FnMut() -> bool) -> bool {
        let ended = plan.try_for_each_batch(|batch| {
            if !goes_on() {
                return ControlFlow::Break(());
            }
            self.step(batch);
            ControlFlow::Continue(())
        });
        ended.is_continue()
    }

    /// One mini-batch: local step, then balanced step. Allocates nothing of its own.
    ///
    /// # Panics
    /// If the batch is larger than the parameters' batch, or an index is out of range.
    pub fn step(&mut self, batch: &[u32]) {
        if batch.is_empty() {
            return;
        }
        match &mut self.form {
            Form::Primal(primal) => primal.step(batch),
            Form::Dual(dual) => dual.step(batch),
        }
    }

    /// The main head as it stands; a copy, for looking at.
    pub fn main(&self) -> Head {
        match &self.form {
            Form::Primal(primal) => primal.heads.main.clone(),
            Form::Dual(dual) => dual.main(),
        }
    }

    /// The trained heads.
    pub fn into_heads(self) -> Heads {
        match self.form {
            Form::Primal(primal) => primal.heads,
            Form::Dual(dual) => dual.into_heads(),
        }
    }
}

/// The factor that clips a local gradient of these weight and bias norms, over the tensors of all trained heads.
fn clip_factor(params: &ValidParams, (weight, bias): (f64, f64)) -> f32 {
    let heads = if params.method.has_supplementary_head() { 2.0 } else { 1.0 };
    let total = libm::sqrt(heads * (weight * weight + bias * bias));
    f64::min(1.0, f64::from(params.clip) / (total + 1e-6)) as f32
}

/// What rescales a gradient of norm `own` to the norm `target`; a zero gradient stays zero.
fn rescale_factor(target: f64, own: f64) -> f32 {
    let ratio = (target / own) as f32;
    if own > 0.0 && ratio.is_finite() { ratio } else { 0.0 }
}

impl Loss<'_> {
    /// What the loss adds to the bias that it sees, `[C]`.
    fn adjustment(self, classes: usize) -> Vec<f32> {
        match self {
            Self::Shifted(prior) => log_prior(prior),
            Self::CrossEntropy | Self::Focal(_) | Self::Weighted(_) => vec![0.0; classes],
        }
    }

    /// Turns the logits of one sample into `share` times the loss's gradient in them; the adjustment is in the logits.
    fn error(self, row: &mut [f32], label: usize, share: f32) {
        match self {
            Self::CrossEntropy | Self::Shifted(_) => softmax_error(row, label, share),
            Self::Focal(gamma) => focal_error(row, label, share, gamma),
            Self::Weighted(weights) => softmax_error(row, label, share * weights[label]),
        }
    }
}

/// The step of one tensor in either form, in one pass over memory: momentum, both heads, and their sum.
#[derive(Clone, Copy)]
struct Step {
    learning_rate: f32,
    momentum: f32,
    clip: f32,
    both_heads: bool,
}

/// What a step reads and writes; equal lengths.
struct Tensor<'a> {
    main: &'a mut [f32],
    supplementary: &'a mut [f32],
    summed: &'a mut [f32],
    momentum: &'a mut [f32],
    gradient: &'a [f32],
    /// Added to the main head: the balanced step, without its factor.
    balanced: &'a [f32],
    /// `lr * lambda * rescale`.
    balanced_factor: f32,
}

impl Step {
    fn new(params: &ValidParams, clip: f32) -> Self {
        Self {
            learning_rate: params.learning_rate,
            momentum: params.momentum,
            clip,
            both_heads: params.method.has_supplementary_head(),
        }
    }

    fn apply(self, tensor: Tensor<'_>) {
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

#[cfg(test)]
mod tests;
