//! The aggregator's side of the protocol as a pure machine: time and messages come in, actions go out.
//!
//! No clock, no socket, no file. The shell ([`crate::serve`]) calls a `handle_…` method, then takes every action with
//! [`Coordinator::poll_action`], in order, and comes back when [`Coordinator::poll_timeout`] says so. An action that
//! must be durable is answered by a `handle_…` call once it is; only then does the machine tell anybody.
//!
//! One file per phase: `gathering`, `collecting`, `committing`; beside them what `devices` say about themselves and the
//! `registry` of them, the `uploads` on their way in, the model blobs on their way out in `serving`, and in `telling` the
//! announcement that says what is going on.

mod absence;
mod action;
mod collecting;
mod committing;
mod config;
mod contributions;
mod device_index;
mod devices;
mod gathering;
mod model;
mod registry;
pub mod select;
mod serving;
mod settling;
mod sifting;
mod telling;
#[cfg(test)]
mod tests;
mod uploads;
mod watchlist;

use core::time::Duration;
use std::collections::BTreeMap;

use grapevine_protocol::{DeviceId, Incarnation, Refusal, Refused, RoundId, RunId, ToAggregator, ToDevice};

use action::Actions;
pub use action::{Action, Durable, Event, OpenRound, Progress, RoundOutcome, Tell};
pub use collecting::AcceptedUpdate;
use collecting::Collecting;
use committing::Committing;
pub use config::{Auxiliary, Participants, Quarantine, RoundConfig};
pub use contributions::Contribution;
use contributions::Contributions;
use device_index::{Answers, DeviceIndex};
pub use gathering::choose;
pub use model::{Content, Model, ModelError};
pub use registry::{DeviceRecord, Registry};
pub use select::Select;
use serving::Serving;
pub use settling::{Counters, Untaken};
use sifting::Sifting;
use uploads::Uploads;
pub use uploads::WINDOW as UPLOAD_WINDOW;
pub use watchlist::TurnedAway;
use watchlist::Watchlist;

/// The machine. See the module's documentation for how to drive it.
pub struct Coordinator {
    config: RoundConfig,
    incarnation: Incarnation,
    was_connected: bool,
    /// Since when the broker is known to be gone: time stands still until it is back. At the start it runs.
    gone_at: Option<Duration>,
    run: RunId,
    registry: Registry,
    contributions: Contributions,
    /// When statistics were gathered last.
    gathered_at: Option<Duration>,
    /// There are news, of few samples, that wait for their time.
    has_small_news: bool,
    /// Whether the newest round left the model as it was because devices were missing.
    is_held_back: bool,
    progress: Progress,
    phase: Phase,
    uploads: Uploads,
    serving: Serving,
    watchlist: Watchlist,
    /// When the newest announcement went out.
    told_at: Option<Duration>,
    /// The round before this one: a device whose receipt was lost asks again after its round closed.
    closed: Option<(RoundId, Answers)>,
    refusals: BTreeMap<Refusal, u64>,
    actions: Actions,
}

/// How far the open round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundStatus {
    /// Which.
    pub round: RoundId,
    /// Updates that are stored.
    pub accepted: usize,
    /// Updates that it waits for.
    pub expected: usize,
    /// Devices that were chosen, those included that came later.
    pub chosen: usize,
    /// How often it was given more time.
    pub extensions: u32,
    /// When it closes, on the machine's clock.
    pub deadline: Duration,
}

/// Names that [`Waiting`] tells.
const FIRST_NAMES: usize = 4;

/// What the next round waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Devices with samples that must be there.
    pub needed: usize,
    /// Devices with samples that are there and among those that rounds choose from.
    pub able: usize,
    /// The first few of them.
    pub first: Vec<DeviceId>,
}

enum Phase {
    /// Not enough devices to open a round.
    Gathering,
    /// A round is open.
    Collecting(Box<Collecting>),
    /// The merged model cannot be used; the devices that cause that are looked for.
    Sifting(Box<Sifting>),
    /// A merged round waits to be durable.
    Committing(Box<Committing>),
    /// Nothing is to be learned for now, or the number of rounds that was asked for is done.
    Resting,
}

