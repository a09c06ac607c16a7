//! One device: the real session and the real work, on a disk in memory.
//!
//! The real disk is a redb file with durable commits, so what a power cut leaves of a write is all of it or nothing. A
//! cheap card may lie about that: then the last write that was told to be durable is gone as well.

use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;

use grapevine_edge_client::session::{Action, Blob, Event, FinishedUpdate, Identity, Job, Session};
use grapevine_edge_client::store::{Dataset, MethodState};
use grapevine_edge_client::work::{Worked, work};
use grapevine_models::Shape;
use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{
    Attributes, DatasetId, DeviceId, Digest, Incarnation, Refusal, RoundId, RunId, ToAggregator, decode_to_device,
    encode,
};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::meter::{Meter, Owner};
use super::power::{Draw, Power};
use super::stimulus::Ending;

/// The newest heads a device has kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeptHeads {
    pub(super) run: RunId,
    pub(super) round: RoundId,
    pub(super) digest: Digest,
}

/// An update in the outbox, with its digest.
pub(super) struct Pending {
    pub(super) update: FinishedUpdate,
    pub(super) digest: Digest,
}

/// What is on the disk beside the features.
#[derive(Clone, Default)]
struct Records {
    outbox: Option<Rc<Pending>>,
    heads: Option<KeptHeads>,
    /// What the method keeps.
    method: Option<Rc<MethodState>>,
}

/// What a device wants of the world.
pub(super) enum Wish {
    /// A frame is to go out.
    Say(Rc<[u8]>),
    /// Work began; it takes a while.
    Work(u32),
    /// This work is to end at its next step.
    Interrupt(u32),
    /// The connection is to be a new one.
    Reconnect,
}

pub(super) struct Device {
    pub(super) id: DeviceId,
    /// Its samples, by turns from change to change.
    pub(super) datasets: [Rc<Dataset>; 2],
    /// How often its samples changed.
    pub(super) changes: usize,
    pub(super) starts: u32,
    pub(super) power: Power,
    pub(super) process: Option<Process>,
    /// Whether its samples are there yet.
    pub(super) is_filled: bool,
    /// What it says about itself, by turns from start to start.
    pub(super) attributes: [Attributes; 2],
    /// What the method had kept when an update was made, by the update's digest.
    kept_before: BTreeMap<Digest, Rc<MethodState>>,
    shape: Shape,
    records: Records,
    /// As they were before the last write.
    former: Records,
    has_lost: bool,
    rng: ChaCha8Rng,
}

/// What is gone when the process is.
pub(super) struct Process {
    pub(super) session: Session,
    /// The session's time begins here.
    pub(super) started: Duration,
    pub(super) job: Option<Job>,
    /// The number of the newest job.
    pub(super) jobs: u32,
    /// Whether the broker lost its subscriptions.
    pub(super) is_deaf: bool,
    follows: [bool; 2],
}

impl Device {
    pub(super) fn new(
        number: usize,
        shape: Shape,
        datasets: [Rc<Dataset>; 2],
        is_filled: bool,
        attributes: [Attributes; 2],
        seed: u64,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self {
            id: format!("device-{number:05}").parse().expect("letters and digits"),
            datasets,
            changes: 0,
            starts: 0,
            power: Power::new(rng.next_u64()),
            process: None,
            is_filled,
            attributes,
            kept_before: BTreeMap::new(),
            shape,
            records: Records::default(),
            former: Records::default(),
            has_lost: false,
            rng,
        }
    }

    pub(super) fn outbox(&self) -> Option<&Pending> {
        self.records.outbox.as_deref()
    }

    /// Whether its card has lied since this was asked last.
    pub(super) fn has_lost_a_write(&mut self) -> bool {
        core::mem::take(&mut self.has_lost)
    }

    pub(super) fn heads(&self) -> Option<KeptHeads> {
        self.records.heads
    }

    pub(super) fn follows(&self, kind: BlobKind) -> bool {
        self.process.as_ref().is_some_and(|process| process.follows[kind as usize])
    }

    /// A start with the disk as it is.
    pub(super) fn start(&mut self, now: Duration, extractor: Digest, classes: Digest, meter: &mut Meter) {
        self.starts += 1;
        self.power.restore();
        let identity = Identity {
            device: self.id.clone(),
            incarnation: Incarnation(self.rng.next_u64()),
            extractor,
            classes,
            shape: self.shape,
            attributes: self.attributes[self.starts as usize % 2].clone(),
        };
        let (samples, dataset) = self.samples();
        let pending = self.outbox().map(|pending| pending.update.clone());
        let session = meter.of(Owner::Devices, || Session::new(identity, samples, dataset, pending));
        self.process = Some(Process { session, started: now, job: None, jobs: 0, is_deaf: false, follows: [false; 2] });
    }

    /// The process is gone. A card that lies has lost its last write, if this was a power cut.
    pub(super) fn die(&mut self, meter: &mut Meter) {
        let process = self.process.take();
        meter.of(Owner::Devices, || drop(process));
        if !self.power.is_on() && self.rng.random_bool(0.25) {
            self.records = self.former.clone();
            self.has_lost = true;
        }
    }

    /// The samples that it holds now.
    pub(super) fn dataset(&self) -> &Rc<Dataset> {
        &self.datasets[self.changes % 2]
    }

