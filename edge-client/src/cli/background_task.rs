//! A thread that works beside the rounds until the device stops.

use core::convert::Infallible;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

/// The thread.
pub(super) struct BackgroundTask {
    name: &'static str,
    thread: JoinHandle<()>,
    /// Disconnects when it has ended.
    ended: Receiver<Infallible>,
}

impl BackgroundTask {
    pub(super) fn start(name: &'static str, work: impl FnOnce() + Send + 'static) -> anyhow::Result<Self> {
        let (alive, ended) = bounded::<Infallible>(0);
        let started = thread::Builder::new().name(name.into()).spawn(move || {
            let _alive = alive;
            work();
        });
        let thread = started.context("cannot start a thread; the system is out of memory or of threads")?;
        Ok(Self { name, thread, ended })
    }

    /// Waits for its end, but not beyond `limit`: then it is left behind with the process.
    pub(super) fn finish(self, limit: Instant) {
        if self.ended.recv_deadline(limit) == Err(RecvTimeoutError::Timeout) {
            tracing::info!(thread = self.name, "left where it is; what it had not stored is done again");
        } else if self.thread.join().is_err() {
            tracing::error!("the thread `{}` panicked; please report what is printed above", self.name);
        }
    }
}
