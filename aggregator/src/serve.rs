//! The shell around [`Coordinator`]: the broker's messages in, actions out, everything durable before it is told.

pub mod ledger;
mod pace;

use core::time::Duration;
use std::collections::BTreeSet;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};
use grapevine_host::clock::unix_ms;
use grapevine_host::transport::{Event as Link, Options, PublishError, StartError, Traffic, Transport};
use grapevine_host::{BrokerAddress, Shutdown, cpu};
use grapevine_models::Head;
use grapevine_protocol::limits::MAX_FRAME_BYTES;
use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{
    BlockHeader, BootId, DeviceId, FleetId, Notice, Refusal, RoundId, RunId, ToDevice, decode_to_aggregator, encode,
    topics,
};

use crate::round::{AcceptedUpdate, Action, Coordinator, Event, RoundConfig, RoundOutcome};
use crate::store::{Store, StoreError};
use pace::Pace;

pub use ledger::{LedgerError, RunChoice};

/// Packets that may wait for the broker: every block of the largest blob and receipts for a large fleet.
const OUTGOING: usize = 2_048;
/// Larger packets than any message are read and refused by name up to this; only beyond it the connection is given up.
const MOST_FOREIGN_BYTES: usize = 16 * 1024 * 1024;
/// Messages that may wait for the machine; beyond that the broker's connection waits.
const INCOMING: usize = 512;
/// Pause before a notice for which there was no room is tried again.
const NOTICE_AGAIN: Duration = Duration::from_millis(20);

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
    pub boot: BootId,
    /// Go on with the ledger's run, or begin another.
    pub run: RunChoice,
    /// MQTT keep-alive.
    pub keep_alive: Duration,
    /// Longest pause between attempts to reach the broker.
    pub longest_pause: Duration,
    /// Stop by itself once the run is over and the devices have had time to fetch its heads.
    pub until_finished: bool,
}

/// Hears what happens; all methods have an empty default.
pub trait Observer {
    /// Anything worth a line in a log.
    fn event(&mut self, _event: &Event) {}

    /// A round was merged; whatever is returned goes into the ledger as JSON.
    fn merged(&mut self, _outcome: &RoundOutcome, _in_use: Option<&Head>) -> Option<serde_json::Value> {
        None
    }

    /// Where things stand: a moment after every change, twice a minute without any, and once at the end.
    fn status(&mut self, _status: &ServeStatus) {}
}

/// Where an aggregator stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServeStatus {
    /// The run.
    pub run: RunId,
    /// What it is doing.
    pub phase: ServePhase,
    /// Whether the broker is there.
    pub connected: bool,
    /// Devices that are there.
    pub present: usize,
    /// Bytes over MQTT since the start.
    pub traffic: Traffic,
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
        /// Updates that may come.
        expected: usize,
    },
    /// The run is over.
    Finished,
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
}

/// Serves rounds until `shutdown`. A stop at any moment is resumed by the next call with the same ledger.
pub fn serve(
    options: &ServeOptions,
    store: Store,
    shutdown: &Shutdown,
    observer: &mut dyn Observer,
) -> Result<ServeReport, ServeError> {
    let started = clock();
    let mut store = store;
    let coordinator = ledger::restore(&mut store, options)?;
    let (events, link) = bounded(INCOMING);
    let mut transport = Options::new(options.broker.clone(), format!("{}.aggregator", options.fleet));
    transport.keep_alive = options.keep_alive;
    transport.subscriptions = vec![topics::up_filter(&options.fleet)];
    transport.max_packet_bytes = MAX_FRAME_BYTES + 1024;
    transport.max_incoming_bytes = MOST_FOREIGN_BYTES;
    transport.queue = OUTGOING;
    transport.backoff.max = options.longest_pause;
    transport.backoff.first = transport.backoff.first.min(options.longest_pause);
    // A closed channel means that the aggregator is stopping.
    let transport = Transport::start(transport, move |event| drop(events.send(event)))?;
    let shell = Shell {
        options,
        store,
        transport,
        coordinator,
        observer,
        started,
        touched: BTreeSet::new(),
        unsent: None,
        counted: Vec::new(),
        refused: 0,
        opened_at: Duration::ZERO,
        pace: Pace::new(options.until_finished),
    };
    shell.serve(link, shutdown)
}

struct Shell<'a> {
    options: &'a ServeOptions,
    store: Store,
    transport: Transport,
    coordinator: Coordinator,
    observer: &'a mut dyn Observer,
    started: Instant,
    /// Devices whose rows are to be written.
    touched: BTreeSet<DeviceId>,
    /// A notice for which the transport had no room.
    unsent: Option<Notice>,
    /// Refusals not yet in the ledger.
    counted: Vec<Refusal>,
    /// Refusals since the last merge.
    refused: u64,
    /// When the newest round was opened or resumed.
    opened_at: Duration,
    pace: Pace,
}

