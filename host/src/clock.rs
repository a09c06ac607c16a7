//! The time of day, for what people read and what other processes compare with their own clocks.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970; 0 on a machine whose clock is before that.
#[allow(clippy::disallowed_methods, reason = "the one place that reads this clock; nothing is decided with it")]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
