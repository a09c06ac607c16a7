//! How a closed round changes what the fleet has learned.

use crate::fleet::{Average, Conditions, FleetModel, RoundResult, ServerState};
use crate::head::{Head, Heads};
use crate::limits::MAX_PARAMETER_VALUE;
use crate::methods::{InitialModel, RoundResponses};
use crate::oneshot::{LDA_SHRINKAGE, lda, ncm, posterior_lda};
use crate::params::{Init, ValidParams};
use crate::statistics::Statistics;

/// Closes a step that gathered statistics; `statistics` is the sum over the whole fleet. Where they give the heads to start
/// from, the run starts anew, and is to the bit what it would be had all devices been there at its beginning. Where they
/// give none, training goes on from the heads that there are.
pub(crate) fn after_sums(statistics: Statistics, known: FleetModel, conditions: &Conditions<'_>) -> RoundResult {
    let params = conditions.params;
    if known.statistics.as_ref() == Some(&statistics) {
        // What changed on devices may not be shared: nothing is lost of what was learned.
        return RoundResult {
            server_state: known.server_state,
            inference_head: known.inference_head,
            ..RoundResult::default()
        };
    }
    let InitialModel { heads, side_information, server_state: of_method } = params.method.prepare(&statistics, params);
    let heads = with_start(heads, &statistics, params);
    let starts_anew = heads.is_some();
    let FleetModel { heads: known_heads, mut server_state, .. } = known;
    if starts_anew {
        server_state = ServerState { of_method, ..ServerState::default() };
    }
    if params.tau != 0.0 {
        server_state.prior = statistics.prior();
    }
    let main = heads.as_ref().or(known_heads.as_ref()).map(|heads| &heads.main);
    let inference_head = main.and_then(|main| shifted(main, &server_state.prior, params));
    RoundResult {
        heads,
        side_information,
        server_state,
        inference_head,
        statistics: Some(statistics),
        starts_anew,
        held_back: None,
    }
}

/// Closes a round of training.
pub(crate) fn after_training(responses: RoundResponses<'_>) -> RoundResult {
    let conditions = responses.conditions;
    let params = conditions.params;
    let before = responses.known.heads.as_ref().map(|heads| heads.main.clone());
    let mut merged = params.method.conclude(responses);
    let Some(main) = merged.heads.as_ref().map(|heads| &heads.main).or(before.as_ref()) else { return merged };
    if params.averaged {
        take_into_average(&mut merged.server_state.average, merged.inference_head.as_ref().unwrap_or(main), conditions);
    }
    let average = merged.server_state.average.as_ref().map(|average| &average.head);
    let best = merged.inference_head.as_ref().or(average);
    merged.inference_head = shifted(best.unwrap_or(main), &merged.server_state.prior, params).or(best.cloned());
    merged
}

/// The heads with the main one where `Params::init` puts it.
fn with_start(heads: Option<Heads>, statistics: &Statistics, params: &ValidParams) -> Option<Heads> {
    if params.method.is_one_shot() {
        return heads;
    }
    let mut main = match params.init {
        Init::Zeros => return heads,
        Init::Ncm => ncm(statistics),
        Init::Lda => lda(statistics, LDA_SHRINKAGE),
        Init::Posterior => posterior_lda(statistics, LDA_SHRINKAGE),
    };
    scale(&mut main, params.init_scale);
    // A gradient leaves out what may not be shared, so nothing would ever speak for such a class.
    if !params.method.sends_gradient() {
        raise_absent(&mut main, statistics);
    }
    let mut heads = heads.unwrap_or_else(|| Heads::zeros(statistics.shape()));
    heads.main = main;
    Some(heads)
}

fn scale(head: &mut Head, factor: f32) {
    for value in head.weight.iter_mut().chain(&mut head.bias) {
        *value = (*value * factor).clamp(-MAX_PARAMETER_VALUE, MAX_PARAMETER_VALUE);
    }
}

/// A class without sums may still be on devices that hold too few of it to share: it starts as the least likely of the
/// others, from where training can raise it.
fn raise_absent(head: &mut Head, statistics: &Statistics) {
    let counts = statistics.counts();
    let held = head.bias.iter().zip(counts).filter(|(_, count)| **count > 0).map(|(bias, _)| *bias);
    let least = held.fold(f32::INFINITY, f32::min);
    let absent = head.bias.iter_mut().zip(counts).filter(|(_, count)| **count == 0);
    absent.for_each(|(bias, _)| *bias = if least.is_finite() { least } else { 0.0 });
}

/// Takes a round's main head into the mean over the last half of the rounds. A run that was given more rounds later
/// begins its mean anew.
fn take_into_average(average: &mut Option<Average>, main: &Head, conditions: &Conditions<'_>) {
    let first = rounds_of_the_mean(conditions) / 2;
    if conditions.trained < first {
        *average = None;
        return;
    }
    let due = conditions.trained - first;
    match average.as_mut().filter(|average| average.heads == due) {
        Some(Average { head, heads }) => {
            *heads += 1;
            let share = 1.0 / f64::from(*heads);
            let means = head.weight.iter_mut().chain(&mut head.bias);
            for (mean, value) in means.zip(main.weight.iter().chain(&main.bias)) {
                *mean = (f64::from(*mean) + (f64::from(*value) - f64::from(*mean)) * share) as f32;
            }
        }
        None => *average = Some(Average { head: main.clone(), heads: 1 }),
    }
}

/// The rounds of the run. One without an end goes on beyond those that it was thought to take: it is taken to be twice as
/// long, so that the mean is never over rounds that are long over.
fn rounds_of_the_mean(conditions: &Conditions<'_>) -> u32 {
    let mut rounds = conditions.rounds;
    while rounds > 0 && rounds <= conditions.trained {
        rounds = rounds.saturating_mul(2);
    }
    rounds
}

/// The head plus the method's logit offset times `tau`; `None` where that changes nothing.
fn shifted(head: &Head, prior: &[f32], params: &ValidParams) -> Option<Head> {
    let turns = params.tau != 0.0 && prior.len() == head.bias.len();
    turns.then(|| head.shifted(&params.method.logit_offset(prior), params.tau))
}
