//! Whether the broker is there. Without it nobody can answer, so no time runs until it is back.

use core::time::Duration;

/// At the start time runs, although there was no connection yet.
#[derive(Default)]
pub(super) struct Connection {
    was_made: bool,
    lost_at: Option<Duration>,
}

/// A connection is there.
#[must_use]
pub(super) struct Connected {
    /// There was one before.
    pub(super) is_again: bool,
    /// When that ended; now, if it never did.
    pub(super) lost_at: Duration,
}

impl Connection {
    pub(super) fn made(&mut self, now: Duration) -> Connected {
        let is_again = core::mem::replace(&mut self.was_made, true);
        Connected { is_again, lost_at: self.lost_at.take().unwrap_or(now) }
    }

    pub(super) fn lost(&mut self, now: Duration) {
        self.lost_at.get_or_insert(now);
    }

    /// Whether time runs.
    pub(super) fn is_up(&self) -> bool {
        self.lost_at.is_none()
    }
}
