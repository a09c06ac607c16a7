//! A closed round: merge, make durable, go on.

use core::time::Duration;

use grapevine_models::Sums;
use grapevine_protocol::RoundId;

use super::action::Durable;
use super::device_index::DeviceIndex;
use super::model::{ModelAfter, ModelError};
use super::{Collecting, Coordinator, Event, Phase, RoundOutcome};

/// The merged model waits to be durable.
pub(super) struct Committing {
    outcome: RoundOutcome,
}

impl Coordinator {
    /// Merges what the round has and has it made durable.
    pub(super) fn close_round(&mut self, now: Duration) {
        let Phase::Collecting(mut collecting) = core::mem::replace(&mut self.phase, Phase::Gathering) else { return };
        self.uploads.clear();
        let Some(sum) = collecting.sum.take() else { return };
        match self.progress.model.after(sum, self.progress.counters.since_start, &self.config) {
            Ok(after) => self.commit_round(now, *collecting, after),
            Err(ModelError::Unusable) => self.sift(now, *collecting),
            Err(fault @ ModelError::Unreadable(_)) => self.discard_round(now, collecting.announcement.round, fault),
        }
    }

    /// The round is merged: has it made durable.
    pub(super) fn commit_round(&mut self, now: Duration, collecting: Collecting, after: ModelAfter) {
        let status = collecting.status();
        let missed: Vec<DeviceIndex> = collecting.unanswered().collect();
        let Collecting { announcement, request, accepted, samples, contributions, .. } = collecting;
        self.count_missed(now, &missed);
        let mut counters = self.progress.counters;
        let ModelAfter { model, change, held_back, starts_anew } = after;
        let is_statistics = !request.is_training();
        let takes_in = is_statistics || self.config.params.needs() == Sums::Nothing;
        // A round that does not take samples in has no news, whatever its answers are of: else it would have them for ever.
        let has_news = takes_in
            && contributions.iter().any(|(index, contribution)| {
                self.contributions.news(*index, contribution.dataset, contribution.samples).is_some()
            });
        // The next round asks the same devices again, unless some are drawn anew each time.
        let is_of_all = announcement.selection_threshold == u64::MAX;
        if is_statistics {
            counters.gathered(starts_anew);
        } else {
            counters.trained(change, has_news);
            // Where devices train, chance has a part in what they answer.
            counters.is_unchanged &= is_of_all && self.config.params.method.sends_gradient();
        }
        self.is_held_back = held_back.is_some();
        if takes_in {
            contributions.into_iter().for_each(|(index, contribution)| self.contributions.put(index, contribution));
        }
        let outcome = RoundOutcome {
            run: self.run,
            round: announcement.round,
            request,
            model,
            accepted: status.accepted,
            expected: status.expected,
            chosen: status.chosen,
            extensions: status.extensions,
            samples,
            counters,
            change,
            held_back,
            takes_in,
        };
        accepted.from().for_each(|index| self.registry.count_done(index, announcement.round));
        self.closed = Some((announcement.round, accepted));
        self.actions.durable(Durable::Commit(Box::new(outcome.clone())));
        self.phase = Phase::Committing(Box::new(Committing { outcome }));
    }

    /// What a round gave cannot be used: it counts for nothing, and nothing of it is told to anybody.
    pub(super) fn discard_round(&mut self, now: Duration, round: RoundId, fault: ModelError) {
        self.progress.next_round += 1;
        self.actions.durable(Durable::AbandonRound(self.run, round));
        self.report(Event::RoundUnusable { round, fault });
        // The same answers would give the same: the next round waits until a device comes, or the roll is called.
        self.phase = Phase::Gathering;
        self.tell(now);
    }

    /// Rounds to come do not wait for devices that did not answer, until they do.
    pub(super) fn count_missed(&mut self, now: Duration, missed: &[DeviceIndex]) {
        let pause = self.config.deadline;
        missed.iter().for_each(|index| self.registry.count_missed(*index, now, pause));
    }

    /// The merged model is durable: it is the fleet's model now, and the next round may open.
    pub fn handle_committed(&mut self, now: Duration) {
        let Phase::Committing(committing) = core::mem::replace(&mut self.phase, Phase::Gathering) else {
            return;
        };
        let Committing { outcome } = *committing;
        self.progress.counters = outcome.counters;
        self.progress.next_round += 1;
        self.progress.model = outcome.model;
        self.serving.offer(&self.progress.model);
        self.gather_and_tell(now);
    }
}
