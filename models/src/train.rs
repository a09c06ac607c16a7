//! Local training: one device, one round.

use alloc::vec;
use alloc::vec::Vec;

use crate::exp::{norm, softmax_error};
use crate::head::{Head, Heads};
use crate::kernel;
use crate::limits::{MAX_FEATURE_VALUE, MAX_SAMPLES};
use crate::params::{Method, ValidParams};
use crate::prototype::Prototypes;
use crate::sampling::Plan;
use crate::shape::Shape;
use crate::statistics::Means;

/// Rows of the balanced set that are taken through the head at a time.
const BALANCED_ROWS: usize = 128;

/// A device's labelled features, checked.
#[derive(Clone, Copy, Debug)]
pub struct Samples<'a> {
    shape: Shape,
    features: &'a [f32],
    labels: &'a [u16],
}

/// Why numbers are not samples.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplesError {
    /// The number of features is not samples times features per sample.
    #[error("{labels} labels need {expected} feature values, got {features}")]
    Length {
        /// Labels given.
        labels: usize,
        /// `labels * d`.
        expected: usize,
        /// Values given.
        features: usize,
    },
    /// More than [`MAX_SAMPLES`].
    #[error("{0} samples are more than a device may hold")]
    TooMany(usize),
    /// A label outside the classes.
    #[error("label {label} is not a class; the classes are 0 to {last}")]
    Label {
        /// The label.
        label: u16,
        /// The largest class.
        last: usize,
    },
    /// Not finite or above [`MAX_FEATURE_VALUE`].
    #[error("sample {0} has a feature that is not finite or absurdly large; check the extractor's manifest")]
    Value(usize),
}

impl<'a> Samples<'a> {
    /// Checks `features [n][d]` and `labels [n]` against the shape.
    pub fn new(shape: Shape, features: &'a [f32], labels: &'a [u16]) -> Result<Self, SamplesError> {
        let expected = labels.len() * shape.features();
        if features.len() != expected {
            return Err(SamplesError::Length { labels: labels.len(), expected, features: features.len() });
        }
        if labels.len() > MAX_SAMPLES as usize {
            return Err(SamplesError::TooMany(labels.len()));
        }
        if let Some(&label) = labels.iter().find(|&&label| usize::from(label) >= shape.classes()) {
            return Err(SamplesError::Label { label, last: shape.classes() - 1 });
        }
        // The comparison is false for NaN, which must not pass.
        let possible = |value: &f32| value.abs() <= MAX_FEATURE_VALUE;
        if let Some(at) = features.iter().position(|value| !possible(value)) {
            return Err(SamplesError::Value(at / shape.features()));
        }
        Ok(Self { shape, features, labels })
    }

    /// The fleet's shape.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// `[n]`.
    pub fn labels(&self) -> &'a [u16] {
        self.labels
    }

    /// The samples in order, each `[d]` with its label.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [f32], u16)> {
        self.features.chunks_exact(self.shape.features()).zip(self.labels.iter().copied())
    }

    /// Copies the rows at `indices` into `rows [indices.len()][d]`.
    pub(crate) fn gather(&self, indices: &[u32], rows: &mut [f32]) {
        let d = self.shape.features();
        for (row, &index) in rows.chunks_exact_mut(d).zip(indices) {
            let start = index as usize * d;
            row.copy_from_slice(&self.features[start..start + d]);
        }
    }
}

