//! The methods: one file for each, and the list below. A file says in data and a few pure functions everything in which
//! its method differs from plain federated averaging; nothing outside this folder asks which method it is.
//!
//! To add one: write its file and put it into the list in [`crate::method`]. The aggregator, the devices, the demo, the bench
//! and the reports know it then.

pub mod climb;
mod configuration;
pub mod creff;
mod fed_focal;
mod fedavg;
mod fedprox;
mod lda;
mod logit_adjusted;
mod ncm;
mod post_hoc;
mod ratio_loss;
mod redgrape;
mod redgrape_live;
mod redgrape_no_prototypes;
mod redgrape_no_supplementary;
pub mod redgrape_plus;
mod ridge;
mod ridge_plain;
pub mod scaffold;
#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use rand_chacha::ChaCha8Rng;

use crate::evaluate::Groups;
use crate::exchange::Request;
use crate::fields::{DeviceState, OfMethod, Readers};
use crate::fleet::{Conditions, FleetModel, RoundResult, ServerState};
use crate::head::{Head, HeadError, Heads};
use crate::hyper_parameters::HyperParameter;
use crate::merge::{DeviceWeights, PrototypeSum};
use crate::method::{Method, each_method};
use crate::params::{Params, ValidParams};
use crate::prior::log_prior;
use crate::samples::Samples;
use crate::shape::Shape;
use crate::side_information::{SideInformation, SideInformationView};
use crate::statistics::{Statistics, Sums};
use crate::train::LocalObjective;

pub use configuration::UnknownHyperParameter;

/// In what a method differs. [`Definition::PLAIN`] is federated averaging of one head.
struct Definition {
    /// What it does, for people: one sentence without its end.
    summary: &'static str,
    /// Where it is from.
    source: &'static str,
    /// Its own settings.
    params: &'static [HyperParameter],
    /// Its published values where they are not the common ones; the second argument is the number of classes.
    defaults: fn(&mut Params, usize),
    /// What devices must have told the aggregator before the first round of training.
    needs: Sums,
    /// Whether there are rounds of training at all.
    trains: bool,
    /// What rounds of training ask.
    training: Request,
    /// Whether rounds of training are of every device until one has made side information.
    begins_with_everybody: bool,
    /// Whether the main head takes a balanced step after every local one.
    balanced: bool,
    /// Samples of each class that the aggregator must hold itself.
    auxiliary: Option<u16>,
    /// What `tau` adds to the bias of the inference head.
    logit_offset: LogitOffset,
    /// What a device minimises. `None` before there is side information; the last argument says whether the fleet has heads.
    local: for<'a> fn(&ValidParams, Option<SideInformationView<'a>>, bool) -> LocalObjective<'a>,
    /// What the fleet's sums make of its model.
    prepare: fn(&Statistics, &ValidParams) -> InitialModel,
    /// How much each device weighs in the next merge, beside its samples.
    weights: fn(&ServerState) -> DeviceWeights,
    /// What the answers of a round make of the fleet's model.
    conclude: fn(RoundResponses<'_>) -> RoundResult,
    /// How values of its own are read, see [`crate::fields`].
    readers: Readers,
    /// Whether there is a server state of its own as soon as there are heads.
    begins_with_server_state: bool,
    /// For [`Request::OfMethod`]: what a device responds, and what it keeps from now on. `None` where it was ended early.
    respond: fn(DeviceTask<'_, '_>) -> Result<Option<Responded>, HeadError>,
    /// For [`Request::OfMethod`]: what of a device's response goes into the round's sums, given the server state of
    /// its own; `None` for another value.
    contribute: for<'a> fn(&'a OfMethod, &str, Option<&OfMethod>) -> Option<Contribution<'a>>,
}

/// What a device responds, and what it keeps from now on.
type Responded = (OfMethod, OfMethod);

/// What `tau` adds to the bias of the inference head, times `tau`.
#[derive(Clone, Copy)]
enum LogitOffset {
    /// The logarithm of the class prior (Menon et al., ICLR 2021, equation 9, with the sign turned).
    Prior,
    /// One for the head classes, see [`Groups`]. Where the head weighs all classes alike, it then weighs the head classes
    /// `exp(tau)` times as much: the Bayes rule for a mean over all classes and one over the head classes, so nothing
    /// gains more head accuracy for as much balanced accuracy (Elkan, "The foundations of cost-sensitive learning", IJCAI
    /// 2001).
    Head,
}

/// What a method makes of the fleet's sums before the first round of training.
#[derive(Default)]
pub(crate) struct InitialModel {
    /// The heads to start from, unless `Params::init` says otherwise for the main one.
    pub(crate) heads: Option<Heads>,
    /// What devices get beside the heads.
    pub(crate) side_information: Option<SideInformation>,
    /// What the aggregator keeps for the method.
    pub(crate) server_state: Option<OfMethod>,
}

