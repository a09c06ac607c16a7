//! A run: what it has learned, from whom, and what its next round asks. It rests once its rounds change nothing any more,
//! and goes on when devices or images come.

use core::time::Duration;

use grapevine_models::{Request, RoundSum, Sums};
use grapevine_protocol::{Digest, RoundId, RunId};

use super::contributions::Contributions;
use super::device_index::{Answers, DeviceIndex, DeviceSet};
use super::model::ModelAfter;
use super::registry::Registry;
use super::{Counters, Model, ModelError, Progress, RoundConfig};

/// News of at least one in so many of the samples that the run knows are taken in at once.
const LARGE_NEWS: u64 = 10;
/// Smaller news wait until so many rounds of training are done since the last ones, or the run rests.
const ROUNDS_BETWEEN: u32 = 20;

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

/// What stays from round to round.
pub(super) struct RunState {
    pub(super) id: RunId,
    /// The number of the open round, or of the next one.
    pub(super) next_round: RoundId,
    pub(super) counters: Counters,
    pub(super) model: Model,
    pub(super) contributions: Contributions,
    /// The newest merged round: a device whose receipt was lost asks again after its round closed.
    closed: Option<(RoundId, Answers)>,
    /// Whether the newest round left the model as it was because devices were missing.
    is_held_back: bool,
    /// When statistics were gathered last.
    gathered_at: Option<Duration>,
    /// There are news, of few samples, that wait for their time.
    has_small_news: bool,
}

impl RunState {
    pub(super) fn new(id: RunId, progress: Progress) -> Self {
        let Progress { next_round, counters, model, closed } = progress;
        Self {
            id,
            next_round: RoundId(next_round),
            counters,
            model,
            contributions: Contributions::default(),
            closed: closed.map(|round| (round, Answers::default())),
            is_held_back: false,
            gathered_at: None,
            has_small_news: false,
        }
    }

    /// The sum of a round that asks for this, with nothing in it.
    pub(super) fn empty_sum(&self, request: Request, config: &RoundConfig) -> Result<RoundSum, ModelError> {
        let known = self.model.decode(config)?;
        Ok(RoundSum::new(config.shape, request, &config.params, &known))
    }

    /// What a round with this sum makes of the model.
    pub(super) fn merge(&self, sum: RoundSum, config: &RoundConfig) -> Result<ModelAfter, ModelError> {
        self.model.after(sum, self.counters.since_start, config)
    }

    /// Whether a round that asks this puts statistics in the place of others, and adds what comes to what is known.
    pub(super) fn is_addition(&self, request: Request) -> bool {
        !request.is_training() && self.model.statistics.is_some()
    }

    /// A round is opened.
    pub(super) fn opened(&mut self, now: Duration, request: Request) {
        self.has_small_news = false;
        if !request.is_training() {
            self.gathered_at = Some(now);
        }
    }

    /// The open round is over.
    pub(super) fn count_round(&mut self) {
        self.next_round.0 += 1;
    }

    /// A round was merged of these answers.
    pub(super) fn merged(&mut self, round: RoundId, answers: Answers, is_held_back: bool) {
        (self.closed, self.is_held_back) = (Some((round, answers)), is_held_back);
    }

    /// By the ledger, this update is in the newest merged round.
    pub(super) fn merged_before(&mut self, index: DeviceIndex, digest: &Digest) {
        if let Some((_, answers)) = &mut self.closed {
            answers.insert(index, digest);
        }
    }

    /// The newest merged round and its updates.
    pub(super) fn newest_merged(&self) -> Option<(RoundId, &Answers)> {
        self.closed.as_ref().map(|(round, answers)| (*round, answers))
    }

    /// A device came while the run rests: it may have news, or be one that the last round lacked.
    pub(super) fn wake(&mut self, index: DeviceIndex) {
        let has_answered = self.closed.as_ref().is_some_and(|(_, answers)| answers.has(index));
        if self.is_held_back && !has_answered {
            self.counters.is_unchanged = false;
        }
    }

    /// Whether a number of rounds was asked for and all of them are done.
    pub(super) fn is_over(&self, config: &RoundConfig) -> bool {
        let is_one_shot = config.params.method.is_one_shot();
        config.rounds.is_some_and(|rounds| is_one_shot || self.counters.trained >= rounds)
    }

