//! How to connect, and what is refused before any socket is opened.

use core::time::Duration;

use super::Backoff;
use crate::BrokerAddress;

/// Bytes around topic and payload in the largest PUBLISH header: fixed header 5, topic length 2, packet id 2.
const PUBLISH_HEADER_BYTES: usize = 9;
/// How many keep-alives may pass without progress, unless something else is said.
const PATIENCE: u32 = 3;
/// Shortest keep-alive counted with, so that a slow connect is not taken for a stall.
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// CONNECT and SUBSCRIBE packets must fit as well.
const SMALLEST_PACKET_LIMIT: usize = 4_096;

/// How to connect to a broker. Make one with [`Options::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the broker is.
    pub broker: BrokerAddress,
    /// Unique at the broker: a second connection with the same id throws out the first.
    pub client_id: String,
    /// Longest silence before a ping; whole seconds from 1 s to 65,535 s.
    pub keep_alive: Duration,
    /// What the broker publishes when this connection breaks without [`close`](super::Transport::close).
    pub will: Option<Will>,
    /// Topic filters to subscribe to on every connection.
    pub subscriptions: Vec<String>,
    /// Largest packet sent, headers included.
    pub max_packet_bytes: usize,
    /// Largest packet read from the broker, headers included; a larger one ends the connection. At least
    /// `max_packet_bytes` is read in any case.
    pub max_incoming_bytes: usize,
    /// Whether the broker forgets subscriptions and undelivered messages while this client is away.
    pub clean_session: bool,
    /// Most messages that wait to be written; [`publish`](super::Transport::publish) refuses more.
    pub queue: usize,
    /// Pauses between attempts to connect.
    pub backoff: Backoff,
    /// How long a connection may stand still before it is given up; without it three keep-alives, at least 15 s.
    pub patience: Option<Duration>,
}

impl Options {
    /// The usual options: keep-alive 60 s, packets to 128 KiB, 64 waiting messages, a clean session, no will.
    pub fn new(broker: BrokerAddress, client_id: impl Into<String>) -> Self {
        Self {
            broker,
            client_id: client_id.into(),
            keep_alive: Duration::from_secs(60),
            will: None,
            subscriptions: Vec::new(),
            max_packet_bytes: 128 * 1024,
            max_incoming_bytes: 0,
            clean_session: true,
            queue: 64,
            backoff: Backoff::default(),
            patience: None,
        }
    }

    /// See [`Options::patience`].
    pub(super) fn patience(&self) -> Duration {
        self.patience.unwrap_or(self.keep_alive.max(SHORTEST_KEEP_ALIVE) * PATIENCE)
    }

    pub(super) fn check(&self) -> Result<(), StartError> {
        if self.client_id.is_empty() {
            return Err(StartError::ClientId);
        }
        if !(1..=u64::from(u16::MAX)).contains(&self.keep_alive.as_secs()) {
            return Err(StartError::KeepAlive { keep_alive: self.keep_alive });
        }
        if self.max_packet_bytes < SMALLEST_PACKET_LIMIT {
            return Err(StartError::PacketLimit { limit: self.max_packet_bytes });
        }
        if self.queue == 0 {
            return Err(StartError::Queue);
        }
        if let Some(filter) = self.subscriptions.iter().find(|filter| !is_filter(filter)) {
            return Err(StartError::Topic { topic: filter.clone() });
        }
        let Some(will) = &self.will else { return Ok(()) };
        if !is_topic(&will.topic) {
            return Err(StartError::Topic { topic: will.topic.clone() });
        }
        let bytes = packet_bytes(&will.topic, &will.payload);
        if bytes > SMALLEST_PACKET_LIMIT / 2 {
            return Err(StartError::WillSize { bytes, limit: SMALLEST_PACKET_LIMIT / 2 });
        }
        Ok(())
    }
}

/// What the broker says in this client's name once the connection is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Where it is published, with QoS 1.
    pub topic: String,
    /// What is published; at most 2 KiB with the topic.
    pub payload: Vec<u8>,
    /// Whether the broker keeps it for later subscribers.
    pub retain: bool,
}

