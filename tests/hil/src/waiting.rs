//! The clock, and the only way to wait: with a limit, and ended by Ctrl-C.

use core::convert::Infallible;
use core::time::Duration;
use std::sync::Mutex;
use std::time::{Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use crate::trouble::Trouble;

/// Between two looks at something that changes by itself.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A moment, for limits and measurements.
#[allow(clippy::disallowed_methods, reason = "a shell that measures, and bounds its waits")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The time of day, for boards that have no clock.
#[allow(clippy::disallowed_methods, reason = "a shell that sets a board's clock, and names a folder")]
pub(crate) fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The wish to stop, seen by every thread. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Interruption {
    /// Disconnected by the wish.
    receiver: Receiver<Infallible>,
}

impl Interruption {
    /// Wished by Ctrl-C, SIGTERM or SIGHUP. Unlike in the products a second signal changes nothing: what this program
    /// started must be ended first, which takes no time worth naming.
    pub(crate) fn on_signals() -> Result<Self, Trouble> {
        let (sender, interruption) = Self::manual();
        let sender = Mutex::new(Some(sender));
        let wish = move || drop(sender.lock().map(|mut sender| sender.take()));
        ctrlc::set_handler(wish).map_err(|error| Trouble::Host(format!("cannot listen for Ctrl-C: {error}")))?;
        Ok(interruption)
    }

    /// Wished by dropping the sender.
    pub(crate) fn manual() -> (Sender<Infallible>, Self) {
        let (sender, receiver) = bounded(0);
        (sender, Self { receiver })
    }

    /// Fails once the wish is there.
    pub(crate) fn check(&self) -> Result<(), Trouble> {
        match self.receiver.try_recv() {
            Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Disconnected) => Err(Trouble::Interrupted),
            Ok(never) => match never {},
        }
    }

    /// Lets so much time pass.
    pub(crate) fn pause(&self, time: Duration) -> Result<(), Trouble> {
        match self.receiver.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Trouble::Interrupted),
            Ok(never) => match never {},
        }
    }

    /// The receiver, to wait for something else at the same time.
    pub(crate) fn receiver(&self) -> &Receiver<Infallible> {
        &self.receiver
    }
}

/// What is waited for, how long, and what a person does if it does not come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit<'a> {
    /// A noun: "the first round".
    pub(crate) what: &'a str,
    /// The longest wait.
    pub(crate) time: Duration,
    /// Where to look then.
    pub(crate) advice: &'a str,
}

impl Limit<'_> {
    /// The error of a wait that passed the limit.
    pub(crate) fn passed(&self) -> Trouble {
        Trouble::Late { what: self.what.into(), limit: self.time, advice: self.advice.into() }
    }

    /// Looks again and again until there is something.
    pub(crate) fn until<T>(
        &self,
        interruption: &Interruption,
        mut look: impl FnMut() -> Result<Option<T>, Trouble>,
    ) -> Result<T, Trouble> {
        let deadline = now() + self.time;
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if now() >= deadline {
                return Err(self.passed());
            }
            interruption.pause(LOOK_EVERY)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit<'_> = Limit { what: "the answer", time: Duration::ZERO, advice: "look at the log" };

    #[test]
    fn a_passed_limit_says_what_to_do() {
        let (_keeper, interruption) = Interruption::manual();
        let late = LIMIT.until(&interruption, || Ok(None::<()>)).unwrap_err();
        assert_eq!(late.to_string(), "the answer did not happen within 0 s; look at the log");
    }

    #[test]
    fn a_wish_to_stop_ends_every_wait() {
        let (keeper, interruption) = Interruption::manual();
        assert_eq!(interruption.check(), Ok(()));
        drop(keeper);
        assert_eq!(interruption.check(), Err(Trouble::Interrupted));
        let limit = Limit { time: Duration::from_secs(3600), ..LIMIT };
        assert_eq!(limit.until(&interruption, || Ok(None::<()>)), Err(Trouble::Interrupted));
    }
}
