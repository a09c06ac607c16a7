//! The polling thread: connects, reads and writes, and tells the sink. Nothing else may run here.
#![allow(clippy::disallowed_methods, reason = "a shell: time-outs of a socket need the clock")]

use core::convert::Infallible;
use core::time::Duration;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use rumqttc::{
    AsyncClient, ConnectionError, EventLoop, Incoming, LastWill, MqttOptions, MqttState, NetworkOptions, Publish, QoS,
    StateError, SubAck, SubscribeReasonCode,
};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{timeout, timeout_at};

use super::backoff::Pauses;
use super::careful::{Careful, Found};
use super::ended::{Ended, explain_packet, explain_refusal, is_hang_up};
use super::suspicion::{CALM, Suspicion};
use super::watchdog::Watchdog;
use super::{Ending, Event, Link, Options, Phase, StartError, Trouble};

type Sink = Box<dyn FnMut(Event) + Send>;

/// Hundreds of these threads may live in one process. Polling takes about a tenth of this, name resolution a third.
const STACK_BYTES: usize = 256 * 1024;
/// Messages that may wait for the broker's acknowledgement at once.
const MAX_IN_FLIGHT: usize = 64;
/// Room in the queue beside the caller's messages: subscriptions and the last word.
const QUEUE_RESERVE: usize = 4;
/// How long connecting, or writing one packet, may take: the keep-alive within these bounds, in seconds.
const SHORTEST_TIMEOUT_S: u64 = 5;
const LONGEST_TIMEOUT_S: u64 = 30;
/// How long a closing transport waits for outstanding acknowledgements.
const CLOSE_LIMIT: Duration = Duration::from_millis(1_000);
/// How long a closing transport waits for the broker to hang up after DISCONNECT.
const FAREWELL_LIMIT: Duration = Duration::from_millis(250);

/// The polling thread, seen from outside.
pub(super) struct Running {
    /// Disconnects when the thread has ended.
    pub(super) finished: Receiver<Infallible>,
    pub(super) thread: thread::JoinHandle<()>,
}

/// Starts the thread.
pub(super) fn start(options: Options, sink: Sink) -> Result<(Arc<Link>, Running), StartError> {
    // Only resolving a host name uses a second thread, and only for that long.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .thread_stack_size(STACK_BYTES)
        .thread_keep_alive(Duration::from_secs(1))
        .build()?;
    let (client, mut eventloop) = AsyncClient::new(mqtt_options(&options), options.queue + QUEUE_RESERVE);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(options.keep_alive.as_secs().clamp(SHORTEST_TIMEOUT_S, LONGEST_TIMEOUT_S));
    eventloop.set_network_options(network);
    let link = Arc::new(Link::new(client, &options.subscriptions));
    let (alive, finished) = crossbeam_channel::bounded(0);
    let polling = Polling::new(Arc::clone(&link), options, sink, alive);
    let run = move || poll(runtime, polling, eventloop);
    let thread = thread::Builder::new().name("mqtt".to_owned()).stack_size(STACK_BYTES).spawn(run)?;
    Ok((link, Running { finished, thread }))
}

fn mqtt_options(options: &Options) -> MqttOptions {
    let broker = &options.broker;
    let mut mqtt = MqttOptions::new(options.client_id.as_str(), broker.host(), broker.port());
    mqtt.set_keep_alive(Duration::from_secs(options.keep_alive.as_secs()));
    mqtt.set_clean_session(options.clean_session);
    mqtt.set_max_packet_size(options.max_incoming_bytes.max(options.max_packet_bytes), options.max_packet_bytes);
    mqtt.set_inflight(options.queue.clamp(2, MAX_IN_FLIGHT) as u16);
    if let Some((user, password)) = broker.login() {
        mqtt.set_credentials(user, password);
    }
    if let Some(will) = &options.will {
        mqtt.set_last_will(LastWill::new(&will.topic, will.payload.clone(), QoS::AtLeastOnce, will.retain));
    }
    mqtt
}

fn poll(runtime: Runtime, polling: Polling, eventloop: EventLoop) {
    runtime.block_on(polling.run(eventloop));
    // Dropping the runtime would wait for a name that is still being resolved.
    runtime.shutdown_background();
}

