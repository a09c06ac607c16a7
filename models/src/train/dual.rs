//! Training on coefficients: for devices with fewer samples than features.
//!
//! Every gradient is a sum of errors times samples, so after any number of steps `W = W_0 + A^T X + a P`, with one
//! coefficient per sample and class in `A [n][C]`, and `P` the constant part of the balanced gradient. Logits need
//! only the samples' inner products, `K = X X^T`, made once per round; the norm of a gradient `E^T X` is
//! `sqrt(trace(E^T K E))`. A step costs `n` instead of `d` per row and class, and no product to form the gradient.

use alloc::borrow::Cow;
use alloc::vec;
use alloc::vec::Vec;

use super::balance::BalancedSet;
use super::config::TrainingConfig;
use super::objective::Loss;
use super::step::{Step, Tensor, clip_factor, rescale_factor};
use crate::exp::{dot, norm, softmax_error};
use crate::head::{Head, Heads};
use crate::kernel::{self, Rows};
use crate::samples::Samples;

/// More rows than this are left to the primal form: the inner products alone would take 4 MiB.
const MOST_ROWS: usize = 1_024;

pub(super) struct Dual<'a> {
    samples: Samples<'a>,
    config: TrainingConfig,
    loss: Loss<'a>,
    /// The heads as received, but for the biases, which are trained as they are.
    start: Heads,
    adjustment: Vec<f32>,
    summed_bias: Vec<f32>,
    momentum_bias: Vec<f32>,
    /// Samples, then the means of the balanced set: `[N][d]`.
    rows: Cow<'a, [f32]>,
    /// Inner products of the rows, `[N][N]`.
    products: Vec<f32>,
    /// Coefficients of both heads, their sum and the momentum, `[N][C]`.
    main: Vec<f32>,
    supplementary: Vec<f32>,
    summed: Vec<f32>,
    momentum: Vec<f32>,
    /// Logits of the rows at the start without biases, `[N][C]`: of the main head, and of both.
    main_start: Vec<f32>,
    summed_start: Vec<f32>,
    balanced: Option<BalancedSet>,
    constant: Option<Constant>,
    gradient: Gradient,
    balanced_gradient: Gradient,
    scratch: Scratch,
}

/// The constant part of the balanced gradient.
struct Constant {
    /// How much of it the main head has taken.
    coefficient: f32,
    norm: f64,
    /// Its products with the rows, `[N][C]`.
    logits: Vec<f32>,
}

/// A gradient by its coefficients `[N][C]`, zero but for the rows of a batch, and its bias part.
struct Gradient {
    coefficients: Vec<f32>,
    bias: Vec<f32>,
}

struct Scratch {
    /// Of the rows at hand, `[rows][C]`.
    logits: Vec<f32>,
    /// The inner products of their errors, `[rows][rows]`.
    among: Vec<f32>,
}

impl<'a> Dual<'a> {
    /// Whether this form does less work.
    pub(super) fn is_quicker(samples: &Samples<'_>, set: Option<&BalancedSet>, config: &TrainingConfig) -> bool {
        let features = samples.shape().features();
        let means = set.map_or(0, |set| set.means.len() / features);
        let rows = samples.labels().len() + means;
        // The inner products and the way back cost about as much as two epochs of one row each.
        rows <= MOST_ROWS && rows < features && config.epochs > 1
    }

