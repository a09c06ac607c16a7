//! The shell around [`Session`]: one thread for the session, one for the work, one for the broker.

mod told;
mod worker;

use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded, never};
use grapevine_host::service::Heartbeat;
use grapevine_host::transport::{Event as Link, Options, PublishError, StartError, Traffic, Transport, Trouble, Will};
use grapevine_host::{BrokerAddress, Service, Shutdown, cpu};
use grapevine_models::Heads;
use grapevine_protocol::limits::MAX_FRAME_BYTES;
use grapevine_protocol::{FleetId, Goodbye, Refusal, RoundId, RunId, ToAggregator, decode_to_device, encode, topics};

use crate::predict::Outgoing;
use crate::resources::Throttle;
use crate::session::{Action, Event, Identity, Session};
use crate::store::{NewestHead, Store, StoreError};
use told::Told;
pub use told::unanswered;
use worker::{Done, Worker, from_entry};

/// Packets that may wait for the broker: a window of blocks and some.
const QUEUE: usize = 128;
/// Larger packets than any message are read and ignored up to this; only beyond it the connection is given up.
const MOST_FOREIGN_BYTES: usize = 4 * 1024 * 1024;
/// Messages that may wait for the session: 4 MiB of blocks. Beyond that the broker's connection waits.
const INCOMING: usize = 64;
/// How long a job may still come to its end after a wish to stop.
const GRACE: Duration = Duration::from_millis(1_000);
/// How long a thread is waited for at all after a wish to stop: a device ends within 2 s.
pub const LEAVE_BEHIND: Duration = Duration::from_millis(1_800);
/// How soon it is looked for acknowledgements while [`DeviceOptions::outgoing`] waits for them.
const ACKNOWLEDGEMENT_PAUSE: Duration = Duration::from_millis(50);
/// How often the stored samples are counted: an ingest may go on beside the session.
const COUNT_PERIOD: Duration = Duration::from_secs(5);

/// What a device needs to run.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// The fleet.
    pub fleet: FleetId,
    /// The broker.
    pub broker: BrokerAddress,
    /// Who this device is.
    pub identity: Identity,
    /// MQTT keep-alive.
    pub keep_alive: Duration,
    /// Longest pause between attempts to reach the broker.
    pub longest_pause: Duration,
    /// What work waits for.
    pub throttle: Throttle,
    /// Who is told that the device is well.
    pub service: Service,
    /// What is published beside the fleet's rounds, if anything.
    pub outgoing: Option<Arc<Outgoing>>,
}

/// What a device did, in figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceReport {
    /// Bytes over MQTT.
    pub traffic: Traffic,
    /// Processor time of the session and the work, where the system tells it.
    pub cpu: Duration,
    /// Updates the aggregator has a receipt for.
    pub delivered: u32,
}

/// Why a device stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The broker cannot be used at all.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A fault of this program.
    #[error("a thread of the device panicked; please report what is printed above")]
    Panicked,
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; the system is out of memory or of threads")]
    Thread(std::io::Error),
}

/// Takes part in the fleet's rounds until `shutdown`. `observe` hears what happens.
///
/// # Errors
/// If the MQTT client or a thread cannot be started, the store cannot be read, or a thread panics.
pub fn run(
    options: &DeviceOptions,
    store: &Arc<Store>,
    shutdown: &Shutdown,
    observe: &mut dyn FnMut(&Event),
) -> Result<DeviceReport, RunError> {
    let (link_sender, link) = bounded(INCOMING);
    let transport = connect(options, link_sender)?;
    let worker = Worker::start(store.clone(), options.identity.device.clone(), options.throttle.clone());
    let worker = worker.map_err(RunError::Thread)?;
    let samples = store.counts()?.iter().sum();
    let pending = store.outbox()?.map(from_entry);
    let shell = Shell {
        options,
        store,
        transport,
        worker,
        heartbeat: options.service.heartbeat(),
        session: Session::new(options.identity.clone(), samples, store.dataset()?, pending),
        started: now(),
        count_at: COUNT_PERIOD,
        delivered: 0,
        told: Told::new(&options.fleet, &options.identity.device),
    };
    shell.serve(link, shutdown, observe)
}

