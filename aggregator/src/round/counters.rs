//! How far a run has come, in numbers that the ledger keeps.

/// A round that changes the heads by less than this share of their length counts for nothing.
const STILL: f32 = 1e-3;
/// So many such rounds in a row, and a run without an end rests.
const STILL_ROUNDS: u32 = 3;

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

impl Counters {
    /// After a round of training. `change` is relative to the length of the heads, and `None` for the first ones.
    pub(super) fn trained(&mut self, change: Option<f32>, has_news: bool) {
        self.trained += 1;
        self.since_start += 1;
        self.since_news = if has_news { 0 } else { self.since_news + 1 };
        self.still = if change.is_some_and(|change| change < STILL) { self.still + 1 } else { 0 };
        self.is_unchanged = change == Some(0.0);
    }

    /// Whether further rounds with the same samples would change nothing that counts: nothing at all, or too little for too
    /// long in a run that has no end and rests after so many rounds without news.
    pub(super) fn have_settled(&self, rest_after: Option<u32>) -> bool {
        let has_none_left = |rest_after| self.still >= STILL_ROUNDS || self.since_news >= rest_after;
        self.is_unchanged || rest_after.is_some_and(has_none_left)
    }

    /// After a round of statistics.
    pub(super) fn gathered(&mut self, starts_anew: bool) {
        let since_start = if starts_anew { 0 } else { self.since_start };
        *self = Self { trained: self.trained, since_start, ..Self::default() };
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
