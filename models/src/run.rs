//! A run without a network: what is asked next, what a device answers, and what the answers make of the fleet's model.
//!
//! The daemons put messages around these functions, a simulation calls them as they are: both get the same heads, to
//! the bit.

use alloc::borrow::{Cow, ToOwned};
use alloc::collections::BTreeMap;
use alloc::string::String;

use rand_chacha::ChaCha8Rng;

use crate::closing::{after_sums, after_training};
use crate::evaluate::cross_entropy;
use crate::exchange::{Request, Response};
use crate::fields::{DeviceState, OfMethod};
use crate::fleet::{Conditions, FleetModel, HeldBack, RoundResult};
use crate::head::{HeadError, Heads};
use crate::merge::{DeviceWeights, HeadSum, MergeError, PrototypeSum};
use crate::method::Method;
use crate::methods::{DeviceTask, Note, RoundResponses};
use crate::params::ValidParams;
use crate::prototype::OwnPrototypes;
use crate::prototype::Prototypes;
use crate::samples::Samples;
use crate::shape::Shape;
use crate::side_information::SideInformationView;
use crate::statistics::{Statistics, StatisticsError, Sums};
use crate::train::{LocalTraining, Plan, whole_gradient};

/// What stays the same within a run.
#[derive(Clone, Copy, Debug)]
pub struct RunConfig<'a> {
    /// Classes and features.
    pub shape: Shape,
    /// Method and hyper-parameters.
    pub params: ValidParams,
    /// Every random choice of the run comes from this.
    pub seed: u64,
    /// Rounds of training.
    pub rounds: u32,
    /// The aggregator's own samples, for a method that needs some, see [`crate::Method::auxiliary`].
    pub auxiliary: Option<Samples<'a>>,
}

/// A run: rounds with one configuration, one after the other.
///
/// Ask for [`Run::next_request`], open a round for it, add the answers of the devices, close it; until there is no request.
///
/// ```
/// use grapevine_models::{
///     FleetModel, Method, Params, Received, Run, RunConfig, Samples, Shape, SideInformation, respond, stream,
/// };
///
/// let shape = Shape::new(2, 1).unwrap();
/// let params = Params::defaults(Method::FedAvg, 2).check()?;
/// let config = RunConfig { shape, params, seed: 1, rounds: 3, auxiliary: None };
/// let device = Samples::new(shape, &[-1.0, -0.8, 0.9, 1.1], &[0, 0, 1, 1]).unwrap();
///
/// let mut run = Run::new(config, FleetModel::default());
/// let mut round = 0;
/// while let Some(request) = run.next_request() {
///     let mut sum = run.open_round(request);
///     let model = run.model();
///     let side_information = model.side_information.as_ref().map(SideInformation::view);
///     let received = Received { heads: model.heads.clone(), side_information, device_state: None };
///     let answer = respond(request, device, received, &params, stream(config.seed, round, b"camera-1")).unwrap();
///     sum.add("camera-1", &answer.response, 4).unwrap();
///     run.close_round(sum);
///     round += 1;
/// }
/// let head = run.model().inference_head().unwrap();
/// let mut logits = [0.0; 2];
/// head.logits(&[1.0], &mut logits);
/// assert!(logits[1] > logits[0], "a sample at 1 is of class 1");
/// # Ok::<(), grapevine_models::ParamsError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Run<'a> {
    config: RunConfig<'a>,
    model: FleetModel,
    /// Rounds of training that were merged.
    trained: u32,
    /// The same since the run last started anew, see [`RoundResult::starts_anew`].
    since_start: u32,
}

impl<'a> Run<'a> {
    /// A run that begins, with what the fleet knows already.
    pub fn new(config: RunConfig<'a>, model: FleetModel) -> Self {
        Self::resume(config, model, 0, 0)
    }

    /// A run that goes on after `trained` rounds of training, of which `since_start` are since it last started anew.
    pub fn resume(config: RunConfig<'a>, model: FleetModel, trained: u32, since_start: u32) -> Self {
        Self { config, model, trained, since_start }
    }

    /// What the next round asks; `None` when the heads are final.
    pub fn next_request(&self) -> Option<Request> {
        let has_statistics = self.model.statistics.is_some();
        self.config.params.next_request(has_statistics, self.trained, self.config.rounds)
    }

