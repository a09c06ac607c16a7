//! What the broker keeps of one client: its subscriptions, and the messages on their way to it.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rumqttc::mqttbytes::QoS;

use super::{Link, Output};
use crate::broker::limits::{MAX_HELD_BYTES, MAX_IN_FLIGHT, MAX_PLACES, MAX_QUEUED_BYTES, MAX_QUEUED_MESSAGES};

/// Capacity of a queue that is kept while it is empty, in messages.
const IDLE_CAPACITY: usize = 16;

/// What messages and their places in queues take up, of all clients together.
#[derive(Debug, Default)]
pub(super) struct Room {
    bytes: AtomicUsize,
    places: AtomicUsize,
}

impl Room {
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn places(&self) -> usize {
        self.places.load(Ordering::Relaxed)
    }
}

/// A published message, shared by everybody whom it goes to.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) topic: Box<str>,
    pub(crate) payload: Box<[u8]>,
    /// At which it was published; it goes out at 1 at most.
    qos: QoS,
    room: Arc<Room>,
}

impl Message {
    /// A copy of its own, so that it does not keep the buffer of a socket alive; `None` if all memory is taken.
    pub(super) fn new(topic: &str, payload: &[u8], qos: QoS, room: &Arc<Room>) -> Option<Arc<Self>> {
        let size = topic.len() + payload.len();
        if room.bytes() + size > MAX_HELD_BYTES {
            return None;
        }
        room.bytes.fetch_add(size, Ordering::Relaxed);
        Some(Arc::new(Self { topic: topic.into(), payload: payload.into(), qos, room: Arc::clone(room) }))
    }

    fn is_at_most_once(&self) -> bool {
        self.qos == QoS::AtMostOnce
    }

    /// Bytes of topic and payload.
    pub(super) fn size(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        self.room.bytes.fetch_sub(self.size(), Ordering::Relaxed);
    }
}

/// A message's place in the queue of one client.
#[derive(Debug)]
struct Place {
    message: Arc<Message>,
    /// Zero until it is in flight, and at QoS 0.
    packet_id: u16,
    qos: QoS,
    is_retained: bool,
}

impl Place {
    fn output(&self, is_duplicate: bool) -> Output {
        let message = Arc::clone(&self.message);
        Output::Publish { message, packet_id: self.packet_id, is_duplicate, is_retained: self.is_retained }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.message.room.places.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One client's session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Box<str>,
    /// Its connection; `None` while it is away.
    pub(super) link: Option<Link>,
    /// Whether it ends with the connection.
    pub(super) is_clean: bool,
    /// When it is forgotten, if the client is away.
    pub(super) ends: Duration,
    pub(super) filters: BTreeMap<Box<str>, QoS>,
    /// Packet ids at QoS 2 that came and were not released.
    pub(super) unreleased: BTreeSet<u16>,
    queue: VecDeque<Place>,
    queue_bytes: usize,
    in_flight: VecDeque<Place>,
    /// How many of those in flight went out on this connection; the rest goes out again first.
    sent: usize,
    last_packet_id: u16,
}

impl Session {
    pub(super) fn new(client: &str, link: Link, is_clean: bool) -> Self {
        Self {
            client: client.into(),
            link: Some(link),
            is_clean,
            ends: Duration::ZERO,
            filters: BTreeMap::new(),
            unreleased: BTreeSet::new(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            in_flight: VecDeque::new(),
            sent: 0,
            last_packet_id: 0,
        }
    }

    /// The client is back on another connection: what it did not acknowledge goes out again.
    pub(super) fn resume(&mut self, link: Link) {
        self.link = Some(link);
        self.sent = 0;
    }

    /// Lets a message wait for the client, at the lower of its own QoS and the granted one; false if there is no room.
    pub(super) fn push(&mut self, message: &Arc<Message>, granted: QoS, is_retained: bool) -> bool {
        let qos = if message.is_at_most_once() { QoS::AtMostOnce } else { granted };
        if self.link.is_none() && qos == QoS::AtMostOnce {
            // What is at most once is not kept for a client that is away.
            return true;
        }
        let size = message.size();
        let is_full = self.queue.len() >= MAX_QUEUED_MESSAGES
            || self.queue_bytes + size > MAX_QUEUED_BYTES
            || message.room.places() >= MAX_PLACES;
        if is_full {
            return false;
        }
        message.room.places.fetch_add(1, Ordering::Relaxed);
        self.queue.push_back(Place { message: Arc::clone(message), packet_id: 0, qos, is_retained });
        self.queue_bytes += size;
        true
    }

    /// The next message for the client; `None` if none waits, or too many are in flight.
    pub(super) fn pop(&mut self) -> Option<Output> {
        if let Some(again) = self.in_flight.get(self.sent) {
            self.sent += 1;
            return Some(again.output(true));
        }
        let needs_id = self.queue.front()?.qos != QoS::AtMostOnce;
        if needs_id && self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let mut place = self.queue.pop_front()?;
        self.queue_bytes -= place.message.size();
        if self.queue.is_empty() && self.queue.capacity() > IDLE_CAPACITY {
            self.queue = VecDeque::new();
        }
        if needs_id {
            place.packet_id = self.free_packet_id();
        }
        let output = place.output(false);
        if needs_id {
            self.in_flight.push_back(place);
            self.sent += 1;
        }
        Some(output)
    }

    /// The client has a message. An id that is not in flight is ignored, as after a reconnection.
    pub(super) fn acknowledge(&mut self, packet_id: u16) {
        if let Some(index) = self.in_flight.iter().position(|place| place.packet_id == packet_id) {
            self.in_flight.remove(index);
            if index < self.sent {
                self.sent -= 1;
            }
        }
    }

    fn free_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if self.in_flight.iter().all(|place| place.packet_id != self.last_packet_id) {
                return self.last_packet_id;
            }
        }
    }
}
