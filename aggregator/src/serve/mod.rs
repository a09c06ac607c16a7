//! The shell around [`Coordinator`]: the broker's messages in, actions out, everything durable before it is told.

mod echo;
mod event_log;
pub mod executor;
pub mod ledger;
pub mod requests;
mod schedule;
mod shell;
mod troubles;
mod versions;

use core::time::Duration;
use std::path::Path;
use std::time::Instant;

use crossbeam_channel::bounded;
use grapevine_host::transport::{Event as Link, Options, StartError, Traffic, Transport};
use grapevine_host::{BrokerAddress, Service, Shutdown};
use grapevine_models::Head;
use grapevine_protocol::limits::MAX_FRAME_BYTES;
use grapevine_protocol::{AGGREGATOR, DeviceId, FleetId, Incarnation, Refusal, RoundId, RunId, topics};

use crate::round::{Event, RoundConfig, RoundOutcome, Waiting};
use crate::store::{Ledger, StoreError};
use echo::Echo;
use shell::Shell;

pub use ledger::{LedgerError, RunChoice};

/// Packets that may wait for the broker: every block of the largest blob and receipts for a large fleet.
const OUTGOING: usize = 2_048;
/// Larger packets than any message are read and refused by name up to this; only beyond it the connection is given up.
const MOST_FOREIGN_BYTES: usize = 16 * 1024 * 1024;
/// Messages that may wait for the machine, 16 MiB of blocks; beyond that the broker's connection waits.
const INCOMING: usize = 256;

/// What an aggregator needs to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The fleet.
    pub fleet: FleetId,
    /// The broker.
    pub broker: BrokerAddress,
    /// What the run is to do.
    pub round: RoundConfig,
    /// This start of the program, drawn at random.
    pub incarnation: Incarnation,
    /// Go on with the ledger's run, or begin another.
    pub run: RunChoice,
    /// MQTT keep-alive.
    pub keep_alive: Duration,
    /// Longest pause between attempts to reach the broker.
    pub longest_pause: Duration,
    /// Merged rounds whose heads are kept, the newest ones, at least 1.
    pub kept_heads: u32,
    /// Stop by itself once the run is over and the devices have had time to fetch its heads.
    pub until_finished: bool,
    /// Who is told that the aggregator is well.
    pub service: Service,
}

/// Hears what happens; all methods have an empty default.
pub trait Observer {
    /// Anything worth a line in a log.
    fn event(&mut self, _event: &Event) {}

    /// A merged round is durable; `inference_head` is the head that people classify with after it.
    fn merged(&mut self, _outcome: &RoundOutcome, _inference_head: Option<&Head>) {}

    /// Where things stand: a moment after every change, twice a minute without any, and once at the end.
    fn status(&mut self, _status: &ServeStatus) {}
}

/// Where an aggregator stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeStatus {
    /// The run.
    pub run: RunId,
    /// What it is doing.
    pub phase: ServePhase,
    /// Whether the broker is there.
    pub connected: bool,
    /// Devices that are there.
    pub present: usize,
    /// What the next round waits for, if it waits.
    pub waiting: Option<Waiting>,
    /// Devices that are turned away or told something: the newest ones, by name.
    pub turned_away: Vec<TurnedAwayDevice>,
    /// What a person must look at, a sentence each.
    pub troubles: Vec<String>,
    /// Whether it waits for room on the disk.
    pub disk_full: bool,
    /// Bytes over MQTT since the start.
    pub traffic: Traffic,
}

/// A device that is turned away, or of whose name there are two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnedAwayDevice {
    /// Which.
    pub device: DeviceId,
    /// Why.
    pub reason: Refusal,
    /// What to do on the device.
    pub advice: String,
    /// Since when, milliseconds since 1970.
    pub since_ms: u64,
    /// When it said hello last, milliseconds since 1970.
    pub seen_ms: u64,
}

/// What an aggregator is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServePhase {
    /// Waiting for enough devices.
    Waiting,
    /// A round is open.
    Collecting {
        /// Which.
        round: RoundId,
        /// Updates that are stored.
        accepted: usize,
        /// Updates that it waits for.
        expected: usize,
        /// Devices that were chosen.
        chosen: usize,
        /// How often it was given more time.
        extensions: u32,
        /// Until its deadline.
        closes_in: Duration,
    },
    /// The number of rounds that was asked for is done.
    Finished,
    /// Nothing new is to be learned for now.
    Resting,
    /// Ended in good order.
    Stopped,
}

/// What an aggregator did, in figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServeReport {
    /// Bytes over MQTT.
    pub traffic: Traffic,
    /// Processor time of the machine and the ledger, where the system tells it.
    pub cpu: Duration,
}

/// Why an aggregator stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The broker cannot be used at all.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The ledger failed; the open round is kept and goes on with the next start.
    #[error("the round stopped and nothing is lost: {0}")]
    Store(#[from] StoreError),
    /// The ledger holds something else than what is to be served.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A fault of this program.
    #[error("the thread that talks to the broker panicked; please report what is printed above")]
    Panicked,
}

/// Serves rounds until `shutdown`, and looks into the folder `state` for requests of other processes. A stop at any moment is
/// resumed by the next call with the same ledger.
///
/// # Errors
/// If the MQTT client cannot be started, or its thread panics. If the ledger cannot be read or written, or its newest
/// run is of another configuration.
pub fn serve(
    options: &ServeOptions,
    state: &Path,
    mut ledger: Box<dyn Ledger + Send>,
    shutdown: &Shutdown,
    observer: &mut dyn Observer,
) -> Result<ServeReport, ServeError> {
    let started = clock();
    // Nobody has been heard yet. A full disk keeps nobody from serving: it is said where the rounds need room.
    match ledger.note_all_gone() {
        Err(error) if error.is_full() => tracing::warn!("`aggregator devices` may say that devices are there: {error}"),
        other => other?,
    }
    let coordinator = ledger::restore(&mut *ledger, options)?;
    let (events, link) = bounded(INCOMING);
    let mut transport = Options::new(options.broker.clone(), format!("{}.{AGGREGATOR}", options.fleet));
    transport.keep_alive = options.keep_alive;
    transport.subscriptions = vec![topics::up_filter(&options.fleet)];
    transport.subscriptions.extend(Echo::topics(&options.fleet));
    transport.max_packet_bytes = MAX_FRAME_BYTES + 1024;
    transport.max_incoming_bytes = MOST_FOREIGN_BYTES;
    transport.queue = OUTGOING;
    transport.backoff.max = options.longest_pause;
    transport.backoff.first = transport.backoff.first.min(options.longest_pause);
    // A closed channel means that the aggregator is stopping.
    let transport = Transport::start(transport, move |event| drop(events.send(shortened(event))))?;
    Shell::new(options, (state, ledger), transport, coordinator, observer, started).serve(link, shutdown)
}

/// What is longer than any message waits as one byte more than that: it is refused all the same.
fn shortened(event: Link) -> Link {
    let Link::Message { topic, mut payload } = event else { return event };
    if payload.len() > MAX_FRAME_BYTES {
        payload.truncate(MAX_FRAME_BYTES + 1);
        payload.shrink_to_fit();
    }
    Link::Message { topic, payload }
}

#[allow(clippy::disallowed_methods, reason = "this is the shell: the machine gets its time from here")]
fn clock() -> Instant {
    Instant::now()
}