/// What a device balances the main head with.
#[derive(Clone, Copy, Debug)]
pub enum Balance<'a> {
    /// Nothing: the first round of a run, and every method without a balanced step.
    Nothing,
    /// Local samples of the rich classes only: the ablation without prototypes.
    Local,
    /// The fleet's gradient prototypes stand for the classes the device lacks.
    Prototypes(&'a Prototypes),
    /// The fleet's class means stand for the classes the device lacks.
    Means(&'a Means),
}

/// One device's training in one round. Make it, call [`LocalTraining::run`], take the heads.
///
/// Per mini-batch: the gradient of the summed head `(W + Ŵ) h + b + b̂`, clipped over all tensors together, moves both
/// heads with momentum; then the balanced gradient of the main head, rescaled per tensor to the norm of the local one
/// before clipping, moves the main head alone (Yang et al., algorithm 1).
pub struct LocalTraining<'a> {
    samples: Samples<'a>,
    params: ValidParams,
    heads: Heads,
    /// `W + Ŵ` and `b + b̂` (plus the log prior, for logit adjustment): what the local loss sees.
    summed: Head,
    /// Added to the summed bias: the log prior of logit adjustment, else zeros.
    adjustment: Vec<f32>,
    /// The local gradient is the same for both heads, so one momentum serves both.
    momentum: Head,
    gradient: Head,
    balanced_gradient: Head,
    balanced: Option<BalancedSet>,
    rows: Vec<f32>,
    logits: Vec<f32>,
}

impl<'a> LocalTraining<'a> {
    /// Prepares a round: `balanced` holds the indices of the samples drawn from rich classes (see [`Plan`]),
    /// `prior [C]` is the fleet's class prior, used by `logit-adjusted` alone.
    pub fn new(
        samples: Samples<'a>,
        heads: Heads,
        balance: Balance<'_>,
        balanced: &[u32],
        prior: Option<&[f32]>,
        params: ValidParams,
    ) -> Self {
        let shape = samples.shape();
        let adjustment = match prior {
            Some(prior) if params.method == Method::LogitAdjusted => log_prior(prior),
            Some(_) | None => vec![0.0; shape.classes()],
        };
        let set = params.method.balances().then(|| BalancedSet::new(&samples, balance, balanced, &params)).flatten();
        let batch = usize::from(params.batch).max(BALANCED_ROWS);
        let mut training = Self {
            samples,
            params,
            summed: heads.main.clone(),
            heads,
            adjustment,
            momentum: Head::zeros(shape),
            gradient: Head::zeros(shape),
            balanced_gradient: Head::zeros(shape),
            balanced: set,
            rows: vec![0.0; usize::from(params.batch) * shape.features()],
            logits: vec![0.0; batch * shape.classes()],
        };
        training.add_up_heads();
        training
    }

    /// Every mini-batch of every epoch of a plan.
    pub fn run(&mut self, plan: &mut Plan) {
        plan.for_each_batch(|batch| self.step(batch));
    }

    /// One mini-batch: local step, then balanced step. Allocates nothing.
    ///
    /// # Panics
    /// If the batch is larger than the parameters' batch, or an index is out of range.
    pub fn step(&mut self, batch: &[u32]) {
        if batch.is_empty() {
            return;
        }
        self.local_gradient(batch);
        let norms = (norm(&self.gradient.weight), norm(&self.gradient.bias));
        let rescale = self.balanced_step(norms);
        let heads = if self.params.method.has_supplementary_head() { 2.0 } else { 1.0 };
        let total = libm::sqrt(heads * (norms.0 * norms.0 + norms.1 * norms.1));
        let clip = f64::min(1.0, f64::from(self.params.clip) / (total + 1e-6));
        self.update(clip as f32, rescale);
    }

    /// The trained heads.
    pub fn into_heads(self) -> Heads {
        self.heads
    }

    /// The main head as it stands.
    pub fn main(&self) -> &Head {
        &self.heads.main
    }

    fn local_gradient(&mut self, batch: &[u32]) {
        let shape = self.samples.shape();
        let rows = &mut self.rows[..batch.len() * shape.features()];
        let logits = &mut self.logits[..batch.len() * shape.classes()];
        self.samples.gather(batch, rows);
        kernel::logits(rows, &self.summed.weight, &self.summed.bias, shape.features(), logits);
        let share = 1.0 / batch.len() as f32;
        for (row, &index) in logits.chunks_exact_mut(shape.classes()).zip(batch) {
            softmax_error(row, usize::from(self.samples.labels[index as usize]), share);
        }
        let gradient = &mut self.gradient;
        kernel::accumulate_gradient(logits, rows, shape.features(), 0.0, &mut gradient.weight, &mut gradient.bias);
    }

