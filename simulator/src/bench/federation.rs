//! One run of one method: rounds of devices and an aggregator, in this process. What a device answers and what the
//! aggregator makes of the answers is the same code as in the daemons, and so are the heads, to the bit.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use grapevine_aggregator::round::choose;
use grapevine_models::evaluate::{Accuracy, Tally};
use grapevine_models::{
    Answer, DeviceState, FleetModel, Head, HeadError, Heads, Received, Request, Response, RoundError, RoundSum, Run,
    RunConfig, Samples, SamplesError, Shape, SideInformation, Statistics, Sums, ValidParams, respond, stream,
};
use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{
    BodyError, DatasetId, DeviceId, Digest, Encoding, HeadsBody, Incarnation, RoundAnnouncement, RoundId, RunId,
    SideInformationBody, Task, Update,
};
use rayon::prelude::*;

use super::fleet::Fleet;
use super::now;
use super::wire::{Traffic, Wire, blob};
use crate::data::class_counts;

/// Rows of the test set that one thread classifies at a time.
const TEST_ROWS: usize = 1_024;

/// What is to be run, beside the fleet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup<'a> {
    pub(super) params: ValidParams,
    /// Values of `tau` at which the final head is tried, each for itself.
    pub(super) taus: &'a [f64],
    /// Rounds of training.
    pub(super) rounds: u32,
    /// Devices chosen for a round of training; `None` for all.
    pub(super) participants: Option<usize>,
    /// How updates are written.
    pub(super) encoding: Encoding,
}

/// What came out.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// After every round that made a head to use.
    pub(super) rounds: Vec<RoundResult>,
    /// The final head's on the fleet's test set, shifted by each of `Setup::taus`.
    pub(super) logit_offset: Vec<Accuracy>,
    /// SHA-256 of the final heads, as they are published.
    pub(super) digest: Digest,
    /// Test samples of each class, `[C]`.
    pub(super) tested: Vec<u64>,
    /// Of all devices in the whole run.
    pub(super) traffic: Traffic,
    /// Rounds, those that gather sums included.
    pub(super) steps: u32,
    /// By the clock on the wall.
    pub(super) seconds: f64,
}

/// The state of a run after a round.
#[derive(Clone, Debug)]
pub(super) struct RoundResult {
    /// On the fleet's test set.
    pub(super) accuracy: Accuracy,
    /// Of all devices so far.
    pub(super) traffic: Traffic,
}

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum FederationError {
    /// The features cannot be trained on.
    #[error(transparent)]
    Samples(#[from] SamplesError),
    /// Training left the range of numbers.
    #[error(
        "training with {0} diverged ({1}); lower the learning rate with --learning-rate, or standardise the features"
    )]
    Diverged(&'static str, HeadError),
    /// An answer cannot be added.
    #[error(transparent)]
    Round(#[from] RoundError),
    /// A number does not survive its encoding.
    #[error("the model does not survive the encoding ({0}); use --encoding f32")]
    Body(#[from] BodyError),
    /// The method made no head.
    #[error("the run ended without a head; give it at least one round")]
    NoHead,
}

/// Runs a federation. Gives `None` if `stop` said so before the end; `tick` is called after every round.
pub(super) fn run(
    fleet: &Fleet,
    setup: &Setup<'_>,
    stop: &(dyn Fn() -> bool + Sync),
    tick: &(dyn Fn() + Sync),
) -> Result<Option<Outcome>, FederationError> {
    let began = now();
    let samples = fleet.samples()?;
    let devices: Vec<Device<'_>> =
        samples.into_iter().enumerate().map(|(number, samples)| Device::new(number, samples)).collect();
    let auxiliary = setup.params.method.auxiliary().map(|per_class| fleet.auxiliary(per_class));
    let auxiliary = auxiliary.as_ref().map(|set| set.samples(fleet.shape)).transpose()?;
    let test = fleet.test.samples(fleet.shape)?;
    let mut federation = Federation::new(fleet, setup, &devices, auxiliary);
    let mut rounds = Vec::new();
    loop {
        if stop() {
            return Ok(None);
        }
        let Some(request) = federation.run.next_request() else { break };
        federation.do_round(request)?;
        tick();
        // A start from sums is no round of training.
        let is_round = request.is_training() || setup.params.method.is_one_shot();
        if let Some(head) = federation.run.model().inference_head().filter(|_| is_round) {
            rounds.push(RoundResult { accuracy: evaluate(head, &test), traffic: federation.traffic });
        }
    }
    let prior = if setup.taus.is_empty() { Vec::new() } else { shared_prior(&devices, setup.params)? };
    let direction = setup.params.method.logit_offset(&prior);
    let turned =
        |head: &Head| setup.taus.iter().map(|&tau| evaluate(&head.shifted(&direction, tau as f32), &test)).collect();
    let logit_offset = federation.run.model().inference_head().map_or_else(Vec::new, turned);
    let digest = federation.finish()?;
    let seconds = (now() - began).as_secs_f64();
    let tested = class_counts(fleet.test.labels.iter().copied(), fleet.shape.classes());
    Ok(Some(Outcome {
        rounds,
        logit_offset,
        digest,
        tested,
        traffic: federation.traffic,
        steps: federation.round,
        seconds,
    }))
}

/// How a head does on a test set, on all cores.
fn evaluate(head: &Head, test: &Samples<'_>) -> Accuracy {
    let rows = test.labels().len();
    let part = |start: usize| Tally::of(head, &test.part(start..(start + TEST_ROWS).min(rows)));
    let none = || Tally::of(head, &test.part(0..0));
    let starts: Vec<usize> = (0..rows).step_by(TEST_ROWS).collect();
    starts.into_par_iter().map(part).reduce(none, |sum, part| sum.plus(&part)).accuracy()
}

/// The class shares that an aggregator learns from what devices may tell.
fn shared_prior(devices: &[Device<'_>], params: ValidParams) -> Result<Vec<f32>, FederationError> {
    let Some(first) = devices.first() else { return Ok(Vec::new()) };
    let mut counts = Statistics::empty(first.samples.shape(), Sums::Counts);
    for device in devices {
        counts
            .add(&Statistics::of(&device.samples, Sums::Counts, params.min_samples_to_share))
            .map_err(RoundError::from)?;
    }
    Ok(counts.prior())
}

struct Device<'a> {
    id: DeviceId,
    samples: Samples<'a>,
}

impl Setup<'_> {
    /// Rounds of the run, those that gather sums included.
    pub(super) fn steps(&self) -> u32 {
        let (mut has_sums, mut trained, mut steps) = (false, 0, 0);
        loop {
            match self.params.next_request(has_sums, trained, self.rounds) {
                Some(request) if request.is_training() => trained += 1,
                Some(_) => has_sums = true,
                None => return steps,
            }
            steps += 1;
        }
    }
}

impl<'a> Device<'a> {
    fn new(number: usize, samples: Samples<'a>) -> Self {
        Self { id: device_id(number), samples }
    }

    fn count(&self) -> u32 {
        self.samples.labels().len() as u32
    }
}

/// The name of a device, which decides its random choices.
pub(super) fn device_id(number: usize) -> DeviceId {
    format!("device-{number:04}").parse().expect("a name of letters and digits")
}

/// Which version of the fleet's model a device has; 0 is none.
#[derive(Clone, Copy, Default)]
struct Have {
    heads: u32,
    side_information: u32,
}

/// The aggregator's side of a run.
struct Federation<'a> {
    fleet: &'a Fleet,
    setup: &'a Setup<'a>,
    devices: &'a [Device<'a>],
    run: Run<'a>,
    round: u32,
    wire: Wire,
    traffic: Traffic,
    have: Vec<Have>,
    /// What the method keeps on each device.
    kept: Vec<Option<DeviceState>>,
    newest: Have,
    heads_bytes: usize,
    side_information_bytes: usize,
}

