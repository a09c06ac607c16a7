//! A federation of real devices with made-up features, on any broker, in threads of this process.

use core::time::Duration;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};
use grapevine_aggregator::round::{Event, Participants, Quarantine, RoundConfig, RoundOutcome, Select};
use grapevine_aggregator::serve::{Observer, RunChoice, ServeOptions, serve};
use grapevine_aggregator::store;
use grapevine_edge_client::device::{self, DeviceOptions};
use grapevine_edge_client::resources::Throttle;
use grapevine_edge_client::session::{Event as DeviceEvent, Identity};
use grapevine_edge_client::store::{Sample, Store, StoreIdentity};
use grapevine_host::{BrokerAddress, Service, Shutdown};
use grapevine_models::{Head, Params, Shape};
use grapevine_protocol::{Attributes, Digest, Encoding, FleetId, Incarnation, RunId, class_list_digest};

use crate::programs::PATIENCE;

/// What a federation is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Classes and features.
    pub shape: Shape,
    /// Devices, all of which must be there before a round opens.
    pub devices: u16,
    /// Samples on every device; twice as many as classes, and it has some of every class.
    pub samples: u16,
    /// Method and hyper-parameters.
    pub params: Params,
    /// Rounds of training.
    pub rounds: u32,
    /// Share of the devices that must have answered at the deadline.
    pub quorum: f64,
    /// Time a round is open.
    pub deadline: Duration,
    /// MQTT keep-alive of everybody.
    pub keep_alive: Duration,
    /// Longest pause between two attempts to connect, of everybody.
    pub longest_pause: Duration,
}

impl Plan {
    /// Four classes of eight features; everybody must answer and comes back soon.
    pub fn new(devices: u16, params: Params, rounds: u32) -> Self {
        Self {
            shape: Shape::new(4, 8).expect("within limits"),
            devices,
            samples: 24,
            params,
            rounds,
            quorum: 1.0,
            deadline: PATIENCE,
            keep_alive: Duration::from_secs(30),
            longest_pause: Duration::from_secs(1),
        }
    }
}

/// What the federation tells.
#[derive(Debug)]
pub enum Told {
    /// Anything that happened at the aggregator.
    Event(Event),
    /// A round was merged.
    Merged(Box<RoundOutcome>),
    /// Anything that happened at the device of this number.
    Device(u16, DeviceEvent),
}

/// The aggregator and its devices.
pub struct Federation {
    /// What everybody tells.
    pub told: Receiver<Told>,
    /// The aggregator's configuration.
    pub round: RoundConfig,
    /// The fleet's name.
    pub fleet: FleetId,
    shutdown: Shutdown,
    threads: Vec<JoinHandle<()>>,
}

/// The run of every federation here.
pub const RUN: RunId = RunId(77);

impl Federation {
    /// Starts an aggregator, and devices whose data depend on their number alone.
    pub fn start(folder: &Path, broker: &BrokerAddress, plan: &Plan) -> Self {
        Self::start_through(folder, broker, plan, |_| broker.clone())
    }

    /// Starts an aggregator at `broker`, and every device at the address that `link` gives for its number.
    pub fn start_through(
        folder: &Path,
        broker: &BrokerAddress,
        plan: &Plan,
        link: impl Fn(u16) -> BrokerAddress,
    ) -> Self {
        let names: Vec<String> = (0..plan.shape.classes()).map(|class| format!("class-{class}")).collect();
        let round = RoundConfig {
            shape: plan.shape,
            extractor: Digest([3; 32]),
            classes: class_list_digest(names.iter().map(String::as_str)),
            params: plan.params.check().expect("valid parameters"),
            rounds: Some(plan.rounds),
            rest_after: 50,
            news_after: Duration::ZERO,
            max_samples: 100_000,
            min_devices: usize::from(plan.devices),
            select: Select::default(),
            participants: Participants::All,
            over_select: 0.0,
            quorum: plan.quorum,
            deadline: plan.deadline,
            extensions: 0,
            quarantine: Quarantine::default(),
            encoding: Encoding::F32,
            seed: 3,
            upload_bytes: 1 << 22,
            auxiliary: None,
        };
        let (sender, told) = unbounded();
        let fleet: FleetId = "under-test".parse().expect("a name");
        let mut federation = Self { told, round, fleet, shutdown: Shutdown::manual(), threads: Vec::new() };
        federation.start_aggregator(folder, broker, plan, sender.clone());
        for number in 0..plan.devices {
            let identity = StoreIdentity { extractor: [3; 32], classes: names.clone(), shape: plan.shape };
            let store = Store::open(&folder.join(format!("device-{number}.redb")), &identity).expect("a new store");
            fill(&store, plan, number);
            federation.start_device(&link(number), plan, number, store, sender.clone());
        }
        federation
    }

