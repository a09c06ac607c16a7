//! Ctrl-C and SIGTERM: one wish to stop, seen by every thread.

use core::convert::Infallible;
use core::fmt;
use std::process;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

/// What a shell expects of a process that Ctrl-C ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

static INSTALLED: OnceLock<Result<Shutdown, SignalError>> = OnceLock::new();

/// The wish to stop. Clones share it; it is never taken back.
#[derive(Clone)]
pub struct Shutdown {
    /// Dropped by the request, which disconnects every receiver at once.
    keeper: Arc<Mutex<Option<Sender<Infallible>>>>,
    requested_at: Arc<OnceLock<Instant>>,
    receiver: Receiver<Infallible>,
}

/// The signal handler could not be installed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not listen for Ctrl-C and SIGTERM: {reason}")]
pub struct SignalError {
    reason: String,
}

impl Shutdown {
    /// Requested by Ctrl-C, SIGTERM or SIGHUP; a second signal ends the process at once with exit code 130.
    /// The handler is installed once per process; later calls give the same shutdown.
    ///
    /// # Errors
    /// If the signal handler cannot be installed.
    pub fn on_signals() -> Result<Self, SignalError> {
        INSTALLED.get_or_init(Self::install).clone()
    }

    /// Requested only by [`request`](Self::request): for tests, and for a daemon inside another program.
    pub fn manual() -> Self {
        let (keeper, receiver) = crossbeam_channel::bounded(0);
        Self { keeper: Arc::new(Mutex::new(Some(keeper))), requested_at: Arc::default(), receiver }
    }

    /// Asks everybody to stop. Returns whether this was the first request.
    pub fn request(&self) -> bool {
        let is_first = self.requested_at.set(now()).is_ok();
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        is_first
    }

    /// Whether somebody asked.
    pub fn is_requested(&self) -> bool {
        self.requested_at.get().is_some()
    }

    /// When somebody asked first.
    pub fn requested_at(&self) -> Option<Instant> {
        self.requested_at.get().copied()
    }

    /// To select on: nothing ever arrives, but it disconnects on the request, so `recv` returns then and ever after.
    pub fn receiver(&self) -> &Receiver<Infallible> {
        &self.receiver
    }

    fn install() -> Result<Self, SignalError> {
        let shutdown = Self::manual();
        let handle = shutdown.clone();
        let handler = move || {
            if !handle.request() {
                process::exit(INTERRUPTED);
            }
        };
        ctrlc::set_handler(handler).map_err(|error| SignalError { reason: error.to_string() })?;
        Ok(shutdown)
    }
}

#[allow(clippy::disallowed_methods, reason = "a shell: who ends within a time must know since when")]
fn now() -> Instant {
    Instant::now()
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").field("requested", &self.is_requested()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_request_wakes_every_clone_and_stays() {
        let shutdown = Shutdown::manual();
        assert!(!shutdown.is_requested());
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let clone = shutdown.clone();
                thread::spawn(move || clone.receiver().recv().is_err() && clone.is_requested())
            })
            .collect();
        assert!(shutdown.request());
        assert!(!shutdown.request(), "the second request is told apart");
        assert!(waiting.into_iter().all(|thread| thread.join().unwrap()));
        assert!(shutdown.receiver().recv().is_err());
    }

    #[test]
    fn the_handler_is_installed_once() {
        let first = Shutdown::on_signals().unwrap();
        let second = Shutdown::on_signals().unwrap();
        assert!(Arc::ptr_eq(&first.keeper, &second.keeper));
        assert!(!first.is_requested());
    }
}