/// Why a transport could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The client id is empty.
    #[error("the MQTT client id is empty; give every device and aggregator its own")]
    ClientId,
    /// The keep-alive does not fit MQTT.
    #[error("a keep-alive of {keep_alive:?} is not possible; choose `1s` to `65535s`")]
    KeepAlive {
        /// What was asked for.
        keep_alive: Duration,
    },
    /// The packet limit is too small to connect at all.
    #[error("a packet limit of {limit} bytes is too small; allow at least {SMALLEST_PACKET_LIMIT}")]
    PacketLimit {
        /// What was asked for.
        limit: usize,
    },
    /// No room for a single message.
    #[error("the outgoing queue must hold at least one message")]
    Queue,
    /// A topic or filter that MQTT forbids.
    #[error("`{topic}` is not a valid MQTT topic; `+` and `#` stand alone between slashes, `#` last")]
    Topic {
        /// The topic.
        topic: String,
    },
    /// The will is too large.
    #[error("the last will takes {bytes} bytes, at most {limit} are allowed")]
    WillSize {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The operating system gave no thread or no event queue.
    #[error("could not start the MQTT thread; check the limits on threads and open files (`ulimit -a`)")]
    Thread(#[from] std::io::Error),
}

/// The size of a PUBLISH packet, rounded up to the longest header.
pub(super) fn packet_bytes(topic: &str, payload: &[u8]) -> usize {
    PUBLISH_HEADER_BYTES + topic.len() + payload.len()
}

/// Whether a message may be published there.
pub fn is_topic(topic: &str) -> bool {
    is_text(topic) && !topic.contains(['+', '#'])
}

/// Whether it may be subscribed to.
pub(super) fn is_filter(filter: &str) -> bool {
    let last = filter.split('/').count() - 1;
    let level = |(index, level): (usize, &str)| match level {
        "#" => index == last,
        "+" => true,
        name => !name.contains(['+', '#']),
    };
    is_text(filter) && filter.split('/').enumerate().all(level)
}

fn is_text(topic: &str) -> bool {
    !topic.is_empty() && topic.len() <= usize::from(u16::MAX) && !topic.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options::new(BrokerAddress::new("localhost", 1883), "device")
    }

    #[test]
    fn topics_and_filters() {
        for topic in ["a", "a/b", "/a", "$SYS/x"] {
            assert!(is_topic(topic) && is_filter(topic), "{topic}");
        }
        for filter in ["#", "+", "a/+/b", "a/#", "+/+"] {
            assert!(is_filter(filter) && !is_topic(filter), "{filter}");
        }
        for neither in ["", "a#", "#/a", "a+/b", "a\0"] {
            assert!(!is_filter(neither) && !is_topic(neither), "{neither}");
        }
    }

    #[test]
    fn options_that_cannot_work_are_refused_before_any_socket_is_opened() {
        let refused = |change: fn(&mut Options)| {
            let mut options = options();
            change(&mut options);
            options.check().unwrap_err()
        };
        assert!(options().check().is_ok());
        assert!(matches!(refused(|o| o.client_id.clear()), StartError::ClientId));
        assert!(matches!(refused(|o| o.keep_alive = Duration::from_millis(999)), StartError::KeepAlive { .. }));
        assert!(matches!(refused(|o| o.keep_alive = Duration::from_secs(65_536)), StartError::KeepAlive { .. }));
        assert!(matches!(refused(|o| o.max_packet_bytes = 10), StartError::PacketLimit { .. }));
        assert!(matches!(refused(|o| o.queue = 0), StartError::Queue));
        assert!(matches!(refused(|o| o.subscriptions.push("a/#/b".into())), StartError::Topic { .. }));
        let will = |topic: &str, payload| Some(Will { topic: topic.into(), payload, retain: true });
        let mut options = options();
        options.will = will("a/+", Vec::new());
        assert!(matches!(options.check(), Err(StartError::Topic { .. })));
        options.will = will("a", vec![0; 3_000]);
        assert!(matches!(options.check(), Err(StartError::WillSize { .. })));
    }
}
