//! The device's side of the protocol as a pure machine: time and messages come in, actions go out.
//!
//! A [`Session`] routes what happens to its parts, each of which owns its state and its logic and gets the time and a way
//! out: `Link` (hello, welcome, silence), `Download` (the model's blobs, in blocks), `Work` (what is asked for, and what is
//! computed now) and `Outbox` (the update that waits for its receipt).
//!
//! No clock, no socket, no file, no thread. The shell ([`crate::device`]) calls a `handle_…` method, then takes every
//! action with [`Session::poll_action`], and comes back when [`Session::poll_timeout`] says so. Time is a [`Duration`]
//! since any fixed moment.

mod blob;
mod context;
mod download;
mod link;
mod outbox;
#[cfg(test)]
mod tests;
mod work;

use core::time::Duration;
use std::sync::Arc;

use grapevine_models::{Heads, Shape};
use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{
    Attributes, BlockHeader, DatasetId, DeviceId, Digest, Incarnation, Receipt, Refusal, RoundAnnouncement, RoundId,
    RunId, ToAggregator, ToDevice, Welcome,
};

pub use blob::Blob;
use context::Context;
use download::Download;
pub use download::WINDOW as DOWNLOAD_WINDOW;
use link::Link;
use outbox::Outbox;
use work::Work;

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
#[must_use = "the session goes on as if it had been done"]
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
        /// The heads.
        heads: Arc<Heads>,
        /// The digest of their blob.
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
    /// The fleet's heads arrived and cannot be used; why.
    Unusable(Refusal),
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
    pub heads: Option<Arc<Heads>>,
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
    pub blob: Blob,
}

/// The machine. See the module's documentation for how to drive it.
pub struct Session {
    link: Link,
    download: Download,
    work: Work,
    outbox: Outbox,
    context: Context,
}

impl Session {
    /// A device that is not connected yet. `pending` is what a former start left in the outbox.
    pub fn new(identity: Identity, samples: u32, dataset: DatasetId, pending: Option<FinishedUpdate>) -> Self {
        Self {
            context: Context::new(identity.incarnation),
            download: Download::new(identity.shape),
            link: Link::new(identity, samples, dataset),
            work: Work::new(pending.as_ref().map(|update| (update.run, update.round))),
            outbox: Outbox::new(pending),
        }
    }