    pub(super) fn new(
        samples: Samples<'a>,
        heads: Heads,
        set: Option<BalancedSet>,
        loss: Loss<'a>,
        config: TrainingConfig,
    ) -> Self {
        let adjustment = loss.adjustment(samples.shape().classes());
        let (classes, features) = (samples.shape().classes(), samples.shape().features());
        let rows = match &set {
            Some(set) if !set.means.is_empty() => Cow::Owned([samples.features, &set.means].concat()),
            Some(_) | None => Cow::Borrowed(samples.features),
        };
        let count = rows.len() / features;
        let product = |weight: &[f32]| {
            let mut logits = vec![0.0; count * classes];
            kernel::logits(&rows, weight, &vec![0.0; classes], features, &mut logits);
            logits
        };
        let main_start = product(&heads.main.weight);
        let mut summed_start = main_start.clone();
        let mut summed_bias = heads.main.bias.clone();
        if config.supplementary {
            add(&mut summed_start, &product(&heads.supplementary.weight));
            add(&mut summed_bias, &heads.supplementary.bias);
        }
        add(&mut summed_bias, &adjustment);
        let constant = set.as_ref().and_then(|set| set.constant.as_ref()).map(|constant| Constant {
            coefficient: 0.0,
            norm: norm(&constant.weight),
            logits: product(&constant.weight),
        });
        let mut products = vec![0.0; count * count];
        kernel::inner_products(Rows::all(&rows, features), &mut products);
        let zeros = || vec![0.0; count * classes];
        let gradient = || Gradient { coefficients: zeros(), bias: vec![0.0; classes] };
        let most =
            usize::from(config.batch).min(samples.labels().len()).max(set.as_ref().map_or(0, |set| set.members.len()));
        Self {
            samples,
            config,
            loss,
            start: heads,
            adjustment,
            summed_bias,
            momentum_bias: vec![0.0; classes],
            products,
            main: zeros(),
            supplementary: zeros(),
            summed: zeros(),
            momentum: zeros(),
            main_start,
            summed_start,
            balanced: set,
            constant,
            gradient: gradient(),
            balanced_gradient: gradient(),
            scratch: Scratch { logits: vec![0.0; most * classes], among: vec![0.0; most * most] },
            rows,
        }
    }

    pub(super) fn step(&mut self, batch: &[u32]) {
        let local = self.local_gradient(batch);
        let rescale = self.balanced_gradient(local);
        let step = Step::new(&self.config, clip_factor(&self.config, local));
        let balanced = self.config.learning_rate * self.config.lambda;
        step.apply(Tensor {
            main: &mut self.main,
            supplementary: &mut self.supplementary,
            summed: &mut self.summed,
            momentum: &mut self.momentum,
            gradient: &self.gradient.coefficients,
            balanced: &self.balanced_gradient.coefficients,
            balanced_factor: balanced * rescale.0,
        });
        step.apply(Tensor {
            main: &mut self.start.main.bias,
            supplementary: &mut self.start.supplementary.bias,
            summed: &mut self.summed_bias,
            momentum: &mut self.momentum_bias,
            gradient: &self.gradient.bias,
            balanced: &self.balanced_gradient.bias,
            balanced_factor: balanced * rescale.1,
        });
        add(&mut self.summed_bias, &self.adjustment);
        if let Some(constant) = &mut self.constant {
            constant.coefficient -= balanced * rescale.0;
        }
        // The next batch has other rows.
        let classes = self.summed_bias.len();
        for &row in batch {
            self.gradient.coefficients[row as usize * classes..][..classes].fill(0.0);
        }
    }

    /// A copy of the main head as it stands.
    pub(super) fn main(&self) -> Head {
        let mut main = self.start.main.clone();
        self.add_main(&mut main.weight);
        main
    }

    /// The heads: one product back from coefficients to weights.
    pub(super) fn into_heads(mut self) -> Heads {
        let mut weight = core::mem::take(&mut self.start.main.weight);
        self.add_main(&mut weight);
        self.start.main.weight = weight;
        if self.config.supplementary {
            let weight = &mut self.start.supplementary.weight;
            kernel::add_combinations(
                &self.supplementary,
                Rows::all(&self.rows, self.samples.shape().features()),
                weight,
            );
        }
        self.start
    }

    fn add_main(&self, weight: &mut [f32]) {
        kernel::add_combinations(&self.main, Rows::all(&self.rows, self.samples.shape().features()), weight);
        let constant = self.balanced.as_ref().and_then(|set| set.constant.as_ref());
        if let (Some(constant), Some(taken)) = (constant, &self.constant) {
            weight.iter_mut().zip(&constant.weight).for_each(|(w, value)| *w += taken.coefficient * value);
        }
    }

    /// Fills the local gradient and gives the norms of its weight and bias parts.
    fn local_gradient(&mut self, batch: &[u32]) -> (f64, f64) {
        let classes = self.summed_bias.len();
        let taken = self.constant.as_ref().map(|constant| (constant.coefficient, constant.logits.as_slice()));
        let from = Start { logits: &self.summed_start, bias: &self.summed_bias, constant: taken };
        self.scratch.logits_at(batch, &self.products, &self.summed, &from);
        let share = 1.0 / batch.len() as f32;
        self.gradient.bias.fill(0.0);
        for (row, &index) in self.scratch.logits.chunks_exact_mut(classes).zip(batch) {
            self.loss.error(row, usize::from(self.samples.labels()[index as usize]), share);
            add(&mut self.gradient.bias, row);
            self.gradient.coefficients[index as usize * classes..][..classes].copy_from_slice(row);
        }
        let squared = self.scratch.squared_norm(batch, &self.products, classes);
        (libm::sqrt(squared.max(0.0)), norm(&self.gradient.bias))
    }

