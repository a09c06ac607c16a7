//! `creff`: the aggregator makes up features that fit the fleet's gradients and trains a head on them.
//!
//! Shang et al., "Federated Learning on Heterogeneous and Long-Tailed Data via Classifier Re-Training with Federated
//! Features", IJCAI 2022 (arXiv 2204.13399), and the authors' code. Devices send the gradient of each class at the
//! re-trained head. The aggregator keeps `m` federated features of each class and moves them by gradient descent until
//! their gradient points where the fleet's does: the distance is, per row of the head and for the bias, one minus the
//! cosine. Then it trains a new head on the federated features, all classes with as many.
//!
//! Adapted: with a frozen extractor the federated averaging of the paper changes nothing that the re-trained head
//! depends on, so devices send gradients and no heads. The gradient of a class is over all samples of it (the authors
//! average ten draws of 32). Step sizes are the authors' for features four times as large, which is what their random
//! ones are to standardised ones here: 0.1 becomes 0.1 / 16, 0.01 becomes 0.16. From 100 classes on there are fewer
//! features of each and fewer epochs, or a round would take minutes. Re-training starts at a head of zeros.

use crate::exchange::Request;
use alloc::vec;
use alloc::vec::Vec;

use super::{Definition, RoundResponses};
use crate::exp::{norm, softmax_error};
use crate::fields::{FieldError, FieldReader, FieldWriter, Fields, OfMethod, Readers, read_as};
use crate::fleet::{Conditions, RoundResult};
use crate::head::{Head, Heads};
use crate::hyper_parameters::HyperParameter;
use crate::kernel;
use crate::limits::{MAX_FEATURE_VALUE, MAX_SERVER_STATE_NUMBERS};
use crate::method::Method;
use crate::params::Params;
use crate::prototype::Prototypes;
use crate::samples::Samples;
use crate::sampling::{standard_normal, stream};
use crate::shape::Shape;
use crate::train::{LocalObjective, LocalTraining, Plan, TrainingConfig};

const FEATURES: HyperParameter =
    HyperParameter::count("features_per_class", 100.0, (1.0, 1_000.0), "federated features of each class");
const MATCH_STEPS: HyperParameter =
    HyperParameter::count("match_steps", 100.0, (0.0, 10_000.0), "steps of the federated features in each round");
const MATCH_RATE: HyperParameter =
    HyperParameter::number("match_rate", 0.1 / 16.0, (0.0, 10.0), "step size of the federated features");
const RETRAIN_EPOCHS: HyperParameter = HyperParameter::count(
    "retrain_epochs",
    300.0,
    (1.0, 1_000.0),
    "passes over the federated features when the head is re-trained",
);
const RETRAIN_RATE: HyperParameter =
    HyperParameter::number("retrain_rate", 0.16, (1e-6, 10.0), "step size when the head is re-trained");
/// Rows in a mini-batch of re-training.
const RETRAIN_BATCH: u16 = 32;
/// Keeps a cosine finite where a gradient is zero.
const TINY: f64 = 1e-6;

pub(super) const DEFINITION: Definition = Definition {
    summary: "the aggregator makes up features whose gradients fit the fleet's class gradients and trains the head on them",
    source: "Shang et al., IJCAI 2022",
    params: &[FEATURES, MATCH_STEPS, MATCH_RATE, RETRAIN_EPOCHS, RETRAIN_RATE],
    defaults,
    training: Request::Prototypes,
    readers: Readers { server_state: Some(read_as::<State>), ..Readers::NONE },
    conclude,
    ..Definition::PLAIN
};

/// What the aggregator keeps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The federated features, `[C][m][d]`.
    pub features: Vec<f32>,
}

fn defaults(params: &mut Params, classes: usize) {
    if classes >= 100 {
        params.set(&FEATURES, (1_000 / classes).max(2) as f32);
        params.set(&RETRAIN_EPOCHS, 100.0);
    }
}

