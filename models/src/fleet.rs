//! What a fleet has learned, and how a closed step of its run changes that.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::aid::Aid;
use crate::head::{Head, Heads};
use crate::limits::MAX_PARAMETER_VALUE;
use crate::merge::{HeadSum, PrototypeSum};
use crate::methods::Prepared;
use crate::oneshot::{LDA_SHRINKAGE, lda, ncm, posterior_lda};
use crate::params::{Start, ValidParams};
use crate::statistics::Statistics;
use crate::train::Samples;

/// What a fleet has learned so far. The default is what it knows before its first step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetModel {
    /// The heads that devices train from; none before the first step that makes any.
    pub heads: Option<Heads>,
    /// What devices get beside them.
    pub aid: Option<Aid>,
    /// What only the aggregator knows.
    pub memory: Memory,
    /// The head in use, where it is not the main head of `heads`.
    pub in_use: Option<Head>,
    /// The sum of all devices' statistics, where the method needs any and devices have told them.
    pub statistics: Option<Statistics>,
}

/// What only the aggregator knows: it is kept from round to round and never published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// Class shares `[C]`, where the head in use is shifted by them; else empty.
    pub prior: Vec<f32>,
    /// The mean of the newest main heads, while it is being taken.
    pub average: Option<Average>,
    /// Numbers of the method's own.
    pub numbers: Vec<f32>,
    /// Numbers of the method's own, one for each device by name.
    pub devices: BTreeMap<String, f32>,
}

/// The mean of some heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Average {
    /// The mean.
    pub head: Head,
    /// Over how many.
    pub heads: u32,
}

/// Where a run is when a step is closed, and what the aggregator holds beside the answers.
#[derive(Clone, Copy, Debug)]
pub struct Conditions<'a> {
    /// Method and hyper-parameters.
    pub params: &'a ValidParams,
    /// Every random choice of the run comes from this.
    pub seed: u64,
    /// Rounds of training in the run; in one without an end, how many it takes before it rests.
    pub rounds: u32,
    /// Rounds of training that were merged before this step, since the run last started anew (see
    /// [`Merged::starts_anew`]).
    pub trained: u32,
    /// The aggregator's own samples, for a method that needs some, see [`crate::Method::auxiliary`].
    pub auxiliary: Option<Samples<'a>>,
}

/// What a closed step makes of the fleet's model; `None` leaves a part as it was, but for the head in use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merged {
    /// New statistics gave a new start: of the model before nothing is left but what is here.
    pub starts_anew: bool,
    /// Why the step changed nothing, if it did not.
    pub held_back: Option<HeldBack>,
    /// The sum of all devices' statistics.
    pub statistics: Option<Statistics>,
    /// The heads that devices train from.
    pub heads: Option<Heads>,
    /// What devices get beside them.
    pub aid: Option<Aid>,
    /// What only the aggregator knows from now on.
    pub memory: Memory,
    /// The head in use, where it is not the main head of `heads`.
    pub in_use: Option<Head>,
}

/// Why a closed step leaves the fleet's model as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldBack {
    /// The gradient at the start came from devices with too few of the fleet's samples.
    TooFewSamples {
        /// Samples of the devices that answered.
        answered: u64,
        /// Samples in the fleet's statistics.
        fleet: u64,
        /// Of these, what must answer, in percent.
        needed_percent: u8,
    },
}

impl FleetModel {
    /// The head that people classify with; none before the first step that makes any.
    pub fn in_use(&self) -> Option<&Head> {
        self.in_use.as_ref().or(self.heads.as_ref().map(|heads| &heads.main))
    }

    /// Takes over what a step made.
    pub fn update(&mut self, merged: Merged) {
        let Merged { heads, aid, memory, in_use, statistics, starts_anew, held_back: _ } = merged;
        if starts_anew {
            (self.heads, self.aid) = (None, None);
        }
        self.heads = heads.or(self.heads.take());
        self.aid = aid.or(self.aid.take());
        self.statistics = statistics.or(self.statistics.take());
        self.memory = memory;
        self.in_use = in_use;
    }
}

/// Closes a step that gathered statistics; `statistics` is the sum over the whole fleet. Where they give the heads to start
/// from, the run starts anew, and is to the bit what it would be had all devices been there at its beginning. Where they
/// give none, training goes on from the heads that there are.
pub(crate) fn after_sums(statistics: Statistics, known: FleetModel, conditions: &Conditions<'_>) -> Merged {
    let params = conditions.params;
    if known.statistics.as_ref() == Some(&statistics) {
        // What changed on devices may not be shared: nothing is lost of what was learned.
        return Merged { memory: known.memory, in_use: known.in_use, ..Merged::default() };
    }
    let Prepared { heads, aid, numbers } = params.method.prepare(&statistics, params);
    let heads = with_start(heads, &statistics, params);
    let starts_anew = heads.is_some();
    let FleetModel { heads: known_heads, mut memory, .. } = known;
    if starts_anew {
        memory = Memory { numbers, ..Memory::default() };
    }
    if params.tau != 0.0 {
        memory.prior = statistics.prior();
    }
    let main = heads.as_ref().or(known_heads.as_ref()).map(|heads| &heads.main);
    let in_use = main.and_then(|main| shifted(main, &memory.prior, params));
    Merged { heads, aid, memory, in_use, statistics: Some(statistics), starts_anew, held_back: None }
}

/// Closes a round of training.
pub(crate) fn after_training(
    heads: &HeadSum,
    prototypes: PrototypeSum,
    losses: BTreeMap<String, f32>,
    known: FleetModel,
    conditions: &Conditions<'_>,
) -> Merged {
    let params = conditions.params;
    let before = known.heads.as_ref().map(|heads| heads.main.clone());
    let mut merged = params.method.conclude(heads, prototypes, losses, known, conditions);
    let Some(main) = merged.heads.as_ref().map(|heads| &heads.main).or(before.as_ref()) else { return merged };
    if params.averaged {
        take_into_average(&mut merged.memory.average, merged.in_use.as_ref().unwrap_or(main), conditions);
    }
    let average = merged.memory.average.as_ref().map(|average| &average.head);
    let best = merged.in_use.as_ref().or(average);
    merged.in_use = shifted(best.unwrap_or(main), &merged.memory.prior, params).or(best.cloned());
    merged
}

/// The heads with the main one where `Params::start` puts it.
fn with_start(heads: Option<Heads>, statistics: &Statistics, params: &ValidParams) -> Option<Heads> {
    if params.method.is_one_shot() {
        return heads;
    }
    let mut main = match params.start {
        Start::Zeros => return heads,
        Start::Ncm => ncm(statistics),
        Start::Lda => lda(statistics, LDA_SHRINKAGE),
        Start::Posterior => posterior_lda(statistics, LDA_SHRINKAGE),
    };
    scale(&mut main, params.start_scale);
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

/// The head with the method's dial turned to `tau`; `None` where that changes nothing.
fn shifted(head: &Head, prior: &[f32], params: &ValidParams) -> Option<Head> {
    let turns = params.tau != 0.0 && prior.len() == head.bias.len();
    turns.then(|| head.shifted(&params.method.dial(prior), params.tau))
}