/// The answers of a closed round of training: what the request asked for, and what the devices answered to.
pub(crate) struct RoundResponses<'a> {
    /// The weighted mean of the trained heads.
    pub(crate) heads: Option<Heads>,
    /// The weighted mean of the gradients.
    pub(crate) gradient: Option<Head>,
    /// Samples of the devices that answered.
    pub(crate) samples: u64,
    /// The round's gradient prototypes.
    pub(crate) prototypes: PrototypeSum,
    /// The round's losses by device.
    pub(crate) losses: BTreeMap<String, f32>,
    /// The weighted mean of [`Contribution::change`], and the samples that it is of.
    pub(crate) change: Option<(Head, u64)>,
    /// Of the devices that answered [`Request::OfMethod`], by name.
    pub(crate) notes: BTreeMap<String, Note>,
    /// The model that the devices had.
    pub(crate) known: FleetModel,
    /// Where the run is.
    pub(crate) conditions: &'a Conditions<'a>,
}

/// A device's task for [`Request::OfMethod`].
pub(crate) struct DeviceTask<'a, 'b> {
    pub(crate) samples: Samples<'a>,
    /// The fleet's; zeros before the first merge.
    pub(crate) heads: Heads,
    pub(crate) side_information: Option<SideInformationView<'b>>,
    pub(crate) device_state: Option<&'b DeviceState>,
    pub(crate) params: &'b ValidParams,
    pub(crate) rng: ChaCha8Rng,
    /// Asked before every mini-batch.
    pub(crate) goes_on: &'b mut dyn FnMut() -> bool,
}

/// What of a device's response goes into the sums of a round. All of them are exact.
pub(crate) struct Contribution<'a> {
    /// For the mean of the main heads, by samples.
    pub(crate) main: &'a Head,
    /// For the mean of the changes, by samples, where it counts.
    pub(crate) change: Option<&'a Head>,
    /// Given back with the device's name.
    pub(crate) note: u32,
}

/// What a sum remembers of a device's [`Contribution`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) note: u32,
    /// Of the update.
    pub(crate) samples: u32,
    /// Whether its change counts.
    pub(crate) counts: bool,
}

impl Definition {
    const PLAIN: Self = Self {
        summary: "",
        source: "",
        params: &[],
        defaults: |_, _| {},
        needs: Sums::Nothing,
        trains: true,
        training: Request::MAIN_HEAD,
        begins_with_everybody: false,
        balanced: false,
        auxiliary: None,
        logit_offset: LogitOffset::Prior,
        local: |_, _, _| LocalObjective::PLAIN,
        prepare: |_, _| InitialModel::default(),
        weights: |_| DeviceWeights::default(),
        conclude: |responses| responses.plain(),
        readers: Readers::NONE,
        begins_with_server_state: false,
        respond: |_| Ok(None),
        contribute: |_, _, _| None,
    };
    /// One exchange of sums and nothing else.
    const ONE_SHOT: Self = Self { trains: false, ..Self::PLAIN };
}

impl<'a> RoundResponses<'a> {
    /// No answer.
    pub(crate) fn new(shape: Shape, known: FleetModel, conditions: &'a Conditions<'a>) -> Self {
        let (prototypes, losses) = (PrototypeSum::new(shape), BTreeMap::new());
        let notes = BTreeMap::new();
        Self { heads: None, gradient: None, samples: 0, prototypes, losses, change: None, notes, known, conditions }
    }

    /// The mean is the new model.
    fn plain(self) -> RoundResult {
        RoundResult { heads: self.heads, server_state: self.known.server_state, ..RoundResult::default() }
    }
}

