//! The aggregator: the real machine and the real ledger code, the real executor and the real ledger code, on a disk in memory.

use core::time::Duration;
use std::rc::Rc;

use grapevine_aggregator::round::{Coordinator, Event, RoundConfig, RoundOutcome, Tell};
use grapevine_aggregator::serve::executor::{Executor, Publisher};
use grapevine_aggregator::serve::{RunChoice, ServeOptions, ledger};
use grapevine_aggregator::store::StoreError;
use grapevine_host::{BrokerAddress, Service};
use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{
    DeviceId, Incarnation, Receipt, Refusal, RoundAnnouncement, RunId, ToDevice, decode_to_aggregator, encode,
};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::ledger::MemoryLedger;
use super::meter::{Meter, Owner};
use super::power::Power;

/// The one run of every plan.
const RUN: RunId = RunId(77);
/// The registry is also written at moments of its own; one in so many is one.
const REGISTRY_ONE_OF: u32 = 16;

/// What the aggregator wants to go out.
pub(super) enum Outgoing {
    /// To one device.
    To(DeviceId, Rc<[u8]>),
    /// To all who follow the blob.
    Block(BlobKind, Rc<[u8]>),
    /// To all, retained.
    RoundAnnouncement(Rc<[u8]>),
}

/// What it said that must be true of its disk at that moment.
pub(super) enum Said {
    /// A device was told that its update is stored or refused.
    Receipt(DeviceId, Receipt),
    /// A device was told that it is in quarantine.
    Quarantined(DeviceId),
    /// All devices were told what is going on.
    RoundAnnouncement(Box<RoundAnnouncement>),
}

pub(super) struct Aggregator {
    pub(super) ledger: MemoryLedger,
    pub(super) process: Option<Process>,
    /// How often a round was given its time again.
    pub(super) extended: u64,
    /// How often a device was sent into quarantine.
    pub(super) quarantined: u64,
    options: ServeOptions,
    rng: ChaCha8Rng,
}

/// What is gone when the process is.
pub(super) struct Process {
    pub(super) coordinator: Coordinator,
    /// The machine's time begins here.
    pub(super) started: Duration,
    executor: Executor,
    /// While the disk is full, no message is taken in and no time runs.
    pub(super) is_full: bool,
}

impl Aggregator {
    pub(super) fn new(round: RoundConfig, kept_heads: u32, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let options = ServeOptions {
            fleet: "storm".parse().expect("letters"),
            broker: BrokerAddress::new("nowhere", 1),
            round,
            incarnation: Incarnation(0),
            run: RunChoice::Continue(RUN),
            keep_alive: Duration::from_secs(30),
            longest_pause: Duration::from_secs(60),
            kept_heads,
            until_finished: false,
            service: Service::default(),
        };
        let ledger = MemoryLedger::new(Power::new(rng.next_u64()));
        Self { ledger, process: None, extended: 0, quarantined: 0, options, rng }
    }

    /// A start with the disk as it is.
    pub(super) fn start(&mut self, now: Duration, meter: &mut Meter) {
        self.ledger.restore_power();
        let options = ServeOptions { incarnation: Incarnation(self.rng.next_u64()), ..self.options.clone() };
        let restored = meter.of(Owner::Aggregator, || ledger::restore(&mut self.ledger, &options));
        let coordinator = restored.expect("what a ledger wrote it can read");
        self.process =
            Some(Process { coordinator, started: now, executor: Executor::new(options.kept_heads), is_full: false });
    }

    pub(super) fn die(&mut self, meter: &mut Meter) {
        let process = self.process.take();
        meter.of(Owner::Aggregator, || drop(process));
    }

    /// A device's frame arrived.
    pub(super) fn hear(&mut self, now: Duration, device: &DeviceId, frame: &[u8], meter: &mut Meter) {
        let Some(process) = self.process.as_mut().filter(|process| !process.is_full) else { return };
        let now = now - process.started;
        meter.of(Owner::Aggregator, || match decode_to_aggregator(frame) {
            Ok((message, block)) => process.coordinator.handle_message(now, device, message, block),
            Err(error) => process.coordinator.handle_garbage(now, Some(device), error.refusal()),
        });
    }

