//! The broker and the links to it. What is published goes to whoever is connected when it arrives, after a while, twice,
//! or never; the newest announcement is retained.
//!
//! This is worse than MQTT: with QoS 1 a message is lost only with its connection or in a full queue, and order is kept
//! on each connection. Only the announcement on its way to the broker is as safe as MQTT makes it: it arrives, or the
//! aggregator hears that its connection is gone.

use core::time::Duration;
use std::rc::Rc;

use grapevine_protocol::VERSION;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::plan::Weather;
use super::stimulus::{Part, Queue, Stimulus};

/// From a publisher to a subscriber, with nothing in the way.
const DELAY: Duration = Duration::from_millis(5);
/// Longest that a message is overtaken by others.
const LONGEST_DETOUR_MS: u32 = 3_000;
/// Longest until a second copy arrives.
const LATEST_COPY_MS: u32 = 90_000;
/// Longest until a dead connection is noticed: one and a half keep-alives.
const LONGEST_SILENCE_MS: u32 = 45_000;

/// One client of the broker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Link {
    /// Nothing gets through.
    pub(super) is_cut: bool,
    /// The client believes that it is connected.
    pub(super) is_connected: bool,
    /// An attempt to connect is due.
    pub(super) is_connecting: bool,
    /// The start of the broker that it is connected to.
    broker: u32,
}

/// What became of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Published, once for each receiver.
    pub sent: u64,
    /// Lost on the way.
    pub lost: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Held up so that later ones overtake.
    pub reordered: u64,
}

impl Carried {
    /// Adds what another network did.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
    }
}

pub(super) struct Network {
    pub(super) weather: Weather,
    pub(super) is_up: bool,
    /// This start of the broker.
    pub(super) broker: u32,
    pub(super) carried: Carried,
    aggregator: Link,
    devices: Vec<Link>,
    retained: Option<Rc<[u8]>>,
    former: Option<Rc<[u8]>>,
    rng: ChaCha8Rng,
}

impl Network {
    pub(super) fn new(devices: usize, weather: Weather, seed: u64) -> Self {
        Self {
            weather,
            is_up: true,
            broker: 0,
            carried: Carried::default(),
            aggregator: Link::default(),
            devices: vec![Link::default(); devices],
            retained: None,
            former: None,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    pub(super) fn link(&mut self, part: Part) -> &mut Link {
        match part {
            Part::Aggregator => &mut self.aggregator,
            Part::Device(device) => &mut self.devices[device as usize],
        }
    }

    /// Whether what a part publishes, or what is published for it, gets through now.
    pub(super) fn reaches(&self, part: Part) -> bool {
        let link = match part {
            Part::Aggregator => &self.aggregator,
            Part::Device(device) => &self.devices[device as usize],
        };
        self.is_up && link.is_connected && !link.is_cut && link.broker == self.broker
    }

    /// Tries to connect; `true` if the broker is there.
    pub(super) fn connect(&mut self, part: Part) -> bool {
        let (is_up, broker) = (self.is_up, self.broker);
        let link = self.link(part);
        link.is_connecting = false;
        if is_up && !link.is_cut {
            (link.is_connected, link.broker) = (true, broker);
        }
        link.is_connected
    }

    /// Sends a message on its way.
    pub(super) fn carry(&mut self, now: Duration, queue: &mut Queue, make: &dyn Fn(u32) -> Stimulus) {
        self.carried.sent += 1;
        if self.rng.random_bool(self.weather.loss) {
            self.carried.lost += 1;
            return;
        }
        let mut at = now + DELAY;
        if self.rng.random_bool(self.weather.reordering) {
            self.carried.reordered += 1;
            at += self.within(LONGEST_DETOUR_MS);
        }
        queue.push(at, make(self.broker));
        if self.rng.random_bool(self.weather.duplication) {
            self.carried.duplicated += 1;
            let most = if self.rng.random_bool(0.5) { LONGEST_DETOUR_MS } else { LATEST_COPY_MS };
            let at = now + DELAY + self.within(most);
            queue.push(at, make(self.broker));
        }
    }

    /// The newest announcement.
    pub(super) fn retain(&mut self, announcement: Rc<[u8]>) {
        self.former = self.retained.replace(announcement);
    }

    pub(super) fn retained(&self) -> Option<Rc<[u8]>> {
        self.retained.clone()
    }

    /// The broker dies, and with it whatever is on its way.
    pub(super) fn stop(&mut self, forgets: bool) {
        self.is_up = false;
        self.broker += 1;
        if forgets {
            self.retained = self.former.take();
        }
    }

    /// How long nobody notices that a connection is gone.
    pub(super) fn silence(&mut self) -> Duration {
        self.within(LONGEST_SILENCE_MS)
    }

    /// A time below so many milliseconds.
    pub(super) fn within(&mut self, most_ms: u32) -> Duration {
        Duration::from_millis(u64::from(self.rng.random_range(0..most_ms.max(1))))
    }

    /// Bytes that are no message, some of them of this version.
    pub(super) fn noise(&mut self) -> Rc<[u8]> {
        let length = self.rng.random_range(0..200);
        let mut noise: Vec<u8> = (0..length).map(|_| self.rng.random()).collect();
        if let (Some(version), true) = (noise.first_mut(), self.rng.random_bool(0.5)) {
            *version = VERSION;
        }
        noise.into()
    }

    /// Whether something happens that happens in this share of cases.
    pub(super) fn happens(&mut self, share: f64) -> bool {
        self.rng.random_bool(share)
    }
}
