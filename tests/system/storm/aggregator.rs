//! The aggregator: the real machine and the real ledger code, on a disk in memory.

use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;

use grapevine_aggregator::round::{AcceptedUpdate, Action, Coordinator, Event, RoundConfig};
use grapevine_aggregator::serve::{RunChoice, ServeOptions, ledger};
use grapevine_aggregator::store::{Ledger, StoreError};
use grapevine_host::{BrokerAddress, Service};
use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{BootId, DeviceId, Notice, Receipt, Refusal, RunId, ToDevice, decode_to_aggregator, encode};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::ledger::MemoryLedger;
use super::meter::{Meter, Owner};
use super::power::Power;

/// The one run of every plan.
const RUN: RunId = RunId(77);
/// The books are also written at moments of their own; one in so many is one.
const BOOKS_ONE_OF: u32 = 16;

/// What the aggregator wants to go out.
pub(super) enum Outgoing {
    /// To one device.
    To(DeviceId, Rc<[u8]>),
    /// To all who follow the blob.
    Block(BlobKind, Rc<[u8]>),
    /// To all, retained.
    Notice(Rc<[u8]>),
}

/// What it said that must be true of its disk at that moment.
pub(super) enum Said {
    /// A device was told that its update is stored or refused.
    Receipt(DeviceId, Receipt),
    /// A device was told that it is in quarantine.
    Quarantined(DeviceId),
    /// All devices were told what is going on.
    Notice(Box<Notice>),
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
    counted: BTreeMap<Refusal, u64>,
}

