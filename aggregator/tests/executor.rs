//! The executor with the real ledger: what is told rests on what is durable, whatever devices send.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it saw")]

use core::time::Duration;

use grapevine_aggregator::round::{
    Coordinator, Event, Participants, Quarantine, RoundConfig, RoundOutcome, Select, Tell,
};
use grapevine_aggregator::serve::executor::{Executor, Publisher};
use grapevine_aggregator::serve::{RunChoice, ServeOptions, ledger};
use grapevine_aggregator::store::{self, Ledger};
use grapevine_host::{BrokerAddress, Service};
use grapevine_models::{Head, Heads, Method, Params, Response, Samples, Shape, Statistics};
use grapevine_protocol::{
    Attributes, BlobRef, DatasetId, DeviceId, Digest, Encoding, Hello, Incarnation, Offer, Refusal, Request,
    RoundAnnouncement, RunId, Task, ToAggregator, ToDevice, Update, block,
};
use tempfile::TempDir;

const RUN: RunId = RunId(5);
/// Samples of a device whose update cannot be used, and of each other one.
const HEAVY: u32 = 90_000;
const LIGHT: u32 = 10;

fn shape() -> Shape {
    Shape::new(3, 2).unwrap()
}

fn name(device: usize) -> DeviceId {
    format!("device-{device}").parse().unwrap()
}

/// The inference head is shifted by ten times the log class share: a bias at the limit leaves it then.
fn options(devices: usize) -> ServeOptions {
    let params = Params { tau: -10.0, ..Params::defaults(Method::PostHoc, 3) };
    let round = RoundConfig {
        shape: shape(),
        extractor: Digest([1; 32]),
        classes: Digest([2; 32]),
        params: params.check().unwrap(),
        rounds: Some(1),
        rest_after: 50,
        news_after: Duration::ZERO,
        max_samples: 100_000,
        min_devices: devices,
        select: Select::default(),
        participants: Participants::All,
        over_select: 0.0,
        quorum: 1.0,
        deadline: Duration::from_secs(60),
        extensions: 0,
        quarantine: Quarantine::default(),
        encoding: Encoding::F32,
        seed: 9,
        upload_bytes: 1 << 20,
        auxiliary: None,
    };
    ServeOptions {
        fleet: "vines".parse().unwrap(),
        broker: BrokerAddress::new("nowhere", 1),
        round,
        incarnation: Incarnation(1),
        run: RunChoice::Continue(RUN),
        keep_alive: Duration::from_secs(30),
        longest_pause: Duration::from_secs(60),
        kept_heads: 5,
        until_finished: false,
        service: Service::default(),
    }
}

/// Hears what is told.
#[derive(Default)]
struct Heard {
    announcement: Option<RoundAnnouncement>,
    events: Vec<Event>,
    refused: Vec<(DeviceId, Refusal)>,
    merged: Vec<RoundOutcome>,
}

impl Publisher<dyn Ledger> for Heard {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn tell(&mut self, _machine: &Coordinator, _ledger: &dyn Ledger, tell: Tell) {
        match tell {
            Tell::Everybody(announcement) => self.announcement = Some(announcement),
            Tell::People(event) => self.events.push(event),
            Tell::Device(device, ToDevice::Receipt(receipt)) => {
                self.refused.extend(receipt.refused.map(|reason| (device, reason)));
            }
            Tell::Device(..) | Tell::Followers(..) => {}
        }
    }

    fn committed(&mut self, outcome: &RoundOutcome) {
        self.merged.push(outcome.clone());
    }
}

/// What a device with so many samples answers; a heavy one with biases at their limit.
fn answer(samples: u32, announcement: &RoundAnnouncement) -> Vec<u8> {
    let content = match announcement.task {
        Task::Round(Request::Statistics(extent)) => {
            let labels: Vec<u16> = (0..samples).map(|at| if at < 10 { (at % 3) as u16 } else { 0 }).collect();
            let features = vec![0.5; labels.len() * 2];
            Response::Statistics(Statistics::of(&Samples::new(shape(), &features, &labels).unwrap(), extent, 1))
        }
        Task::Round(_) | Task::Wait | Task::Rest => {
            let bias = if samples == HEAVY { 65_536.0 } else { 0.25 };
            let main = Head { weight: vec![0.5; 6], bias: vec![bias; 3] };
            let heads = Heads { main, supplementary: Head::zeros(shape()) };
            Response::Heads { heads, prototypes: None, loss: None }
        }
    };
    Update { samples, dataset: DatasetId(1), response: content }.encode(shape(), Encoding::F32)
}