struct Polling {
    link: Arc<Link>,
    options: Options,
    sink: Sink,
    watchdog: Watchdog,
    connected_at: Option<Instant>,
    /// What the sink was told last, unless it was told of a connection since.
    told: Option<Event>,
    close_by: Option<Instant>,
    took_leave: bool,
    /// The newest connection ended with something that cannot be read.
    is_poisoned: bool,
    suspicion: Suspicion,
    careful: Careful,
    _alive: Sender<Infallible>,
}

impl Polling {
    fn new(link: Arc<Link>, options: Options, sink: Sink, alive: Sender<Infallible>) -> Self {
        let watchdog = Watchdog::new(options.patience(), Instant::now());
        Self {
            link,
            options,
            sink,
            watchdog,
            connected_at: None,
            told: None,
            close_by: None,
            took_leave: false,
            is_poisoned: false,
            suspicion: Suspicion::default(),
            careful: Careful::default(),
            _alive: alive,
        }
    }

    async fn run(mut self, mut eventloop: EventLoop) {
        let mut pauses = Pauses::new(self.options.backoff, &self.options.client_id);
        loop {
            let ended = self.serve(&mut eventloop).await;
            let unacknowledged = self.link.hang_up();
            start_afresh(&mut eventloop);
            let lasted = self.connected_at.take().map_or(Duration::ZERO, |since| since.elapsed());
            if lasted >= CALM {
                pauses.calmed();
            }
            let (event, trouble) = self.judge(ended, lasted, unacknowledged);
            if matches!(trouble, Some(Trouble::PacketLimit { .. })) {
                // Whoever hears of it may send smaller packets.
                pauses.calmed();
            }
            let pause = match &event {
                None => return,
                Some(Event::Refused { .. }) => pauses.longest(),
                Some(_) if self.suspicion.is_hopeless() => pauses.hopeless(),
                Some(_) => pauses.after(lasted),
            };
            let keeps_session = self.careful.is_needed() || !self.options.clean_session;
            eventloop.mqtt_options.set_clean_session(self.is_poisoned || !keeps_session);
            event.into_iter().for_each(|event| self.tell(event, pause));
            trouble.into_iter().for_each(|trouble| self.tell_trouble(trouble));
            if self.rest(pause).await.is_err() {
                return;
            }
        }
    }

    /// What is told about the end of a connection; no event if it was our own wish.
    fn judge(&mut self, ended: Ended, lasted: Duration, unacknowledged: usize) -> (Option<Event>, Option<Trouble>) {
        self.is_poisoned = false;
        if lasted.is_zero() && !matches!(ended, Ended::Oversize { .. }) {
            self.suspicion.failed();
        }
        match ended {
            Ended::ByUs => (None, None),
            Ended::Refused(reason) => (Some(Event::Refused { reason }), None),
            Ended::Lost(reason) => (Some(Event::Disconnected { reason }), None),
            Ended::Closed(reason) => {
                let trouble = if lasted.is_zero() { None } else { self.suspicion.closed(lasted, unacknowledged) };
                (Some(Event::Disconnected { reason }), trouble)
            }
            Ended::Oversize { bytes, reason } => {
                let trouble = match self.careful.found_large() {
                    Found::Perhaps => {
                        self.is_poisoned = true;
                        None
                    }
                    Found::Retained => None,
                    Found::Filter => self.suspicion.found_large(bytes),
                };
                (Some(Event::Disconnected { reason }), trouble)
            }
            Ended::Poisoned(reason) => {
                self.is_poisoned = true;
                (Some(Event::Disconnected { reason }), None)
            }
        }
    }

    /// Connects, and polls until that connection is over.
    async fn serve(&mut self, eventloop: &mut EventLoop) -> Ended {
        self.watchdog = Watchdog::new(self.options.patience(), Instant::now());
        let ended = loop {
            let turned = match self.turn(eventloop).await {
                // Pings turn the loop as well: progress is a question after every event.
                Ok(event) => self.receive(event).and_then(|()| self.check_progress()),
                Err(ended) => Err(ended),
            };
            if let Err(ended) = turned {
                break ended;
            }
        };
        // rumqttc reports a lost connection before the packets that it read just before; they were received all the same.
        while let Some(event) = eventloop.state.events.pop_front() {
            if let Err(reason) = self.receive(event) {
                return reason;
            }
        }
        ended
    }