    /// What the next round asks; `None` where nothing is to be learned.
    #[must_use]
    pub(super) fn next_request(&self, now: Duration, config: &RoundConfig, registry: &Registry) -> Option<Request> {
        let (has_statistics, trained) = (self.model.statistics.is_some(), self.counters.trained);
        let next =
            |has_statistics| config.params.next_request(has_statistics, trained, config.rounds.unwrap_or(u32::MAX));
        if has_statistics && self.news_are_due(now, config, registry) {
            return next(false);
        }
        let rests = self.has_settled(config) && !self.awaits_first_rounds(now, config, registry);
        next(has_statistics).filter(|request| !request.is_training() || !rests)
    }

    /// Whether further rounds with the same samples would change nothing that counts. With a number of rounds that was
    /// asked for, all of them are done unless they would change nothing at all.
    fn has_settled(&self, config: &RoundConfig) -> bool {
        self.counters.have_settled(config.rounds.is_none().then_some(config.rest_after))
    }

    /// Whether the method takes in news by nothing but rounds of training, and some device has any.
    fn awaits_first_rounds(&self, now: Duration, config: &RoundConfig, registry: &Registry) -> bool {
        config.params.needs() == Sums::Nothing && !self.news(now, config, registry).0.is_empty()
    }

    /// Whether there are news to be gathered now.
    fn news_are_due(&self, now: Duration, config: &RoundConfig, registry: &Registry) -> bool {
        let trains = !config.params.method.is_one_shot();
        if config.params.needs() == Sums::Nothing || (trains && self.is_over(config)) {
            return false;
        }
        let (news, samples) = self.news(now, config, registry);
        if news.is_empty() {
            return false;
        }
        let Counters { since_start, .. } = self.counters;
        let is_large = samples.saturating_mul(LARGE_NEWS) >= self.contributions.samples();
        let is_at_rest = !trains || self.has_settled(config) || since_start >= ROUNDS_BETWEEN;
        is_large || (trains && since_start == 0) || (is_at_rest && self.small_news_at(config) <= now)
    }

    /// When small news are gathered at the earliest.
    fn small_news_at(&self, config: &RoundConfig) -> Duration {
        self.gathered_at.map_or(Duration::ZERO, |at| at + config.news_after)
    }

    /// The run rests: whether it does so although there are news.
    pub(super) fn rest(&mut self, now: Duration, config: &RoundConfig, registry: &Registry) {
        self.has_small_news = !self.news(now, config, registry).0.is_empty();
    }

    /// What cannot be taken in now is looked at again with the next hello.
    pub(super) fn leave_news(&mut self) {
        self.has_small_news = false;
    }

    /// While the run rests: when it looks at small news again.
    pub(super) fn news_at(&self, config: &RoundConfig) -> Option<Duration> {
        self.has_small_news.then(|| self.small_news_at(config))
    }

    /// Why the run, which rests, does so although devices have news; `None` if they will be taken in, or there are none.
    #[must_use]
    pub(super) fn untaken(&self, now: Duration, config: &RoundConfig, registry: &Registry) -> Option<Untaken> {
        // At the end of time nobody is silent.
        let devices_at = |time| self.news(time, config, registry).0.len();
        let (devices, all) = (devices_at(now), devices_at(Duration::MAX));
        let (able, needed) = (registry.able().count(), config.min_devices.max(1));
        let is_over = self.is_over(config) && !config.params.method.is_one_shot();
        match all {
            0 => None,
            devices if is_over => Some(Untaken::RoundsDone { devices }),
            devices if able < needed => Some(Untaken::TooFewDevices { devices, able, needed }),
            all if all > devices => Some(Untaken::NoAnswer { devices: all - devices }),
            _ => None,
        }
    }

    /// The devices that can take part and hold samples that the run does not know, and of how many.
    #[must_use]
    pub(super) fn news(&self, now: Duration, config: &RoundConfig, registry: &Registry) -> (DeviceSet, u64) {
        let mut news = DeviceSet::default();
        let mut samples = 0_u64;
        let has_statistics = config.params.needs() != Sums::Nothing;
        for index in registry.there().filter(|index| !registry.is_silent(*index, now)) {
            let Some((dataset, held)) = registry.dataset(index) else { continue };
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