    /// What to do next, or `None` when there is nothing left to do for now.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        self.context.poll_action()
    }

    /// When to call [`Session::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        // Nothing but the hello goes out before the welcome.
        let is_welcome = self.link.is_welcome();
        let behind_it = || [self.download.poll_timeout(), self.outbox.poll_timeout()];
        let timers = is_welcome.then(behind_it).into_iter().flatten().chain([self.link.poll_timeout()]);
        timers.flatten().min()
    }

    /// The broker is there and all subscriptions stand.
    pub fn handle_connected(&mut self, now: Duration) {
        self.link.handle_connected(self.context.at(now));
    }

    /// The broker is gone. Work goes on; what was on its way is asked for or sent again after the next connect.
    pub fn handle_disconnected(&mut self) {
        self.link.handle_disconnected();
    }

    /// The work is done and its update lies in the outbox on disk.
    pub fn handle_update(&mut self, now: Duration, update: FinishedUpdate) {
        let context = self.context.at(now);
        if self.work.handle_update(context, (update.run, update.round), update.blob.digest()) {
            self.outbox.put(update, now);
            if self.link.is_welcome() {
                self.outbox.offer(context);
            }
        }
        self.proceed(now);
    }

    /// The work failed; the shell has told why. The round goes on without this device.
    pub fn handle_failure(&mut self, now: Duration) {
        self.work.handle_failure();
        self.proceed(now);
    }

    /// The work was ended before its end, as [`Action::Interrupt`] asked. A round that goes on is worked on anew.
    pub fn handle_interruption(&mut self, now: Duration) {
        self.work.handle_interruption();
        self.proceed(now);
    }

    /// The device holds these samples now. Others than before are told to the aggregator at once: it asks for them, or lets
    /// them count in the rounds that follow.
    pub fn handle_samples(&mut self, now: Duration, samples: u32, dataset: DatasetId) {
        self.link.handle_samples(self.context.at(now), samples, dataset);
    }

    /// Everything that waited long enough is said again.
    pub fn handle_timeout(&mut self, now: Duration) {
        let context = self.context.at(now);
        if self.link.is_welcome() {
            self.download.handle_timeout(context);
            self.outbox.handle_timeout(context);
        }
        self.link.handle_timeout(context);
    }

    /// A message of the aggregator, with the block behind it.
    pub fn handle_message(&mut self, now: Duration, message: ToDevice, block: &[u8]) {
        self.link.handle_sound(now);
        let context = self.context.at(now);
        match message {
            ToDevice::Welcome(welcome) => self.handle_welcome(now, &welcome),
            ToDevice::Refused(refused) => self.link.handle_refused(context, &refused),
            ToDevice::RoundAnnouncement(announcement) => self.handle_announcement(now, announcement),
            ToDevice::BlockRequest(request) => self.outbox.handle_block_request(context, &request),
            ToDevice::Block(header) => self.handle_block(now, &header, block),
            ToDevice::Receipt(receipt) => self.handle_receipt(now, &receipt),
        }
    }

    /// A message of another version came. If it is the aggregator's, its answer to a hello is one, too.
    pub fn handle_foreign_version(&mut self, now: Duration) {
        self.link.handle_foreign_version(self.context.at(now));
    }

    /// The broker does not take packets of so many bytes: from now on blocks are smaller. `false` if there are no smaller
    /// ones.
    #[must_use]
    pub fn handle_packet_limit(&mut self, bytes: usize) -> bool {
        self.outbox.handle_packet_limit(bytes)
    }

    /// The message for the broker to publish when this device vanishes.
    #[must_use]
    pub fn last_will(&self) -> ToAggregator {
        self.link.last_will()
    }

    fn handle_welcome(&mut self, now: Duration, welcome: &Welcome) {
        let context = self.context.at(now);
        if self.link.handle_welcome(context, welcome) {
            self.download.resume(context);
            self.outbox.resume(context);
            self.proceed(now);
        }
    }

    fn handle_announcement(&mut self, now: Duration, announcement: RoundAnnouncement) {
        let context = self.context.at(now);
        if announcement.shape != self.link.identity().shape {
            if self.link.handle_foreign_shape(context, announcement.incarnation) {
                // Nothing of the former fleet is of use any more.
                self.work.interrupt(context);
                self.link.greet(context, FIRST_PAUSE);
            }
            return;
        }
        if self.work.is_stale(&announcement, self.outbox.round()) {
            return;
        }
        if let Some(dropped) = self.outbox.drop_outdated(context, &announcement) {
            self.work.handle_dropped(dropped);
        }
        let blobs = [announcement.heads, announcement.side_information];
        let news = self.work.handle_announcement(context, announcement);
        self.download.review(context, blobs);
        self.work.review(context, news);
        if self.link.must_greet(news) {
            return self.link.greet(context, FIRST_PAUSE);
        }
        self.proceed(now);
    }

    fn handle_block(&mut self, now: Duration, header: &BlockHeader, block: &[u8]) {
        if self.download.handle_block(self.context.at(now), header, block) {
            self.proceed(now);
        }
    }

    fn handle_receipt(&mut self, now: Duration, receipt: &Receipt) {
        if self.outbox.handle_receipt(self.context.at(now), receipt) {
            self.proceed(now);
        }
    }

    /// The next step towards what the newest announcement asks for, if one can be taken now.
    fn proceed(&mut self, now: Duration) {
        if !self.link.is_welcome() || self.download.is_busy() {
            return;
        }
        let context = self.context.at(now);
        let Some(missing) = self.work.proceed(context, self.link.candidate(), self.download.model()) else { return };
        if let Err(error) = self.download.begin(context, &missing) {
            // An announcement that names an impossible blob cannot be followed.
            self.work.give_up();
            context.report(Event::Ignored(error.refusal()));
        }
    }
}

fn next_pause(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}
