//! Local training: one device, one round.
//!
//! The same steps in two forms. With many samples the heads themselves are updated (`primal`). With fewer samples than
//! features every update is a combination of the samples' features, so the coefficients are updated instead (`dual`):
//! the same numbers up to rounding, for a fraction of the work. Most devices of most fleets are of the second kind.

mod balance;
mod config;
mod dual;
mod objective;
mod plan;
mod primal;
mod step;
mod whole;

use alloc::boxed::Box;
use core::ops::ControlFlow;

use crate::head::{Head, Heads};
use crate::samples::Samples;

pub use balance::Balance;
use balance::BalancedSet;
pub use config::TrainingConfig;
use dual::Dual;
pub use objective::{LocalObjective, Loss};
pub use plan::Plan;
use primal::Primal;
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
    pub fn new(
        samples: Samples<'a>,
        heads: Heads,
        local: LocalObjective<'a>,
        balanced: &[u32],
        config: TrainingConfig,
    ) -> Self {
        let set = BalancedSet::new(&samples, local.balance, balanced, &config);
        let is_plain = local.proximal == 0.0 && local.correction.is_none();
        if is_plain && Dual::is_quicker(&samples, set.as_ref(), &config) {
            return Self { form: Form::Dual(Box::new(Dual::new(samples, heads, set, local.loss, config))) };
        }
        Self { form: Form::Primal(Box::new(Primal::new(samples, heads, set, local, config))) }
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

#[cfg(test)]
mod tests;