fn conclude(mut responses: RoundResponses<'_>) -> RoundResult {
    let conditions = responses.conditions;
    responses.heads = None;
    let mut gradients = Prototypes::default();
    responses.prototypes.merge_into(&mut gradients);
    let Some(shape) = shape_of(&gradients) else { return responses.plain() };
    let per_class = conditions.params.method_params[0] as usize;
    let wanted = shape.weights() * per_class;
    let State { mut features } = responses.known.server_state.of_method().cloned().unwrap_or_default();
    if features.len() != wanted {
        if wanted > MAX_SERVER_STATE_NUMBERS {
            return responses.plain();
        }
        features = random_features(shape, wanted, conditions.seed);
    }
    let main = responses.known.heads.as_ref().map_or_else(|| Head::zeros(shape), |heads| heads.main.clone());
    let mut matching = Matching::new(&main, per_class);
    for (&class, gradient) in &gradients.by_class {
        let size = per_class * shape.features();
        let own = &mut features[usize::from(class) * size..][..size];
        matching.run(own, class, gradient, conditions.params);
    }
    responses.heads = retrained(shape, &features, per_class, conditions);
    responses.known.server_state.of_method = Some(OfMethod::new(Method::Creff, State { features }));
    responses.plain()
}

impl Fields for State {
    const FORMAT: u32 = 1;

    fn write(&self, to: &mut dyn FieldWriter) {
        to.count(self.features.len() as u32);
        to.numbers(&self.features);
    }

    fn read(from: &mut dyn FieldReader, _: Shape) -> Result<Self, FieldError> {
        let count = from.count(MAX_SERVER_STATE_NUMBERS as u32)?;
        Ok(Self { features: from.numbers(count as usize)? })
    }
}

fn shape_of(gradients: &Prototypes) -> Option<Shape> {
    let Head { weight, bias } = gradients.by_class.values().next()?;
    Shape::new(bias.len(), weight.len() / bias.len().max(1)).ok()
}

/// As large as standardised features are, `[C][m][d]`.
fn random_features(shape: Shape, count: usize, seed: u64) -> Vec<f32> {
    let mut rng = stream(seed, 0, b"federated features");
    let scale = 4.0 / libm::sqrtf(shape.features() as f32);
    (0..count).map(|_| scale * standard_normal(&mut rng)).collect()
}

/// A new head, trained on the federated features; `None` where training leaves the range of numbers.
fn retrained(shape: Shape, features: &[f32], per_class: usize, conditions: &Conditions<'_>) -> Option<Heads> {
    let labels: Vec<u16> =
        (0..shape.classes() as u16).flat_map(|class| core::iter::repeat_n(class, per_class)).collect();
    let samples = Samples::new(shape, features, &labels).ok()?;
    let [_, _, _, epochs, rate, _] = conditions.params.method_params;
    let config = TrainingConfig {
        learning_rate: rate,
        momentum: 0.0,
        clip: f32::MAX,
        batch: RETRAIN_BATCH,
        epochs: epochs as u16,
        ..Params::defaults(Method::FedAvg, shape.classes()).check().ok()?.training()
    };
    let rng = stream(conditions.seed, conditions.trained, b"re-training");
    let mut plan = Plan::draw(samples.labels(), shape.classes(), &config, rng);
    let mut training = LocalTraining::new(samples, Heads::zeros(shape), LocalObjective::PLAIN, &[], config);
    training.run(&mut plan);
    let heads = training.into_heads();
    heads.check(shape).is_ok().then_some(heads)
}

/// Moves the federated features of one class after another.
struct Matching<'a> {
    main: &'a Head,
    per_class: usize,
    /// Errors of the softmax over `m`, `[m][C]`.
    errors: Vec<f32>,
    /// The features' own gradient, and the slope of the distance in it.
    own: Head,
    slope: Head,
    /// The slope of the distance in the logits, `[m][C]`, and in the features, `[m][d]`.
    logits: Vec<f32>,
    steps: Vec<f32>,
}

