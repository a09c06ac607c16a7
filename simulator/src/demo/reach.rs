//! Whether an external broker is there, found out before anything is made for it.

use core::time::Duration;

use crossbeam_channel::{at, select, unbounded};
use grapevine_host::transport::{Backoff, Event, Options, StartError, Transport};
use grapevine_host::{BrokerAddress, Shutdown};

use super::{DemoError, now};

/// How long a broker may take to accept a client; one that is just starting needs a moment.
const PATIENCE: Duration = Duration::from_secs(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why a demo cannot use the broker it was given.
#[derive(Debug, thiserror::Error)]
pub enum NoBroker {
    /// The options are wrong or the system gives no thread.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It will not have us.
    #[error("{0}")]
    Refused(String),
    /// Nobody answers.
    #[error("no broker answered within {} s: {reason}; leave out --broker for one inside this process", PATIENCE.as_secs())]
    Silent {
        /// What came last.
        reason: String,
    },
}

/// Connects once, as any client, and takes leave.
pub(super) fn reach(broker: &BrokerAddress, shutdown: &Shutdown) -> Result<(), DemoError> {
    let (sender, events) = unbounded();
    let mut options = Options::new(broker.clone(), format!("demo-{:016x}", getrandom::u64().unwrap_or_default()));
    options.backoff = Backoff { max: LONGEST_PAUSE, ..Backoff::default() };
    // Nobody listens any more once the answer is known.
    let transport = Transport::start(options, move |event| drop(sender.send(event))).map_err(NoBroker::from)?;
    let deadline = at(now() + PATIENCE);
    let mut reason = format!("{broker} does not answer; check the address and the network");
    loop {
        select! {
            recv(events) -> event => match event {
                Ok(Event::Connected) => break,
                Ok(Event::Refused { reason }) => return Err(NoBroker::Refused(reason).into()),
                Ok(Event::Disconnected { reason: last }) => reason = last,
                Ok(Event::Trouble { reason: last, .. }) => reason = last,
                Ok(Event::Message { .. } | Event::Recovered) => {}
                Err(_) => return Err(NoBroker::Silent { reason }.into()),
            },
            recv(deadline) -> _ => return Err(NoBroker::Silent { reason }.into()),
            recv(shutdown.receiver()) -> _ => return Err(DemoError::Stopped),
        }
    }
    transport.close();
    Ok(())
}
