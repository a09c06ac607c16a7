//! The device's side of the protocol as a pure machine: time and messages come in, actions go out.
//!
//! No clock, no socket, no file, no thread. The shell ([`crate::device`]) calls a `handle_…` method, then takes every
//! action with [`Session::poll_action`], and comes back when [`Session::poll_timeout`] says so. Time is a [`Duration`]
//! since any fixed moment.

mod download;
mod greeting;
mod outbox;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use grapevine_models::Shape;
use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{
    Attributes, BlobRef, DatasetId, DeviceId, Digest, Goodbye, Incarnation, Receipt, Refusal, Request,
    RoundAnnouncement, RoundId, RunId, Task, ToAggregator, ToDevice, is_selected, largest_heads,
    largest_side_information,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use download::Download;
pub use download::WINDOW as DOWNLOAD_WINDOW;
use greeting::{Greeting, Link};
use outbox::Outbox;

/// First pause before something unanswered is said again; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Longest pause before something unanswered is said again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Who the device is and what it holds.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name in the fleet.
    pub device: DeviceId,
    /// This start of the program.
    pub incarnation: Incarnation,
    /// SHA-256 of the extractor's file.
    pub extractor: Digest,
    /// Digest of the class list.
    pub classes: Digest,
    /// Classes and features.
    pub shape: Shape,
    /// What it says about itself.
    pub attributes: Attributes,
}

/// What the shell does for the session.
#[derive(Debug)]
pub enum Action {
    /// Publish a message, with a block behind it or an empty one, on the device's topic.
    Send(ToAggregator, Vec<u8>),
    /// Subscribe to the blocks of a model blob.
    Follow(BlobKind),
    /// Unsubscribe from the blocks of a model blob.
    Unfollow(BlobKind),
    /// Do a round's work, put the update into the outbox on disk, then call [`Session::handle_update`].
    Work(Job),
    /// The round that is worked on is over: end the work at its next step, then call [`Session::handle_interruption`].
    Interrupt,
    /// Nothing was heard for long although the broker is there: begin with a new connection.
    Reconnect,
    /// Keep the fleet's heads as the newest ones.
    SaveHeads {
        /// The run they belong to.
        run: RunId,
        /// The round whose announcement named them.
        round: RoundId,
        /// Their blob.
        content: Arc<[u8]>,
        /// Its digest.
        digest: Digest,
    },
    /// The update with this digest has its receipt, or can never get one: empty the outbox on disk.
    EmptyOutbox(Digest),
    /// Tell people.
    Report(Event),
}

/// What happened, for logs and status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The broker is there and all subscriptions stand.
    Connected,
    /// The broker is gone; the shell tries again.
    Disconnected,
    /// The aggregator knows this device.
    Welcome,
    /// The aggregator refuses this device or its update.
    Refused(Refusal),
    /// A round with work for this device began.
    RoundBegan(RoundId),
    /// The update of a round is stored by the aggregator.
    Delivered(RoundId),
    /// An update was dropped: its round is over.
    Outdated(RoundId),
    /// Something that does not belong was ignored: no message of this protocol, an announcement of another fleet's shape,
    /// damaged blocks.
    Ignored(Refusal),
    /// The fleet has nothing to learn for now, and its newest heads, if it has any, are kept.
    Rests(RoundId),
    /// The fleet that rested goes on.
    GoesOn,
    /// The broker is there, and nobody has answered this device's hello for long.
    Unanswered,
    /// Why the shell has no connection to the broker.
    Unreachable(String),
    /// The broker hangs up again and again; what it seems to be, and what to do.
    Trouble(String),
    /// The trouble is over.
    Recovered,
    /// The fleet's newest heads are on this device.
    NewHeads(Digest),
    /// The shell lets work wait to spare the device; why.
    Paused(String),
    /// Work goes on.
    Resumed,
}

/// A round's work: everything it needs.
#[derive(Clone, Debug)]
pub struct Job {
    /// What the aggregator asked for.
    pub announcement: RoundAnnouncement,
    /// The fleet's heads; none in the first round.
    pub heads: Option<Arc<[u8]>>,
    /// Prototypes, means or prior, where the method has one.
    pub side_information: Option<Arc<[u8]>>,
}

