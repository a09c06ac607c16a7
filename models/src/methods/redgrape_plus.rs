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
use alloc::vec;
use alloc::vec::Vec;

use super::{Definition, InitialModel, LogitOffset, RoundResponses};
use crate::fleet::{FleetModel, HeldBack, RoundResult, ServerState};
use crate::head::{Head, Heads};
use crate::hyper_parameters::HyperParameter;
use crate::lbfgs::{Lbfgs, MOST_VECTORS};
use crate::limits::{MAX_CLASSES, MAX_FEATURES, MAX_PARAMETER_VALUE, MAX_SERVER_STATE_NUMBERS};
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
    fits_server_state,
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
    let mut numbers = vec![statistics.samples() as f32, gaussians.variance(d) as f32];
    numbers.extend(second_moment(&gaussians, &prior, d));
    InitialModel { heads: Some(heads), side_information: None, numbers }
}

/// What is gathered, alone or with the gradient at the start and whole vectors of L-BFGS.
fn fits_server_state(server_state: &ServerState, shape: Shape) -> bool {
    let since = server_state.numbers.len().checked_sub(2 + triangle(shape.features() + 1));
    since.is_some_and(|since| since % shape.parameters() == 0)
        && server_state.numbers.iter().all(|number| number.is_finite())
}

fn conclude(responses: RoundResponses<'_>) -> RoundResult {
    let RoundResponses { gradient: answer, samples, known, conditions, .. } = responses;
    let FleetModel { heads, side_information, mut server_state, .. } = known;
    let start = if let Some(SideInformation::ReferencePoint(start)) = side_information { Some(start) } else { None };
    let as_before = |server_state| RoundResult { server_state, ..RoundResult::default() };
    let (Some(tried), Some(answer)) = (heads, answer) else { return as_before(server_state) };
    let width = tried.main.weight.len() / tried.main.bias.len() + 1;
    let (at, gradient) = (rows_of(&tried.main), rows_of(&answer));
    let Some(past) = Past::read(&server_state.numbers, width, at.len()) else { return as_before(server_state) };
    let answered = samples as f64 / past.samples;
    if start.is_none() && answered < ENOUGH_TO_BEGIN {
        let held_back = HeldBack::TooFewSamples {
            answered: samples,
            fleet: past.samples as u64,
            needed_percent: (100.0 * ENOUGH_TO_BEGIN) as u8,
        };
        return RoundResult { held_back: Some(held_back), ..as_before(server_state) };
    }
    let [proximal_weight, ..] = conditions.params.method_params;
    let proximal_weight = f64::from(proximal_weight) * past.variance / past.samples;
    let prior: Vec<f64> = tried.supplementary.bias.iter().map(|&log| libm::exp(f64::from(log))).collect();
    let preconditioner = Preconditioner::new(past.moment, &prior, width, proximal_weight);
    let mut step = LONGEST_STEP * libm::sqrt(1.0_f64.min(answered / ENOUGH_FOR_IT));
    let mut numbers = past.gathered.to_vec();
    let lbfgs = match &start {
        None => {
            numbers.extend(gradient.iter().map(|&entry| entry as f32));
            Lbfgs::new(at, gradient)
        }
        Some(start) => {
            numbers.extend(past.first);
            let gradient = past.whole(&gradient, &at, &rows_of(start), proximal_weight);
            let known = Lbfgs::read(past.course, at.len());
            let mut lbfgs = known.unwrap_or_else(|| Lbfgs::new(at.clone(), gradient.clone()));
            if answered >= MOST {
                lbfgs.update(at, gradient);
            } else if !lbfgs.accept_step(at, gradient) {
                step *= AFTER_TOO_FAR;
            }
            lbfgs
        }
    };
    lbfgs.write(&mut numbers);
    server_state.numbers = numbers;
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

/// What the aggregator remembers, as it lies in the numbers of [`crate::fleet::ServerState`].
struct Past<'a> {
    /// All that is known from the fleet's sums.
    gathered: &'a [f32],
    /// Of the fleet.
    samples: f64,
    /// Of a feature within classes, the mean over the features.
    variance: f64,
    /// See [`second_moment`].
    moment: &'a [f32],
    /// The gradient at the start, `[C][d + 1]`.
    first: &'a [f32],
    /// See [`Lbfgs::write`].
    course: &'a [f32],
}

impl<'a> Past<'a> {
    /// For rows of this width, so many numbers in all; `None` where sums are missing. Before the first round there is no
    /// gradient, and no course.
    fn read(numbers: &'a [f32], width: usize, length: usize) -> Option<Self> {
        let (gathered, since) = numbers.split_at_checked(2 + triangle(width))?;
        let (&[samples, variance], moment) = gathered.split_first_chunk()?;
        let (first, course) = since.split_at(length.min(since.len()));
        Some(Self {
            gathered,
            samples: f64::from(samples).max(1.0),
            variance: f64::from(variance),
            moment,
            first,
            course,
        })
    }

    /// The gradient at a point, from its change since the start, and with that of the proximal term.
    fn whole(&self, change: &[f64], at: &[f64], start: &[f64], proximal_weight: f64) -> Vec<f64> {
        let entries = change.iter().zip(self.first).zip(at.iter().zip(start));
        entries
            .map(|((change, first), (at, start))| change + f64::from(*first) + proximal_weight * (at - start))
            .collect()
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
