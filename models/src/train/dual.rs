//! Training on coefficients: for devices with fewer samples than features.
//!
//! Every gradient is a sum of errors times samples, so after any number of steps `W = W_0 + A^T X + a P`, with one
//! coefficient per sample and class in `A [n][C]`, and `P` the constant part of the balanced gradient. Logits need
//! only the samples' inner products, `K = X X^T`, made once per round; the norm of a gradient `E^T X` is
//! `sqrt(trace(E^T K E))`. A step costs `n` instead of `d` per row and class, and no product to form the gradient.

use alloc::vec;
use alloc::vec::Vec;

use super::balance::BalancedSet;
use super::{Samples, Step, Tensor, clip_factor, rescale_factor};
use crate::exp::{norm, softmax_error};
use crate::head::Heads;
use crate::kernel;
use crate::params::ValidParams;

/// More rows than this are left to the primal form: the inner products alone would take 4 MiB.
const MOST_ROWS: usize = 1_024;

pub(super) struct Dual<'a> {
    samples: Samples<'a>,
    params: ValidParams,
    /// The heads as received, but for the biases, which are trained as they are.
    start: Heads,
    adjustment: Vec<f32>,
    summed_bias: Vec<f32>,
    momentum_bias: Vec<f32>,
    /// Samples, then the means of the balanced set: `[N][d]`.
    rows: Vec<f32>,
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
    /// Rows of the inner products, `[rows][N]`.
    products: Vec<f32>,
    /// The inner products among the rows at hand, `[rows][rows]`.
    among: Vec<f32>,
    logits: Vec<f32>,
    image: Vec<f32>,
}

impl<'a> Dual<'a> {
    /// Whether this form does less work.
    pub(super) fn is_quicker(samples: &Samples<'_>, set: Option<&BalancedSet>, params: &ValidParams) -> bool {
        let features = samples.shape().features();
        let means = set.map_or(0, |set| set.means.len() / features);
        let rows = samples.labels().len() + means;
        // The inner products and the way back cost about as much as two epochs of one row each.
        rows <= MOST_ROWS && rows < features && params.epochs > 1
    }

