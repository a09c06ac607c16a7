//! When the shell writes its status, and when it leaves by itself.

use core::time::Duration;

/// Between two statuses when nothing changes.
const INTERVAL: Duration = Duration::from_secs(30);
/// Least time between two statuses: fast rounds must not wear the disk of whoever writes them down.
const LEAST_INTERVAL: Duration = Duration::from_secs(1);
/// After the end of a run: so long no device must have sent anything.
const QUIET: Duration = Duration::from_secs(2);
/// After the end of a run: longest stay.
const LONGEST_STAY: Duration = Duration::from_secs(30);

pub(super) struct StatusSchedule {
    until_finished: bool,
    is_connected: bool,
    /// When a device sent anything, or the broker came.
    received_at: Duration,
    finished_at: Option<Duration>,
    written_at: Option<Duration>,
    has_changed: bool,
}

impl StatusSchedule {
    pub(super) fn new(until_finished: bool) -> Self {
        Self {
            until_finished,
            is_connected: false,
            received_at: Duration::ZERO,
            finished_at: None,
            written_at: None,
            has_changed: false,
        }
    }

    pub(super) fn connected(&mut self, now: Duration, is_connected: bool) {
        self.is_connected = is_connected;
        self.received(now);
        self.changed();
    }

    pub(super) fn is_connected(&self) -> bool {
        self.is_connected
    }

    pub(super) fn received(&mut self, now: Duration) {
        self.received_at = now;
    }

    pub(super) fn changed(&mut self) {
        self.has_changed = true;
    }

    pub(super) fn finished(&mut self, now: Duration) {
        self.finished_at = Some(now);
    }

    /// When to leave, if the run is over and no device sends anything any more.
    pub(super) fn leave_at(&self) -> Option<Duration> {
        let finished = self.finished_at.filter(|_| self.until_finished)?;
        let longest = finished + LONGEST_STAY;
        let quiet = finished.max(self.received_at) + QUIET;
        // Without a broker nobody can ask, so silence means nothing.
        Some(if self.is_connected { quiet.min(longest) } else { longest })
    }

    pub(super) fn status_at(&self) -> Duration {
        let interval = if self.has_changed { LEAST_INTERVAL } else { INTERVAL };
        self.written_at.map_or(Duration::ZERO, |written| written + interval)
    }

    /// Whether to write the status now; then the next one is due later.
    pub(super) fn status_is_due(&mut self, now: Duration) -> bool {
        let is_due = self.status_at() <= now;
        if is_due {
            self.written_at = Some(now);
            self.has_changed = false;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_stays_until_nobody_asks_and_not_for_ever() {
        let mut schedule = StatusSchedule::new(true);
        assert_eq!(schedule.leave_at(), None);
        schedule.finished(seconds(10));
        assert_eq!(schedule.leave_at(), Some(seconds(40)), "nobody can ask without a broker");
        schedule.connected(seconds(11), true);
        assert_eq!(schedule.leave_at(), Some(seconds(13)));
        schedule.received(seconds(12));
        assert_eq!(schedule.leave_at(), Some(seconds(14)));
        schedule.received(seconds(39));
        assert_eq!(schedule.leave_at(), Some(seconds(40)));
        let mut schedule = StatusSchedule::new(false);
        schedule.finished(seconds(10));
        assert_eq!(schedule.leave_at(), None);
    }

    #[test]
    fn a_status_is_written_at_once_then_soon_after_changes_and_else_now_and_then() {
        let mut schedule = StatusSchedule::new(false);
        assert!(schedule.status_is_due(seconds(0)));
        assert!(!schedule.status_is_due(seconds(29)));
        assert!(schedule.status_is_due(seconds(30)));
        schedule.changed();
        assert_eq!(schedule.status_at(), seconds(31));
        assert!(schedule.status_is_due(seconds(31)));
        assert_eq!(schedule.status_at(), seconds(61));
    }
}
