//! The router with a clock, a log, and the connections that wait for it.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::Access;
use super::router::{Link, Router};

/// What all connections share.
pub(super) struct Hub {
    inner: Mutex<(Router, BTreeMap<Link, Arc<Notify>>)>,
    start: Instant,
}

impl Hub {
    #[allow(clippy::disallowed_methods, reason = "the shell's clock")]
    pub(super) fn new(access: Access) -> Self {
        Self { inner: Mutex::new((Router::new(access), BTreeMap::new())), start: Instant::now() }
    }

    /// Registers a connection and what wakes it; `None` if there are too many.
    pub(super) fn open(&self) -> Option<(Link, Arc<Notify>)> {
        let link = self.with(Router::handle_open)?;
        let wake = Arc::new(Notify::new());
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.1.insert(link, Arc::clone(&wake));
        Some((link, wake))
    }

    /// The connection is gone.
    pub(super) fn close(&self, link: Link) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&link);
        self.with(|router, now| router.handle_closed(link, now));
    }

    /// Has the router do something, then wakes the connections that it named, and logs.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Router, Duration) -> T) -> T {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let (router, waiting) = &mut *inner;
        let outcome = change(router, self.start.elapsed());
        while let Some(link) = router.poll_awake() {
            if let Some(wake) = waiting.get(&link) {
                wake.notify_one();
            }
        }
        while let Some(notice) = router.poll_notice() {
            tracing::warn!(client = ?notice.client, "a client of the embedded broker {}", notice.trouble);
        }
        outcome
    }
}
