//! A federation of real devices with made-up features, on any broker, in threads of this process.

use core::time::Duration;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, unbounded};
use grapevine_aggregator::round::{Event, RoundConfig, RoundOutcome};
use grapevine_aggregator::serve::{Observer, RunChoice, ServeOptions, serve};
use grapevine_aggregator::store::Store as Ledger;
use grapevine_edge_client::device::{self, DeviceOptions};
use grapevine_edge_client::session::{Event as DeviceEvent, Identity};
use grapevine_edge_client::store::{Sample, Store, StoreIdentity};
use grapevine_host::{BrokerAddress, Shutdown};
use grapevine_models::{Head, Params, Shape};
use grapevine_protocol::{BootId, Digest, Encoding, FleetId, Refusal, RunId, class_list_digest};

/// What the aggregator of the federation told.
#[derive(Debug)]
pub enum Told {
    /// Anything that happened.
    Event(Event),
    /// A round was merged.
    Merged(RoundOutcome),
    /// A device ignored something.
    Ignored(Refusal),
}

/// The aggregator and its devices.
pub struct Federation {
    /// What the aggregator tells.
    pub told: Receiver<Told>,
    /// Its configuration.
    pub round: RoundConfig,
    /// The fleet's name.
    pub fleet: FleetId,
    shutdown: Shutdown,
    threads: Vec<JoinHandle<()>>,
}

/// The run of every federation here.
pub const RUN: RunId = RunId(77);

impl Federation {
    /// Starts an aggregator and `devices` devices whose data depend on their number alone.
    pub fn start(folder: &Path, broker: &BrokerAddress, devices: u16, params: Params, rounds: u32) -> Self {
        let shape = Shape::new(4, 8).expect("within limits");
        let names: Vec<String> = (0..4).map(|class| format!("class-{class}")).collect();
        let round = RoundConfig {
            shape,
            extractor: Digest([3; 32]),
            classes: class_list_digest(names.iter().map(String::as_str)),
            params: params.check().expect("valid parameters"),
            rounds,
            min_devices: usize::from(devices),
            participants: None,
            quorum: 1.0,
            deadline: Duration::from_secs(120),
            extensions: 0,
            encoding: Encoding::F32,
            seed: 3,
            upload_bytes: 1 << 22,
            auxiliary: None,
        };
        let (sender, told) = unbounded();
        let fleet: FleetId = "under-test".parse().expect("a name");
        let mut federation = Self { told, round, fleet, shutdown: Shutdown::manual(), threads: Vec::new() };
        federation.start_aggregator(folder, broker, sender.clone());
        for number in 0..devices {
            let identity = StoreIdentity { extractor: [3; 32], classes: names.clone(), shape };
            let store = Store::open(&folder.join(format!("device-{number}.redb")), &identity).expect("a new store");
            fill(&store, shape, number);
            federation.start_device(broker, number, store, sender.clone());
        }
        federation
    }

    /// Stops everybody.
    pub fn stop(self) {
        self.shutdown.request();
        for thread in self.threads {
            thread.join().expect("a thread of the federation panicked");
        }
    }

    fn start_aggregator(&mut self, folder: &Path, broker: &BrokerAddress, sender: Sender<Told>) {
        let options = ServeOptions {
            fleet: self.fleet.clone(),
            broker: broker.clone(),
            round: self.round.clone(),
            boot: BootId(1),
            run: RunChoice::New(RUN),
            keep_alive: Duration::from_secs(30),
            longest_pause: Duration::from_secs(1),
            until_finished: false,
        };
        let ledger = Ledger::open(&folder.join("aggregator")).expect("a new ledger");
        let shutdown = self.shutdown.clone();
        self.threads.push(thread::spawn(move || {
            serve(&options, ledger, &shutdown, &mut Teller(sender)).expect("the aggregator serves");
        }));
    }

    fn start_device(&mut self, broker: &BrokerAddress, number: u16, store: Store, sender: Sender<Told>) {
        let options = DeviceOptions {
            fleet: self.fleet.clone(),
            broker: broker.clone(),
            identity: Identity {
                device: format!("device-{number}").parse().expect("a name"),
                boot: BootId(u64::from(number) + 100),
                extractor: self.round.extractor,
                classes: self.round.classes,
                shape: self.round.shape,
                hardware: "test".into(),
            },
            keep_alive: Duration::from_secs(30),
            longest_pause: Duration::from_secs(1),
            gate: None,
            outgoing: None,
        };
        let shutdown = self.shutdown.clone();
        self.threads.push(thread::spawn(move || {
            let mut observe = |event: &DeviceEvent| {
                if let DeviceEvent::Ignored(reason) = event {
                    // Nobody listens any more when the test is over.
                    let _ = sender.send(Told::Ignored(*reason));
                }
            };
            device::run(&options, &Arc::new(store), &shutdown, &mut observe).expect("the device runs");
        }));
    }
}

/// A long-tailed, separable handful of samples that depends on the device's number alone.
fn fill(store: &Store, shape: Shape, number: u16) {
    for index in 0..24_u16 {
        let label = [0, 0, 0, 1, 1, 2, 0, number % 4][usize::from(index % 8)];
        let features: Vec<f32> = (0..shape.features() as u16)
            .map(|at| f32::from((index * 7 + at * 13 + number * 5) % 11) / 11.0 + f32::from(u16::from(at == label)))
            .collect();
        let digest = Digest::of(&[number.to_le_bytes(), index.to_le_bytes()].concat());
        let sample = Sample { label, digest: digest.0, features: &features };
        store.insert_batch(&[sample]).expect("room for a sample");
    }
}

struct Teller(Sender<Told>);

impl Observer for Teller {
    fn event(&mut self, event: &Event) {
        // Nobody listens any more when the test is over.
        let _ = self.0.send(Told::Event(event.clone()));
    }

    fn merged(&mut self, outcome: &RoundOutcome, _head: Option<&Head>) -> Option<serde_json::Value> {
        let _ = self.0.send(Told::Merged(outcome.clone()));
        None
    }
}