    /// Computes the balanced gradient and returns what rescales its two tensors to the local norms; zero stays zero.
    fn balanced_step(&mut self, (weight_norm, bias_norm): (f64, f64)) -> (f32, f32) {
        let Some(set) = &self.balanced else { return (0.0, 0.0) };
        set.gradient(&self.heads.main, &mut self.logits, &mut self.balanced_gradient);
        let ratio = |target: f64, own: f64| {
            let ratio = (target / own) as f32;
            if own > 0.0 && ratio.is_finite() { ratio } else { 0.0 }
        };
        (ratio(weight_norm, norm(&self.balanced_gradient.weight)), ratio(bias_norm, norm(&self.balanced_gradient.bias)))
    }

    fn update(&mut self, clip: f32, rescale: (f32, f32)) {
        let Heads { main, supplementary } = &mut self.heads;
        let step = Step {
            learning_rate: self.params.learning_rate,
            momentum: self.params.momentum,
            clip,
            balanced: 0.0,
            both_heads: self.params.method.has_supplementary_head(),
        };
        let balanced = self.params.learning_rate * self.params.lambda;
        Step { balanced: balanced * rescale.0, ..step }.apply(Tensor {
            main: &mut main.weight,
            supplementary: &mut supplementary.weight,
            summed: &mut self.summed.weight,
            momentum: &mut self.momentum.weight,
            gradient: &self.gradient.weight,
            balanced_gradient: &self.balanced_gradient.weight,
        });
        Step { balanced: balanced * rescale.1, ..step }.apply(Tensor {
            main: &mut main.bias,
            supplementary: &mut supplementary.bias,
            summed: &mut self.summed.bias,
            momentum: &mut self.momentum.bias,
            gradient: &self.gradient.bias,
            balanced_gradient: &self.balanced_gradient.bias,
        });
        for (bias, adjustment) in self.summed.bias.iter_mut().zip(&self.adjustment) {
            *bias += adjustment;
        }
    }

    fn add_up_heads(&mut self) {
        let Heads { main, supplementary } = &self.heads;
        let both = self.params.method.has_supplementary_head();
        let other = |value: f32| if both { value } else { 0.0 };
        let weights = self.summed.weight.iter_mut().zip(&main.weight).zip(&supplementary.weight);
        weights.for_each(|((sum, w), v)| *sum = w + other(*v));
        let biases = self.summed.bias.iter_mut().zip(&main.bias).zip(&supplementary.bias).zip(&self.adjustment);
        biases.for_each(|(((sum, w), v), adjustment)| *sum = w + other(*v) + adjustment);
    }
}

/// One tensor of all that an update touches; equal lengths.
struct Tensor<'a> {
    main: &'a mut [f32],
    supplementary: &'a mut [f32],
    summed: &'a mut [f32],
    momentum: &'a mut [f32],
    gradient: &'a [f32],
    balanced_gradient: &'a [f32],
}

#[derive(Clone, Copy)]
struct Step {
    learning_rate: f32,
    momentum: f32,
    clip: f32,
    /// `lr * lambda * rescale`.
    balanced: f32,
    both_heads: bool,
}

impl Step {
    /// Momentum, both heads and their sum in one pass over memory.
    fn apply(self, tensor: Tensor<'_>) {
        let rows = tensor.main.iter_mut().zip(tensor.summed).zip(tensor.momentum).zip(tensor.gradient);
        let rows = rows.zip(tensor.balanced_gradient);
        if self.both_heads {
            for (((((w, sum), m), g), balanced), v) in rows.zip(tensor.supplementary) {
                *m = self.momentum * *m + self.clip * g;
                let local = self.learning_rate * *m;
                *v -= local;
                *w -= local + self.balanced * balanced;
                *sum = *w + *v;
            }
        } else {
            for ((((w, sum), m), g), balanced) in rows {
                *m = self.momentum * *m + self.clip * g;
                *w -= self.learning_rate * *m + self.balanced * balanced;
                *sum = *w;
            }
        }
    }
}

