//! Training on the heads themselves: for devices with at least as many samples as features.

use alloc::vec;
use alloc::vec::Vec;

use super::balance::BalancedSet;
use super::{Samples, Step, Tensor, clip_factor, rescale_factor};
use crate::exp::{norm, softmax_error};
use crate::head::{Head, Heads};
use crate::kernel;
use crate::params::ValidParams;

/// Rows of the balanced set that are taken through the head at a time.
const BALANCED_ROWS: usize = 128;

pub(super) struct Primal<'a> {
    samples: Samples<'a>,
    params: ValidParams,
    pub(super) heads: Heads,
    /// `W + Ŵ` and `b + b̂ + log prior`: what the local loss sees.
    summed: Head,
    /// Added to the summed bias: the log prior of logit adjustment, else zeros.
    adjustment: Vec<f32>,
    /// The local gradient is the same for both heads, so one momentum serves both.
    momentum: Head,
    gradient: Head,
    balanced_gradient: Head,
    balanced: Option<(BalancedSet, Vec<f32>)>,
    rows: Vec<f32>,
    logits: Vec<f32>,
}

impl<'a> Primal<'a> {
    pub(super) fn new(
        samples: Samples<'a>,
        heads: Heads,
        set: Option<BalancedSet>,
        adjustment: Vec<f32>,
        params: ValidParams,
    ) -> Self {
        let shape = samples.shape();
        let batch = usize::from(params.batch).min(samples.labels().len());
        let balanced = set.map(|set| {
            let own = set.members.len() - set.means.len() / shape.features();
            let mut rows = vec![0.0; own * shape.features()];
            samples.gather(&set.members[..own], &mut rows);
            rows.extend_from_slice(&set.means);
            (set, rows)
        });
        let mut primal = Self {
            samples,
            params,
            summed: heads.main.clone(),
            heads,
            adjustment,
            momentum: Head::zeros(shape),
            gradient: Head::zeros(shape),
            balanced_gradient: Head::zeros(shape),
            balanced,
            rows: vec![0.0; batch * shape.features()],
            logits: vec![0.0; batch.max(BALANCED_ROWS) * shape.classes()],
        };
        primal.add_up_heads();
        primal
    }

    pub(super) fn step(&mut self, batch: &[u32]) {
        self.local_gradient(batch);
        let local = (norm(&self.gradient.weight), norm(&self.gradient.bias));
        let rescale = match &self.balanced {
            Some((set, rows)) => {
                balanced_gradient(set, rows, &self.heads.main, &mut self.logits, &mut self.balanced_gradient);
                let own = &self.balanced_gradient;
                (rescale_factor(local.0, norm(&own.weight)), rescale_factor(local.1, norm(&own.bias)))
            }
            None => (0.0, 0.0),
        };
        self.update(clip_factor(&self.params, local), rescale);
    }

    fn local_gradient(&mut self, batch: &[u32]) {
        let (classes, features) = (self.samples.shape().classes(), self.samples.shape().features());
        let rows = &mut self.rows[..batch.len() * features];
        let logits = &mut self.logits[..batch.len() * classes];
        self.samples.gather(batch, rows);
        kernel::logits(rows, &self.summed.weight, &self.summed.bias, features, logits);
        let share = 1.0 / batch.len() as f32;
        for (row, &index) in logits.chunks_exact_mut(classes).zip(batch) {
            softmax_error(row, usize::from(self.samples.labels()[index as usize]), share);
        }
        let Head { weight, bias } = &mut self.gradient;
        kernel::accumulate_gradient(logits, rows, features, 0.0, weight, bias);
    }

    fn update(&mut self, clip: f32, rescale: (f32, f32)) {
        let Heads { main, supplementary } = &mut self.heads;
        let step = Step::new(&self.params, clip);
        let balanced = self.params.learning_rate * self.params.lambda;
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

    fn add_up_heads(&mut self) {
        let Heads { main, supplementary } = &self.heads;
        if self.params.method.has_supplementary_head() {
            self.summed.weight.iter_mut().zip(&supplementary.weight).for_each(|(sum, v)| *sum += v);
            self.summed.bias.iter_mut().zip(&supplementary.bias).for_each(|(sum, v)| *sum += v);
        }
        debug_assert_eq!(main.bias.len(), self.adjustment.len(), "one adjustment per class");
        self.summed.bias.iter_mut().zip(&self.adjustment).for_each(|(sum, adjustment)| *sum += adjustment);
    }
}

/// Writes the balanced gradient at the main head; `rows` are the set's features, `logits` is scratch space.
fn balanced_gradient(set: &BalancedSet, rows: &[f32], main: &Head, logits: &mut [f32], gradient: &mut Head) {
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
