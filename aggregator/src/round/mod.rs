//! The aggregator's side of the protocol as a pure machine: time and messages come in, actions go out.
//!
//! No clock, no socket, no file. The shell ([`crate::serve`]) calls a `handle_…` method, then takes every action with
//! [`Coordinator::poll_action`], in order, and comes back when [`Coordinator::poll_timeout`] says so. An action that
//! must be durable is answered by a `handle_…` call once it is; only then does the machine tell anybody.
//!
//! One file per phase: `gathering`, `collecting`, `committing`; beside them the `registry` of devices, the `uploads` on
//! their way in, the model blobs on their way out in `serving`, and in `telling` the notice that says what is going on.

mod collecting;
mod committing;
mod gathering;
mod model;
mod registry;
mod serving;
mod telling;
#[cfg(test)]
mod tests;
mod uploads;

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use grapevine_models::{Shape, Step, ValidParams};
use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{
    BlockHeader, BootId, DeviceId, Digest, Encoding, Hello, Leaving, Notice, Receipt, Refusal, Refused, RoundId, RunId,
    Task, ToAggregator, ToDevice, Welcome,
};

pub use collecting::AcceptedUpdate;
use collecting::Collecting;
use committing::Committing;
pub use gathering::choose;
pub use model::{Content, Model};
pub use registry::DeviceRecord;
use registry::Registry;
use serving::Serving;
use uploads::Uploads;
pub use uploads::WINDOW as UPLOAD_WINDOW;

/// What a run is to do.
#[derive(Clone, Debug)]
pub struct RoundConfig {
    /// Classes and features of the fleet.
    pub shape: Shape,
    /// SHA-256 of the fleet's extractor.
    pub extractor: Digest,
    /// Digest of the fleet's class list.
    pub classes: Digest,
    /// Method and hyper-parameters.
    pub params: ValidParams,
    /// Rounds of training.
    pub rounds: u32,
    /// Devices with samples that must be there before a round opens.
    pub min_devices: usize,
    /// Devices chosen for a round of training; `None` for all.
    pub participants: Option<usize>,
    /// Share of the chosen devices that must have answered at the deadline, above 0 and at most 1.
    pub quorum: f64,
    /// Time a round is open.
    pub deadline: Duration,
    /// How often a round without its quorum is given the same time again before it is abandoned.
    pub extensions: u32,
    /// How weights and gradients are written.
    pub encoding: Encoding,
    /// Every random choice of the run comes from this.
    pub seed: u64,
    /// Bytes of updates on their way in at any time.
    pub upload_bytes: usize,
    /// The aggregator's own samples, for a method that needs some.
    pub auxiliary: Option<Arc<Auxiliary>>,
}

/// Samples that the aggregator holds itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Auxiliary {
    /// Standardised features, `[sample][feature]`.
    pub features: Vec<f32>,
    /// Classes, `[sample]`.
    pub labels: Vec<u16>,
}

impl Auxiliary {
    /// One name for these samples.
    pub fn digest(&self) -> Digest {
        let features = self.features.iter().flat_map(|feature| feature.to_le_bytes());
        let labels = self.labels.iter().flat_map(|label| label.to_le_bytes());
        Digest::of(&features.chain(labels).collect::<Vec<u8>>())
    }
}

/// How far a run has come; what a restarted aggregator reads from its ledger.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The number of the next round to open.
    pub next_round: u32,
    /// Whether the fleet's sums are there, where the method needs them.
    pub has_sums: bool,
    /// Rounds of training that were merged.
    pub trained: u32,
    /// The newest heads and aid.
    pub model: Model,
    /// The newest merged round, with the updates that are in it.
    pub closed: Option<(RoundId, BTreeMap<DeviceId, Digest>)>,
}

/// A round that was open when the aggregator stopped.
#[derive(Clone, Debug)]
pub struct OpenRound {
    /// Its notice, as published.
    pub notice: Notice,
    /// Devices that were chosen for it.
    pub expected: usize,
    /// The updates in the ledger, each with its content.
    pub accepted: Vec<(DeviceId, Vec<u8>)>,
}

/// What the shell does for the machine, in order.
#[derive(Debug)]
pub enum Action {
    /// Tell one device.
    Send(DeviceId, ToDevice),
    /// Publish a block of a model blob for all who follow it.
    PublishBlock(BlobKind, BlockHeader, Vec<u8>),
    /// Publish the notice, retained.
    PublishNotice(Notice),
    /// Keep what is known about a device.
    RememberDevice(DeviceId),
    /// Write the round into the ledger before its notice goes out.
    OpenRound {
        /// The notice to come.
        notice: Notice,
        /// Devices that were chosen.
        expected: usize,
    },
    /// Make an update durable, then call [`Coordinator::handle_stored`].
    StoreUpdate(AcceptedUpdate),
    /// Make the merged model durable, then call [`Coordinator::handle_committed`].
    Commit(RoundOutcome),
    /// Write into the ledger that the round ended without a merge.
    AbandonRound(RunId, RoundId),
    /// Write into the ledger that the run is over.
    FinishRun(RunId),
    /// Tell people.
    Report(Event),
}

