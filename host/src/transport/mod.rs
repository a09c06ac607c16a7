//! MQTT 3.1.1 over TCP: the only place that names rumqttc.
//!
//! One thread per [`Transport`] does nothing but poll the connection and hand what arrives to a sink; everybody else
//! talks to it through a bounded queue. What the caller may rely on:
//!
//! - [`Event::Connected`] means that every subscription is in place: what is published from then on arrives.
//! - [`Transport::publish`] never blocks. Messages leave in the order in which they and the subscriptions were asked for.
//! - A lost connection forgets what was queued or not yet acknowledged. An acknowledgement by the broker is no delivery
//!   either, so the protocol repeats what has no receipt; sending old packets again would only double them.
//! - rumqttc keeps state across a lost session that can stall the next one, so each connection begins with fresh state.

mod backoff;
mod careful;
mod ended;
mod options;
mod polling;
mod suspicion;
mod watchdog;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::RecvTimeoutError;
use rumqttc::{AsyncClient, QoS, SubscribeFilter};
use tokio::sync::Notify;

pub use self::backoff::Backoff;
pub use self::options::{Options, StartError, Will, is_topic};
use self::options::{is_filter, packet_bytes};
pub use self::suspicion::Trouble;

/// Longest that [`Transport::close`] waits for the polling thread.
const JOIN_LIMIT: Duration = Duration::from_millis(1_500);
/// Filters in one SUBSCRIBE packet: some brokers allow no more.
const FILTERS_PER_PACKET: usize = 8;

/// What happens on the connection, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The broker accepted this client and every subscription.
    Connected,
    /// The connection was lost, or could not be made; the transport tries again. Told once per reason.
    Disconnected {
        /// For a person.
        reason: String,
    },
    /// A message on a subscribed topic. It may arrive twice.
    Message {
        /// Where it was published.
        topic: String,
        /// What was published.
        payload: Vec<u8>,
    },
    /// The broker will not have this client until a person changes something (login, client id, access rules).
    /// The transport goes on trying at the longest pause.
    Refused {
        /// For a person.
        reason: String,
    },
    /// The broker hangs up again and again, and this seems to be why. Told once, until it is something else or over.
    Trouble {
        /// What it seems to be.
        trouble: Trouble,
        /// For a person: what it is and what to do.
        reason: String,
    },
    /// What [`Trouble`](Self::Trouble) told is over: a connection has lasted.
    Recovered,
}

/// A connection to a broker that repairs itself.
///
/// Dropping it without [`close`](Self::close) cuts the connection as a power cut would: the broker publishes the will.
/// The sink is dropped when the polling thread ends, so a channel behind it closes.
pub struct Transport {
    link: Arc<Link>,
    max_packet_bytes: usize,
    /// Longest between two turns of the polling thread.
    turn_limit: Duration,
    running: Option<polling::Running>,
}

/// Topic and payload bytes of messages, and how many there were. MQTT and TCP headers are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Accepted for sending.
    pub sent_bytes: u64,
    /// Received.
    pub received_bytes: u64,
    /// Accepted for sending.
    pub sent_messages: u64,
    /// Received.
    pub received_messages: u64,
}

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Too large for a packet.
    #[error("a message of {bytes} bytes exceeds the packet limit of {limit}; send it in smaller blocks")]
    TooLarge {
        /// The whole packet.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not a topic that can be published to.
    #[error("`{topic}` is not a topic to publish to; it must not be empty nor contain `+` or `#`")]
    Topic {
        /// The topic.
        topic: String,
    },
    /// As many messages wait as the queue holds.
    #[error("the outgoing queue is full; try again when the broker has acknowledged some")]
    Full,
    /// There is no connection.
    #[error("there is no connection to the broker; try again after the next `Connected`")]
    Disconnected,
}

/// A topic filter that MQTT forbids.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{filter}` is not a topic filter; `+` and `#` stand alone between slashes, `#` last")]
pub struct FilterError {
    filter: String,
}

impl Transport {
    /// Starts the polling thread, which connects and calls `sink` with what happens.
    ///
    /// The sink runs on the polling thread, between two packets: it must only pass the event on, and never wait.
    ///
    /// # Errors
    /// If an option or a topic cannot be used, or the system gives no thread or no event queue.
    pub fn start(options: Options, sink: impl FnMut(Event) + Send + 'static) -> Result<Self, StartError> {
        options.check()?;
        let max_packet_bytes = options.max_packet_bytes;
        let turn_limit = options.patience().max(backoff::longest_of_all(options.backoff)) * 2;
        let (link, running) = polling::start(options, Box::new(sink))?;
        Ok(Self { link, max_packet_bytes, turn_limit, running: Some(running) })
    }

