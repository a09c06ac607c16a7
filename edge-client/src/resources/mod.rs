//! How training, extraction and predictions yield to whatever else the device does.
//!
//! [`PauseRule`] decides, [`sensors`] reads, and a [`Throttle`] is what working threads ask at every natural step:
//! between two mini-batches, between two images.

mod pause_rule;
mod semaphore;
mod sensors;

use core::num::NonZeroUsize;
use core::time::Duration;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, never};
use grapevine_host::{Shutdown, cpu};

pub use pause_rule::{Heat, Limits, Pause, PauseRule, Readings};
pub use semaphore::Semaphore;

/// Threads on which a running device works: one for the round, one for the images that come to be stored, one for those
/// that come to be classified.
const WORKING_THREADS: usize = 3;

/// What work may take of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Most threads that train, extract or predict at once; every core without it.
    pub threads: Option<NonZeroUsize>,
    /// How far working threads stand back for others, 0 (not at all) to 19.
    pub nice: u8,
    /// From where on work pauses.
    pub limits: Limits,
    /// How often the sensors are read while there is work.
    pub check_every: Duration,
    /// Where the sensors are: `/sys/class`, but for tests and boards that show theirs elsewhere.
    pub sensors: PathBuf,
    /// Most bytes of decoded samples that stay in memory between rounds.
    pub sample_bytes: u64,
}

/// What working threads ask whether to go on. Clones share it; the default lets everything pass.
#[derive(Clone, Debug, Default)]
pub struct Throttle {
    nice: u8,
    gate: Option<Semaphore>,
    watched: Option<Arc<Watched>>,
}

#[derive(Debug)]
struct Watched {
    check_every: Duration,
    sensors: PathBuf,
    state: Mutex<State>,
    changed: Sender<()>,
    changes: Receiver<()>,
}

#[derive(Debug)]
struct State {
    throttle: PauseRule,
    looked_at: Option<Instant>,
}

impl Throttle {
    /// Threads of one process that share this throttle, or a clone, stay within `resources` together.
    pub fn new(resources: &Resources) -> Self {
        let gate =
            resources.threads.map(NonZeroUsize::get).filter(|threads| *threads < WORKING_THREADS).map(Semaphore::new);
        let (changed, changes) = bounded(1);
        let watched = Watched {
            check_every: resources.check_every,
            sensors: resources.sensors.clone(),
            state: Mutex::new(State { throttle: PauseRule::new(resources.limits), looked_at: None }),
            changed,
            changes,
        };
        Self { nice: resources.nice, gate, watched: Some(Arc::new(watched)) }
    }

    /// Lets only so many devices of one process work at once, and pauses none.
    pub fn gated(gate: Semaphore) -> Self {
        Self { gate: Some(gate), ..Self::default() }
    }

    /// Lets the calling thread stand back for others from now on.
    pub fn lower_priority(&self) {
        if let (1.., Err(error)) = (self.nice, cpu::lower_priority(self.nice)) {
            tracing::debug!(nice = self.nice, "the thread keeps its priority: {error}");
        }
    }

    /// Does `work` when there is a place for one more thread.
    pub fn in_turn<T>(&self, work: impl FnOnce() -> T) -> T {
        match &self.gate {
            Some(gate) => gate.pass(work),
            None => work(),
        }
    }

    /// Waits as long as the device must be spared. `false` as soon as there is a wish to stop.
    pub fn passes(&self, stop: &Shutdown) -> bool {
        loop {
            if stop.is_requested() {
                return false;
            }
            let Some(watched) = self.watched.as_ref().filter(|watched| watched.look()) else { return true };
            // Only a request ends the wait early.
            let _ = stop.receiver().recv_timeout(watched.check_every);
        }
    }

    /// Why work pauses, if it did when somebody asked last.
    pub fn pause(&self) -> Option<Pause> {
        let watched = self.watched.as_ref()?;
        watched.state.lock().unwrap_or_else(PoisonError::into_inner).throttle.pause().cloned()
    }

    /// To select on: something arrives when work began to pause or goes on.
    pub fn changes(&self) -> Receiver<()> {
        self.watched.as_ref().map_or_else(never, |watched| watched.changes.clone())
    }
}

impl Watched {
    /// Whether to pause, by readings that are not older than a period.
    fn look(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now();
        let is_fresh = state.looked_at.is_some_and(|at| now.duration_since(at) < self.check_every);
        if !is_fresh {
            state.looked_at = Some(now);
            if state.throttle.judge(sensors::read(&self.sensors)) {
                match state.throttle.pause() {
                    Some(pause) => tracing::warn!("work pauses: {pause}"),
                    None => tracing::info!("work goes on"),
                }
                // Whoever has not seen the change before sees both at once.
                let _ = self.changed.try_send(());
            }
        }
        state.throttle.pause().is_some()
    }
}

#[allow(clippy::disallowed_methods, reason = "this is a shell: how old a reading is")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests;