    pub(super) fn new(
        samples: Samples<'a>,
        heads: Heads,
        set: Option<BalancedSet>,
        adjustment: Vec<f32>,
        params: ValidParams,
    ) -> Self {
        let (classes, features) = (samples.shape().classes(), samples.shape().features());
        let mut rows = samples.features.to_vec();
        rows.extend(set.iter().flat_map(|set| &set.means));
        let count = rows.len() / features;
        let product = |weight: &[f32]| {
            let mut logits = vec![0.0; count * classes];
            kernel::logits(&rows, weight, &vec![0.0; classes], features, &mut logits);
            logits
        };
        let main_start = product(&heads.main.weight);
        let mut summed_start = main_start.clone();
        let mut summed_bias = heads.main.bias.clone();
        if params.method.has_supplementary_head() {
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
        kernel::logits(&rows, &rows, &vec![0.0; count], features, &mut products);
        let zeros = || vec![0.0; count * classes];
        let gradient = || Gradient { coefficients: zeros(), bias: vec![0.0; classes] };
        let most =
            usize::from(params.batch).min(samples.labels().len()).max(set.as_ref().map_or(0, |set| set.members.len()));
        Self {
            samples,
            params,
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
            scratch: Scratch {
                products: vec![0.0; most * count],
                among: vec![0.0; most * most],
                logits: vec![0.0; most * classes],
                image: vec![0.0; most * classes],
            },
            rows,
        }
    }

    pub(super) fn step(&mut self, batch: &[u32]) {
        let local = self.local_gradient(batch);
        let rescale = self.balanced_gradient(local);
        let step = Step::new(&self.params, clip_factor(&self.params, local));
        let balanced = self.params.learning_rate * self.params.lambda;
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

    /// The heads: one product back from coefficients to weights.
    pub(super) fn heads(&self) -> Heads {
        let features = self.samples.shape().features();
        let mut heads = self.start.clone();
        let back = |coefficients: &[f32], weight: &mut [f32]| {
            let mut unused = vec![0.0; self.summed_bias.len()];
            kernel::accumulate_gradient(coefficients, &self.rows, features, 1.0, weight, &mut unused);
        };
        back(&self.main, &mut heads.main.weight);
        if self.params.method.has_supplementary_head() {
            back(&self.supplementary, &mut heads.supplementary.weight);
        }
        let constant = self.balanced.as_ref().and_then(|set| set.constant.as_ref());
        if let (Some(constant), Some(taken)) = (constant, &self.constant) {
            let weights = heads.main.weight.iter_mut().zip(&constant.weight);
            weights.for_each(|(w, value)| *w += taken.coefficient * value);
        }
        heads
    }

    /// Fills the local gradient and gives the norms of its weight and bias parts.
    fn local_gradient(&mut self, batch: &[u32]) -> (f64, f64) {
        let classes = self.summed_bias.len();
        let taken = self.constant.as_ref().map(|constant| (constant.coefficient, constant.logits.as_slice()));
        let from = Start { logits: &self.summed_start, bias: &self.summed_bias, constant: taken };
        let count = self.scratch.logits_at(batch, &self.products, &self.summed, &from);
        let share = 1.0 / batch.len() as f32;
        self.gradient.bias.fill(0.0);
        for (row, &index) in self.scratch.logits.chunks_exact_mut(classes).zip(batch) {
            softmax_error(row, usize::from(self.samples.labels()[index as usize]), share);
            add(&mut self.gradient.bias, row);
            self.gradient.coefficients[index as usize * classes..][..classes].copy_from_slice(row);
        }
        let squared = self.scratch.squared_norm(batch, count, classes);
        (libm::sqrt(squared.max(0.0)), norm(&self.gradient.bias))
    }

    /// Fills the balanced gradient and gives what rescales its two parts to the local norms.
    fn balanced_gradient(&mut self, local: (f64, f64)) -> (f32, f32) {
        let Some(set) = &self.balanced else { return (0.0, 0.0) };
        let classes = self.summed_bias.len();
        let taken = self.constant.as_ref().map(|constant| (constant.coefficient, constant.logits.as_slice()));
        let from = Start { logits: &self.main_start, bias: &self.start.main.bias, constant: taken };
        let count = self.scratch.logits_at(&set.members, &self.products, &self.main, &from);
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
        let squared = self.scratch.squared_norm(&set.members, count, classes) + 2.0 * across + constant * constant;
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
    /// Logits of some rows into `logits`, leaving their inner products in `products`; gives the number of all rows.
    fn logits_at(&mut self, members: &[u32], products: &[f32], coefficients: &[f32], start: &Start<'_>) -> usize {
        let classes = start.bias.len();
        let count = coefficients.len() / classes;
        let rows = self.products.chunks_exact_mut(count).zip(self.logits.chunks_exact_mut(classes)).zip(members);
        for ((row, logits), &member) in rows {
            let member = member as usize;
            row.copy_from_slice(&products[member * count..][..count]);
            let own = &start.logits[member * classes..][..classes];
            logits.iter_mut().zip(own.iter().zip(start.bias)).for_each(|(logit, (own, bias))| *logit = own + bias);
            if let Some((coefficient, constant)) = start.constant {
                let constant = &constant[member * classes..][..classes];
                logits.iter_mut().zip(constant).for_each(|(logit, value)| *logit += coefficient * value);
            }
        }
        let logits = &mut self.logits[..members.len() * classes];
        kernel::accumulate_product(&self.products[..members.len() * count], coefficients, count, logits);
        count
    }

    /// `trace(E^T K E)` of the errors that stand in `logits` for the rows whose products stand in `products`.
    fn squared_norm(&mut self, members: &[u32], count: usize, classes: usize) -> f64 {
        let size = members.len();
        for (among, row) in self.among.chunks_exact_mut(size.max(1)).zip(self.products.chunks_exact(count)).take(size) {
            among.iter_mut().zip(members).for_each(|(entry, &member)| *entry = row[member as usize]);
        }
        let errors = &self.logits[..size * classes];
        let image = &mut self.image[..size * classes];
        image.fill(0.0);
        kernel::accumulate_product(&self.among[..size * size], errors, size, image);
        errors.chunks(classes).zip(image.chunks(classes)).map(|(e, q)| dot(e, q)).sum()
    }
}

fn add(target: &mut [f32], values: &[f32]) {
    target.iter_mut().zip(values).for_each(|(t, v)| *t += v);
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; 4];
    let (left, right) = (a.chunks_exact(4), b.chunks_exact(4));
    let rest: f64 = left.remainder().iter().zip(right.remainder()).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
    for (x, y) in left.zip(right) {
        lanes.iter_mut().zip(x.iter().zip(y)).for_each(|(lane, (x, y))| *lane += f64::from(*x) * f64::from(*y));
    }
    lanes.iter().sum::<f64>() + rest
}
