//! Turns at a limited number of places.

use crossbeam_channel::{Receiver, Sender, bounded};

/// Lets a limited number of threads work at the same time.
#[derive(Clone, Debug)]
pub struct Semaphore {
    give: Sender<()>,
    take: Receiver<()>,
}

impl Semaphore {
    /// A gate for `places` at once.
    pub fn new(places: usize) -> Self {
        let (give, take) = bounded(places.max(1));
        for _ in 0..places.max(1) {
            give.send(()).expect("the channel holds one token per place");
        }
        Self { give, take }
    }

    pub(super) fn pass<T>(&self, work: impl FnOnce() -> T) -> T {
        let token = self.take.recv();
        let result = work();
        if token.is_ok() {
            // Cannot fail: the token just taken left room for it.
            let _ = self.give.send(());
        }
        result
    }
}