    /// The merged rounds, when the run is over.
    pub fn outcomes(&self) -> Vec<RoundOutcome> {
        let mut outcomes = Vec::new();
        loop {
            match self.told.recv_timeout(PATIENCE).expect("the run goes on and ends") {
                Told::Merged(outcome) => outcomes.push(*outcome),
                Told::Event(Event::Finished | Event::Rested) => return outcomes,
                Told::Event(_) | Told::Device(..) => {}
            }
        }
    }

    /// Stops everybody.
    pub fn stop(self) {
        self.shutdown.request();
        for thread in self.threads {
            thread.join().expect("a thread of the federation panicked");
        }
    }

    fn start_aggregator(&mut self, folder: &Path, broker: &BrokerAddress, plan: &Plan, sender: Sender<Told>) {
        let options = ServeOptions {
            fleet: self.fleet.clone(),
            broker: broker.clone(),
            round: self.round.clone(),
            incarnation: Incarnation(1),
            run: RunChoice::New(RUN),
            keep_alive: plan.keep_alive,
            longest_pause: plan.longest_pause,
            kept_heads: 1,
            until_finished: false,
            service: Service::default(),
        };
        let folder = folder.join("aggregator");
        let ledger = store::open(&folder).expect("a new ledger");
        let shutdown = self.shutdown.clone();
        self.threads.push(thread::spawn(move || {
            serve(&options, &folder, ledger, &shutdown, &mut Teller(sender)).expect("the aggregator serves");
        }));
    }

    fn start_device(&mut self, broker: &BrokerAddress, plan: &Plan, number: u16, store: Store, sender: Sender<Told>) {
        let options = DeviceOptions {
            fleet: self.fleet.clone(),
            broker: broker.clone(),
            identity: Identity {
                device: format!("device-{number}").parse().expect("a name"),
                incarnation: Incarnation(u64::from(number) + 100),
                extractor: self.round.extractor,
                classes: self.round.classes,
                shape: self.round.shape,
                attributes: Attributes::default(),
            },
            keep_alive: plan.keep_alive,
            longest_pause: plan.longest_pause,
            throttle: Throttle::default(),
            service: Service::default(),
            outgoing: None,
        };
        let shutdown = self.shutdown.clone();
        self.threads.push(thread::spawn(move || {
            // Nobody listens any more when the test is over.
            let mut observe = |event: &DeviceEvent| drop(sender.send(Told::Device(number, event.clone())));
            device::run(&options, &Arc::new(store), &shutdown, &mut observe).expect("the device runs");
        }));
    }
}

/// The digest of the heads after a round.
pub fn heads(outcome: &RoundOutcome) -> Digest {
    outcome.model.heads.as_ref().expect("the round made heads").blob.digest
}

/// A long-tailed, separable handful of samples that depends on the device's number alone.
fn fill(store: &Store, plan: &Plan, number: u16) {
    let classes = plan.shape.classes() as u16;
    let samples: Vec<(u16, Digest, Vec<f32>)> = (0..plan.samples)
        .map(|index| {
            let label = if index % 2 == 0 { (index / 2 + number) % classes } else { 0 };
            let features = (0..plan.shape.features() as u16)
                .map(|at| f32::from((index * 7 + at * 13 + number * 5) % 11) / 11.0 + f32::from(u8::from(at == label)))
                .collect();
            (label, Digest::of(&[number.to_le_bytes(), index.to_le_bytes()].concat()), features)
        })
        .collect();
    let samples: Vec<Sample<'_>> =
        samples.iter().map(|(label, digest, features)| Sample { label: *label, digest: digest.0, features }).collect();
    store.insert_batch(&samples).expect("room for the samples");
}

struct Teller(Sender<Told>);

impl Observer for Teller {
    fn event(&mut self, event: &Event) {
        // Nobody listens any more when the test is over.
        let _ = self.0.send(Told::Event(event.clone()));
    }

    fn merged(&mut self, outcome: &RoundOutcome, _head: Option<&Head>) {
        let _ = self.0.send(Told::Merged(Box::new(outcome.clone())));
    }
}
