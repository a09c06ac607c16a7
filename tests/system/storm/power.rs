//! The power of one part, which fails in the middle of a write.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Draw {
    /// It is durable, and whoever asked hears so.
    Full,
    /// It is durable, and the power fails before anybody hears so.
    Lands,
    /// Nothing of it is there: the power failed before, or is off.
    Nothing,
}

/// Counts the writes until the power fails.
pub(super) struct Power {
    is_on: bool,
    /// Writes left, the one that is cut included.
    writes: Option<u32>,
    rng: ChaCha8Rng,
}

impl Default for Power {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Power {
    pub(super) fn new(seed: u64) -> Self {
        Self { is_on: true, writes: None, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// The power fails in one of the next writes, counted from 1.
    pub(super) fn fail_after(&mut self, writes: u32) {
        self.writes = Some(writes);
    }

    /// The next start: the power is on and stays on.
    pub(super) fn restore(&mut self) {
        self.is_on = true;
        self.writes = None;
    }

    /// Whether it failed, or will by itself.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// One write.
    pub(super) fn draw(&mut self) -> Draw {
        if !self.is_on {
            return Draw::Nothing;
        }
        if let Some(writes) = &mut self.writes {
            *writes = writes.saturating_sub(1);
            if *writes == 0 {
                self.is_on = false;
                return if self.rng.random_bool(0.5) { Draw::Lands } else { Draw::Nothing };
            }
        }
        Draw::Full
    }
}