    /// How many samples it holds, and which.
    pub(super) fn samples(&self) -> (u32, DatasetId) {
        let dataset = self.dataset();
        if self.is_filled { (dataset.labels.len() as u32, dataset.id) } else { (0, DatasetId::default()) }
    }

    /// A frame arrived; gives why it was ignored, if it is no message.
    pub(super) fn hear(&mut self, now: Duration, frame: &[u8], meter: &mut Meter) -> Option<Refusal> {
        let process = self.process.as_mut()?;
        let now = now - process.started;
        meter.of(Owner::Devices, || match decode_to_device(frame) {
            Ok((message, block)) => {
                process.session.handle_message(now, message, block);
                None
            }
            Err(error) => Some(error.refusal()),
        })
    }

    /// Does the work that the session asked for and keeps the update; `false` if it came to nothing.
    pub(super) fn finish_work(&mut self, now: Duration, ending: Ending, meter: &mut Meter) -> bool {
        let Some(job) = self.process.as_mut().and_then(|process| process.job.take()) else { return false };
        let update = if ending == Ending::Done { self.work_and_keep(&job) } else { None };
        let Some(process) = self.process.as_mut().filter(|_| self.power.is_on()) else { return false };
        let now = now - process.started;
        let is_done = update.is_some();
        meter.of(Owner::Devices, || {
            drop(job);
            match &update {
                Some(update) => process.session.handle_update(now, update.clone()),
                None if ending == Ending::Interrupted => process.session.handle_interruption(now),
                None => process.session.handle_failure(now),
            }
        });
        is_done
    }

    fn work_and_keep(&mut self, job: &Job) -> Option<FinishedUpdate> {
        let kept = self.records.method.clone();
        let worked = work(job, &self.id, self.dataset(), kept.as_deref(), &mut || true);
        let Worked { update, state } = worked.expect("every plan can be trained");
        let update =
            FinishedUpdate { run: job.announcement.run, round: job.announcement.round, blob: Blob::of(update) };
        let pending = Pending { digest: update.blob.digest(), update: update.clone() };
        self.kept_before.extend(kept.map(|kept| (pending.digest, kept)));
        self.write(|records| {
            records.outbox = Some(Rc::new(pending));
            records.method = state.map(Rc::new).or(records.method.take());
        })
        .then_some(update)
    }

    /// Carries out what the session decided; gives `false` if the power failed meanwhile.
    pub(super) fn act(&mut self, meter: &mut Meter, wish: &mut dyn FnMut(Wish)) -> bool {
        loop {
            let Some(process) = self.process.as_mut().filter(|_| self.power.is_on()) else { return false };
            let Some(action) = meter.of(Owner::Devices, || process.session.poll_action()) else { return true };
            match action {
                Action::Send(message, block) => {
                    let frame: Rc<[u8]> = encode(&message, &block).into();
                    meter.of(Owner::Devices, || drop((message, block)));
                    wish(Wish::Say(frame));
                }
                Action::Follow(kind) => process.follows[kind as usize] = true,
                Action::Unfollow(kind) => process.follows[kind as usize] = false,
                Action::Work(job) => {
                    assert!(process.job.is_none(), "a session gives one job at a time");
                    process.job = Some(job);
                    process.jobs += 1;
                    wish(Wish::Work(process.jobs));
                }
                Action::Interrupt => wish(Wish::Interrupt(process.jobs)),
                Action::Reconnect => wish(Wish::Reconnect),
                Action::SaveHeads { run, round, digest, heads } => {
                    meter.of(Owner::Devices, || drop(heads));
                    self.write(|records| records.heads = Some(KeptHeads { run, round, digest }));
                }
                Action::EmptyOutbox(digest) => {
                    if self.outbox().is_some_and(|pending| pending.digest == digest) {
                        self.write(|records| records.outbox = None);
                    }
                }
                Action::Report(Event::Delivered(round)) => self.confirm_state(round),
                // An event owns no memory.
                Action::Report(_) => {}
            }
        }
    }

    /// What the method kept with this round's update counts from now on.
    fn confirm_state(&mut self, round: RoundId) {
        let is_open = |state: &Rc<MethodState>| state.round == round.0 && !state.is_confirmed;
        if let Some(state) = self.records.method.clone().filter(is_open) {
            let confirmed = MethodState { is_confirmed: true, ..MethodState::clone(&state) };
            self.write(|records| records.method = Some(Rc::new(confirmed)));
        }
    }

    /// What the method had kept when the update of this digest was made.
    pub(super) fn kept_before(&self, update: Digest) -> Option<&MethodState> {
        self.kept_before.get(&update).map(Rc::as_ref)
    }

    /// What the broker publishes when the device is gone.
    pub(super) fn last_will(&self) -> Option<Rc<[u8]>> {
        let process = self.process.as_ref()?;
        let will: ToAggregator = process.session.last_will();
        Some(encode(&will, &[]).into())
    }

    /// One commit; `false` if whoever asked for it hears nothing, for the power failed.
    fn write(&mut self, change: impl FnOnce(&mut Records)) -> bool {
        let draw = self.power.draw();
        if draw != Draw::Nothing {
            self.former = self.records.clone();
            change(&mut self.records);
        }
        draw == Draw::Full
    }
}
