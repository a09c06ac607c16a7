//! A closed round: merge, make durable, go on.

use core::time::Duration;

use grapevine_protocol::Task;

use super::{Action, Collecting, Coordinator, Phase, RoundOutcome};

/// The merged model waits to be durable.
pub(super) struct Committing {
    outcome: RoundOutcome,
}

impl Coordinator {
    /// Merges what the round has and asks for it to be made durable.
    pub(super) fn close_round(&mut self) {
        let Phase::Collecting(collecting) = core::mem::replace(&mut self.phase, Phase::Gathering) else { return };
        let status = collecting.status();
        let Collecting { notice, accepted, sum, samples, .. } = *collecting;
        self.uploads.clear();
        let model = self.progress.model.after(sum, self.progress.trained, &self.config);
        let outcome = RoundOutcome {
            run: self.run,
            round: notice.round,
            task: notice.task,
            model,
            accepted: status.accepted,
            expected: status.expected,
            chosen: status.chosen,
            extensions: status.extensions,
            samples,
        };
        accepted.from().for_each(|place| self.registry.count_done(place, notice.round));
        self.closed = Some((notice.round, accepted));
        self.actions.push_back(Action::Commit(outcome.clone()));
        self.phase = Phase::Committing(Box::new(Committing { outcome }));
    }

    /// The merged model is durable: it is the fleet's model now, and the next round may open.
    pub fn handle_committed(&mut self, now: Duration) {
        let Phase::Committing(committing) = core::mem::replace(&mut self.phase, Phase::Gathering) else {
            return;
        };
        let Committing { outcome } = *committing;
        match outcome.task {
            Task::Statistics { .. } => self.progress.has_sums = true,
            Task::Train => self.progress.trained += 1,
            Task::Wait | Task::Finished => {}
        }
        self.progress.next_round += 1;
        self.progress.model = outcome.model;
        self.serving.offer(&self.progress.model);
        self.gather_and_tell(now);
    }
}
