//! `redgrape-plus`: [`redgrape`](super::redgrape)'s two heads, without local training.
//!
//! Ours, after Yang et al., TMLR 2024. Devices tell counts, class sums and the second moment of their features once. The
//! means of rare classes are drawn towards the common one (see [`crate::oneshot::posterior_lda`]). The main head starts at
//! the scaled down LDA head of these means, and the supplementary one is the logarithm of the class prior, so that the main
//! head is the balanced one and their sum the long-tailed one.
//!
//! The aggregator then minimises `sum of cross-entropies + proximal_weight * v / 2 * |W - W_start|²` of the summed head,
//! `v` being the mean variance of a feature within classes: the start counts as much as `proximal_weight` samples of unit
//! variance. The gradient comes from devices, one point a round. In the first round all are asked for it at the start.
//! Afterwards devices tell by how much it changed since, so that of a round that only some of them answer, only the
//! change is uncertain (Johnson and Zhang, NIPS 2013). Where most of the fleet answered, [`crate::lbfgs`] takes the next
//! step; else it is a damped one, and the inference head is the mean over the last half of the rounds.

use crate::exchange::Request;
use alloc::vec::Vec;

use super::{Definition, InitialModel, LogitOffset, RoundResponses};
use crate::fields::{FieldError, FieldReader, FieldWriter, Fields, OfMethod, Readers, read_as};
use crate::fleet::{FleetModel, HeldBack, RoundResult};
use crate::head::{Head, Heads};
use crate::hyper_parameters::HyperParameter;
use crate::lbfgs::{Lbfgs, MOST_VECTORS};
use crate::limits::{MAX_CLASSES, MAX_FEATURES, MAX_PARAMETER_VALUE, MAX_SERVER_STATE_NUMBERS};
use crate::method::Method;
use crate::oneshot::{Gaussians, LDA_SHRINKAGE};
use crate::params::{Init, Params, ValidParams};
use crate::preconditioner::{Preconditioner, second_moment};
use crate::prior::log_prior;
use crate::shape::Shape;
use crate::side_information::SideInformation;
use crate::statistics::Sums;
use crate::statistics::{Statistics, triangle};

const PROXIMAL_WEIGHT: HyperParameter = HyperParameter::number(
    "proximal_weight",
    100.0,
    (0.0, 1e9),
    "how strongly the head is held to its start, in samples of unit variance",
);
/// Of the fleet's samples, what must have answered at the start; below it the first round is done again.
const ENOUGH_TO_BEGIN: f64 = 0.75;
/// Of the step that the curvature suggests, what is taken while no gradient but one is known.
const LONGEST_STEP: f64 = 0.7;
/// Of the fleet's samples, what must have answered for that; with fewer, steps are shorter.
const ENOUGH_FOR_IT: f64 = 0.25;
/// The same after a step that went too far, as a share of what it would be.
const AFTER_TOO_FAR: f64 = 0.25;
/// From this share of the fleet's samples on, a round's gradient is taken for the fleet's.
const MOST: f64 = 0.5;

// Two numbers, the second moment, the gradient at the start, and the state of L-BFGS.
const _: () = assert!(
    2 + triangle(MAX_FEATURES + 1) + (1 + MOST_VECTORS) * MAX_CLASSES * (MAX_FEATURES + 1) < MAX_SERVER_STATE_NUMBERS
);

pub(super) const DEFINITION: Definition = Definition {
    summary: "redgrape's two heads from a start that the fleet's sums give; devices send gradients, all of them in the first \
              round, and the aggregator descends",
    source: "Grapevine, after Yang et al., TMLR 2024",
    params: &[PROXIMAL_WEIGHT],
    defaults,
    needs: Sums::SecondMoment,
    training: Request::Gradient,
    begins_with_everybody: true,
    logit_offset: LogitOffset::Head,
    prepare,
    conclude,
    readers: Readers { server_state: Some(read_as::<State>), ..Readers::NONE },
    begins_with_server_state: true,
    ..Definition::PLAIN
};

fn defaults(params: &mut Params, _: usize) {
    params.init = Init::Posterior;
    params.init_scale = 0.35;
    params.averaged = true;
}

fn prepare(statistics: &Statistics, _: &ValidParams) -> InitialModel {
    let (prior, d) = (statistics.prior(), statistics.shape().features());
    let gaussians = Gaussians::of(statistics, LDA_SHRINKAGE);
    let mut heads = Heads::zeros(statistics.shape());
    heads.supplementary.bias = log_prior(&prior);
    let state = State {
        samples: statistics.samples() as f32,
        variance: gaussians.variance(d) as f32,
        moment: second_moment(&gaussians, &prior, d),
        first: Vec::new(),
        course: Vec::new(),
    };
    let server_state = Some(OfMethod::new(Method::RedGrapePlus, state));
    InitialModel { heads: Some(heads), side_information: None, server_state }
}

