//! Notices a connection that is open and goes nowhere.

use core::time::Duration;
use std::time::Instant;

/// Watches one connection. Pings already find a dead peer; this finds a live one whose acknowledgements are lost, and
/// a write that blocks for ever.
pub(super) struct Watchdog {
    patience: Duration,
    turned: Instant,
    progressed: Instant,
}

impl Watchdog {
    pub(super) fn new(patience: Duration, now: Instant) -> Self {
        Self { patience, turned: now, progressed: now }
    }

    /// The event loop turned: a packet went out or came in.
    pub(super) fn turned(&mut self, now: Instant) {
        self.turned = now;
    }

    /// The broker acknowledged something.
    pub(super) fn progressed(&mut self, now: Instant) {
        self.progressed = now;
    }

    /// Why the connection should be given up, if it should. `waiting`: something awaits an acknowledgement.
    pub(super) fn verdict(&mut self, now: Instant, waiting: bool) -> Option<&'static str> {
        if !waiting {
            self.progressed = now;
        }
        if now.duration_since(self.turned) >= self.patience {
            return Some("nothing could be sent or received for long");
        }
        let stuck = now.duration_since(self.progressed) >= self.patience;
        stuck.then_some("the broker acknowledged nothing for long")
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an Instant can only be made by the clock")]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn an_idle_connection_that_pings_is_left_alone() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(MINUTE * 3, start);
        for minute in 1..100 {
            let now = start + MINUTE * minute;
            watchdog.turned(now);
            assert_eq!(watchdog.verdict(now, false), None);
        }
    }

    #[test]
    fn lost_acknowledgements_are_noticed_although_pings_are_answered() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(MINUTE * 3, start);
        let verdicts: Vec<_> = (1..=5u32)
            .map(|minute| {
                let now = start + MINUTE * minute;
                watchdog.turned(now);
                if minute == 1 {
                    watchdog.progressed(now);
                }
                watchdog.verdict(now, true).is_some()
            })
            .collect();
        assert_eq!(verdicts, [false, false, false, true, true]);
    }

    #[test]
    fn silence_is_noticed_even_when_nothing_waits() {
        let start = Instant::now();
        let mut watchdog = Watchdog::new(Duration::from_secs(15), start);
        assert_eq!(watchdog.verdict(start + Duration::from_secs(14), false), None);
        assert!(watchdog.verdict(start + Duration::from_secs(15), false).is_some());
    }
}