    /// One event of the event loop. Its future is kept across wake-ups: dropped halfway, it could lose a packet.
    async fn turn(&mut self, eventloop: &mut EventLoop) -> Result<rumqttc::Event, Ended> {
        let link = Arc::clone(&self.link);
        let poll = eventloop.poll();
        tokio::pin!(poll);
        loop {
            self.steer()?;
            let period = self.options.keep_alive.min(self.options.patience());
            let deadline = self.close_by.unwrap_or_else(|| Instant::now() + period);
            let polled = tokio::select! {
                biased;
                () = link.wake.notified() => continue,
                polled = timeout_at(deadline.into(), poll.as_mut()) => polled,
            };
            match polled {
                Ok(Ok(event)) => {
                    self.watchdog.turned(Instant::now());
                    return Ok(event);
                }
                Ok(Err(error)) => return Err(self.explain(error)),
                Err(_elapsed) => self.check_progress()?,
            }
        }
    }

    fn check_progress(&mut self) -> Result<(), Ended> {
        let is_waiting = !self.link.lock().is_settled();
        match self.watchdog.verdict(Instant::now(), is_waiting) {
            Some(why) => Err(Ended::Lost(format!("{why}; connecting anew"))),
            None => {
                if self.connected_at.is_some_and(|since| since.elapsed() >= CALM) {
                    self.careful.calmed();
                    if self.suspicion.calmed() {
                        (self.sink)(Event::Recovered);
                    }
                }
                Ok(())
            }
        }
    }

    /// Passes on what waited for room in the queue, and moves a closing transport towards its end.
    fn steer(&mut self) -> Result<(), Ended> {
        self.link.turn();
        let mut state = self.link.lock();
        if core::mem::take(&mut state.is_doubted) {
            return Err(Ended::Lost("a new connection was asked for".to_owned()));
        }
        self.link.hand_over(&mut state);
        match state.ending {
            Ending::No => return Ok(()),
            Ending::Cut => return Err(Ended::ByUs),
            Ending::Close if state.phase != Phase::Connected => return Err(Ended::ByUs),
            Ending::Close => {}
        }
        let now = Instant::now();
        let close_by = *self.close_by.get_or_insert(now + CLOSE_LIMIT);
        // Only once the broker has everything: a socket closed with unread acknowledgements resets the connection, and
        // a broker that sees the reset first throws away what it has not read.
        if !self.took_leave && state.is_settled() && self.link.client.try_disconnect().is_ok() {
            self.took_leave = true;
            self.close_by = Some(close_by.min(now + FAREWELL_LIMIT));
        }
        if now >= close_by { Err(Ended::ByUs) } else { Ok(()) }
    }

    fn receive(&mut self, event: rumqttc::Event) -> Result<(), Ended> {
        let rumqttc::Event::Incoming(packet) = event else { return Ok(()) };
        match packet {
            Incoming::ConnAck(accepted) => {
                if self.careful.is_needed() {
                    self.careful.open(&self.link, accepted.session_present);
                } else {
                    self.link.open();
                }
                self.announce_if_settled();
            }
            Incoming::Publish(publish) => self.deliver(&publish),
            Incoming::SubAck(granted) => {
                self.check_granted(&granted)?;
                self.careful.granted();
                self.acknowledge();
            }
            Incoming::PubAck(_) | Incoming::UnsubAck(_) => self.acknowledge(),
            Incoming::PingResp
            | Incoming::Connect(_)
            | Incoming::PubRec(_)
            | Incoming::PubRel(_)
            | Incoming::PubComp(_)
            | Incoming::Subscribe(_)
            | Incoming::Unsubscribe(_)
            | Incoming::PingReq
            | Incoming::Disconnect => {}
        }
        Ok(())
    }

    fn deliver(&mut self, publish: &Publish) {
        // A broker may send the first message before it acknowledges the subscription; then that stands already.
        self.announce();
        self.link.received.count(publish.topic.len() + publish.payload.len());
        // A copy of the exact size: the payload is a window into the read buffer and would keep all of that alive.
        (self.sink)(Event::Message { topic: publish.topic.clone(), payload: publish.payload.to_vec() });
    }

    fn acknowledge(&mut self) {
        if let Some(passed) = self.link.acknowledged() {
            self.suspicion.passed(passed);
        }
        self.watchdog.progressed(Instant::now());
        self.announce_if_settled();
    }