impl Method {
    /// What it does, for people: one sentence without its end.
    pub fn summary(self) -> &'static str {
        self.definition().summary
    }

    /// The paper it is from.
    pub fn source(self) -> &'static str {
        self.definition().source
    }

    /// Hyper-parameters that only this method has, at most [`crate::params::MAX_METHOD_PARAMS`].
    pub fn method_params(self) -> &'static [HyperParameter] {
        self.definition().params
    }

    /// Whether the whole method is one exchange of pure sums, without local training.
    pub fn is_one_shot(self) -> bool {
        !self.definition().trains
    }

    /// What rounds of training ask.
    pub fn training_request(self) -> Request {
        self.definition().training
    }

    /// Whether a supplementary head is trained beside the main one, on devices or by the aggregator.
    pub fn has_supplementary_head(self) -> bool {
        match self.training_request() {
            Request::Heads { supplementary, .. } => supplementary,
            Request::Gradient => true,
            Request::Statistics(_) | Request::Prototypes | Request::OfMethod(_) => false,
        }
    }

    /// Whether devices train heads.
    pub fn trains_on_devices(self) -> bool {
        !self.is_one_shot() && matches!(self.training_request(), Request::Heads { .. } | Request::OfMethod(_))
    }

    /// Whether the aggregator descends, along the gradients that devices send.
    pub fn sends_gradient(self) -> bool {
        self.training_request() == Request::Gradient
    }

    /// Whether the next round of training is of every device that can take part, however many are asked in others.
    /// `has_side_information`: there is something that devices get beside the heads.
    pub fn asks_everybody(self, has_side_information: bool) -> bool {
        self.definition().begins_with_everybody && !has_side_information
    }

    /// Whether devices send gradient prototypes every round.
    pub fn sends_prototypes(self) -> bool {
        self.training_request().wants_prototypes()
    }

    /// Whether devices get anew every round what the method adds to the heads.
    pub fn renews_side_information(self) -> bool {
        self.sends_prototypes() || self.auxiliary().is_some() || self.readers().side_information.is_some()
    }

    /// Samples of each class that the aggregator must hold itself, if the method needs any.
    pub fn auxiliary(self) -> Option<u16> {
        self.definition().auxiliary
    }

    /// Whether the main head takes a balanced step after every local one.
    pub fn has_balanced_step(self) -> bool {
        self.definition().balanced
    }

    /// Whether the second moment of all features is part of what the fleet gathers or of what devices get.
    pub fn needs_second_moment(self) -> bool {
        self.definition().needs == Sums::SecondMoment
    }

    /// What is added to the bias `[C]` of the inference head, times `tau`, for class shares `prior [C]`: above 0 `tau`
    /// is for the frequent classes, below 0 for the rare ones.
    pub fn logit_offset(self, prior: &[f32]) -> Vec<f32> {
        match self.definition().logit_offset {
            LogitOffset::Prior => log_prior(prior),
            LogitOffset::Head => {
                let mut order: Vec<usize> = (0..prior.len()).collect();
                order.sort_by(|a, b| prior[*b].total_cmp(&prior[*a]));
                let mut direction = vec![0.0; prior.len()];
                order[Groups::of(prior.len()).head].iter().for_each(|class| direction[*class] = 1.0);
                direction
            }
        }
    }

    /// The same for people, after "tau times".
    pub fn logit_offset_in_words(self) -> &'static str {
        match self.definition().logit_offset {
            LogitOffset::Prior => "the log class share",
            LogitOffset::Head => "one for the most frequent 30 % of the classes",
        }
    }

    /// Whether a server state that was stored beside heads is one of this method.
    pub fn fits_server_state(self, server_state: &ServerState) -> bool {
        match &server_state.of_method {
            Some(value) => value.method() == self,
            None => !self.definition().begins_with_server_state,
        }
    }

    /// Whether devices keep something from round to round.
    pub fn keeps_device_state(self) -> bool {
        self.readers().device_state.is_some()
    }

    /// What becomes of data that come after the first round, for people: one sentence.
    pub fn on_late_data(self) -> &'static str {
        let definition = self.definition();
        match (definition.trains, definition.needs) {
            (false, _) => "the statistics of new and changed devices are taken in at once, and the head is that of all",
            (true, Sums::SecondMoment) => {
                "the statistics of new and changed devices are taken in, and training starts anew from those of all"
            }
            (true, Sums::Counts | Sums::Means) => {
                "the statistics of new and changed devices are taken in, and training goes on with those of all"
            }
            (true, Sums::Nothing) => "new and changed devices take part in the rounds that follow",
        }
    }

    pub(crate) fn readers(self) -> &'static Readers {
        &self.definition().readers
    }

    pub(crate) fn respond(self, task: DeviceTask<'_, '_>) -> Result<Option<(OfMethod, OfMethod)>, HeadError> {
        (self.definition().respond)(task)
    }

    pub(crate) fn contribute<'a>(
        self,
        value: &'a OfMethod,
        device: &str,
        known: Option<&OfMethod>,
    ) -> Option<Contribution<'a>> {
        (self.definition().contribute)(value, device, known)
    }

    pub(crate) fn needs(self) -> Sums {
        self.definition().needs
    }

    pub(crate) fn adjust_defaults(self, params: &mut Params, classes: usize) {
        (self.definition().defaults)(params, classes);
    }

    pub(crate) fn local<'a>(
        self,
        params: &ValidParams,
        side_information: Option<SideInformationView<'a>>,
        has_heads: bool,
    ) -> LocalObjective<'a> {
        (self.definition().local)(params, side_information, has_heads)
    }

    pub(crate) fn weights(self, server_state: &ServerState) -> DeviceWeights {
        (self.definition().weights)(server_state)
    }

    /// What the fleet's sums make of its heads, its side information and the server state.
    pub(crate) fn prepare(self, statistics: &Statistics, params: &ValidParams) -> InitialModel {
        (self.definition().prepare)(statistics, params)
    }

    /// What a round's answers make of the fleet's model.
    pub(crate) fn conclude(self, responses: RoundResponses<'_>) -> RoundResult {
        (self.definition().conclude)(responses)
    }
}

macro_rules! definitions {
    ($($(#[$documentation:meta])* $method:ident = $name:literal in $module:ident,)*) => {
        impl Method {
            fn definition(self) -> &'static Definition {
                match self {
                    $(Self::$method => &$module::DEFINITION,)*
                }
            }
        }
    };
}
each_method!(definitions);