impl Shell<'_> {
    fn serve(mut self, link: Receiver<Link>, shutdown: &Shutdown) -> Result<ServeReport, ServeError> {
        while !shutdown.is_requested() {
            self.act()?;
            let now = self.now();
            if self.pace.status_is_due(now) {
                self.write_books()?;
                self.observer.status(&self.status());
            }
            if self.pace.leave_at().is_some_and(|at| at <= now) {
                break;
            }
            let timers = [self.coordinator.poll_timeout(), self.pace.leave_at()];
            let again = self.unsent.is_some().then_some(now + NOTICE_AGAIN);
            let next = timers.into_iter().chain([again]).flatten().fold(self.pace.status_at(), Ord::min);
            let wait = next.saturating_sub(now);
            crossbeam_channel::select! {
                recv(link) -> event => match event {
                    Ok(event) => self.handle_link(event),
                    Err(_) => break,
                },
                recv(shutdown.receiver()) -> _ => break,
                default(wait) => {}
            }
            // Whatever else has come already is taken along: updates that arrive together become durable together.
            link.try_iter().take(INCOMING).for_each(|event| self.handle_link(event));
            let now = self.now();
            self.coordinator.handle_timeout(now);
            if let Some(notice) = self.unsent.take() {
                self.publish_notice(notice);
            }
        }
        self.write_books()?;
        self.observer.status(&ServeStatus { phase: ServePhase::Stopped, connected: false, ..self.status() });
        let traffic = self.transport.traffic();
        // Nobody listens any more: a connection that waits to hand over a message goes on and can say goodbye.
        drop(link);
        self.transport.close();
        Ok(ServeReport { traffic, cpu: cpu::thread_cpu().unwrap_or_default() })
    }

    fn handle_link(&mut self, event: Link) {
        let now = self.now();
        match event {
            Link::Connected => {
                tracing::info!("connected to the broker");
                self.pace.connected(now, true);
                self.coordinator.handle_connected(now);
            }
            Link::Disconnected { reason } => {
                tracing::warn!("connection lost: {reason}; it is tried again");
                self.pace.connected(now, false);
                self.coordinator.handle_disconnected();
            }
            Link::Refused { reason } => tracing::error!("the broker refuses the aggregator: {reason}"),
            Link::Message { topic, payload } => {
                self.pace.heard(now);
                let Some(device) = topics::speaker(&self.options.fleet, &topic) else {
                    return self.coordinator.handle_garbage(None, Refusal::Topic);
                };
                match decode_to_aggregator(&payload) {
                    Ok((message, block)) => self.coordinator.handle_message(now, &device, message, block),
                    Err(error) => self.coordinator.handle_garbage(Some(&device), error.refusal()),
                }
            }
        }
    }

    fn act(&mut self) -> Result<(), ServeError> {
        let mut updates = Vec::new();
        loop {
            match self.coordinator.poll_action() {
                Some(Action::StoreUpdate(update)) => updates.push(update),
                Some(action) => self.do_action(action)?,
                None if updates.is_empty() => return Ok(()),
                None => self.store_updates(core::mem::take(&mut updates))?,
            }
        }
    }

    fn do_action(&mut self, action: Action) -> Result<(), ServeError> {
        match action {
            Action::Send(device, message) => {
                self.publish(&topics::down(&self.options.fleet, &device), &message, &[], false)
            }
            Action::PublishBlock(kind, header, block) => self.publish_block(kind, header, &block),
            Action::PublishNotice(notice) => self.publish_notice(notice),
            Action::RememberDevice(device) => drop(self.touched.insert(device)),
            Action::OpenRound { notice, expected } => {
                ledger::open_round(&mut self.store, &notice, expected)?;
                self.opened_at = self.now();
            }
            Action::StoreUpdate(update) => self.store_updates(vec![update])?,
            Action::Commit(outcome) => self.commit(&outcome)?,
            Action::AbandonRound(run, round) => self.store.abandon_round(run.0, round.0, unix_ms())?,
            Action::FinishRun(run) => self.store.finish_run(run.0)?,
            Action::Report(event) => {
                if let Event::Refused { device, reason } = &event {
                    self.counted.push(*reason);
                    self.refused += 1;
                    let known = device.iter().filter(|device| self.coordinator.device(device).is_some());
                    self.touched.extend(known.cloned());
                }
                log(&event);
                self.pace.changed();
                if event == Event::Finished {
                    self.pace.finished(self.now());
                }
                self.observer.event(&event);
            }
        }
        Ok(())
    }

    fn store_updates(&mut self, updates: Vec<AcceptedUpdate>) -> Result<(), ServeError> {
        match ledger::store_updates(&mut self.store, &updates) {
            Ok(()) => {
                for update in updates {
                    self.coordinator.handle_stored(&update.device, update.round);
                    self.touched.insert(update.device);
                }
                Ok(())
            }
            Err(error) => {
                updates.iter().for_each(|update| self.coordinator.handle_store_failed(&update.device));
                Err(error.into())
            }
        }
    }

    fn commit(&mut self, outcome: &RoundOutcome) -> Result<(), ServeError> {
        let in_use = outcome.model.head_in_use(&self.options.round);
        let metrics = self.observer.merged(outcome, in_use.as_ref());
        ledger::commit(&mut self.store, outcome, metrics)?;
        self.pace.changed();
        tracing::info!(
            round = outcome.round.0,
            updates = outcome.accepted,
            of = outcome.expected,
            samples = outcome.samples,
            seconds = self.now().saturating_sub(self.opened_at).as_millis() as f64 / 1e3,
            refusals = core::mem::take(&mut self.refused),
            "round merged"
        );
        self.write_books()?;
        let now = self.now();
        self.coordinator.handle_committed(now);
        Ok(())
    }

    /// Writes devices and refusals; done once per round, with every status and at the end, not per message.
    fn write_books(&mut self) -> Result<(), StoreError> {
        let touched = core::mem::take(&mut self.touched);
        let now = self.now();
        ledger::remember_devices(&mut self.store, &self.coordinator, &touched, now)?;
        ledger::remember_refusals(&mut self.store, core::mem::take(&mut self.counted))
    }

    fn publish_block(&self, kind: BlobKind, header: BlockHeader, block: &[u8]) {
        let topic = topics::blob(&self.options.fleet, kind);
        self.publish(&topic, &ToDevice::Block(header), block, false);
    }

    /// A notice nobody can ask for again: one that finds no room is kept until there is some. After a lost connection
    /// the machine gives a new one.
    fn publish_notice(&mut self, notice: Notice) {
        let frame = encode(&ToDevice::Notice(notice.clone()), &[]);
        let result = self.transport.publish(&topics::notice(&self.options.fleet), frame, true);
        self.unsent = matches!(result, Err(PublishError::Full)).then_some(notice);
    }

    /// What cannot go out now is asked for again by whoever misses it.
    fn publish(&self, topic: &str, message: &ToDevice, block: &[u8], retain: bool) {
        match self.transport.publish(topic, encode(message, block), retain) {
            Ok(()) => {}
            Err(error @ (PublishError::Full | PublishError::Disconnected)) => tracing::debug!("{error}"),
            Err(error @ (PublishError::TooLarge { .. } | PublishError::Topic { .. })) => tracing::error!("{error}"),
        }
    }

    fn status(&self) -> ServeStatus {
        let phase = match self.coordinator.open_round() {
            Some((round, accepted, expected)) => ServePhase::Collecting { round, accepted, expected },
            None if self.coordinator.is_finished() => ServePhase::Finished,
            None => ServePhase::Waiting,
        };
        ServeStatus {
            run: self.coordinator.run(),
            phase,
            connected: self.pace.is_connected(),
            present: self.coordinator.present(),
            traffic: self.transport.traffic(),
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

fn log(event: &Event) {
    match event {
        Event::DeviceCame(device) => tracing::debug!(%device, "device came"),
        Event::DeviceLeft(device) => tracing::debug!(%device, "device left"),
        Event::RoundOpened { round, expected } => tracing::debug!(round = round.0, expected, "round opened"),
        Event::UpdateAccepted { device, round } => tracing::debug!(%device, round = round.0, "update accepted"),
        Event::Refused { device: Some(device), reason } => tracing::debug!(%device, %reason, "refused"),
        Event::Refused { device: None, reason } => tracing::debug!(%reason, "refused"),
        Event::RoundExtended(round) => tracing::warn!(round = round.0, "deadline passed below the quorum; extended"),
        Event::RoundAbandoned(round) => tracing::warn!(round = round.0, "abandoned: too few devices answered"),
        Event::Finished => {
            tracing::info!("the run is over; more `rounds` go on with it, `aggregator serve --new-run` begins another")
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the shell: the machine gets its time from here")]
fn clock() -> Instant {
    Instant::now()
}