impl Aggregator {
    pub(super) fn new(round: RoundConfig, kept_heads: u32, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let options = ServeOptions {
            fleet: "storm".parse().expect("letters"),
            broker: BrokerAddress::new("nowhere", 1),
            round,
            boot: BootId(0),
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
        let options = ServeOptions { boot: BootId(self.rng.next_u64()), ..self.options.clone() };
        let restored = meter.of(Owner::Aggregator, || ledger::restore(&mut self.ledger, &options));
        let coordinator = restored.expect("what a ledger wrote it can read");
        self.process = Some(Process { coordinator, started: now, counted: BTreeMap::new() });
    }

    pub(super) fn die(&mut self, meter: &mut Meter) {
        let process = self.process.take();
        meter.of(Owner::Aggregator, || drop(process));
    }

    /// A device's frame arrived.
    pub(super) fn hear(&mut self, now: Duration, device: &DeviceId, frame: &[u8], meter: &mut Meter) {
        let Some(process) = &mut self.process else { return };
        let now = now - process.started;
        meter.of(Owner::Aggregator, || match decode_to_aggregator(frame) {
            Ok((message, block)) => process.coordinator.handle_message(now, device, message, block),
            Err(error) => process.coordinator.handle_garbage(now, Some(device), error.refusal()),
        });
    }

    /// Carries out what the machine decided, in the order of the real shell; fails if the power does.
    pub(super) fn act(
        &mut self,
        now: Duration,
        meter: &mut Meter,
        out: &mut dyn FnMut(Outgoing),
        said: &mut dyn FnMut(&MemoryLedger, Said),
    ) -> Result<(), StoreError> {
        let mut updates = Vec::new();
        loop {
            let Some(process) = &mut self.process else { return Ok(()) };
            match meter.of(Owner::Aggregator, || process.coordinator.poll_action()) {
                Some(Action::StoreUpdate(update)) => updates.push(update),
                Some(action) => self.do_action(now, action, meter, out, said)?,
                None if updates.is_empty() => break,
                None => self.store_updates(now, core::mem::take(&mut updates), meter)?,
            }
        }
        if self.rng.random_ratio(1, BOOKS_ONE_OF) { self.write_books(now) } else { Ok(()) }
    }

    fn do_action(
        &mut self,
        now: Duration,
        action: Action,
        meter: &mut Meter,
        out: &mut dyn FnMut(Outgoing),
        said: &mut dyn FnMut(&MemoryLedger, Said),
    ) -> Result<(), StoreError> {
        let Some(process) = &mut self.process else { return Ok(()) };
        match &action {
            Action::Send(device, message) => {
                match message {
                    ToDevice::Receipt(receipt) => said(&self.ledger, Said::Receipt(device.clone(), receipt.clone())),
                    ToDevice::Notice(notice) => said(&self.ledger, Said::Notice(Box::new(notice.clone()))),
                    // Unless it has been released since.
                    ToDevice::Refused(refused) if refused.reason == Refusal::Quarantined => {
                        let record = process.coordinator.device(device);
                        if record.is_some_and(|record| record.quarantined.is_some()) {
                            said(&self.ledger, Said::Quarantined(device.clone()));
                        }
                    }
                    ToDevice::Welcome(_) | ToDevice::Refused(_) | ToDevice::Want(_) | ToDevice::Block(_) => {}
                }
                out(Outgoing::To(device.clone(), encode(message, &[]).into()));
            }
            Action::PublishBlock(kind, header, block) => {
                out(Outgoing::Block(*kind, encode(&ToDevice::Block(*header), block).into()));
            }
            Action::PublishNotice(notice) => {
                said(&self.ledger, Said::Notice(Box::new(notice.clone())));
                out(Outgoing::Notice(encode(&ToDevice::Notice(notice.clone()), &[]).into()));
            }
            Action::KeepDevice(device) => {
                ledger::keep_device(&mut self.ledger, &process.coordinator, device, now - process.started)?;
            }
            Action::ForgetDevices(devices) => ledger::forget_devices(&mut self.ledger, devices)?,
            Action::OpenRound { notice, expected, chosen } => {
                ledger::open_round(&mut self.ledger, notice, *expected, *chosen)?;
            }
            Action::StoreUpdate(update) => self.store_updates(now, vec![update.clone()], meter)?,
            Action::Commit(outcome) => {
                ledger::commit(&mut self.ledger, outcome, None)?;
                let own = now - process.started;
                meter.of(Owner::Aggregator, || process.coordinator.handle_committed(own));
                ledger::forget(&mut self.ledger, outcome, self.options.kept_heads)?;
                self.write_books(now)?;
            }
            Action::ExtendRound(run, round) => self.ledger.extend_round(run.0, round.0)?,
            Action::AbandonRound(run, round) => self.ledger.abandon_round(run.0, round.0, 0)?,
            Action::FinishRun(run) => self.ledger.finish_run(run.0)?,
            Action::Report(Event::Refused { reason, .. }) => *process.counted.entry(*reason).or_default() += 1,
            Action::Report(Event::RoundExtended(_)) => self.extended += 1,
            Action::Report(Event::Quarantined { .. }) => self.quarantined += 1,
            Action::Report(_) => {}
        }
        meter.of(Owner::Aggregator, || drop(action));
        Ok(())
    }

    fn store_updates(
        &mut self,
        now: Duration,
        mut updates: Vec<AcceptedUpdate>,
        meter: &mut Meter,
    ) -> Result<(), StoreError> {
        ledger::store_updates(&mut self.ledger, &updates)?;
        let Some(process) = &mut self.process else { return Ok(()) };
        let now = now - process.started;
        for update in updates.drain(..) {
            let former = ledger::former_statistics(&self.ledger, &process.coordinator, &update.device)?;
            meter.of(Owner::Aggregator, || {
                process.coordinator.handle_stored(now, &update.device, update.round, former.as_deref());
                drop(update);
            });
        }
        Ok(())
    }

    fn write_books(&mut self, now: Duration) -> Result<(), StoreError> {
        let Some(process) = &mut self.process else { return Ok(()) };
        let now = now - process.started;
        ledger::remember_devices(&mut self.ledger, &mut process.coordinator, now)?;
        ledger::remember_refusals(&mut self.ledger, &core::mem::take(&mut process.counted))
    }
}
