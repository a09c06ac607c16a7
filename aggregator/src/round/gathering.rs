//! Between rounds: waiting for enough devices, choosing among them, opening the next round.

use core::time::Duration;
use std::collections::BTreeSet;

use grapevine_protocol::{DeviceId, RoundId, Task, selection_ticket};

use super::{Action, Collecting, Coordinator, DeviceRecord, Event, Participants, Phase};

impl Coordinator {
    /// Opens the next round if there is one and enough devices are there; else waits, or ends the run.
    pub(super) fn gather(&mut self, now: Duration) {
        let task = self.next_task();
        if task == Task::Finished {
            return self.finish(now);
        }
        self.phase = Phase::Gathering;
        let is_able = |record: &DeviceRecord| record.samples > 0 && record.is_eligible;
        let able: Vec<&DeviceId> =
            self.registry.present().filter(|(_, record)| is_able(record)).map(|(device, _)| device).collect();
        if able.len() < self.config.min_devices.max(1) {
            return;
        }
        let round = RoundId(self.progress.next_round);
        let participants = match task {
            Task::Train => self.config.participants,
            // Sums are of everybody.
            Task::Statistics { .. } | Task::Wait | Task::Finished => Participants::All,
        };
        let (wanted, chosen) = participants.of(able.len(), self.config.over_select);
        let (asked, highest_ticket) = match participants {
            Participants::All => (able.into_iter().cloned().collect(), u64::MAX),
            Participants::Count(_) | Participants::Share(_) => choose(&able, chosen, self.config.seed, round),
        };
        let notice = self.notice_of(task, highest_ticket);
        self.actions.push_back(Action::OpenRound { notice: notice.clone(), expected: wanted, chosen });
        let opened = Event::RoundOpened { round, expected: wanted };
        let sum = self.empty_sum(task);
        let collecting = Collecting::new(notice, sum, asked, wanted, now + self.config.deadline);
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