/// A finished piece of work, as it lies in the outbox on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FinishedUpdate {
    /// The run it belongs to.
    pub run: RunId,
    /// The round it answers.
    pub round: RoundId,
    /// The encoded update.
    pub content: Vec<u8>,
}

/// The machine. See the module's documentation for how to drive it.
pub struct Session {
    identity: Identity,
    samples: u32,
    /// Which samples they are.
    dataset: DatasetId,
    link: Link,
    /// Whether rounds choose from devices like this one.
    is_eligible: bool,
    announcement: Option<RoundAnnouncement>,
    /// Whether it was reported that the fleet rests.
    rests: bool,
    /// The round this device last answered or gave up; it works on none twice.
    answered: Option<(RunId, RoundId)>,
    working: Option<(RunId, RoundId)>,
    heads: Option<(BlobRef, Arc<[u8]>)>,
    side_information: Option<(BlobRef, Arc<[u8]>)>,
    saved: Option<Digest>,
    download: Option<Download>,
    outbox: Outbox,
    /// Since when nothing was heard on this connection.
    silent_since: Option<Duration>,
    greeting: Greeting,
    rng: ChaCha8Rng,
    actions: VecDeque<Action>,
}

impl Session {
    /// A device that is not connected yet. `pending` is what a former start left in the outbox.
    pub fn new(identity: Identity, samples: u32, dataset: DatasetId, pending: Option<FinishedUpdate>) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(identity.incarnation.0);
        let answered = pending.as_ref().map(|update| (update.run, update.round));
        Self {
            identity,
            samples,
            dataset,
            link: Link::Offline,
            is_eligible: false,
            announcement: None,
            rests: false,
            answered,
            working: None,
            heads: None,
            side_information: None,
            saved: None,
            download: None,
            outbox: Outbox::new(pending),
            silent_since: None,
            greeting: Greeting::default(),
            rng,
            actions: VecDeque::new(),
        }
    }

    /// What to do next, or `None` when there is nothing left to do for now.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Session::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let timers = match self.link {
            Link::Offline => return None,
            // Nothing else goes out before the welcome.
            Link::Greeting { again_at, .. } => [Some(again_at), self.unanswered_at()],
            Link::Welcome => [self.download.as_ref().map(Download::again_at), self.outbox.again_at()],
        };
        timers.into_iter().chain([self.doubt_at()]).flatten().min()
    }

    /// The broker is there and all subscriptions stand.
    pub fn handle_connected(&mut self, now: Duration) {
        self.silent_since = Some(now);
        self.greet(now, FIRST_PAUSE);
    }

    /// The broker is gone. Work goes on; what was on its way is asked for or sent again after the next connect.
    pub fn handle_disconnected(&mut self) {
        self.link = Link::Offline;
        self.silent_since = None;
        self.hang_up_greeting();
    }

    /// The work is done and its update lies in the outbox on disk.
    pub fn handle_update(&mut self, now: Duration, update: FinishedUpdate) {
        self.working = None;
        if !self.is_current(update.run, update.round) {
            self.report(Event::Outdated(update.round));
            let digest = Digest::of(&update.content);
            self.actions.push_back(Action::EmptyOutbox(digest));
        } else {
            self.answered = Some((update.run, update.round));
            self.outbox.put(update, now);
            self.send_offer(now);
        }
        self.proceed(now);
    }

    /// The work failed; the shell has told why. The round goes on without this device.
    pub fn handle_failure(&mut self, now: Duration) {
        self.answered = self.working.take().or(self.answered);
        self.proceed(now);
    }

    /// The work was ended before its end, as [`Action::Interrupt`] asked. A round that goes on is worked on anew.
    pub fn handle_interruption(&mut self, now: Duration) {
        self.working = None;
        self.proceed(now);
    }

    /// The device holds these samples now. Others than before are told to the aggregator at once: it asks for them, or lets
    /// them count in the rounds that follow.
    pub fn handle_samples(&mut self, now: Duration, samples: u32, dataset: DatasetId) {
        let is_same = (self.samples, self.dataset) == (samples, dataset);
        (self.samples, self.dataset) = (samples, dataset);
        if !is_same && self.link != Link::Offline {
            self.greet(now, FIRST_PAUSE);
        }
    }

    /// Everything that waited long enough is said again.
    pub fn handle_timeout(&mut self, now: Duration) {
        match self.link {
            Link::Offline => return,
            Link::Greeting { again_at, pause } if again_at <= now => self.greet(now, next_pause(pause)),
            Link::Greeting { .. } | Link::Welcome => {}
        }
        if self.link == Link::Welcome {
            if self.download.as_ref().is_some_and(|download| download.again_at() <= now) {
                self.ask(now);
            }
            if self.outbox.again_at().is_some_and(|at| at <= now) {
                self.send_offer(now);
            }
        }
        self.tell_unanswered(now);
        self.doubt(now);
    }

    /// A message of the aggregator, with the block behind it.
    pub fn handle_message(&mut self, now: Duration, message: ToDevice, block: &[u8]) {
        self.silent_since = Some(now);
        match message {
            ToDevice::Welcome(welcome) => self.handle_welcome(now, &welcome),
            ToDevice::Refused(refused) => self.handle_refused(now, &refused),
            ToDevice::RoundAnnouncement(announcement) => self.handle_announcement(now, announcement),
            ToDevice::BlockRequest(request) => self.handle_block_request(now, &request),
            ToDevice::Block(header) => self.handle_block(now, &header, block),
            ToDevice::Receipt(receipt) => self.handle_receipt(now, &receipt),
        }
    }

    /// The message for the broker to publish when this device vanishes.
    pub fn last_will(&self) -> ToAggregator {
        ToAggregator::Goodbye(Goodbye { incarnation: self.identity.incarnation })
    }

    fn handle_announcement(&mut self, now: Duration, announcement: RoundAnnouncement) {
        if announcement.shape != self.identity.shape {
            return self.handle_foreign_shape(now, announcement.incarnation);
        }
        if self.is_stale(&announcement) {
            return;
        }
        if self.outbox.round().is_some_and(|(run, round)| run != announcement.run || round < announcement.round) {
            self.drop_outdated();
        }
        if self.announcement.as_ref() != Some(&announcement) {
            let former = self.announcement.replace(announcement);
            if former.as_ref().is_some_and(|former| former.task == Task::Rest) && !self.is_resting() {
                self.rests = false;
                self.report(Event::GoesOn);
            }
            self.rests &= former.as_ref().is_some_and(|former| self.is_current(former.run, former.round));
            self.review_download();
            self.review_work();
            // An aggregator that started again has no devices in its registry, and one that came after this device never
            // heard its hello.
            let incarnation = self.announcement.as_ref().map(|announcement| announcement.incarnation);
            let is_new_start = former.as_ref().map(|former| former.incarnation) != incarnation;
            let is_unanswered = matches!(self.link, Link::Greeting { .. });
            if is_new_start && (is_unanswered || (self.link == Link::Welcome && former.is_some())) {
                return self.greet(now, FIRST_PAUSE);
            }
        }
        self.proceed(now);
    }

    fn handle_receipt(&mut self, now: Duration, receipt: &Receipt) {
        let is_pending = self.outbox.round() == Some((receipt.run, receipt.round));
        if !is_pending || self.outbox.digest() != Some(receipt.digest) {
            return;
        }
        self.outbox.empty();
        self.actions.push_back(Action::EmptyOutbox(receipt.digest));
        self.report(match receipt.refused {
            None => Event::Delivered(receipt.round),
            Some(reason) => Event::Refused(reason),
        });
        self.proceed(now);
    }

    /// Work on a round that is over is of no use to anybody.
    fn review_work(&mut self) {
        if self.working.is_some_and(|(run, round)| !self.is_current(run, round)) {
            self.actions.push_back(Action::Interrupt);
        }
    }

    /// An announcement of a round before one this device already knows of: a broker that lost its newest retained messages. A
    /// new start of the aggregator is believed, whatever its round, but not before there is a word on the update of a
    /// later round: an aggregator that really went back refuses that one.
    fn is_stale(&self, announcement: &RoundAnnouncement) -> bool {
        let known = self
            .announcement
            .as_ref()
            .filter(|known| known.incarnation == announcement.incarnation)
            .map(|known| (known.run, known.round));
        let is_before = |(run, round): (RunId, RoundId)| run == announcement.run && announcement.round < round;
        [known, self.working, self.outbox.round()].into_iter().flatten().any(is_before)
    }

    fn drop_outdated(&mut self) {
        if let (Some(digest), Some((_, round))) = (self.outbox.digest(), self.outbox.round()) {
            // Should its round come back after all, the work is done again.
            self.answered = self.answered.filter(|answered| Some(*answered) != self.outbox.round());
            self.outbox.empty();
            self.actions.push_back(Action::EmptyOutbox(digest));
            self.report(Event::Outdated(round));
        }
    }

    /// Looks at what the newest announcement asks for and takes the next step towards it, if one can be taken now.
    fn proceed(&mut self, now: Duration) {
        let Some(announcement) = self.announcement.clone() else { return };
        if self.link != Link::Welcome || self.download.is_some() {
            return;
        }
        // Who has nothing any more says so, and what it told is taken off.
        let takes_off = |request: Request| !request.is_training() && !announcement.only.is_empty();
        let can_answer = |request| self.samples > 0 || takes_off(request);
        let has_work = announcement.task.request().is_some_and(can_answer)
            && self.is_eligible
            && self.answered != Some((announcement.run, announcement.round))
            && self.working != Some((announcement.run, announcement.round))
            && is_selected(&announcement, &self.identity.device);
        if !has_work && announcement.task != Task::Rest {
            return;
        }
        if let Some(blob) =
            announcement.heads.filter(|blob| self.heads.as_ref().is_none_or(|(have, _)| !have.is_content_of(blob)))
        {
            let limit = largest_heads(announcement.shape);
            return self.begin_download(now, BlobKind::Heads, blob, limit);
        }
        self.save_heads(&announcement);
        if announcement.task == Task::Rest && !self.rests {
            self.rests = true;
            self.report(Event::Rests(announcement.round));
        }
        if !has_work {
            return;
        }
        if let Some(blob) = announcement
            .side_information
            .filter(|blob| self.side_information.as_ref().is_none_or(|(have, _)| !have.is_content_of(blob)))
        {
            let limit = largest_side_information(announcement.shape, announcement.params.method);
            return self.begin_download(now, BlobKind::SideInformation, blob, limit);
        }
        if self.working.is_some() {
            return;
        }
        self.working = Some((announcement.run, announcement.round));
        self.report(Event::RoundBegan(announcement.round));
        let heads = announcement.heads.and(self.heads.as_ref()).map(|(_, content)| content.clone());
        let side_information =
            announcement.side_information.and(self.side_information.as_ref()).map(|(_, content)| content.clone());
        // Prototypes are large and new every round; means and priors stay the same for the whole run.
        self.side_information.take_if(|_| announcement.params.method.renews_side_information());
        self.actions.push_back(Action::Work(Job { announcement, heads, side_information }));
    }

    fn save_heads(&mut self, announcement: &RoundAnnouncement) {
        let is_named = |have: &BlobRef| announcement.heads.is_some_and(|blob| have.is_content_of(&blob));
        let Some((blob, content)) = self.heads.as_ref().filter(|(have, _)| is_named(have)) else { return };
        if self.saved == Some(blob.digest) {
            return;
        }
        let digest = blob.digest;
        self.saved = Some(digest);
        self.actions.push_back(Action::SaveHeads {
            run: announcement.run,
            round: announcement.round,
            content: content.clone(),
            digest,
        });
        self.report(Event::NewHeads(digest));
    }

    fn is_resting(&self) -> bool {
        self.announcement.as_ref().is_some_and(|announcement| announcement.task == Task::Rest)
    }

    fn is_current(&self, run: RunId, round: RoundId) -> bool {
        self.announcement.as_ref().is_some_and(|announcement| (announcement.run, announcement.round) == (run, round))
    }

    fn send(&mut self, message: ToAggregator) {
        self.actions.push_back(Action::Send(message, Vec::new()));
    }

    fn send_block(&mut self, message: ToAggregator, block: Vec<u8>) {
        self.actions.push_back(Action::Send(message, block));
    }

    fn report(&mut self, event: Event) {
        self.actions.push_back(Action::Report(event));
    }

    /// Between half and the whole pause, so that a fleet does not come back in one instant.
    fn jittered(&mut self, pause: Duration) -> Duration {
        pause.mul_f64(0.5 + 0.5 * self.rng.random::<f64>())
    }
}

fn next_pause(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}