    /// A round that asks this, with no answer yet.
    pub fn open_round(&self, request: Request) -> RoundSum {
        RoundSum::new(self.config.shape, request, &self.config.params, &self.model)
    }

    /// Takes over what a round gives. Says why nothing changed, if it did not.
    pub fn close_round(&mut self, sum: RoundSum) -> Option<HeldBack> {
        self.close_round_with(sum, |result| result)
    }

    /// As [`Run::close_round`]; `written` is what becomes of the result where it is written and read again.
    pub fn close_round_with(
        &mut self,
        sum: RoundSum,
        written: impl FnOnce(RoundResult) -> RoundResult,
    ) -> Option<HeldBack> {
        let is_training = sum.is_training();
        let result = written(sum.merge(self.model.clone(), &self.conditions()));
        let held_back = result.held_back;
        self.trained += u32::from(is_training);
        self.since_start = if result.starts_anew { 0 } else { self.since_start + u32::from(is_training) };
        self.model.update(result);
        held_back
    }

    /// What the fleet knows.
    pub fn model(&self) -> &FleetModel {
        &self.model
    }

    /// Rounds of training that were merged.
    pub fn trained(&self) -> u32 {
        self.trained
    }

    fn conditions(&self) -> Conditions<'_> {
        let RunConfig { params, seed, rounds, auxiliary, .. } = &self.config;
        Conditions { params, seed: *seed, rounds: *rounds, trained: self.since_start, auxiliary: *auxiliary }
    }
}

impl ValidParams {
    /// The next request of a run of `rounds` rounds of training; `None` when the heads are final. `has_statistics`: the
    /// fleet's statistics were gathered; `trained`: rounds of training that were merged.
    pub fn next_request(&self, has_statistics: bool, trained: u32, rounds: u32) -> Option<Request> {
        let extent = self.needs();
        if extent != Sums::Nothing && !has_statistics {
            return Some(Request::Statistics(extent));
        }
        (!self.method.is_one_shot() && trained < rounds).then(|| self.method.training_request())
    }
}

/// What a device has when it works on a round, beside its samples.
#[derive(Clone, Debug, Default)]
pub struct Received<'a> {
    /// The fleet's heads; none before the first merge.
    pub heads: Option<Heads>,
    /// What the method adds to them.
    pub side_information: Option<SideInformationView<'a>>,
    /// What the device kept for the method in this run.
    pub device_state: Option<&'a DeviceState>,
}

/// What a device makes of a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer<P = Prototypes> {
    /// What it sends.
    pub response: Response<P>,
    /// What it keeps from now on, together with the response; `None` where it keeps what it kept.
    pub device_state: Option<OfMethod>,
}

/// A device's answer to a request; `rng` is the device's [`crate::stream`] of this round. Prototypes are made one by one
/// where they are needed. Asks `goes_on` before every mini-batch; `None` where that said no.
///
/// # Errors
/// If training leaves the range of numbers.
pub fn respond_while<'a>(
    request: Request,
    samples: Samples<'a>,
    received: Received<'_>,
    params: &ValidParams,
    rng: ChaCha8Rng,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<Option<Answer<OwnPrototypes<'a>>>, HeadError> {
    let Received { heads, side_information, device_state } = received;
    let (shape, least) = (samples.shape(), params.min_samples_to_share);
    let has_heads = heads.is_some();
    let heads = heads.unwrap_or_else(|| Heads::zeros(shape));
    let own_prototypes = |heads: &Heads| OwnPrototypes::new(Cow::Owned(heads.main.clone()), samples, least);
    let response = match request {
        Request::Statistics(extent) => goes_on().then(|| Response::Statistics(Statistics::of(&samples, extent, least))),
        Request::Gradient => {
            let reference_point = side_information.and_then(SideInformationView::reference_point);
            let Some(gradient) = whole_gradient(samples, &heads, reference_point, least, goes_on) else {
                return Ok(None);
            };
            gradient.check(shape)?;
            Some(Response::Gradient(gradient))
        }
        Request::Prototypes => Some(Response::Prototypes(own_prototypes(&heads))),
        Request::Heads { supplementary: _, prototypes, loss } => {
            let prototypes = prototypes.then(|| own_prototypes(&heads));
            let loss = loss.then(|| cross_entropy(&heads.main, &samples));
            let (local, config) = (params.method.local(params, side_information, has_heads), params.training());
            let mut plan = Plan::draw(samples.labels(), shape.classes(), &config, rng);
            let mut training = LocalTraining::new(samples, heads, local, plan.balanced(), config);
            if !training.run_while(&mut plan, goes_on) {
                return Ok(None);
            }
            let heads = training.into_heads();
            heads.check(shape)?;
            Some(Response::Heads { heads, prototypes, loss })
        }
        Request::OfMethod(method) => {
            let task = DeviceTask { samples, heads, side_information, device_state, params, rng, goes_on };
            let answer = method.respond(task)?;
            return Ok(
                answer.map(|(value, kept)| Answer { response: Response::OfMethod(value), device_state: Some(kept) })
            );
        }
    };
    Ok(response.map(|response| Answer { response, device_state: None }))
}