fn conclude(responses: RoundResponses<'_>) -> RoundResult {
    let RoundResponses { gradient: answer, samples, known, conditions, .. } = responses;
    let FleetModel { heads, side_information, mut server_state, .. } = known;
    let start = if let Some(SideInformation::ReferencePoint(start)) = side_information { Some(start) } else { None };
    let as_before = |server_state| RoundResult { server_state, ..RoundResult::default() };
    let (Some(tried), Some(answer)) = (heads, answer) else { return as_before(server_state) };
    let width = tried.main.weight.len() / tried.main.bias.len() + 1;
    let (at, gradient) = (rows_of(&tried.main), rows_of(&answer));
    // Where there are heads there is a state, see `begins_with_server_state`.
    let Some(mut state) = server_state.of_method::<State>().cloned() else { return as_before(server_state) };
    let fleet = f64::from(state.samples).max(1.0);
    let answered = samples as f64 / fleet;
    if start.is_none() && answered < ENOUGH_TO_BEGIN {
        let held_back = HeldBack::TooFewSamples {
            answered: samples,
            fleet: fleet as u64,
            needed_percent: (100.0 * ENOUGH_TO_BEGIN) as u8,
        };
        return RoundResult { held_back: Some(held_back), ..as_before(server_state) };
    }
    let [proximal_weight, ..] = conditions.params.method_params;
    let proximal_weight = f64::from(proximal_weight) * f64::from(state.variance) / fleet;
    let prior: Vec<f64> = tried.supplementary.bias.iter().map(|&log| libm::exp(f64::from(log))).collect();
    let preconditioner = Preconditioner::new(&state.moment, &prior, width, proximal_weight);
    let mut step = LONGEST_STEP * libm::sqrt(1.0_f64.min(answered / ENOUGH_FOR_IT));
    let lbfgs = match &start {
        None => {
            state.first = gradient.iter().map(|&entry| entry as f32).collect();
            Lbfgs::new(at, gradient)
        }
        Some(start) => {
            let gradient = state.whole(&gradient, &at, &rows_of(start), proximal_weight);
            let known = Lbfgs::read(&state.course, at.len());
            let mut lbfgs = known.unwrap_or_else(|| Lbfgs::new(at.clone(), gradient.clone()));
            if answered >= MOST {
                lbfgs.update(at, gradient);
            } else if !lbfgs.accept_step(at, gradient) {
                step *= AFTER_TOO_FAR;
            }
            lbfgs
        }
    };
    state.course.clear();
    lbfgs.write(&mut state.course);
    server_state.of_method = Some(OfMethod::new(Method::RedGrapePlus, state));
    let next = head_of(&lbfgs.next(step, |vector| preconditioner.precondition(vector)), width);
    let is_found = start.is_some() && answered >= MOST;
    RoundResult {
        heads: Some(Heads { main: next, supplementary: tried.supplementary }),
        inference_head: is_found.then(|| head_of(&lbfgs.base, width)),
        side_information: if start.is_some() { None } else { Some(SideInformation::ReferencePoint(tried.main)) },
        server_state,
        ..RoundResult::default()
    }
}

/// What the aggregator keeps.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Of the fleet.
    pub samples: f32,
    /// Of a feature within classes, the mean over the features.
    pub variance: f32,
    /// See [`second_moment`].
    pub moment: Vec<f32>,
    /// The gradient at the start, `[C][d + 1]`; empty before the first round.
    pub first: Vec<f32>,
    /// Where the descent is, see [`Lbfgs::write`]; empty before the first round.
    pub course: Vec<f32>,
}

impl State {
    /// The gradient at a point, from its change since the start, and with that of the proximal term.
    fn whole(&self, change: &[f64], at: &[f64], start: &[f64], proximal_weight: f64) -> Vec<f64> {
        let entries = change.iter().zip(&self.first).zip(at.iter().zip(start));
        entries
            .map(|((change, first), (at, start))| change + f64::from(*first) + proximal_weight * (at - start))
            .collect()
    }
}

impl Fields for State {
    const FORMAT: u32 = 1;

    fn write(&self, to: &mut dyn FieldWriter) {
        to.numbers(&[self.samples, self.variance]);
        to.numbers(&self.moment);
        to.count(self.course.len() as u32);
        to.numbers(&self.first);
        to.numbers(&self.course);
    }

    /// The gathered sums, alone or with the gradient at the start and whole vectors of L-BFGS.
    fn read(from: &mut dyn FieldReader, shape: Shape) -> Result<Self, FieldError> {
        let [samples, variance] = from.numbers(2)?[..] else { return Err(FieldError::Short) };
        let moment = from.numbers(triangle(shape.features() + 1))?;
        let course = from.count((MOST_VECTORS * shape.parameters()) as u32)? as usize;
        if !course.is_multiple_of(shape.parameters()) {
            return Err(FieldError::Impossible("course"));
        }
        let first = from.numbers(if course > 0 { shape.parameters() } else { 0 })?;
        Ok(Self { samples, variance, moment, first, course: from.numbers(course)? })
    }
}

/// A head as rows of weights and bias, `[C][d + 1]`.
fn rows_of(head: &Head) -> Vec<f64> {
    let rows = head.weight.chunks_exact(head.weight.len() / head.bias.len()).zip(&head.bias);
    rows.flat_map(|(row, bias)| row.iter().chain([bias])).map(|&value| f64::from(value)).collect()
}

/// The other way, with every entry within what a device accepts.
fn head_of(rows: &[f64], width: usize) -> Head {
    let within = |value: &f64| {
        let value = *value as f32;
        if value.is_finite() { value.clamp(-MAX_PARAMETER_VALUE, MAX_PARAMETER_VALUE) } else { 0.0 }
    };
    let rows = || rows.chunks_exact(width);
    Head {
        weight: rows().flat_map(|row| row[..width - 1].iter().map(within)).collect(),
        bias: rows().map(|row| within(&row[width - 1])).collect(),
    }
}
