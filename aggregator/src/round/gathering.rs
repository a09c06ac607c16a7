//! Between rounds: waiting for enough devices, choosing among them, opening the next round.

use core::time::Duration;
use std::collections::BTreeSet;

use grapevine_protocol::{DeviceId, RoundId, Task, selection_ticket};

use super::{Action, Collecting, Coordinator, Event, Phase};

impl Coordinator {
    /// Opens the next round if there is one and enough devices are there; else waits, or ends the run.
    pub(super) fn gather(&mut self, now: Duration) {
        let task = self.next_task();
        if task == Task::Finished {
            return self.finish(now);
        }
        self.phase = Phase::Gathering;
        let able: Vec<&DeviceId> =
            self.registry.present().filter(|(_, record)| record.samples > 0).map(|(device, _)| device).collect();
        if able.len() < self.config.min_devices.max(1) {
            return;
        }
        let round = RoundId(self.progress.next_round);
        let (expected, highest_ticket) = match (task, self.config.participants) {
            (Task::Train, Some(wanted)) => choose(&able, wanted.max(1), self.config.seed, round),
            (Task::Train | Task::Statistics { .. } | Task::Wait | Task::Finished, _) => {
                (able.into_iter().cloned().collect(), u64::MAX)
            }
        };
        let notice = self.notice_of(task, highest_ticket);
        self.actions.push_back(Action::OpenRound { notice: notice.clone(), expected: expected.len() });
        let opened = Event::RoundOpened { round, expected: expected.len() };
        let deadline = now + self.config.deadline;
        let sum = self.empty_sum(task);
        let collecting = Collecting::new(notice, sum, expected, deadline, self.config.extensions);
        self.phase = Phase::Collecting(Box::new(collecting));
        self.tell(now);
        self.report(opened);
    }

    /// After a round: opens the next one, or tells that there is none for now, so that nobody works on the last one.
    pub(super) fn gather_and_tell(&mut self, now: Duration) {
        self.gather(now);
        if matches!(self.phase, Phase::Gathering) {
            self.tell(now);
        }
    }

    fn finish(&mut self, now: Duration) {
        let was_finished = matches!(self.phase, Phase::Finished);
        self.phase = Phase::Finished;
        if !was_finished {
            self.actions.push_back(Action::FinishRun(self.run));
            self.serving.offer_for_use(&self.progress.model);
            self.tell(now);
            self.report(Event::Finished);
        }
    }
}

/// Who takes part in a round of training: the `wanted` devices with the lowest tickets, and the highest ticket among them.
pub fn choose(able: &[&DeviceId], wanted: usize, seed: u64, round: RoundId) -> (BTreeSet<DeviceId>, u64) {
    let mut tickets: Vec<(u64, &DeviceId)> =
        able.iter().map(|device| (selection_ticket(seed, round, device), *device)).collect();
    tickets.sort();
    tickets.truncate(wanted);
    let highest = tickets.last().map_or(0, |(ticket, _)| *ticket);
    (tickets.into_iter().map(|(_, device)| device.clone()).collect(), highest)
}