impl<'a> Federation<'a> {
    fn new(fleet: &'a Fleet, setup: &'a Setup<'a>, devices: &'a [Device<'a>], auxiliary: Option<Samples<'a>>) -> Self {
        let name = "bench".parse().expect("letters");
        let wire = Wire::new(name, &device_id(0), fleet.shape, setup.encoding);
        let config =
            RunConfig { shape: fleet.shape, params: setup.params, seed: fleet.seed, rounds: setup.rounds, auxiliary };
        let mut traffic = Traffic::default();
        devices.iter().for_each(|device| traffic += wire.greeting(device.count() as usize));
        Self {
            fleet,
            setup,
            devices,
            run: Run::new(config, FleetModel::default()),
            round: 0,
            wire,
            traffic,
            have: vec![Have::default(); devices.len()],
            kept: vec![None; devices.len()],
            newest: Have::default(),
            heads_bytes: 0,
            side_information_bytes: 0,
        }
    }

    fn shape(&self) -> Shape {
        self.fleet.shape
    }

    fn do_round(&mut self, request: Request) -> Result<(), FederationError> {
        self.tell(Task::Round(request));
        let chosen = self.choose(request);
        for &device in &chosen {
            self.fetch(device);
        }
        let sum = Mutex::new(self.run.open_round(request));
        let uploads = chosen
            .par_iter()
            .map(|&number| {
                let device = &self.devices[number];
                let Answer { response, device_state } = self.answer(request, number)?;
                let response = self.on_the_wire(response, request, device.count())?;
                let upload = self.wire.upload(RoundId(self.round), self.wire.update_bytes(&response, device.count()));
                // Sums are exact: the order in which devices are added does not matter.
                let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
                sum.add(device.id.as_str(), &response, device.count())?;
                Ok((number, upload, device_state))
            })
            .collect::<Result<Vec<_>, FederationError>>()?;
        for (number, upload, device_state) in uploads {
            self.traffic += upload;
            // Every update is merged.
            let confirmed = device_state.map(|value| DeviceState { value, is_confirmed: true });
            self.kept[number] = confirmed.or(self.kept[number].take());
        }
        self.merge(sum.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// The devices that take part, by number.
    fn choose(&self, request: Request) -> Vec<usize> {
        let all = 0..self.devices.len();
        let Some(wanted) = self.setup.participants.filter(|_| request.is_training()) else { return all.collect() };
        if self.setup.params.method.asks_everybody(self.run.model().side_information.is_some()) {
            return all.collect();
        }
        let able: Vec<&DeviceId> = self.devices.iter().map(|device| &device.id).collect();
        let (chosen, _): (BTreeSet<DeviceId>, u64) = choose(&able, wanted, self.fleet.seed, RoundId(self.round));
        all.filter(|&number| chosen.contains(&self.devices[number].id)).collect()
    }

    fn answer(&self, request: Request, number: usize) -> Result<Answer, FederationError> {
        let device = &self.devices[number];
        let (params, FleetModel { heads, side_information, .. }) = (&self.setup.params, self.run.model());
        let rng = stream(self.fleet.seed, self.round, device.id.as_str().as_bytes());
        let received = Received {
            heads: heads.clone(),
            side_information: side_information.as_ref().map(SideInformation::view),
            device_state: self.kept[number].as_ref(),
        };
        respond(request, device.samples, received, params, rng)
            .map_err(|error| FederationError::Diverged(params.method.name(), error))
    }

    /// What arrives of an answer: sums lose digits, and so do heads in an encoding other than f32.
    fn on_the_wire(&self, response: Response, request: Request, samples: u32) -> Result<Response, FederationError> {
        let is_exact = self.setup.encoding == Encoding::F32 && request.is_training();
        if is_exact {
            return Ok(response);
        }
        let bytes =
            Update { samples, dataset: DatasetId::default(), response }.encode(self.shape(), self.setup.encoding);
        Ok(Update::decode(&bytes, self.shape(), request)?.response)
    }

    fn merge(&mut self, sum: RoundSum) -> Result<(), FederationError> {
        let (shape, encoding) = (self.shape(), self.setup.encoding);
        let (mut heads_bytes, mut side_information_bytes, mut unread) = (None, None, None);
        self.run.close_round_with(sum, |mut result| {
            heads_bytes = result.heads.clone().map(|heads| HeadsBody(heads).encode(shape).len());
            if let Some(side_information) = result.side_information.take() {
                let body = SideInformationBody(side_information);
                let bytes = body.encode(encoding);
                side_information_bytes = Some(bytes.len());
                let is_exact = encoding == Encoding::F32;
                let read = if is_exact { Ok(body) } else { SideInformationBody::decode(&bytes, shape) };
                result.side_information = read.map_err(|error| unread = Some(error)).ok().map(|body| body.0);
            }
            result
        });
        if let Some(error) = unread {
            return Err(error.into());
        }
        if let Some(bytes) = heads_bytes {
            (self.newest.heads, self.heads_bytes) = (self.newest.heads + 1, bytes);
        }
        if let Some(bytes) = side_information_bytes {
            self.newest.side_information += 1;
            self.side_information_bytes = bytes;
        }
        self.round += 1;
        Ok(())
    }

    /// Every device hears what it is to do.
    fn tell(&mut self, task: Task) {
        let named = |version: u32, bytes: usize| (version > 0).then(|| blob(bytes));
        let announcement = RoundAnnouncement {
            incarnation: Incarnation(u64::MAX),
            run: RunId(u64::MAX),
            round: RoundId(self.round),
            task,
            shape: self.shape(),
            params: self.setup.params,
            encoding: self.setup.encoding,
            heads: named(self.newest.heads, self.heads_bytes),
            side_information: named(self.newest.side_information, self.side_information_bytes)
                .filter(|_| task.request().is_some_and(Request::is_training)),
            seed: self.fleet.seed,
            selection_threshold: u64::MAX,
            only: Vec::new(),
            closes_in_ms: 0,
        };
        self.traffic.down += self.wire.announcement(&announcement) * self.devices.len() as u64;
    }

    /// A device that takes part fetches what it lacks of the model.
    fn fetch(&mut self, device: usize) {
        self.fetch_heads(device);
        if self.have[device].side_information < self.newest.side_information {
            self.traffic += self.wire.download(BlobKind::SideInformation, self.side_information_bytes);
            self.have[device].side_information = self.newest.side_information;
        }
    }

    fn fetch_heads(&mut self, device: usize) {
        if self.have[device].heads < self.newest.heads {
            self.traffic += self.wire.download(BlobKind::Heads, self.heads_bytes);
            self.have[device].heads = self.newest.heads;
        }
    }

    /// The end of the run: every device fetches what is to be used, whose digest this gives.
    fn finish(&mut self) -> Result<Digest, FederationError> {
        let shape = self.shape();
        let inference_head =
            self.run.model().inference_head.clone().map(|main| Heads { main, supplementary: Head::zeros(shape) });
        let is_another = inference_head.is_some();
        let heads = inference_head.or_else(|| self.run.model().heads.clone()).ok_or(FederationError::NoHead)?;
        let bytes = HeadsBody(heads).encode(shape);
        if is_another {
            self.newest.heads += 1;
            self.heads_bytes = bytes.len();
        }
        self.tell(Task::Rest);
        (0..self.devices.len()).for_each(|device| self.fetch_heads(device));
        Ok(Digest::of(&bytes))
    }
}
