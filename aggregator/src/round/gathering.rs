//! Between rounds: waiting for enough devices, choosing among them, opening the next round.

use core::cmp::Ordering;
use core::time::Duration;
use std::collections::BTreeSet;

use grapevine_protocol::{DeviceId, RoundId, Task, selection_ticket};

use super::places::{Place, PlaceSet};
use super::{Action, Collecting, Coordinator, Event, Participants, Phase};

impl Coordinator {
    /// Opens the next round if there is one and enough devices are there; else waits, or ends the run.
    pub(super) fn gather(&mut self, now: Duration) {
        let task = self.next_task();
        if task == Task::Finished {
            return self.finish(now);
        }
        self.phase = Phase::Gathering;
        let needed = self.config.min_devices.max(1);
        // Who is able is counted device by device: not with every hello of a large fleet that comes.
        if self.registry.present() < needed {
            return;
        }
        let able = self.registry.able().count();
        if able < needed {
            return;
        }
        let (round, method) = (RoundId(self.progress.next_round), self.config.params.method);
        let participants = match task {
            Task::Train if !method.asks_everybody(self.progress.model.aid.is_some()) => self.config.participants,
            // Sums and beginnings are of everybody.
            Task::Train | Task::Statistics { .. } | Task::Wait | Task::Finished => Participants::All,
        };
        let (wanted, chosen) = participants.of(able, self.config.over_select);
        let (asked, highest_ticket) = match participants {
            Participants::All => (self.registry.able().collect(), u64::MAX),
            Participants::Count(_) | Participants::Share(_) => self.choose_among(able, chosen, round),
        };
        let notice = self.notice_of(task, highest_ticket);
        self.actions.push_back(Action::OpenRound { notice: notice.clone(), expected: wanted, chosen });
        let opened = Event::RoundOpened { round, expected: wanted };
        let sum = self.empty_sum(task);
        let collecting = Collecting::new(notice, sum, asked, wanted, now, self.config.deadline);
        self.phase = Phase::Collecting(Box::new(collecting));
        self.tell(now);
        self.report(opened);
    }

    /// As [`choose`], among the `able` devices that can take part.
    fn choose_among(&self, able: usize, wanted: usize, round: RoundId) -> (PlaceSet, u64) {
        let names = self.registry.names();
        let mut tickets: Vec<(u64, Place)> = Vec::with_capacity(able);
        let ticket = |place| (selection_ticket(self.config.seed, round, &names.id(place)), place);
        tickets.extend(self.registry.able().map(ticket));
        lowest(tickets, wanted, |one, other| names.order(*one, *other))
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
    let tickets = able.iter().map(|device| (selection_ticket(seed, round, device), *device)).collect();
    let (chosen, highest): (BTreeSet<&DeviceId>, u64) = lowest(tickets, wanted, Ord::cmp);
    (chosen.into_iter().cloned().collect(), highest)
}

/// The `wanted` devices with the lowest tickets, and the highest ticket among them; `order` is that of the names.
fn lowest<D, C: FromIterator<D>>(
    mut tickets: Vec<(u64, D)>,
    wanted: usize,
    order: impl Fn(&D, &D) -> Ordering,
) -> (C, u64) {
    tickets.sort_unstable_by(|(ticket, one), (other_ticket, other)| {
        ticket.cmp(other_ticket).then_with(|| order(one, other))
    });
    tickets.truncate(wanted);
    let highest = tickets.last().map_or(0, |(ticket, _)| *ticket);
    (tickets.into_iter().map(|(_, device)| device).collect(), highest)
}