/// A merged round.
#[derive(Clone, Debug)]
pub struct RoundOutcome {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundId,
    /// What it asked for.
    pub task: Task,
    /// The fleet's model after it.
    pub model: Model,
    /// Devices whose updates are in it.
    pub accepted: usize,
    /// Devices that were chosen.
    pub expected: usize,
    /// Samples behind it.
    pub samples: u64,
}

/// What happened, for logs and observers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A device fits the fleet and is there.
    DeviceCame(DeviceId),
    /// A device said goodbye, or its connection broke.
    DeviceLeft(DeviceId),
    /// A round is open.
    RoundOpened {
        /// Which.
        round: RoundId,
        /// Devices that were chosen.
        expected: usize,
    },
    /// An update is stored and in the sum.
    UpdateAccepted {
        /// Whose.
        device: DeviceId,
        /// Of which round.
        round: RoundId,
    },
    /// Something was refused.
    Refused {
        /// Of whom, if that is known.
        device: Option<DeviceId>,
        /// Why.
        reason: Refusal,
    },
    /// The deadline passed below the quorum; the round goes on.
    RoundExtended(RoundId),
    /// The last deadline passed below the quorum; the round counts for nothing.
    RoundAbandoned(RoundId),
    /// The run is over.
    Finished,
}

/// The machine. See the module's documentation for how to drive it.
pub struct Coordinator {
    config: RoundConfig,
    boot: BootId,
    was_connected: bool,
    /// Time runs from the start on, and stands still while the broker is known to be gone.
    is_connected: bool,
    run: RunId,
    registry: Registry,
    progress: Progress,
    phase: Phase,
    uploads: Uploads,
    serving: Serving,
    /// When the newest notice went out.
    told_at: Option<Duration>,
    /// The round before this one: a device whose receipt was lost asks again after its round closed.
    closed: Option<(RoundId, BTreeMap<DeviceId, Digest>)>,
    refusals: BTreeMap<Refusal, u64>,
    actions: VecDeque<Action>,
}

enum Phase {
    /// Not enough devices to open a round.
    Gathering,
    /// A round is open.
    Collecting(Box<Collecting>),
    /// A merged round waits to be durable.
    Committing(Box<Committing>),
    /// The run is over.
    Finished,
}

impl Coordinator {
    /// A run that goes on from `progress`, with the devices of the books and, after a stop in the middle of a round,
    /// that round with its updates. Opens or continues a round as soon as enough devices are there. `boot` names this
    /// start, so that devices know that they have to say hello again.
    pub fn new(
        config: RoundConfig,
        boot: BootId,
        run: RunId,
        mut progress: Progress,
        books: Vec<(DeviceId, DeviceRecord)>,
        open: Option<OpenRound>,
        now: Duration,
    ) -> Self {
        let mut coordinator = Self {
            closed: progress.closed.take(),
            uploads: Uploads::new(config.upload_bytes),
            config,
            boot,
            was_connected: false,
            is_connected: true,
            run,
            registry: Registry::new(books),
            progress,
            phase: Phase::Gathering,
            serving: Serving::default(),
            told_at: None,
            refusals: BTreeMap::new(),
            actions: VecDeque::new(),
        };
        coordinator.serving.offer(&coordinator.progress.model);
        match open {
            Some(open) => coordinator.resume_round(open, now),
            None => coordinator.gather(now),
        }
        coordinator
    }