impl<'a> Matching<'a> {
    fn new(main: &'a Head, per_class: usize) -> Self {
        let (classes, weights) = (main.bias.len(), main.weight.len());
        let zeros = || Head { weight: vec![0.0; weights], bias: vec![0.0; classes] };
        Self {
            main,
            per_class,
            errors: vec![0.0; per_class * classes],
            own: zeros(),
            slope: zeros(),
            logits: vec![0.0; per_class * classes],
            steps: vec![0.0; per_class * weights / classes],
        }
    }

    /// Gradient descent of `features [m][d]` towards the wanted gradient. They stay within the limits of features.
    fn run(&mut self, features: &mut [f32], class: u16, wanted: &Head, params: &Params) {
        let [_, steps, rate, ..] = params.method_params;
        for _ in 0..steps as u32 {
            self.slopes(features, usize::from(class), wanted);
            for (feature, step) in features.iter_mut().zip(&self.steps) {
                let moved = *feature - rate * step;
                *feature =
                    if moved.is_finite() { moved.clamp(-MAX_FEATURE_VALUE, MAX_FEATURE_VALUE) } else { *feature };
            }
        }
    }

    /// Fills `steps` with the slope of the distance in the features.
    ///
    /// With `e_i = (softmax(W f_i + b) - e_c) / m` the own gradient is `G = sum e_i ⊗ [f_i ; 1]`. For `D`, the slope in
    /// `G`, and `q_ir = D_r · [f_i ; 1]`, the slope in the logits is `p_ir (q_ir - sum_s p_is q_is) / m`, and that in `f_i`
    /// is `sum_r e_ir D_r + W^T` times it.
    fn slopes(&mut self, features: &[f32], class: usize, wanted: &Head) {
        let classes = self.main.bias.len();
        let d = self.main.weight.len() / classes;
        let share = 1.0 / self.per_class as f32;
        kernel::logits(features, &self.main.weight, &self.main.bias, d, &mut self.errors);
        for row in self.errors.chunks_exact_mut(classes) {
            softmax_error(row, class, share);
        }
        let Head { weight, bias } = &mut self.own;
        kernel::accumulate_gradient(&self.errors, features, d, 0.0, weight, bias);
        let rows = self.own.weight.chunks_exact(d).zip(wanted.weight.chunks_exact(d));
        for (slope, (own, wanted)) in self.slope.weight.chunks_exact_mut(d).zip(rows) {
            cosine_slope(own, wanted, slope);
        }
        cosine_slope(&self.own.bias, &wanted.bias, &mut self.slope.bias);
        kernel::logits(features, &self.slope.weight, &self.slope.bias, d, &mut self.logits);
        for (row, errors) in self.logits.chunks_exact_mut(classes).zip(self.errors.chunks_exact(classes)) {
            // `p / m` is the error, and one share more for the class itself.
            let part = |at: usize, error: f32| error + if at == class { share } else { 0.0 };
            let mean: f32 =
                row.iter().zip(errors).enumerate().map(|(at, (q, e))| part(at, *e) * q).sum::<f32>() / share;
            let slopes = row.iter_mut().zip(errors).enumerate();
            slopes.for_each(|(at, (q, error))| *q = part(at, *error) * (*q - mean));
        }
        self.steps.fill(0.0);
        kernel::accumulate_product(&self.errors, &self.slope.weight, classes, &mut self.steps);
        kernel::accumulate_product(&self.logits, &self.main.weight, classes, &mut self.steps);
    }
}

/// The slope of `1 - cos(own, wanted)` in `own`; zero where one of them is.
fn cosine_slope(own: &[f32], wanted: &[f32], slope: &mut [f32]) {
    let (size, other) = (norm(own), norm(wanted));
    let dot: f64 = own.iter().zip(wanted).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    let below = size * other + TINY;
    let along = if size > 0.0 { dot * other / (size * below * below) } else { 0.0 };
    for (slope, (a, b)) in slope.iter_mut().zip(own.iter().zip(wanted)) {
        *slope = (along * f64::from(*a) - f64::from(*b) / below) as f32;
    }
}