fn connect(options: &DeviceOptions, events: Sender<Link>) -> Result<Transport, StartError> {
    let (fleet, device) = (&options.fleet, &options.identity.device);
    let mut transport = Options::new(options.broker.clone(), format!("{fleet}.{device}"));
    transport.keep_alive = options.keep_alive;
    transport.will = Some(Will {
        topic: topics::up(fleet, device),
        payload: encode(&ToAggregator::Goodbye(Goodbye { incarnation: options.identity.incarnation }), &[]),
        retain: false,
    });
    transport.subscriptions = vec![topics::down(fleet, device), topics::announcement(fleet)];
    transport.max_packet_bytes = MAX_FRAME_BYTES + 1024;
    transport.max_incoming_bytes = MOST_FOREIGN_BYTES;
    transport.queue = QUEUE;
    transport.backoff.max = options.longest_pause;
    transport.backoff.first = transport.backoff.first.min(options.longest_pause);
    // A closed channel means that the device is stopping.
    Transport::start(transport, move |event| drop(events.send(event)))
}

struct Shell<'a> {
    options: &'a DeviceOptions,
    store: &'a Store,
    transport: Transport,
    worker: Worker,
    heartbeat: Heartbeat,
    session: Session,
    started: Instant,
    /// When the samples are counted next.
    count_at: Duration,
    delivered: u32,
    told: Told,
}