    /// What to do next, or `None` when there is nothing left to do for now.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Coordinator::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let deadline = match &self.phase {
            Phase::Collecting(collecting) if self.is_connected => Some(collecting.deadline()),
            Phase::Collecting(_) | Phase::Gathering | Phase::Committing(_) | Phase::Finished => None,
        };
        [deadline, self.uploads.again_at(), self.serving.flush_at(), self.tell_again_at()].into_iter().flatten().min()
    }

    /// Everything whose time has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.publish_wanted_blocks(now);
        self.revive_uploads(now);
        self.check_deadline(now);
        self.tell_again(now);
    }

    /// The broker is there: what is retained there may be old, and while it was not there devices may have gone
    /// without a word. A new boot in the notice makes every device say hello again.
    pub fn handle_connected(&mut self, now: Duration) {
        self.is_connected = true;
        if core::mem::replace(&mut self.was_connected, true) {
            self.call_roll();
            let left = self.registry.all_away();
            self.actions.extend(left.into_iter().map(Action::RememberDevice));
        }
        if let Phase::Collecting(collecting) = &mut self.phase {
            collecting.notice.boot = self.boot;
            collecting.restart_deadline(now + self.config.deadline);
        }
        self.tell(now);
    }

    /// The broker is gone: nobody can answer, so no time runs until it is back.
    pub fn handle_disconnected(&mut self) {
        self.is_connected = false;
    }

    /// A device's message, with the block behind it.
    pub fn handle_message(&mut self, now: Duration, device: &DeviceId, message: ToAggregator, block: &[u8]) {
        if let ToAggregator::Hello(hello) = &message {
            return self.handle_hello(now, device, hello);
        }
        if !self.registry.heard(device, now, block.len()) {
            return self.refuse_device(device, None, Refusal::UnknownDevice);
        }
        match message {
            ToAggregator::Hello(_) => {}
            ToAggregator::Want(want) => self.handle_want(now, device, &want),
            ToAggregator::Offer(offer) => self.handle_offer(now, device, &offer, block),
            ToAggregator::Block(header) => self.handle_block(now, device, &header, block),
            ToAggregator::Leaving(leaving) => self.handle_leaving(device, &leaving),
        }
    }

    /// Something arrived that is no message of this protocol or no device's topic.
    pub fn handle_garbage(&mut self, device: Option<&DeviceId>, reason: Refusal) {
        self.count(device, reason);
        if let (Some(device), Refusal::Version) = (device, reason) {
            self.send(device, ToDevice::Refused(Refused { boot: None, reason }));
        }
    }

    /// How often each reason occurred since the start.
    pub fn refusals(&self) -> &BTreeMap<Refusal, u64> {
        &self.refusals
    }

    /// What is known about a device.
    pub fn device(&self, device: &DeviceId) -> Option<&DeviceRecord> {
        self.registry.record(device)
    }

    /// Devices that are there.
    pub fn present(&self) -> usize {
        self.registry.present().count()
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Whether the run is over.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Phase::Finished)
    }

    /// The fleet's newest model.
    pub fn model(&self) -> &Model {
        &self.progress.model
    }

    /// The open round, with how many updates it has of how many it expects.
    pub fn open_round(&self) -> Option<(RoundId, usize, usize)> {
        match &self.phase {
            Phase::Collecting(collecting) => {
                Some((collecting.notice.round, collecting.accepted.len(), collecting.expected.len()))
            }
            Phase::Gathering | Phase::Committing(_) | Phase::Finished => None,
        }
    }

    fn handle_hello(&mut self, now: Duration, device: &DeviceId, hello: &Hello) {
        let reason = if hello.extractor != self.config.extractor {
            Some(Refusal::Extractor)
        } else if hello.classes != self.config.classes {
            Some(Refusal::Classes)
        } else if hello.shape != self.config.shape {
            Some(Refusal::Shape)
        } else if !self.registry.greet(device, hello, now) {
            Some(Refusal::TooManyDevices)
        } else {
            None
        };
        if let Some(reason) = reason {
            return self.refuse_device(device, Some(hello.boot), reason);
        }
        self.serving.forget(device);
        self.send(device, ToDevice::Welcome(Welcome { boot: hello.boot, run: self.run }));
        self.actions.push_back(Action::RememberDevice(device.clone()));
        self.report(Event::DeviceCame(device.clone()));
        match &mut self.phase {
            Phase::Gathering => self.gather(now),
            Phase::Collecting(collecting) => collecting.welcome_back(device, hello.samples),
            Phase::Committing(_) | Phase::Finished => {}
        }
    }

    fn handle_leaving(&mut self, device: &DeviceId, leaving: &Leaving) {
        if self.registry.leave(device, leaving.boot) {
            self.actions.push_back(Action::RememberDevice(device.clone()));
            self.report(Event::DeviceLeft(device.clone()));
        }
    }

    /// What is to be done next in this run.
    fn next_task(&self) -> Task {
        let Progress { has_sums, trained, .. } = self.progress;
        match self.config.params.next_step(has_sums, trained, self.config.rounds) {
            Step::Gather(extent) => Task::Statistics { extent },
            Step::Train => Task::Train,
            Step::Done => Task::Finished,
        }
    }

    fn refuse_device(&mut self, device: &DeviceId, boot: Option<BootId>, reason: Refusal) {
        self.count(Some(device), reason);
        self.send(device, ToDevice::Refused(Refused { boot, reason }));
    }

    /// Refuses an update for good, so that the device does not send it again.
    fn refuse_update(&mut self, device: &DeviceId, run: RunId, round: RoundId, digest: Digest, reason: Refusal) {
        self.count(Some(device), reason);
        self.registry.count_refused(device);
        self.send(device, ToDevice::Receipt(Receipt { run, round, digest, refused: Some(reason) }));
    }

    fn count(&mut self, device: Option<&DeviceId>, reason: Refusal) {
        *self.refusals.entry(reason).or_default() += 1;
        self.report(Event::Refused { device: device.cloned(), reason });
    }

    fn send(&mut self, device: &DeviceId, message: ToDevice) {
        self.actions.push_back(Action::Send(device.clone(), message));
    }

    fn report(&mut self, event: Event) {
        self.actions.push_back(Action::Report(event));
    }
}