    /// Queues a message with QoS 1 and returns at once. An error means that it was not taken and never will be sent.
    ///
    /// # Errors
    /// If the topic cannot be published to, the message is too large, there is no connection, or the queue is full.
    pub fn publish(&self, topic: &str, payload: Vec<u8>, retain: bool) -> Result<(), PublishError> {
        if !is_topic(topic) {
            return Err(PublishError::Topic { topic: topic.to_owned() });
        }
        let bytes = packet_bytes(topic, &payload);
        if bytes > self.max_packet_bytes {
            return Err(PublishError::TooLarge { bytes, limit: self.max_packet_bytes });
        }
        let counted = topic.len() + payload.len();
        let mut state = self.link.lock();
        if state.phase != Phase::Connected {
            return Err(PublishError::Disconnected);
        }
        self.link.hand_over(&mut state);
        if !state.changes.is_empty() {
            return Err(PublishError::Full);
        }
        // The topic is valid and the event loop holds the other end, so the only failure left is a full queue.
        let sent = self.link.client.try_publish(topic, QoS::AtLeastOnce, retain, payload);
        sent.map_err(|_full| PublishError::Full)?;
        state.unacknowledged += 1;
        state.largest_bytes = state.largest_bytes.max(bytes);
        self.link.sent.count(counted);
        Ok(())
    }

    /// Subscribes now and on every later connection.
    ///
    /// # Errors
    /// If `filter` is no topic filter.
    pub fn subscribe(&self, filter: &str) -> Result<(), FilterError> {
        if !is_filter(filter) {
            return Err(FilterError { filter: filter.to_owned() });
        }
        let mut state = self.link.lock();
        if state.filters.insert(filter.to_owned()) && state.phase != Phase::Down {
            state.changes.push_back(Change::Subscribe(vec![filter.to_owned()], QoS::AtLeastOnce));
            self.link.hand_over(&mut state);
        }
        Ok(())
    }

    /// Undoes [`subscribe`](Self::subscribe). Messages on their way may still arrive.
    pub fn unsubscribe(&self, filter: &str) {
        let mut state = self.link.lock();
        if state.filters.remove(filter) && state.phase != Phase::Down {
            state.changes.push_back(Change::Unsubscribe(filter.to_owned()));
            self.link.hand_over(&mut state);
        }
    }

    /// Messages and subscriptions that the broker has not acknowledged; `None` without a connection.
    pub fn unacknowledged(&self) -> Option<u64> {
        let state = self.link.lock();
        (state.phase == Phase::Connected).then_some(state.unacknowledged)
    }

    /// What was sent and received since the start.
    pub fn traffic(&self) -> Traffic {
        let (sent, received) = (&self.link.sent, &self.link.received);
        Traffic {
            sent_bytes: sent.bytes.load(Ordering::Relaxed),
            received_bytes: received.bytes.load(Ordering::Relaxed),
            sent_messages: sent.messages.load(Ordering::Relaxed),
            received_messages: received.messages.load(Ordering::Relaxed),
        }
    }

    /// Gives up the connection and makes a new one, as if it had been lost.
    pub fn reconnect(&self) {
        let mut state = self.link.lock();
        state.is_doubted = state.phase != Phase::Down;
        drop(state);
        self.link.wake.notify_one();
    }

    /// Whether the polling thread goes round its loop, with or without a broker. It never takes longer than its
    /// time-outs, so a thread that is not alive has a fault.
    pub fn is_alive(&self) -> bool {
        self.link.turned.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < self.turn_limit
    }

    /// Waits until the broker has everything that was queued, takes leave so that the will is not published, and joins
    /// the thread: 1.5 s at most, after which the connection is cut.
    pub fn close(mut self) {
        self.link.end(Ending::Close);
        let Some(running) = self.running.take() else { return };
        if running.finished.recv_timeout(JOIN_LIMIT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the MQTT thread does not end; it is left behind");
            return;
        }
        // A panic of the sink was reported by the panic hook; here there is nothing left to do about it.
        let _ended = running.thread.join();
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.link.end(Ending::Cut);
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("traffic", &self.traffic()).finish_non_exhaustive()
    }
}

