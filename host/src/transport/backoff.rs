//! How long to wait before the next attempt to connect.

use core::time::Duration;

/// The longest pause after a connection that stood, however short it was: a broker that is restarted again and again is
/// found again soon.
const LONGEST_AFTER_A_CONNECTION: Duration = Duration::from_secs(4);

/// How many times the longest pause it may become where a broker hangs up for a reason that only a person can mend.
const HOPELESS: u32 = 4;

/// The longest pause there ever is.
pub(super) fn longest_of_all(backoff: Backoff) -> Duration {
    backoff.max * HOPELESS
}

/// Pauses between attempts to connect: they double from `first` to `max`, each shortened by up to a half at random,
/// so that a fleet whose broker comes back does not arrive in one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub max: Duration,
    /// Where the randomness begins. The client id is mixed in, so devices with one seed still differ.
    pub seed: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), max: Duration::from_secs(60), seed: 0 }
    }
}

/// The pauses of one transport, in order.
pub(super) struct Pauses {
    backoff: Backoff,
    random: u64,
    /// After the newest attempt that failed, unless a connection stood since.
    failed: Option<Duration>,
    /// After the newest connection that was lost.
    lost: Option<Duration>,
    /// After the newest connection that the broker ended for a reason that stays.
    hopeless: Option<Duration>,
}

impl Pauses {
    pub(super) fn new(backoff: Backoff, client_id: &str) -> Self {
        // FNV-1a: any mixing will do, as long as every run mixes alike.
        let mix = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let random = client_id.bytes().fold(backoff.seed ^ 0xcbf2_9ce4_8422_2325, mix);
        Self { backoff, random, failed: None, lost: None, hopeless: None }
    }

    /// The pause after a connection that `lasted` this long; zero for an attempt that failed.
    ///
    /// Only a connection that outlived the pause before it twice over has the shortest pause: two devices with one
    /// client id throw each other out for ever, and should do it less often.
    pub(super) fn after(&mut self, lasted: Duration) -> Duration {
        let Backoff { first, max, .. } = self.backoff;
        if lasted.is_zero() {
            let base = self.failed.map_or(first, |last| last * 2).min(max);
            self.failed = Some(base);
            return self.jittered(base);
        }
        self.failed = None;
        let base = match self.lost {
            Some(last) if lasted < last * 2 => (last * 2).min(LONGEST_AFTER_A_CONNECTION).max(first),
            Some(_) | None => first,
        };
        self.lost = Some(base.min(max));
        self.jittered(base.min(max))
    }

    /// The longest pause, for a refusal that only a person can lift.
    pub(super) fn longest(&mut self) -> Duration {
        self.jittered(self.backoff.max)
    }

    /// The pause where the broker will hang up again: it doubles far beyond the longest one.
    pub(super) fn hopeless(&mut self) -> Duration {
        let base = self.hopeless.map_or(self.backoff.first, |last| last * 2).min(longest_of_all(self.backoff));
        self.hopeless = Some(base);
        self.jittered(base)
    }

    /// A connection has lasted.
    pub(super) fn calmed(&mut self) {
        self.hopeless = None;
    }

    fn jittered(&mut self, base: Duration) -> Duration {
        // SplitMix64 (Steele, Lea and Flood 2014).
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let fraction = (bits >> 40) as f32 / (1u64 << 24) as f32;
        base - base.mul_f32(fraction / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_the_longest_and_never_fall_below_half() {
        let mut pauses = Pauses::new(Backoff::default(), "device");
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            let pause = pauses.after(Duration::ZERO);
            assert!(pause <= SECOND * expected && pause * 2 >= SECOND * expected, "{pause:?} against {expected} s");
        }
    }

    #[test]
    fn a_connection_ends_the_pauses_of_failed_attempts() {
        let mut pauses = Pauses::new(Backoff::default(), "device");
        for _ in 0..6 {
            pauses.after(Duration::ZERO);
        }
        assert!(pauses.after(SECOND) <= SECOND, "the broker was there a moment ago");
        assert!(pauses.after(Duration::ZERO) <= SECOND);
        assert!(pauses.after(Duration::ZERO) >= SECOND);
        assert!(pauses.longest() >= SECOND * 30);
    }

    #[test]
    fn short_connections_follow_each_other_more_slowly_within_limits() {
        let mut pauses = Pauses::new(Backoff::default(), "device");
        for expected in [1, 2, 4, 4, 4] {
            let pause = pauses.after(SECOND);
            assert!(pause <= SECOND * expected && pause * 2 >= SECOND * expected, "{pause:?} against {expected} s");
        }
        assert!(pauses.after(SECOND * 8) <= SECOND);
    }

    #[test]
    fn what_stays_is_tried_less_and_less() {
        let mut pauses = Pauses::new(Backoff::default(), "device");
        for expected in [1, 2, 4, 8, 16, 32, 64, 128, 240, 240] {
            let pause = pauses.hopeless();
            assert!(pause <= SECOND * expected && pause * 2 >= SECOND * expected, "{pause:?} against {expected} s");
        }
        pauses.calmed();
        assert!(pauses.hopeless() <= SECOND);
    }

    #[test]
    fn devices_with_one_seed_differ_and_a_run_repeats() {
        let pause = |id| Pauses::new(Backoff::default(), id).after(Duration::ZERO);
        assert_ne!(pause("device-1"), pause("device-2"));
        assert_eq!(pause("device-1"), pause("device-1"));
    }
}
