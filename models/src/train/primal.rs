//! Training on the heads themselves: for devices with at least as many samples as features.

use alloc::vec;
use alloc::vec::Vec;

use super::balance::BalancedSet;
use super::config::TrainingConfig;
use super::objective::{LocalObjective, Loss};
use super::step::{Step, Tensor, clip_factor, rescale_factor};
use crate::exp::{norm, softmax_error};
use crate::head::{Head, Heads};
use crate::kernel;
use crate::samples::Samples;

/// Rows of the balanced set that are taken through the head at a time.
const BALANCED_ROWS: usize = 128;

pub(super) struct Primal<'a> {
    samples: Samples<'a>,
    config: TrainingConfig,
    loss: Loss<'a>,
    pub(super) heads: Heads,
    /// `mu` and the received main head that it holds this one back to.
    proximal: Option<(f32, Head)>,
    correction: Option<&'a Head>,
    /// `W + Ŵ` and `b + b̂ + log prior`: what the local loss sees.
    summed: Head,
    /// Added to the summed bias: the log prior of logit adjustment, else zeros.
    adjustment: Vec<f32>,
    /// The local gradient is the same for both heads, so one momentum serves both.
    momentum: Head,
    gradient: Head,
    balanced_gradient: Head,
    balanced: Option<BalancedRows>,
    logits: Vec<f32>,
}

/// What the main head is balanced with.
struct BalancedRows {
    set: BalancedSet,
    /// Of the set, `[row][d]`.
    rows: Vec<f32>,
}

impl BalancedRows {
    fn new(set: BalancedSet, samples: &Samples<'_>) -> Self {
        let d = samples.shape().features();
        let own = set.members.len() - set.means.len() / d;
        let mut rows = vec![0.0; own * d];
        samples.gather(&set.members[..own], &mut rows);
        rows.extend_from_slice(&set.means);
        Self { set, rows }
    }

    /// Writes the gradient at the main head; `logits` is scratch space.
    fn gradient(&self, main: &Head, logits: &mut [f32], gradient: &mut Head) {
        let Self { set, rows } = self;
        let classes = main.bias.len();
        let features = main.weight.len() / classes;
        let mut beta = 0.0;
        if let Some(constant) = &set.constant {
            gradient.weight.copy_from_slice(&constant.weight);
            gradient.bias.copy_from_slice(&constant.bias);
            beta = 1.0;
        }
        let chunks = rows.chunks(BALANCED_ROWS * features);
        let labels = set.labels.chunks(BALANCED_ROWS).zip(set.weights.chunks(BALANCED_ROWS));
        for (rows, (labels, weights)) in chunks.zip(labels) {
            let logits = &mut logits[..labels.len() * classes];
            kernel::logits(rows, &main.weight, &main.bias, features, logits);
            for ((row, &label), &weight) in logits.chunks_exact_mut(classes).zip(labels).zip(weights) {
                softmax_error(row, usize::from(label), weight);
            }
            kernel::accumulate_gradient(logits, rows, features, beta, &mut gradient.weight, &mut gradient.bias);
            beta = 1.0;
        }
    }
}

impl<'a> Primal<'a> {
    pub(super) fn new(
        samples: Samples<'a>,
        heads: Heads,
        set: Option<BalancedSet>,
        local: LocalObjective<'a>,
        config: TrainingConfig,
    ) -> Self {
        let shape = samples.shape();
        let batch = usize::from(config.batch).min(samples.labels().len());
        let adjustment = local.loss.adjustment(shape.classes());
        let mut summed = if config.supplementary { heads.summed() } else { heads.main.clone() };
        summed.bias.iter_mut().zip(&adjustment).for_each(|(sum, adjustment)| *sum += adjustment);
        Self {
            samples,
            config,
            loss: local.loss,
            proximal: (local.proximal > 0.0).then(|| (local.proximal, heads.main.clone())),
            correction: local.correction,
            summed,
            heads,
            adjustment,
            momentum: Head::zeros(shape),
            gradient: Head::zeros(shape),
            balanced_gradient: Head::zeros(shape),
            balanced: set.map(|set| BalancedRows::new(set, &samples)),
            logits: vec![0.0; batch.max(BALANCED_ROWS) * shape.classes()],
        }
    }

    pub(super) fn step(&mut self, batch: &[u32]) {
        self.local_gradient(batch);
        let local = (norm(&self.gradient.weight), norm(&self.gradient.bias));
        let rescale = self.balance(local);
        self.update(clip_factor(&self.config, local), rescale);
    }

    fn local_gradient(&mut self, batch: &[u32]) {
        let classes = self.samples.shape().classes();
        let rows = self.samples.rows(batch);
        let logits = &mut self.logits[..batch.len() * classes];
        kernel::logits_of(rows, &self.summed.weight, &self.summed.bias, logits);
        let share = 1.0 / batch.len() as f32;
        for (row, &index) in logits.chunks_exact_mut(classes).zip(batch) {
            self.loss.error(row, usize::from(self.samples.labels()[index as usize]), share);
        }
        let Head { weight, bias } = &mut self.gradient;
        kernel::gradient_of(logits, rows, false, weight, bias);
        if let Some((mu, received)) = &self.proximal {
            hold_back(*mu, weight, &self.heads.main.weight, &received.weight);
            hold_back(*mu, bias, &self.heads.main.bias, &received.bias);
        }
        if let Some(correction) = self.correction {
            weight.iter_mut().zip(&correction.weight).for_each(|(gradient, entry)| *gradient += entry);
            bias.iter_mut().zip(&correction.bias).for_each(|(gradient, entry)| *gradient += entry);
        }
    }

    /// Fills the balanced gradient and gives what rescales its two parts.
    fn balance(&mut self, local: (f64, f64)) -> (f32, f32) {
        let Some(balanced) = &self.balanced else { return (0.0, 0.0) };
        let gradient = &mut self.balanced_gradient;
        balanced.gradient(&self.heads.main, &mut self.logits, gradient);
        (rescale_factor(local.0, norm(&gradient.weight)), rescale_factor(local.1, norm(&gradient.bias)))
    }

    fn update(&mut self, clip: f32, rescale: (f32, f32)) {
        let Heads { main, supplementary } = &mut self.heads;
        let step = Step::new(&self.config, clip);
        let balanced = self.config.learning_rate * self.config.lambda;
        step.apply(Tensor {
            main: &mut main.weight,
            supplementary: &mut supplementary.weight,
            summed: &mut self.summed.weight,
            momentum: &mut self.momentum.weight,
            gradient: &self.gradient.weight,
            balanced: &self.balanced_gradient.weight,
            balanced_factor: balanced * rescale.0,
        });
        step.apply(Tensor {
            main: &mut main.bias,
            supplementary: &mut supplementary.bias,
            summed: &mut self.summed.bias,
            momentum: &mut self.momentum.bias,
            gradient: &self.gradient.bias,
            balanced: &self.balanced_gradient.bias,
            balanced_factor: balanced * rescale.1,
        });
        for (bias, adjustment) in self.summed.bias.iter_mut().zip(&self.adjustment) {
            *bias += adjustment;
        }
    }
}

/// Adds the gradient of `mu / 2 * |w - received|²`.
fn hold_back(mu: f32, gradient: &mut [f32], weights: &[f32], received: &[f32]) {
    let entries = gradient.iter_mut().zip(weights.iter().zip(received));
    entries.for_each(|(gradient, (weight, received))| *gradient += mu * (weight - received));
}