/// What the callers and the polling thread share.
struct Link {
    client: AsyncClient,
    state: Mutex<State>,
    /// Wakes the polling thread for an [`Ending`]; requests wake it by themselves.
    wake: Notify,
    /// When the polling thread began its newest turn.
    turned: Mutex<Instant>,
    sent: Counter,
    received: Counter,
}

struct State {
    phase: Phase,
    ending: Ending,
    /// Remembered for every connection.
    filters: BTreeSet<String>,
    /// Changed subscriptions that found no room in the queue yet. Messages wait behind them.
    changes: VecDeque<Change>,
    /// Messages and subscriptions that the broker has not acknowledged.
    unacknowledged: u64,
    /// The largest packet since the broker had last acknowledged everything.
    largest_bytes: usize,
    /// A caller wants a new connection.
    is_doubted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Down,
    /// The broker accepted the client; subscriptions are under way.
    Subscribing,
    Connected,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    No,
    Close,
    Cut,
}

enum Change {
    Subscribe(Vec<String>, QoS),
    Unsubscribe(String),
}

#[derive(Default)]
struct Counter {
    bytes: AtomicU64,
    messages: AtomicU64,
}

impl Link {
    fn new(client: AsyncClient, filters: &[String]) -> Self {
        let state = State {
            phase: Phase::Down,
            ending: Ending::No,
            filters: filters.iter().cloned().collect(),
            changes: VecDeque::new(),
            unacknowledged: 0,
            largest_bytes: 0,
            is_doubted: false,
        };
        let (sent, received) = (Counter::default(), Counter::default());
        Self { client, state: Mutex::new(state), wake: Notify::new(), turned: Mutex::new(now()), sent, received }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change below leaves the state whole, whatever panics afterwards.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, ending: Ending) {
        self.lock().ending = ending;
        self.wake.notify_one();
    }

    /// Moves changed subscriptions into the queue, as far as there is room.
    fn hand_over(&self, state: &mut State) {
        while let Some(change) = state.changes.front() {
            let handed = match change {
                Change::Subscribe(filters, qos) => {
                    let filters = filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), *qos));
                    self.client.try_subscribe_many(filters)
                }
                Change::Unsubscribe(filter) => self.client.try_unsubscribe(filter.as_str()),
            };
            if handed.is_err() {
                return;
            }
            state.changes.pop_front();
            state.unacknowledged += 1;
        }
    }

    /// A connection stands: everything that should be subscribed to is asked for.
    fn open(&self) {
        let mut state = self.lock();
        let filters: Vec<String> = state.filters.iter().cloned().collect();
        let several = |some: &[String]| Change::Subscribe(some.to_vec(), QoS::AtLeastOnce);
        self.begin(&mut state, filters.chunks(FILTERS_PER_PACKET).map(several).collect());
    }

    fn begin(&self, state: &mut State, changes: VecDeque<Change>) {
        state.phase = Phase::Subscribing;
        state.changes = changes;
        self.hand_over(state);
    }

    /// The connection is gone, and with it everything that waited. Gives the size of the largest packet that may not have
    /// been acknowledged, 0 for none.
    fn hang_up(&self) -> usize {
        let mut state = self.lock();
        state.phase = Phase::Down;
        state.changes.clear();
        state.unacknowledged = 0;
        state.is_doubted = false;
        core::mem::take(&mut state.largest_bytes)
    }

    /// The polling thread begins another turn.
    fn turn(&self) {
        *self.turned.lock().unwrap_or_else(PoisonError::into_inner) = now();
    }

    /// Gives the size of the largest packet that has passed, once everything has.
    fn acknowledged(&self) -> Option<usize> {
        let mut state = self.lock();
        state.unacknowledged = state.unacknowledged.saturating_sub(1);
        (state.unacknowledged == 0).then(|| core::mem::take(&mut state.largest_bytes))
    }
}

#[allow(clippy::disallowed_methods, reason = "a shell: whether a thread is alive is a matter of time")]
fn now() -> Instant {
    Instant::now()
}

impl State {
    fn is_settled(&self) -> bool {
        self.unacknowledged == 0 && self.changes.is_empty()
    }
}

impl Counter {
    fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.messages.fetch_add(1, Ordering::Relaxed);
    }
}