fn offer(machine: &mut Coordinator, device: usize, samples: u32, announcement: &RoundAnnouncement) {
    let content = answer(samples, announcement);
    let blob = BlobRef::of(&content);
    let (header, bytes) = block(&blob, &content, 0).unwrap();
    let offer = Offer { run: RUN, round: announcement.round, blob, crc: header.crc };
    machine.handle_message(Duration::ZERO, &name(device), ToAggregator::Offer(offer), bytes);
}

/// What is left after a round of statistics and one of training.
struct Played {
    machine: Coordinator,
    executor: Executor,
    heard: Heard,
    ledger: Box<dyn Ledger>,
    _folder: TempDir,
}

impl Played {
    /// A fleet of devices with so many samples.
    fn with(samples: &[u32]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger: Box<dyn Ledger> = store::open(folder.path()).unwrap();
        let mut machine = ledger::restore(&mut *ledger, &options(samples.len())).unwrap();
        let (mut executor, mut heard) = (Executor::new(5), Heard::default());
        for (device, &samples) in samples.iter().enumerate() {
            let hello = Hello {
                incarnation: Incarnation(device as u64),
                extractor: Digest([1; 32]),
                classes: Digest([2; 32]),
                shape: shape(),
                samples,
                dataset: DatasetId(1),
                attributes: Attributes::default(),
            };
            machine.handle_message(Duration::ZERO, &name(device), ToAggregator::Hello(hello), &[]);
        }
        for _ in 0..2 {
            executor.run(&mut machine, &mut *ledger, &mut heard).unwrap();
            let announcement = heard.announcement.clone().unwrap();
            let all = samples.iter().enumerate();
            all.for_each(|(device, &samples)| offer(&mut machine, device, samples, &announcement));
        }
        executor.run(&mut machine, &mut *ledger, &mut heard).unwrap();
        Self { machine, executor, heard, ledger, _folder: folder }
    }

    fn taken_out(&self) -> Vec<&Event> {
        self.heard.events.iter().filter(|event| matches!(event, Event::UpdateTakenOut { .. })).collect()
    }
}

#[test]
fn a_merge_that_cannot_be_used_is_made_without_the_device_that_caused_it() {
    let mut played = Played::with(&[HEAVY, LIGHT, LIGHT, LIGHT]);
    let [statistics, trained] = &played.heard.merged[..] else { panic!("{:?}", played.heard.events) };
    assert_eq!((statistics.accepted, trained.accepted, trained.samples), (4, 3, 30));
    assert_eq!(played.taken_out(), [&Event::UpdateTakenOut { device: name(0), round: trained.round }]);
    assert_eq!(played.heard.refused, [(name(0), Refusal::Absurd)], "it is refused by name");
    let failures = played.machine.device(&name(0)).unwrap().failures;
    assert_eq!(failures.get(&Refusal::Absurd), Some(&1), "and counted against the device");
    let bias = played.machine.model().inference_head(&options(4).round).unwrap().bias;
    assert!(bias.iter().all(|value| value.abs() < 200.0), "{bias:?}");
    let stored = played.ledger.updates(RUN, trained.round).unwrap();
    assert_eq!(stored.len(), 3, "nothing of it is left in the ledger");

    played.executor.write_registry(&mut played.machine, &mut *played.ledger, &mut played.heard).unwrap();
    let model = played.machine.model().clone();
    let again = ledger::restore(&mut *played.ledger, &options(4)).unwrap();
    assert_eq!(*again.model(), model, "a restart has the same model");
}

#[test]
fn each_device_that_spoils_a_merge_is_found() {
    let samples = [LIGHT, LIGHT, HEAVY, LIGHT, LIGHT, LIGHT, HEAVY, LIGHT, LIGHT];
    let played = Played::with(&samples);
    let trained = &played.heard.merged[1];
    let taken_out = [2, 6].map(|device| Event::UpdateTakenOut { device: name(device), round: trained.round });
    assert_eq!(played.taken_out(), taken_out.iter().collect::<Vec<_>>());
    assert_eq!((trained.accepted, trained.samples), (7, 70));
}

#[test]
fn where_too_many_would_be_taken_out_none_is_blamed() {
    let played = Played::with(&[HEAVY, HEAVY, HEAVY, LIGHT]);
    assert_eq!((played.heard.merged.len(), played.taken_out().len()), (1, 0), "{:?}", played.heard.events);
    let unusable = |event: &Event| matches!(event, Event::RoundUnusable { .. });
    assert!(played.heard.events.iter().any(unusable) && played.heard.refused.is_empty());
}