    fn check_granted(&self, granted: &SubAck) -> Result<(), Ended> {
        if !granted.return_codes.contains(&SubscribeReasonCode::Failure) {
            return Ok(());
        }
        let Options { client_id, broker, .. } = &self.options;
        let filters: Vec<String> = self.link.lock().filters.iter().cloned().collect();
        let filters = filters.join(", ");
        Err(Ended::Refused(format!("{broker} refuses subscriptions; allow `{client_id}` to read {filters}")))
    }

    fn announce_if_settled(&mut self) {
        let settled = self.link.lock().is_settled();
        if settled {
            self.announce();
        }
    }

    fn announce(&mut self) {
        if self.connected_at.is_some() {
            return;
        }
        self.connected_at = Some(Instant::now());
        self.told = None;
        self.link.lock().phase = Phase::Connected;
        tracing::debug!(broker = %self.options.broker, client = self.options.client_id, "connected");
        (self.sink)(Event::Connected);
    }

    /// Tells the sink once, however often the same attempt fails.
    fn tell(&mut self, event: Event, pause: Duration) {
        if self.told.as_ref() == Some(&event) {
            return;
        }
        self.told = Some(event.clone());
        let client = &self.options.client_id;
        // The sink tells people.
        tracing::debug!(client, ?event, ?pause, "no connection");
        (self.sink)(event);
    }

    fn tell_trouble(&mut self, trouble: Trouble) {
        let Options { broker, client_id, .. } = &self.options;
        let reason = match trouble {
            Trouble::PacketLimit { bytes } => format!(
                "{broker} hangs up whenever a packet of {bytes} bytes comes; raise its packet limit to at least {} bytes \
                 (mosquitto: max_packet_size)",
                self.options.max_packet_bytes
            ),
            Trouble::Evicted => format!(
                "{broker} closes every connection soon after it is made: another program uses the client id `{client_id}`, \
                 or the broker's log names another reason; stop one of the two or give it another name"
            ),
            Trouble::LargeRetained { bytes } => {
                let filters = self.careful.sour().collect::<Vec<_>>().join(", ");
                format!(
                    "{broker} retains a message of {bytes} bytes on {filters}, which is skipped; remove it \
                     (mosquitto_pub -r -n -t TOPIC) and start this program again"
                )
            }
        };
        (self.sink)(Event::Trouble { trouble, reason });
    }

    /// Waits out a pause; an error means that the transport should end.
    async fn rest(&self, pause: Duration) -> Result<(), Ended> {
        let until = Instant::now() + pause;
        loop {
            self.link.turn();
            if self.link.lock().ending != Ending::No {
                return Err(Ended::ByUs);
            }
            let left = until.saturating_duration_since(Instant::now());
            if timeout(left, self.link.wake.notified()).await.is_err() {
                return Ok(());
            }
        }
    }

    fn explain(&self, error: ConnectionError) -> Ended {
        let broker = &self.options.broker;
        if self.took_leave {
            return Ended::ByUs;
        }
        if let ConnectionError::ConnectionRefused(code) = &error {
            return explain_refusal(*code, &self.options);
        }
        if let ConnectionError::MqttState(StateError::Deserialization(packet)) = &error {
            return explain_packet(packet, &self.options);
        }
        if is_hang_up(&error) {
            return Ended::Closed(format!("{broker} closed the connection; its log may say why"));
        }
        Ended::Lost(if matches!(error, ConnectionError::MqttState(StateError::AwaitPingResp)) {
            format!("{broker} did not answer for {:?}", self.options.keep_alive)
        } else if matches!(error, ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout) {
            format!("{broker} is not reachable in time; check the network")
        } else {
            format!("no connection to {broker}: {error}; check the address and that the broker runs")
        })
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        // Also after a panic of the sink: nobody may believe in a connection that nothing polls.
        self.link.hang_up();
    }
}

/// Forgets the lost connection entirely. rumqttc would keep packet ids, collisions and queued requests, and with a
/// broker that has forgotten the session too, it may then wait for an acknowledgement that never comes.
fn start_afresh(eventloop: &mut EventLoop) {
    eventloop.clean();
    eventloop.pending.clear();
    eventloop.state = MqttState::new(eventloop.mqtt_options.inflight(), false);
}
