//! Between rounds: waiting for enough devices, choosing among them, opening the next round.

use core::cmp::Ordering;
use core::time::Duration;
use std::collections::BTreeSet;

use grapevine_models::Request;
use grapevine_protocol::limits::MAX_NAMED_DEVICES;
use grapevine_protocol::{DeviceId, RoundAnnouncement, RoundId, Task, named_draw, selection_draw};

use super::action::Durable;
use super::device_index::{DeviceIndex, DeviceSet};
use super::{Collecting, Coordinator, Event, Participants, Phase};

impl Coordinator {
    /// Opens the next round if there is one and enough devices are there; else waits, or ends the run.
    pub(super) fn gather(&mut self, now: Duration) {
        let Some(request) = self.next_request(now) else { return self.rest(now) };
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
        if !request.is_training() && self.progress.model.statistics.is_some() {
            return self.gather_news(now, request);
        }
        let (round, method) = (RoundId(self.progress.next_round), self.config.params.method);
        let asks_everybody = method.asks_everybody(self.progress.model.side_information.is_some());
        // Statistics and beginnings are of everybody.
        let is_drawn = request.is_training() && !asks_everybody;
        let participants = if is_drawn { self.config.participants } else { Participants::All };
        let (wanted, chosen) = participants.of(able, self.config.over_select);
        let (asked, selection_threshold) = match participants {
            Participants::All => (self.registry.able().collect(), u64::MAX),
            Participants::Count(_) | Participants::Share(_) => self.choose_among(able, chosen, round),
        };
        let announcement = self.announcement_of(Task::Round(request), selection_threshold);
        self.open(now, announcement, request, asked, wanted);
    }

    /// Asks the devices that hold samples which the run does not know for their statistics: each by name, or everybody
    /// where they are too many for an announcement.
    fn gather_news(&mut self, now: Duration, request: Request) {
        let (news, _) = self.news(now);
        let round = RoundId(self.progress.next_round);
        let mut announcement = self.announcement_of(Task::Round(request), u64::MAX);
        let asked = if news.len() <= MAX_NAMED_DEVICES {
            let draw = |index| selection_draw(self.config.seed, round, &self.registry.names().id(index));
            announcement.only = news.iter().map(|index| named_draw(draw(index))).collect();
            news
        } else {
            self.registry.able().collect()
        };
        self.report(Event::NewsGathered { round, devices: asked.len() });
        let wanted = asked.len();
        self.open(now, announcement, request, asked, wanted);
    }

    fn open(
        &mut self,
        now: Duration,
        announcement: RoundAnnouncement,
        request: Request,
        asked: DeviceSet,
        wanted: usize,
    ) {
        let sum = match self.empty_sum(request) {
            Ok(sum) => sum,
            Err(fault) => {
                // It was read at the start; only a fault of this program comes here.
                self.phase = Phase::Gathering;
                return self.report(Event::RoundUnusable { round: announcement.round, fault });
            }
        };
        self.has_small_news = false;
        // While the run rested it offered the inference head.
        self.serving.offer(&self.progress.model);
        if !request.is_training() {
            self.gathered_at = Some(now);
        }
        let chosen = asked.len();
        self.actions.durable(Durable::OpenRound { announcement: announcement.clone(), expected: wanted, chosen });
        let opened = Event::RoundOpened { round: announcement.round, expected: wanted };
        let silent = asked.iter().filter(|index| self.registry.has_missed(*index)).collect();
        let collecting =
            Collecting::new(announcement, request, sum, asked, wanted, now, self.config.deadline).without(silent);
        self.phase = Phase::Collecting(Box::new(collecting));
        self.tell(now);
        self.report(opened);
    }

    /// As [`choose`], among the `able` devices that can take part.
    fn choose_among(&self, able: usize, wanted: usize, round: RoundId) -> (DeviceSet, u64) {
        let names = self.registry.names();
        let mut draws: Vec<(u64, DeviceIndex)> = Vec::with_capacity(able);
        let draw = |index| (selection_draw(self.config.seed, round, &names.id(index)), index);
        draws.extend(self.registry.able().map(draw));
        lowest(draws, wanted, |one, other| names.order(*one, *other))
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

/// Who takes part in a round of training: the `wanted` devices with the lowest draws, and the highest draw among them.
pub fn choose(able: &[&DeviceId], wanted: usize, seed: u64, round: RoundId) -> (BTreeSet<DeviceId>, u64) {
    let draws = able.iter().map(|device| (selection_draw(seed, round, device), *device)).collect();
    let (chosen, highest): (BTreeSet<&DeviceId>, u64) = lowest(draws, wanted, Ord::cmp);
    (chosen.into_iter().cloned().collect(), highest)
}

/// The `wanted` devices with the lowest draws, and the highest draw among them; `order` is that of the names.
fn lowest<D, C: FromIterator<D>>(
    mut draws: Vec<(u64, D)>,
    wanted: usize,
    order: impl Fn(&D, &D) -> Ordering,
) -> (C, u64) {
    draws.sort_unstable_by(|(draw, one), (other_draw, other)| draw.cmp(other_draw).then_with(|| order(one, other)));
    draws.truncate(wanted);
    let highest = draws.last().map_or(0, |(draw, _)| *draw);
    (draws.into_iter().map(|(_, device)| device).collect(), highest)
}