/// [`respond_while`] that nobody ends early, with all prototypes made.
///
/// # Errors
/// If training leaves the range of numbers.
pub fn respond(
    request: Request,
    samples: Samples<'_>,
    received: Received<'_>,
    params: &ValidParams,
    rng: ChaCha8Rng,
) -> Result<Answer, HeadError> {
    let answer = respond_while(request, samples, received, params, rng, &mut || true)?;
    let Answer { response, device_state } = answer.expect("nobody ends it early");
    Ok(Answer { response: response.map_prototypes(|own| own.to_prototypes()), device_state })
}

/// The running sum of a round's answers. Its value does not depend on their order, and its size grows with the number of
/// devices only by a name and a number each, where the method asks for losses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundSum {
    shape: Shape,
    sum: Sum,
    weights: DeviceWeights,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sum {
    Statistics(Statistics),
    Heads {
        heads: HeadSum,
        prototypes: PrototypeSum,
        /// Bits of the losses, by device.
        losses: BTreeMap<String, u32>,
    },
    Gradient(HeadSum),
    Prototypes(PrototypeSum),
    OfMethod {
        method: Method,
        heads: HeadSum,
        changes: HeadSum,
        notes: BTreeMap<String, Note>,
        /// What the aggregator kept for the method when the round opened.
        state: Option<OfMethod>,
    },
}

/// Why an answer cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoundError {
    /// It answers another question.
    #[error("the update is not what the round asked for")]
    Content,
    /// Its heads or its gradient cannot be weighted.
    #[error(transparent)]
    Heads(MergeError),
    /// Its prototypes are of too many devices.
    #[error(transparent)]
    Prototypes(MergeError),
    /// Its statistics do not fit.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
}

impl RoundSum {
    /// Nothing added yet to what the fleet knows when the round opens: statistics are added to those that devices told
    /// before.
    pub fn new(shape: Shape, request: Request, params: &ValidParams, known: &FleetModel) -> Self {
        let sum = match request {
            Request::Statistics(extent) => {
                Sum::Statistics(known.statistics.clone().unwrap_or_else(|| Statistics::empty(shape, extent)))
            }
            Request::Heads { .. } => {
                Sum::Heads { heads: HeadSum::new(shape), prototypes: PrototypeSum::new(shape), losses: BTreeMap::new() }
            }
            Request::Gradient => Sum::Gradient(HeadSum::new(shape)),
            Request::Prototypes => Sum::Prototypes(PrototypeSum::new(shape)),
            Request::OfMethod(method) => Sum::OfMethod {
                method,
                heads: HeadSum::new(shape),
                changes: HeadSum::new(shape),
                notes: BTreeMap::new(),
                state: known.server_state.of_method.clone(),
            },
        };
        Self { shape, sum, weights: params.method.weights(&known.server_state) }
    }

