//! Going on beside a retained message that is too large to be read.
//!
//! A broker sends what it retains after every SUBSCRIBE, and a packet that cannot be read ends the connection, so it would
//! keep a client off for ever. The subscription of a kept session needs no SUBSCRIBE: each filter is asked for in a packet
//! of its own to find the one that brings the message; that one is asked for at QoS 0, of which a broker keeps nothing for
//! later, and is left alone from then on as long as the broker remembers the session.

use std::collections::BTreeSet;

use rumqttc::QoS;

use super::{Change, Link};

/// The subscriptions of one transport whose broker retains too much.
#[derive(Default)]
pub(super) struct Careful {
    is_needed: bool,
    /// The broker sent too large a packet, and no connection has lasted since.
    is_warned: bool,
    /// The newest connection went on with the session of the one before.
    is_remembered: bool,
    /// Filters that brought what cannot be read.
    sour: BTreeSet<String>,
    /// What was asked for on this connection, in order, and how much of it was granted.
    asked: Vec<String>,
    granted: usize,
}

/// What a packet that is too large says.
pub(super) enum Found {
    /// It may have come for the session, and a new one is without it.
    Perhaps,
    /// It comes with the subscriptions; with which one is not known yet.
    Retained,
    /// One of the filters brings it.
    Filter,
}

impl Careful {
    /// Whether the broker has to keep the session.
    pub(super) fn is_needed(&self) -> bool {
        self.is_needed
    }

    /// A packet was too large. One that is not retained is shed with its session, so the first one makes a new session.
    /// Then the filter that was granted last brought it, or the first one before it was granted.
    pub(super) fn found_large(&mut self) -> Found {
        if !core::mem::replace(&mut self.is_warned, true) {
            return Found::Perhaps;
        }
        if !core::mem::replace(&mut self.is_needed, true) {
            return Found::Retained;
        }
        if core::mem::take(&mut self.is_remembered) {
            // What is retained was left alone: this came for the session.
            return Found::Perhaps;
        }
        self.sour.extend(self.asked.get(self.granted.saturating_sub(1)).cloned());
        Found::Filter
    }

    /// A connection has lasted.
    pub(super) fn calmed(&mut self) {
        self.is_warned = self.is_needed;
    }

    /// A connection stands, with what the broker remembers of the one before or without.
    pub(super) fn open(&mut self, link: &Link, is_remembered: bool) {
        let mut state = link.lock();
        let (sour, sound): (Vec<String>, Vec<String>) =
            state.filters.iter().cloned().partition(|filter| self.sour.contains(filter));
        let sour = if is_remembered { Vec::new() } else { sour };
        let one = |qos| move |filter: &String| Change::Subscribe(vec![filter.clone()], qos);
        let changes = sound.iter().map(one(QoS::AtLeastOnce)).chain(sour.iter().map(one(QoS::AtMostOnce)));
        let changes = changes.collect();
        self.asked = [sound, sour].concat();
        (self.granted, self.is_remembered) = (0, is_remembered);
        link.begin(&mut state, changes);
    }

    /// A subscription was granted.
    pub(super) fn granted(&mut self) {
        self.granted += 1;
    }

    /// The filters that are left alone.
    pub(super) fn sour(&self) -> impl Iterator<Item = &str> {
        self.sour.iter().map(String::as_str)
    }
}
