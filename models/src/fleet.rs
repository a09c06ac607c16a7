//! What a fleet has learned, where its run is, and what a closed round makes of both.

use alloc::vec::Vec;

use crate::fields::{Fields, OfMethod};
use crate::head::{Head, Heads};
use crate::params::ValidParams;
use crate::samples::Samples;
use crate::side_information::SideInformation;
use crate::statistics::Statistics;

/// What a fleet has learned so far. The default is what it knows before its first step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FleetModel {
    /// The heads that devices train from; none before the first step that makes any.
    pub heads: Option<Heads>,
    /// What devices get beside them.
    pub side_information: Option<SideInformation>,
    /// What only the aggregator knows.
    pub server_state: ServerState,
    /// The inference head, where it is not the main head of `heads`.
    pub inference_head: Option<Head>,
    /// The sum of all devices' statistics, where the method needs any and devices have told them.
    pub statistics: Option<Statistics>,
}

/// What only the aggregator knows: it is kept from round to round and never published.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerState {
    /// Class shares `[C]`, where the inference head is shifted by them; else empty.
    pub prior: Vec<f32>,
    /// The mean of the newest main heads, while it is being taken.
    pub average: Option<Average>,
    /// What the method keeps for itself.
    pub of_method: Option<OfMethod>,
}

impl ServerState {
    /// What the method keeps for itself, if it is of this type.
    pub fn of_method<T: Fields>(&self) -> Option<&T> {
        self.of_method.as_ref()?.get()
    }
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
    /// [`RoundResult::starts_anew`]).
    pub trained: u32,
    /// The aggregator's own samples, for a method that needs some, see [`crate::Method::auxiliary`].
    pub auxiliary: Option<Samples<'a>>,
}

/// What a closed step makes of the fleet's model; `None` leaves a part as it was, but for the inference head.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundResult {
    /// New statistics gave a new start: of the model before nothing is left but what is here.
    pub starts_anew: bool,
    /// Why the step changed nothing, if it did not.
    pub held_back: Option<HeldBack>,
    /// The sum of all devices' statistics.
    pub statistics: Option<Statistics>,
    /// The heads that devices train from.
    pub heads: Option<Heads>,
    /// What devices get beside them.
    pub side_information: Option<SideInformation>,
    /// What only the aggregator knows from now on.
    pub server_state: ServerState,
    /// The inference head, where it is not the main head of `heads`.
    pub inference_head: Option<Head>,
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
    pub fn inference_head(&self) -> Option<&Head> {
        self.inference_head.as_ref().or(self.heads.as_ref().map(|heads| &heads.main))
    }

    /// Takes over what a step made.
    pub fn update(&mut self, merged: RoundResult) {
        let RoundResult {
            heads,
            side_information,
            server_state,
            inference_head,
            statistics,
            starts_anew,
            held_back: _,
        } = merged;
        if starts_anew {
            (self.heads, self.side_information) = (None, None);
        }
        self.heads = heads.or(self.heads.take());
        self.side_information = side_information.or(self.side_information.take());
        self.statistics = statistics.or(self.statistics.take());
        self.server_state = server_state;
        self.inference_head = inference_head;
    }
}