    /// Adds the answer of a device that holds so many samples. One that cannot be added has no effect.
    ///
    /// # Errors
    /// If the answer is to another question, or does not fit the sum.
    pub fn add(&mut self, device: &str, response: &Response, samples: u32) -> Result<(), RoundError> {
        match (&mut self.sum, response) {
            (Sum::Statistics(total), Response::Statistics(statistics)) => total.add(statistics)?,
            (Sum::Heads { heads, prototypes, losses }, Response::Heads { heads: trained, prototypes: own, loss }) => {
                // No class has more devices than the heads have, so what follows the heads fails only with them.
                heads.add(trained, samples, self.weights.of(device)).map_err(RoundError::Heads)?;
                if let Some(own) = own {
                    prototypes.add(own).map_err(RoundError::Prototypes)?;
                }
                if let Some(loss) = loss {
                    losses.insert(device.to_owned(), loss.to_bits());
                }
            }
            (Sum::Gradient(sum), Response::Gradient(gradient)) => {
                sum.add_main(gradient, samples, self.weights.of(device)).map_err(RoundError::Heads)?;
            }
            (Sum::Prototypes(sum), Response::Prototypes(own)) => sum.add(own).map_err(RoundError::Prototypes)?,
            (Sum::OfMethod { method, heads, changes, notes, state }, Response::OfMethod(value)) => {
                let contribution = method.contribute(value, device, state.as_ref()).ok_or(RoundError::Content)?;
                let weight = self.weights.of(device);
                // There are no more changes than heads, so the second fails only with the first.
                heads.add_main(contribution.main, samples, weight).map_err(RoundError::Heads)?;
                if let Some(change) = contribution.change {
                    changes.add_main(change, samples, weight).map_err(RoundError::Heads)?;
                }
                let counts = contribution.change.is_some();
                notes.insert(device.to_owned(), Note { note: contribution.note, samples, counts });
            }
            (
                Sum::Statistics(_) | Sum::Heads { .. } | Sum::Gradient(_) | Sum::Prototypes(_) | Sum::OfMethod { .. },
                _,
            ) => {
                return Err(RoundError::Content);
            }
        }
        Ok(())
    }

    /// As [`RoundSum::add`], in place of the statistics that the device told before, which are taken off exactly.
    ///
    /// # Errors
    /// As [`RoundSum::add`], and where what the device told before is not part of the sum; then nothing has changed.
    pub fn add_in_place_of(
        &mut self,
        former: Option<&Statistics>,
        device: &str,
        response: &Response,
        samples: u32,
    ) -> Result<(), RoundError> {
        let former = match (&mut self.sum, former) {
            (Sum::Statistics(total), Some(former)) => {
                total.subtract(former)?;
                Some(former)
            }
            (
                Sum::Statistics(_) | Sum::Heads { .. } | Sum::Gradient(_) | Sum::Prototypes(_) | Sum::OfMethod { .. },
                _,
            ) => None,
        };
        let added = self.add(device, response, samples);
        if let (Err(_), Some(former), Sum::Statistics(total)) = (&added, former, &mut self.sum) {
            total.add(former)?;
        }
        added
    }

    /// Whether it is of a round of training.
    pub fn is_training(&self) -> bool {
        match self.sum {
            Sum::Statistics(_) => false,
            Sum::Heads { .. } | Sum::Gradient(_) | Sum::Prototypes(_) | Sum::OfMethod { .. } => true,
        }
    }

    /// Closes the round. `known` is what the fleet has learned until now.
    pub fn merge(self, known: FleetModel, conditions: &Conditions<'_>) -> RoundResult {
        let none = |known| RoundResponses::new(self.shape, known, conditions);
        let responses = match self.sum {
            Sum::Statistics(statistics) => return after_sums(statistics, known, conditions),
            Sum::Heads { heads, prototypes, losses } => {
                let losses = losses.into_iter().map(|(device, bits)| (device, f32::from_bits(bits))).collect();
                let (samples, heads) = (heads.samples(), heads.mean());
                RoundResponses { heads, samples, prototypes, losses, ..none(known) }
            }
            Sum::Gradient(sum) => {
                let gradient = sum.mean().map(|mean| mean.main);
                RoundResponses { gradient, samples: sum.samples(), ..none(known) }
            }
            Sum::Prototypes(prototypes) => RoundResponses { prototypes, ..none(known) },
            Sum::OfMethod { method: _, heads, changes, notes, state: _ } => {
                let change = changes.mean().map(|mean| (mean.main, changes.samples()));
                RoundResponses { heads: heads.mean(), samples: heads.samples(), change, notes, ..none(known) }
            }
        };
        after_training(responses)
    }
}
