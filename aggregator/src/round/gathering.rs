//! Between rounds: waiting for enough devices, choosing among them, opening the next round.

use core::cmp::Ordering;
use core::time::Duration;
use std::collections::BTreeSet;

use grapevine_protocol::limits::MAX_NAMED_DEVICES;
use grapevine_protocol::{DeviceId, Notice, RoundId, Task, named_ticket, selection_ticket};

use super::action::Durable;
use super::places::{Place, PlaceSet};
use super::{Collecting, Coordinator, Event, Participants, Phase};

impl Coordinator {
    /// Opens the next round if there is one and enough devices are there; else waits, or ends the run.
    pub(super) fn gather(&mut self, now: Duration) {
        let task = self.next_task(now);
        if task == Task::Rest {
            return self.rest(now);
        }
        let needed = self.config.min_devices.max(1);
        // Who is able is counted device by device: not with every hello of a large fleet that comes.
        let able = if self.registry.present() < needed { 0 } else { self.registry.able().count() };
        if able < needed {
            // A run that rests goes on resting: its heads are to be used meanwhile.
            if !matches!(self.phase, Phase::Resting) {
                self.phase = Phase::Gathering;
            }
            return;
        }
        if let (Task::Statistics { .. }, Some(_)) = (task, &self.progress.model.statistics) {
            return self.gather_news(now, task);
        }
        let (round, method) = (RoundId(self.progress.next_round), self.config.params.method);
        let participants = match task {
            Task::Train if !method.asks_everybody(self.progress.model.aid.is_some()) => self.config.participants,
            // Statistics and beginnings are of everybody.
            Task::Train | Task::Statistics { .. } | Task::Wait | Task::Rest => Participants::All,
        };
        let (wanted, chosen) = participants.of(able, self.config.over_select);
        let (asked, highest_ticket) = match participants {
            Participants::All => (self.registry.able().collect(), u64::MAX),
            Participants::Count(_) | Participants::Share(_) => self.choose_among(able, chosen, round),
        };
        let notice = self.notice_of(task, highest_ticket);
        self.open(now, notice, asked, wanted);
    }

    /// Asks the devices that hold samples which the run does not know for their statistics: each by name, or everybody
    /// where they are too many for a notice.
    fn gather_news(&mut self, now: Duration, task: Task) {
        let (news, _) = self.news(now);
        let round = RoundId(self.progress.next_round);
        let mut notice = self.notice_of(task, u64::MAX);
        let asked = if news.len() <= MAX_NAMED_DEVICES {
            let ticket = |place| selection_ticket(self.config.seed, round, &self.registry.names().id(place));
            notice.only = news.iter().map(|place| named_ticket(ticket(place))).collect();
            news
        } else {
            self.registry.able().collect()
        };
        self.report(Event::NewsGathered { round, devices: asked.len() });
        let wanted = asked.len();
        self.open(now, notice, asked, wanted);
    }

    fn open(&mut self, now: Duration, notice: Notice, asked: PlaceSet, wanted: usize) {
        let sum = match self.empty_sum(notice.task) {
            Ok(sum) => sum,
            Err(fault) => {
                // It was read at the start; only a fault of this program comes here.
                self.phase = Phase::Gathering;
                return self.report(Event::RoundUnusable { round: notice.round, fault });
            }
        };
        self.has_small_news = false;
        // While the run rested it offered the head in use.
        self.serving.offer(&self.progress.model);
        if matches!(notice.task, Task::Statistics { .. }) {
            self.gathered_at = Some(now);
        }
        let chosen = asked.len();
        self.actions.durable(Durable::OpenRound { notice: notice.clone(), expected: wanted, chosen });
        let opened = Event::RoundOpened { round: notice.round, expected: wanted };
        let silent = asked.iter().filter(|place| self.registry.has_missed(*place)).collect();
        let collecting = Collecting::new(notice, sum, asked, wanted, now, self.config.deadline).without(silent);
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

    fn rest(&mut self, now: Duration) {
        let was_resting = matches!(self.phase, Phase::Resting);
        self.phase = Phase::Resting;
        self.has_small_news = !self.news(now).0.is_empty();
        if !was_resting {
            let is_over = self.is_over();
            if is_over {
                self.actions.durable(Durable::FinishRun(self.run));
            }
            self.serving.offer_for_use(&self.progress.model);
            self.tell(now);
            self.report(if is_over { Event::Finished } else { Event::Rested });
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