/// The locally balanced set of a round: rows with the weight each has in the balanced gradient, and the constant part
/// that gradient prototypes contribute.
struct BalancedSet {
    shape: Shape,
    rows: Vec<f32>,
    labels: Vec<u16>,
    row_weights: Vec<f32>,
    constant: Option<Head>,
}

impl BalancedSet {
    /// `None` where there is nothing to balance with.
    fn new(samples: &Samples<'_>, balance: Balance<'_>, balanced: &[u32], params: &ValidParams) -> Option<Self> {
        let shape = samples.shape();
        let counts = crate::sampling::class_counts(samples.labels(), shape.classes());
        let is_rich = |class: u16| counts[usize::from(class)] >= u32::from(params.rich_samples);
        let rich = (0..shape.classes() as u16).filter(|&class| is_rich(class)).count();
        let missing_of = |known: &mut dyn Iterator<Item = u16>| known.filter(|&c| !is_rich(c)).collect::<Vec<u16>>();
        let missing = match balance {
            Balance::Nothing => return None,
            Balance::Local => Vec::new(),
            Balance::Prototypes(prototypes) => missing_of(&mut prototypes.by_class.keys().copied()),
            Balance::Means(means) => missing_of(&mut means.by_class.keys().copied()),
        };
        let has_source = match balance {
            Balance::Nothing => false,
            Balance::Local => true,
            Balance::Prototypes(prototypes) => !prototypes.by_class.is_empty(),
            Balance::Means(means) => !means.by_class.is_empty(),
        };
        if !has_source || (rich == 0 && missing.is_empty()) {
            return None;
        }
        let rich_share = match (rich, missing.len()) {
            (_, 0) => 1.0,
            (rich, _) => rich as f32 / shape.classes() as f32,
        };
        let mut set = Self {
            shape,
            rows: vec![0.0; balanced.len() * shape.features()],
            labels: balanced.iter().map(|&index| samples.labels[index as usize]).collect(),
            row_weights: vec![rich_share / balanced.len().max(1) as f32; balanced.len()],
            constant: None,
        };
        samples.gather(balanced, &mut set.rows);
        let missing_share = 1.0 - rich_share;
        match balance {
            Balance::Prototypes(prototypes) if !missing.is_empty() => {
                let (mut mean, _) = prototypes.mean_of(&missing, shape);
                mean.weight.iter_mut().chain(&mut mean.bias).for_each(|value| *value *= missing_share);
                set.constant = Some(mean);
            }
            Balance::Means(means) => {
                for class in &missing {
                    set.rows.extend_from_slice(&means.by_class[class]);
                    set.labels.push(*class);
                    set.row_weights.push(missing_share / missing.len() as f32);
                }
            }
            Balance::Nothing | Balance::Local | Balance::Prototypes(_) => {}
        }
        Some(set)
    }

    /// Writes the balanced gradient at the main head; `logits` is scratch space.
    fn gradient(&self, main: &Head, logits: &mut [f32], gradient: &mut Head) {
        let (classes, features) = (self.shape.classes(), self.shape.features());
        let mut beta = 0.0;
        if let Some(constant) = &self.constant {
            gradient.weight.copy_from_slice(&constant.weight);
            gradient.bias.copy_from_slice(&constant.bias);
            beta = 1.0;
        }
        let chunks = self.rows.chunks(BALANCED_ROWS * features);
        let labels = self.labels.chunks(BALANCED_ROWS).zip(self.row_weights.chunks(BALANCED_ROWS));
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

/// The logarithm of a prior, with a class nobody holds at half the smallest share instead of minus infinity.
fn log_prior(prior: &[f32]) -> Vec<f32> {
    let smallest = prior.iter().copied().filter(|p| *p > 0.0).fold(f32::INFINITY, f32::min);
    let floor = if smallest.is_finite() { smallest / 2.0 } else { 1.0 };
    prior.iter().map(|&p| libm::logf(if p > 0.0 { p } else { floor })).collect()
}