    /// Fills the balanced gradient and gives what rescales its two parts to the local norms.
    fn balanced_gradient(&mut self, local: (f64, f64)) -> (f32, f32) {
        let Some(set) = &self.balanced else { return (0.0, 0.0) };
        let classes = self.summed_bias.len();
        let taken = self.constant.as_ref().map(|constant| (constant.coefficient, constant.logits.as_slice()));
        let from = Start { logits: &self.main_start, bias: &self.start.main.bias, constant: taken };
        self.scratch.logits_at(&set.members, &self.products, &self.main, &from);
        match &set.constant {
            Some(constant) => self.balanced_gradient.bias.copy_from_slice(&constant.bias),
            None => self.balanced_gradient.bias.fill(0.0),
        }
        let errors = self.scratch.logits.chunks_exact_mut(classes).zip(&set.members);
        let mut across = 0.0;
        for ((row, &member), (&label, &weight)) in errors.zip(set.labels.iter().zip(&set.weights)) {
            softmax_error(row, usize::from(label), weight);
            add(&mut self.balanced_gradient.bias, row);
            self.balanced_gradient.coefficients[member as usize * classes..][..classes].copy_from_slice(row);
            if let Some(constant) = &self.constant {
                across += dot(row, &constant.logits[member as usize * classes..][..classes]);
            }
        }
        let constant = self.constant.as_ref().map_or(0.0, |constant| constant.norm);
        let own = self.scratch.squared_norm(&set.members, &self.products, classes);
        let squared = own + 2.0 * across + constant * constant;
        let own = (libm::sqrt(squared.max(0.0)), norm(&self.balanced_gradient.bias));
        (rescale_factor(local.0, own.0), rescale_factor(local.1, own.1))
    }
}

/// What logits are made of besides the coefficients.
struct Start<'a> {
    logits: &'a [f32],
    bias: &'a [f32],
    constant: Option<(f32, &'a [f32])>,
}

impl Scratch {
    /// Logits of some rows into `logits`.
    fn logits_at(&mut self, members: &[u32], products: &[f32], coefficients: &[f32], start: &Start<'_>) {
        let classes = start.bias.len();
        for (logits, &member) in self.logits.chunks_exact_mut(classes).zip(members) {
            let at = member as usize * classes;
            let own = start.logits[at..at + classes].iter().zip(start.bias);
            logits.iter_mut().zip(own).for_each(|(logit, (own, bias))| *logit = own + bias);
            if let Some((coefficient, constant)) = start.constant {
                let constant = &constant[at..at + classes];
                logits.iter_mut().zip(constant).for_each(|(logit, value)| *logit += coefficient * value);
            }
        }
        let rows = Rows::chosen(products, coefficients.len() / classes, members);
        kernel::product_of(rows, coefficients, &mut self.logits[..members.len() * classes]);
    }

    /// `trace(E^T K E)` of the errors that stand in `logits`: the sum of `K` and `E E^T`, entry by entry. Both are
    /// symmetric.
    fn squared_norm(&mut self, members: &[u32], products: &[f32], classes: usize) -> f64 {
        let size = members.len();
        let among = &mut self.among[..size * size];
        kernel::inner_products(Rows::all(&self.logits[..size * classes], classes), among);
        let count = products.len().isqrt();
        let mut squared = 0.0;
        for (i, (row, &member)) in among.chunks_exact(size.max(1)).zip(members).enumerate() {
            let products = &products[member as usize * count..][..count];
            let product = |at: usize| f64::from(row[at]) * f64::from(products[members[at] as usize]);
            squared += product(i) + 2.0 * (0..i).map(product).sum::<f64>();
        }
        squared
    }
}

fn add(target: &mut [f32], values: &[f32]) {
    target.iter_mut().zip(values).for_each(|(t, v)| *t += v);
}