impl Shell<'_> {
    fn serve(
        mut self,
        link: Receiver<Link>,
        shutdown: &Shutdown,
        observe: &mut dyn FnMut(&Event),
    ) -> Result<DeviceReport, RunError> {
        let outgoing = self.options.outgoing.as_deref();
        let pushed = outgoing.map_or_else(never, |outgoing| outgoing.woken().clone());
        let (done, paused) = (self.worker.done().clone(), self.options.throttle.changes());
        self.options.service.ready();
        while !shutdown.is_requested() {
            self.act(observe);
            let now = self.now();
            let is_well = self.worker.is_well(now) && self.transport.is_alive();
            let timers = [self.session.poll_timeout(), self.heartbeat.beat(now, is_well)];
            let mut wait = timers.into_iter().flatten().fold(self.count_at, Ord::min).saturating_sub(now);
            if outgoing.is_some_and(|outgoing| outgoing.publish(&self.transport)) {
                wait = wait.min(ACKNOWLEDGEMENT_PAUSE);
            }
            crossbeam_channel::select! {
                recv(link) -> event => match event {
                    Ok(event) => self.handle_link(event, observe),
                    // Its thread is gone.
                    Err(_) => return Err(RunError::Panicked),
                },
                recv(done) -> outcome => match outcome {
                    Ok(outcome) => self.handle_done(outcome),
                    Err(_) => return Err(RunError::Panicked),
                },
                recv(pushed) -> _ => {}
                recv(paused) -> _ => self.tell_pause(observe),
                recv(shutdown.receiver()) -> _ => break,
                default(wait) => {}
            }
            let now = self.now();
            self.session.handle_timeout(now);
            if self.count_at <= now {
                self.count_at = now + COUNT_PERIOD;
                self.session.handle_samples(now, self.store.counts()?.iter().sum(), self.store.dataset()?);
            }
        }
        let asked_at = shutdown.requested_at().unwrap_or_else(now);
        self.options.service.stopping();
        let goodbye = encode(&self.session.last_will(), &[]);
        let up = topics::up(&self.options.fleet, &self.options.identity.device);
        if let Err(error) = self.transport.publish(&up, goodbye, false) {
            tracing::debug!("no goodbye: {error}");
        }
        let traffic = self.transport.traffic();
        // Nobody listens any more: a connection that waits to hand over a message goes on and can say goodbye.
        drop(link);
        self.transport.close();
        let worked = self.worker.finish(asked_at + GRACE, asked_at + LEAVE_BEHIND);
        let cpu = cpu::thread_cpu().unwrap_or_default() + worked;
        Ok(DeviceReport { traffic, cpu, delivered: self.delivered })
    }

    fn handle_link(&mut self, event: Link, observe: &mut dyn FnMut(&Event)) {
        let now = self.now();
        match event {
            Link::Connected => {
                self.tell(&Event::Connected, observe);
                self.session.handle_connected(now);
            }
            Link::Disconnected { reason } => {
                self.told.lost(&reason);
                self.handle_disconnected(reason, observe);
            }
            Link::Refused { reason } => {
                tracing::error!("the broker refuses this device: {reason}");
                self.handle_disconnected(reason, observe);
            }
            Link::Trouble { trouble: Trouble::PacketLimit { bytes }, reason }
                if self.session.handle_packet_limit(bytes) =>
            {
                tracing::warn!("{reason}; going on with smaller blocks, which takes more messages");
            }
            Link::Trouble { trouble, reason } => {
                self.told.flaps(!matches!(trouble, Trouble::LargeRetained { .. }));
                self.tell(&Event::Trouble(reason), observe);
            }
            Link::Recovered => self.tell(&Event::Recovered, observe),
            Link::Message { payload, .. } => match decode_to_device(&payload) {
                Ok((message, block)) => self.session.handle_message(now, message, block),
                Err(error) if error.refusal() == Refusal::Version => self.session.handle_foreign_version(now),
                Err(error) => self.tell(&Event::Ignored(error.refusal()), observe),
            },
        }
    }

    fn handle_disconnected(&mut self, reason: String, observe: &mut dyn FnMut(&Event)) {
        self.tell(&Event::Disconnected, observe);
        self.tell(&Event::Unreachable(reason), observe);
        self.session.handle_disconnected();
        if let Some(outgoing) = &self.options.outgoing {
            outgoing.hang_up();
        }
    }

    fn handle_done(&mut self, outcome: Done) {
        let now = self.now();
        self.worker.rest();
        match outcome {
            Done::Update(update) => self.session.handle_update(now, update),
            Done::Failed => self.session.handle_failure(now),
            Done::Interrupted => self.session.handle_interruption(now),
        }
    }

    fn tell_pause(&mut self, observe: &mut dyn FnMut(&Event)) {
        let pause = self.options.throttle.pause();
        self.tell(&pause.map_or(Event::Resumed, |pause| Event::Paused(pause.to_string())), observe);
    }

    fn act(&mut self, observe: &mut dyn FnMut(&Event)) {
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::Send(message, block) => self.send(&message, &block),
                Action::Follow(kind) => {
                    let topic = topics::blob(&self.options.fleet, kind);
                    if let Err(error) = self.transport.subscribe(&topic) {
                        tracing::error!("{error}");
                    }
                }
                Action::Unfollow(kind) => self.transport.unsubscribe(&topics::blob(&self.options.fleet, kind)),
                Action::Work(job) => {
                    let now = self.now();
                    // The session gives one job at a time.
                    if !self.worker.begin(now, job) {
                        tracing::error!("the working thread is gone");
                        self.session.handle_failure(now);
                    }
                }
                Action::Interrupt => self.worker.interrupt(),
                Action::Reconnect => {
                    tracing::warn!("nothing was heard for long; connecting to the broker anew");
                    self.transport.reconnect();
                }
                Action::SaveHeads { run, round, heads, digest } => self.save_heads(run, round, &heads, digest.0),
                Action::EmptyOutbox(digest) => self.empty_outbox(digest.0),
                Action::Report(event) => {
                    if let Event::Delivered(round) = event {
                        self.delivered += 1;
                        self.confirm_state(round.0);
                    }
                    self.tell(&event, observe);
                }
            }
        }
    }

    /// What cannot go out now is said again by the session's timers.
    fn send(&self, message: &ToAggregator, block: &[u8]) {
        let topic = topics::up(&self.options.fleet, &self.options.identity.device);
        match self.transport.publish(&topic, encode(message, block), false) {
            Ok(()) => {}
            Err(error @ (PublishError::Full | PublishError::Disconnected)) => tracing::debug!("{error}"),
            Err(error @ (PublishError::TooLarge { .. } | PublishError::Topic { .. })) => tracing::error!("{error}"),
        }
    }

    /// A head that cannot be kept, on a full disk perhaps, costs `classify` a round and the fleet nothing.
    fn save_heads(&self, run: RunId, round: RoundId, heads: &Heads, digest: [u8; 32]) {
        let newest = NewestHead { run: run.0, round: round.0, main: heads.main.clone(), digest };
        if let Err(error) = self.store.put_head(&newest) {
            tracing::error!(round = round.0, "the newest head is not kept: {error}");
        }
    }

    /// What stays in the outbox is offered once more after the next start, and the aggregator knows it.
    fn empty_outbox(&self, digest: [u8; 32]) {
        if let Err(error) = self.store.empty_outbox(digest) {
            tracing::error!("the delivered update is not forgotten: {error}");
        }
    }

    /// What the method kept with the update counts from now on. Where that fails, the method does as if the update had been
    /// lost, which every method allows for.
    fn confirm_state(&self, round: u32) {
        if let Err(error) = self.store.confirm_method_state(round) {
            tracing::error!("the method's state is not confirmed: {error}");
        }
    }

    fn tell(&mut self, event: &Event, observe: &mut dyn FnMut(&Event)) {
        self.told.log(event);
        observe(event);
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the shell: the session gets its time from here")]
fn now() -> Instant {
    Instant::now()
}
