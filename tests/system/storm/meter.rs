//! Whose memory and time are whose: bytes that were allocated inside the machines of one kind, less those freed there,
//! and how long these machines took.

use core::time::Duration;

/// Who allocates and computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The aggregator's machine.
    Aggregator,
    /// The machines of all devices.
    Devices,
}

/// How a program asks its allocator and its clock. What crosses from one owner to another must be copied on the way.
#[derive(Clone, Copy, Debug)]
pub struct Instruments {
    /// Bytes allocated now.
    pub current: fn() -> usize,
    /// Most bytes since [`Instruments::reset_peak`].
    pub peak: fn() -> usize,
    /// Begins to look for the most bytes anew.
    pub reset_peak: fn(),
    /// Time since any fixed moment.
    pub clock: fn() -> Duration,
}

/// What an owner takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Bytes now.
    pub bytes: i64,
    /// Bytes at their most.
    pub peak_bytes: i64,
    /// Time until now.
    pub time: Duration,
}

/// Measures, or does nothing where nobody counts allocations.
#[derive(Debug, Default)]
pub struct Meter {
    instruments: Option<Instruments>,
    taken: [Taken; 2],
}

impl Meter {
    /// Measures with these; only one thread may allocate meanwhile.
    pub fn new(instruments: Instruments) -> Self {
        Self { instruments: Some(instruments), taken: [Taken::default(); 2] }
    }

    /// What an owner takes.
    pub fn taken(&self, owner: Owner) -> Taken {
        self.taken[owner as usize]
    }

    /// Forgets peaks, for a look at what comes after a warm-up.
    pub fn forget_peaks(&mut self) {
        self.taken.iter_mut().for_each(|taken| taken.peak_bytes = taken.bytes);
    }

    /// Does something that belongs to an owner.
    pub(super) fn of<T>(&mut self, owner: Owner, work: impl FnOnce() -> T) -> T {
        let Some(instruments) = self.instruments else { return work() };
        (instruments.reset_peak)();
        let (before, began) = ((instruments.current)() as i64, (instruments.clock)());
        let result = work();
        let taken = &mut self.taken[owner as usize];
        taken.peak_bytes = taken.peak_bytes.max(taken.bytes + (instruments.peak)() as i64 - before);
        taken.time += (instruments.clock)().saturating_sub(began);
        taken.bytes += (instruments.current)() as i64 - before;
        result
    }
}
