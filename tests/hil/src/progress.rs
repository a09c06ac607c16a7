//! One line on standard error for each phase of each board, with the time since the start.

use std::time::Instant;

use crate::waiting::now;

/// Prints progress; copies share the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Progress {
    started: Instant,
}

impl Progress {
    /// Starts the clock.
    pub(crate) fn start() -> Self {
        Self { started: now() }
    }

    /// Says what goes on.
    pub(crate) fn say(&self, who: &str, what: &str) {
        eprintln!("{:7.1} s  {who:<10} {what}", (now() - self.started).as_secs_f64());
    }
}