impl Coordinator {
    /// A run that goes on from `progress`, with the devices of the registry and, after a stop in the middle of a round,
    /// that round with its updates. Opens or continues a round as soon as enough devices are there. `incarnation` names this
    /// start, so that devices know that they have to say hello again.
    pub fn new(
        config: RoundConfig,
        incarnation: Incarnation,
        run: RunId,
        progress: Progress,
        registry: Registry,
        open: Option<OpenRound>,
        now: Duration,
    ) -> Self {
        let mut coordinator = Self {
            closed: progress.closed.map(|round| (round, Answers::default())),
            uploads: Uploads::new(config.upload_bytes),
            config,
            incarnation,
            was_connected: false,
            gone_at: None,
            run,
            registry,
            contributions: Contributions::default(),
            gathered_at: None,
            has_small_news: false,
            is_held_back: false,
            progress,
            phase: Phase::Gathering,
            serving: Serving::default(),
            watchlist: Watchlist::default(),
            told_at: None,
            refusals: BTreeMap::new(),
            actions: Actions::default(),
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
        self.actions.next()
    }

    /// When to call [`Coordinator::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let collecting = match &self.phase {
            Phase::Collecting(collecting) if self.gone_at.is_none() => Some(collecting),
            Phase::Collecting(_) | Phase::Gathering | Phase::Sifting(_) | Phase::Committing(_) | Phase::Resting => None,
        };
        let timers = [
            collecting.map(|collecting| collecting.deadline()),
            collecting.and_then(|collecting| collecting.absence_at()),
            self.uploads.again_at(),
            self.serving.flush_at(),
            self.tell_again_at(),
            self.news_at(),
        ];
        timers.into_iter().flatten().min()
    }

    /// Everything whose time has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.publish_wanted_blocks(now);
        self.revive_uploads(now);
        self.check_absence(now);
        self.check_deadline(now);
        self.look_at_news(now);
        self.tell_again(now);
    }

    /// The broker is there: what is retained there may be old, and while it was not there devices may have gone
    /// without a word. A new incarnation in the announcement makes every device say hello again.
    pub fn handle_connected(&mut self, now: Duration) {
        let gone_at = self.gone_at.take().unwrap_or(now);
        if core::mem::replace(&mut self.was_connected, true) {
            self.call_roll();
            self.registry.all_away();
        }
        if let Phase::Collecting(collecting) = &mut self.phase {
            collecting.announcement.incarnation = self.incarnation;
            collecting.go_on(now, gone_at, self.config.deadline);
            collecting.all_may_be_gone(now);
        }
        self.tell(now);
    }

    /// The broker is gone: nobody can answer, so no time runs until it is back.
    pub fn handle_disconnected(&mut self, now: Duration) {
        self.gone_at.get_or_insert(now);
    }

    /// A device's message, with the block behind it.
    pub fn handle_message(&mut self, now: Duration, device: &DeviceId, message: ToAggregator, block: &[u8]) {
        if let ToAggregator::Hello(hello) = &message {
            return self.handle_hello(now, device, hello);
        }
        let Some(index) = self.registry.heard(device, now, block.len()) else {
            return self.refuse_device(device, None, Refusal::UnknownDevice);
        };
        self.watchlist.said_more(index);
        if self.registry.is_quarantined(index) {
            // It was told when that began, and is told again with its next hello.
            return self.count(Some(device), Refusal::Quarantined);
        }
        match message {
            ToAggregator::Hello(_) => {}
            ToAggregator::BlockRequest(request) => self.handle_block_request(now, index, &request),
            ToAggregator::Offer(offer) => self.handle_offer(now, index, &offer, block),
            ToAggregator::Block(header) => self.handle_block(now, index, &header, block),
            ToAggregator::Goodbye(goodbye) => self.handle_goodbye(now, index, &goodbye),
        }
    }

    /// Something arrived that is no message of this protocol or no device's topic.
    pub fn handle_garbage(&mut self, now: Duration, device: Option<&DeviceId>, reason: Refusal) {
        self.count(device, reason);
        if let (Some(device), Refusal::Version) = (device, reason) {
            self.turn_away(now, device, reason);
            self.actions.tell(Tell::Device(device.clone(), ToDevice::Refused(Refused { incarnation: None, reason })));
        }
    }

    /// How often each reason occurred since the start.
    pub fn refusals(&self) -> &BTreeMap<Refusal, u64> {
        &self.refusals
    }

    /// What is known about a device.
    pub fn device(&self, device: &DeviceId) -> Option<DeviceRecord> {
        self.registry.find(device).and_then(|index| self.registry.record(index))
    }

    /// The devices of which more is known than when [`Coordinator::handle_remembered`] was called last.
    pub fn news_of_devices(&self) -> impl Iterator<Item = (DeviceId, DeviceRecord)> {
        let known = |index| Some((self.registry.names().id(index), self.registry.record(index)?));
        self.registry.changed().filter_map(known)
    }

    /// The ledger has all of [`Coordinator::news_of_devices`].
    pub fn handle_remembered(&mut self) {
        self.registry.are_written();
    }

    /// Devices that are there.
    pub fn present(&self) -> usize {
        self.registry.present()
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Whether there is nothing to do for now: the run rests, or the number of rounds that was asked for is done.
    pub fn is_resting(&self) -> bool {
        matches!(self.phase, Phase::Resting)
    }

    /// Whether the number of rounds that was asked for is done.
    pub fn is_finished(&self) -> bool {
        self.is_resting() && self.is_over()
    }

    /// Whether a number of rounds was asked for and all of them are done.
    fn is_over(&self) -> bool {
        let is_one_shot = self.config.params.method.is_one_shot();
        self.config.rounds.is_some_and(|rounds| is_one_shot || self.progress.counters.trained >= rounds)
    }

    /// What a device told the run about its samples, as the ledger has it.
    pub fn handle_contribution(&mut self, device: &DeviceId, contribution: Contribution) {
        let index = self.registry.index(device);
        self.contributions.put(index, contribution);
    }

    /// Whether the open round gathers statistics that are put in the place of others: then
    /// [`Coordinator::handle_stored`] and [`Coordinator::handle_restored`] need what the device told before.
    pub fn replaces_statistics(&self) -> bool {
        let request = match &self.phase {
            Phase::Collecting(collecting) => collecting.request,
            Phase::Sifting(sifting) => sifting.request(),
            Phase::Gathering | Phase::Committing(_) | Phase::Resting => return false,
        };
        !request.is_training() && self.progress.model.statistics.is_some()
    }

    /// Who is there while the next round waits for more; `None` if none waits.
    pub fn waiting(&self) -> Option<Waiting> {
        if !matches!(self.phase, Phase::Gathering) {
            return None;
        }
        let names = self.registry.names();
        let mut able: Vec<DeviceIndex> = self.registry.able().collect();
        able.sort_unstable_by(|one, other| names.order(*one, *other));
        Some(Waiting {
            needed: self.config.min_devices.max(1),
            able: able.len(),
            first: able.iter().take(FIRST_NAMES).map(|index| names.id(*index)).collect(),
        })
    }

    /// The fleet's newest model.
    pub fn model(&self) -> &Model {
        &self.progress.model
    }

    /// The open round.
    pub fn open_round(&self) -> Option<RoundStatus> {
        match &self.phase {
            Phase::Collecting(collecting) => Some(collecting.status()),
            Phase::Sifting(_) | Phase::Gathering | Phase::Committing(_) | Phase::Resting => None,
        }
    }

    fn send(&mut self, index: DeviceIndex, message: ToDevice) {
        self.actions.tell(Tell::Device(self.registry.names().id(index), message));
    }

    fn report(&mut self, event: Event) {
        self.actions.tell(Tell::People(event));
    }
}
