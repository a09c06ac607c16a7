//! What the fleet asks for and what this device makes of it: which round is worked on, and which was answered.

use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{
    BlobRef, Digest, Request, RoundAnnouncement, RoundId, RunId, Task, is_selected, largest_heads,
    largest_side_information,
};

use super::context::Context;
use super::download::{Missing, Model};
use super::link::Candidate;
use super::{Action, Event, Job};

/// The newest announcement and the state of this device's work on it.
#[derive(Default)]
pub(super) struct Work {
    announcement: Option<RoundAnnouncement>,
    /// Whether it was reported that the fleet rests.
    rests: bool,
    /// The round this device last answered or gave up; it works on none twice.
    answered: Option<(RunId, RoundId)>,
    working: Option<(RunId, RoundId)>,
    saved: Option<Digest>,
}

/// What an announcement says that the one before did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum News {
    None,
    /// Of the same start of the aggregator.
    Round,
    /// The first announcement that was heard.
    FirstStart,
    /// The aggregator has started again.
    OtherStart,
}

impl Work {
    /// `answered` is the round of the update that a former start left.
    pub(super) fn new(answered: Option<(RunId, RoundId)>) -> Self {
        Self { answered, ..Self::default() }
    }

    /// An announcement of a round before one this device already knows of, or whose update is `pending`: a broker that lost
    /// its newest retained messages. A new start of the aggregator is believed, whatever its round, but not before there is
    /// a word on the update of a later round: an aggregator that really went back refuses that one.
    pub(super) fn is_stale(&self, announcement: &RoundAnnouncement, pending: Option<(RunId, RoundId)>) -> bool {
        let is_of_this_start = |known: &&RoundAnnouncement| known.incarnation == announcement.incarnation;
        let known = self.announcement.as_ref().filter(is_of_this_start).map(round_of);
        let is_before = |(run, round): (RunId, RoundId)| run == announcement.run && announcement.round < round;
        [known, self.working, pending].into_iter().flatten().any(is_before)
    }

    pub(super) fn handle_announcement(&mut self, context: &mut Context, announcement: RoundAnnouncement) -> News {
        if self.announcement.as_ref() == Some(&announcement) {
            return News::None;
        }
        let (round, incarnation) = (round_of(&announcement), announcement.incarnation);
        let is_resting = announcement.task == Task::Rest;
        let Some(former) = self.announcement.replace(announcement) else {
            self.rests = false;
            return News::FirstStart;
        };
        if former.task == Task::Rest && !is_resting {
            self.rests = false;
            context.report(Event::GoesOn);
        }
        self.rests &= round_of(&former) == round;
        if former.incarnation == incarnation { News::Round } else { News::OtherStart }
    }

    /// Whether this is the newest round: the update of any other is of no use to anybody.
    #[must_use]
    pub(super) fn handle_update(&mut self, context: &mut Context, round: (RunId, RoundId), digest: Digest) -> bool {
        self.working = None;
        if !self.is_current(round) {
            context.report(Event::Outdated(round.1));
            context.act(Action::EmptyOutbox(digest));
            return false;
        }
        self.answered = Some(round);
        true
    }

    /// The round that is worked on goes on without this device.
    pub(super) fn handle_failure(&mut self) {
        self.answered = self.working.take().or(self.answered);
    }

    /// The round that was worked on is worked on anew, if it goes on.
    pub(super) fn handle_interruption(&mut self) {
        self.working = None;
    }

    /// The update of this round was dropped. Should the round come back after all, the work is done again.
    pub(super) fn handle_dropped(&mut self, round: (RunId, RoundId)) {
        self.answered.take_if(|answered| *answered == round);
    }

    /// The newest round goes on without this device.
    pub(super) fn give_up(&mut self) {
        self.answered = self.announcement.as_ref().map(round_of);
    }

    /// Ends work on a round that is over since this news.
    pub(super) fn review(&self, context: &mut Context, news: News) {
        if news != News::None && self.working.is_some_and(|working| !self.is_current(working)) {
            context.act(Action::Interrupt);
        }
    }

    /// Ends work on any round.
    pub(super) fn interrupt(&self, context: &mut Context) {
        if self.working.is_some() {
            context.act(Action::Interrupt);
        }
    }

    /// Takes the next step towards what the newest announcement asks for: keeps its heads, begins its work, or gives the
    /// part of the model that must be fetched first.
    #[must_use]
    pub(super) fn proceed(
        &mut self,
        context: &mut Context,
        candidate: Candidate<'_>,
        model: &mut Model,
    ) -> Option<Missing> {
        let announcement = self.announcement.as_ref()?;
        let (has_work, rests) = (self.has_work(announcement, candidate), announcement.task == Task::Rest);
        if !has_work && !rests {
            return None;
        }
        let usable = announcement.heads.filter(|blob| !model.is_unusable(blob));
        let heads = match usable.map(|blob| model.heads(&blob).ok_or(blob)).transpose() {
            Ok(heads) => heads,
            Err(blob) => {
                return Some(Missing { kind: BlobKind::Heads, blob, limit: largest_heads(announcement.shape) });
            }
        };
        if let (Some(BlobRef { digest, .. }), Some(heads)) = (usable, &heads)
            && self.saved.replace(digest) != Some(digest)
        {
            let (run, round, heads) = (announcement.run, announcement.round, heads.clone());
            context.act(Action::SaveHeads { run, round, heads, digest });
            context.report(Event::NewHeads(digest));
        }
        if rests && !core::mem::replace(&mut self.rests, true) {
            context.report(Event::Rests(announcement.round));
        }
        if !has_work {
            return None;
        }
        if usable != announcement.heads {
            self.give_up();
            return None;
        }
        let side_information = announcement.side_information.map(|blob| model.side_information(&blob).ok_or(blob));
        let side_information = match side_information.transpose() {
            Ok(side_information) => side_information,
            Err(blob) => {
                let limit = largest_side_information(announcement.shape, announcement.params.method);
                return Some(Missing { kind: BlobKind::SideInformation, blob, limit });
            }
        };
        if self.working.is_none() {
            self.working = Some(round_of(announcement));
            // Prototypes are large and new every round; means and priors stay the same for the whole run.
            if announcement.params.method.renews_side_information() {
                model.forget_side_information();
            }
            context.report(Event::RoundBegan(announcement.round));
            context.act(Action::Work(Job { announcement: announcement.clone(), heads, side_information }));
        }
        None
    }

    fn has_work(&self, announcement: &RoundAnnouncement, candidate: Candidate<'_>) -> bool {
        // Who has nothing any more says so, and what it told is taken off.
        let takes_off = |request: Request| !request.is_training() && !announcement.only.is_empty();
        let can_answer = |request| candidate.has_samples || takes_off(request);
        let round = Some(round_of(announcement));
        announcement.task.request().is_some_and(can_answer)
            && candidate.is_eligible
            && self.answered != round
            && self.working != round
            && is_selected(announcement, candidate.device)
    }

    fn is_current(&self, round: (RunId, RoundId)) -> bool {
        self.announcement.as_ref().is_some_and(|announcement| round_of(announcement) == round)
    }
}

fn round_of(announcement: &RoundAnnouncement) -> (RunId, RoundId) {
    (announcement.run, announcement.round)
}
