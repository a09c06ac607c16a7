//! What is to be done next, and when nothing is: a run rests once its rounds change nothing any more, and goes on when
//! devices or images come.

use core::time::Duration;

use grapevine_models::{Request, Sums};

use super::device_index::DeviceSet;
use super::{Coordinator, Phase};

/// A round that changes the heads by less than this share of their length counts for nothing.
const STILL: f32 = 1e-3;
/// So many such rounds in a row, and a run without an end rests.
const STILL_ROUNDS: u32 = 3;
/// News of at least one in so many of the samples that the run knows are taken in at once.
const LARGE_NEWS: u64 = 10;
/// Smaller news wait until so many rounds of training are done since the last ones, or the run rests.
const ROUNDS_BETWEEN: u32 = 20;

/// How far a run has come since it last learned of new samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Rounds of training that were merged.
    pub trained: u32,
    /// Rounds of training since the run last started anew, see [`grapevine_models::RoundResult::starts_anew`].
    pub since_start: u32,
    /// Rounds of training since samples came that the run did not know.
    pub since_news: u32,
    /// Rounds of training in a row that changed next to nothing.
    pub still: u32,
    /// The newest round changed nothing at all, and neither will the next one with the same devices.
    pub is_unchanged: bool,
}

/// Why news are not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untaken {
    /// All rounds that were asked for are done.
    RoundsDone {
        /// Devices that have news.
        devices: usize,
    },
    /// Fewer devices with samples are there than a round needs.
    TooFewDevices {
        /// Devices that have news.
        devices: usize,
        /// Devices with samples that are there.
        able: usize,
        /// Devices with samples that must be there.
        needed: usize,
    },
    /// Devices did not answer when they were asked, and are asked again after a while.
    NoAnswer {
        /// How many.
        devices: usize,
    },
}

impl Counters {
    /// After a round of training. `change` is relative to the length of the heads, and `None` for the first ones.
    pub(super) fn trained(&mut self, change: Option<f32>, has_news: bool) {
        self.trained += 1;
        self.since_start += 1;
        self.since_news = if has_news { 0 } else { self.since_news + 1 };
        self.still = if change.is_some_and(|change| change < STILL) { self.still + 1 } else { 0 };
        self.is_unchanged = change == Some(0.0);
    }

    /// After a round of statistics.
    pub(super) fn gathered(&mut self, starts_anew: bool) {
        let since_start = if starts_anew { 0 } else { self.since_start };
        *self = Self { trained: self.trained, since_start, ..Self::default() };
    }
}

impl Coordinator {
    /// What the next round asks; `None` where nothing is to be learned.
    pub(super) fn next_request(&self, now: Duration) -> Option<Request> {
        let (has_statistics, trained) = (self.progress.model.statistics.is_some(), self.progress.counters.trained);
        let next = |has_statistics| {
            self.config.params.next_request(has_statistics, trained, self.config.rounds.unwrap_or(u32::MAX))
        };
        if has_statistics && self.news_are_due(now) {
            return next(false);
        }
        let rests = self.has_settled() && !self.awaits_first_rounds(now);
        next(has_statistics).filter(|request| !request.is_training() || !rests)
    }

    /// Whether further rounds with the same samples would change nothing that counts. With a number of rounds that was
    /// asked for, all of them are done unless they would change nothing at all.
    fn has_settled(&self) -> bool {
        let Counters { since_news, still, is_unchanged, .. } = self.progress.counters;
        let has_none_left = still >= STILL_ROUNDS || since_news >= self.config.rest_after;
        is_unchanged || (self.config.rounds.is_none() && has_none_left)
    }

    /// Whether the method takes in news by nothing but rounds of training, and some device has any.
    fn awaits_first_rounds(&self, now: Duration) -> bool {
        self.config.params.needs() == Sums::Nothing && !self.news(now).0.is_empty()
    }

    /// Whether there are news to be gathered now.
    fn news_are_due(&self, now: Duration) -> bool {
        let trains = !self.config.params.method.is_one_shot();
        if self.config.params.needs() == Sums::Nothing || (trains && self.is_over()) {
            return false;
        }
        let (news, samples) = self.news(now);
        if news.is_empty() {
            return false;
        }
        let Counters { since_start, .. } = self.progress.counters;
        let is_large = samples.saturating_mul(LARGE_NEWS) >= self.contributions.samples();
        let is_at_rest = !trains || self.has_settled() || since_start >= ROUNDS_BETWEEN;
        is_large || (trains && since_start == 0) || (is_at_rest && self.small_news_at() <= now)
    }

    /// When small news are gathered at the earliest.
    fn small_news_at(&self) -> Duration {
        self.gathered_at.map_or(Duration::ZERO, |at| at + self.config.news_after)
    }

    /// While the run rests: when it looks at small news again.
    pub(super) fn news_at(&self) -> Option<Duration> {
        let is_waiting = matches!(self.phase, Phase::Resting) && self.gone_at.is_none() && self.has_small_news;
        is_waiting.then(|| self.small_news_at())
    }

    /// The time for small news may have come.
    pub(super) fn look_at_news(&mut self, now: Duration) {
        if self.news_at().is_some_and(|at| at <= now) {
            self.gather(now);
            // What cannot be taken in now is looked at again with the next hello.
            self.has_small_news &= !matches!(self.phase, Phase::Resting);
        }
    }

    /// Why the run rests although devices have news; `None` if they will be taken in, or there are none.
    pub fn untaken(&self, now: Duration) -> Option<Untaken> {
        if !matches!(self.phase, Phase::Resting) {
            return None;
        }
        // At the end of time nobody is silent.
        let (devices, all) = (self.news(now).0.len(), self.news(Duration::MAX).0.len());
        let (able, needed) = (self.registry.able().count(), self.config.min_devices.max(1));
        let is_over = self.is_over() && !self.config.params.method.is_one_shot();
        match all {
            0 => None,
            devices if is_over => Some(Untaken::RoundsDone { devices }),
            devices if able < needed => Some(Untaken::TooFewDevices { devices, able, needed }),
            all if all > devices => Some(Untaken::NoAnswer { devices: all - devices }),
            _ => None,
        }
    }

    /// The devices that can take part and hold samples that the run does not know, and of how many.
    pub(super) fn news(&self, now: Duration) -> (DeviceSet, u64) {
        let mut news = DeviceSet::default();
        let mut samples = 0_u64;
        let has_statistics = self.config.params.needs() != Sums::Nothing;
        for index in self.registry.there().filter(|index| !self.registry.is_silent(*index, now)) {
            let Some((dataset, held)) = self.registry.dataset(index) else { continue };
            // Who has nothing any more cannot train, but what it told can be taken off.
            let can_answer = held > 0 || has_statistics;
            if let Some(new) = self.contributions.news(index, dataset, held).filter(|_| can_answer) {
                news.insert(index);
                samples += new;
            }
        }
        (news, samples)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_counted_from_news_and_from_the_last_start() {
        let mut counters = Counters::default();
        counters.trained(None, true);
        counters.trained(Some(0.5), false);
        counters.trained(Some(STILL / 2.0), false);
        counters.trained(Some(0.0), false);
        assert_eq!(counters, Counters { trained: 4, since_start: 4, since_news: 3, still: 2, is_unchanged: true });
        counters.trained(Some(0.2), true);
        assert_eq!(counters, Counters { trained: 5, since_start: 5, since_news: 0, still: 0, is_unchanged: false });
        counters.gathered(false);
        assert_eq!(counters.since_start, 5);
        counters.gathered(true);
        assert_eq!(counters, Counters { trained: 5, ..Counters::default() });
    }
}