    /// The broker is there.
    pub(super) fn handle_connected(&mut self, now: Duration, meter: &mut Meter) {
        let Some(process) = self.process.as_mut().filter(|process| !process.is_full) else { return };
        let now = now - process.started;
        meter.of(Owner::Aggregator, || process.coordinator.handle_connected(now));
    }

    /// Carries out what the machine decided, as far as the disk has room; fails if the power does.
    pub(super) fn act(
        &mut self,
        now: Duration,
        is_connected: bool,
        meter: &mut Meter,
        out: &mut dyn FnMut(Outgoing),
        said: &mut dyn FnMut(&MemoryLedger, Said),
    ) -> Result<(), StoreError> {
        let Some(Process { coordinator, executor, started, is_full }) = &mut self.process else { return Ok(()) };
        let now = now - *started;
        let (extended, quarantined) = (&mut self.extended, &mut self.quarantined);
        let mut surroundings = Surroundings { now, meter, out, said, extended, quarantined };
        let mut done = executor.retry(coordinator, &mut self.ledger, &mut surroundings);
        if done.is_ok() && core::mem::take(is_full) && is_connected {
            surroundings.call(|| coordinator.handle_connected(now));
        }
        if done.is_ok() {
            done = executor.run(coordinator, &mut self.ledger, &mut surroundings);
        }
        if done.is_ok() && self.rng.random_ratio(1, REGISTRY_ONE_OF) {
            done = executor.write_registry(coordinator, &mut self.ledger, &mut surroundings);
        }
        match done {
            Err(error) if error.is_full() => {
                if !core::mem::replace(is_full, true) {
                    surroundings.call(|| coordinator.handle_disconnected(now));
                }
                Ok(())
            }
            other => other,
        }
    }
}

/// What the executor finds around the machine: the network, and the invariants of what goes there.
struct Surroundings<'a> {
    now: Duration,
    meter: &'a mut Meter,
    out: &'a mut dyn FnMut(Outgoing),
    said: &'a mut dyn FnMut(&MemoryLedger, Said),
    extended: &'a mut u64,
    quarantined: &'a mut u64,
}

impl Publisher<MemoryLedger> for Surroundings<'_> {
    fn now(&self) -> Duration {
        self.now
    }

    fn tell(&mut self, machine: &Coordinator, ledger: &MemoryLedger, tell: Tell) {
        match &tell {
            Tell::Device(device, message) => {
                match message {
                    ToDevice::Receipt(receipt) => (self.said)(ledger, Said::Receipt(device.clone(), receipt.clone())),
                    ToDevice::RoundAnnouncement(announcement) => {
                        (self.said)(ledger, Said::RoundAnnouncement(Box::new(announcement.clone())))
                    }
                    // Unless it has been released since.
                    ToDevice::Refused(refused) if refused.reason == Refusal::Quarantined => {
                        if machine.device(device).is_some_and(|record| record.quarantined.is_some()) {
                            (self.said)(ledger, Said::Quarantined(device.clone()));
                        }
                    }
                    ToDevice::Welcome(_) | ToDevice::Refused(_) | ToDevice::BlockRequest(_) | ToDevice::Block(_) => {}
                }
                (self.out)(Outgoing::To(device.clone(), encode(message, &[]).into()));
            }
            Tell::Followers(kind, header, block) => {
                (self.out)(Outgoing::Block(*kind, encode(&ToDevice::Block(*header), block).into()));
            }
            Tell::Everybody(announcement) => {
                (self.said)(ledger, Said::RoundAnnouncement(Box::new(announcement.clone())));
                (self.out)(Outgoing::RoundAnnouncement(
                    encode(&ToDevice::RoundAnnouncement(announcement.clone()), &[]).into(),
                ));
            }
            Tell::People(Event::RoundExtended(_)) => *self.extended += 1,
            Tell::People(Event::Quarantined { .. }) => *self.quarantined += 1,
            Tell::People(_) => {}
        }
        self.meter.of(Owner::Aggregator, || drop(tell));
    }

    fn committed(&mut self, _outcome: &RoundOutcome) {}

    fn call<T>(&mut self, call: impl FnOnce() -> T) -> T {
        self.meter.of(Owner::Aggregator, call)
    }
}
