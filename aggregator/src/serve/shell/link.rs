//! What the broker brings, and what it does not.

use core::time::Duration;

use grapevine_host::transport::{self, Event as Link};
use grapevine_protocol::{AGGREGATOR, Refusal, decode_to_aggregator, topics};

use super::super::echo::{self, Heard};
use super::super::troubles::Trouble;
use super::Shell;

impl Shell<'_> {
    pub(super) fn handle_link(&mut self, event: Link) {
        let now = self.now();
        match event {
            Link::Connected => self.handle_connected(now),
            Link::Disconnected { reason } => {
                // Where the broker hangs up again and again, that was said once.
                if !self.troubles.has(Trouble::Broker) {
                    tracing::warn!("connection lost: {reason}; it is tried again");
                }
                self.troubles.note(Trouble::Disconnected, format!("no connection to the broker: {reason}"));
                self.handle_disconnected(now);
            }
            Link::Refused { reason } => {
                self.troubles.begin(Trouble::Refused, format!("the broker refuses the aggregator: {reason}"));
                self.handle_disconnected(now);
            }
            Link::Trouble { trouble, reason } => self.handle_broker(now, trouble, reason),
            Link::Recovered => {
                if self.troubles.end(Trouble::Broker) {
                    tracing::info!("the connection to the broker lasts again");
                }
                self.schedule.changed();
            }
            // As if it were lost on its way: its device says it again.
            Link::Message { .. } if self.full_until.is_some() => {}
            Link::Message { topic, payload } => {
                if let Some(heard) = self.echo.handle_message(now, &topic, &payload, self.coordinator.incarnation()) {
                    return self.handle_echo(heard);
                }
                self.schedule.received(now);
                let Some(device) = topics::speaker(&self.options.fleet, &topic) else {
                    return self.coordinator.handle_garbage(now, None, Refusal::Topic);
                };
                match decode_to_aggregator(&payload) {
                    Ok((message, block)) => self.coordinator.handle_message(now, &device, message, block),
                    Err(error) => {
                        self.versions.note(&device, error);
                        self.coordinator.handle_garbage(now, Some(&device), error.refusal());
                    }
                }
            }
        }
    }

    fn handle_connected(&mut self, now: Duration) {
        if !self.troubles.has(Trouble::Broker) {
            tracing::info!("connected to the broker");
        }
        self.troubles.end(Trouble::Disconnected);
        self.troubles.end(Trouble::Refused);
        self.schedule.connected(now, true);
        let (topic, word) = self.echo.handle_connected(now);
        if let Err(error) = self.transport.publish(&topic, word, false) {
            tracing::debug!("{error}");
        }
        if self.full_until.is_none() {
            self.coordinator.handle_connected(now);
        }
    }

    fn handle_disconnected(&mut self, now: Duration) {
        self.echo.handle_disconnected();
        self.schedule.connected(now, false);
        self.coordinator.handle_disconnected(now);
    }

    /// The broker hangs up again and again. Smaller blocks may mend it.
    fn handle_broker(&mut self, now: Duration, trouble: transport::Trouble, reason: String) {
        if let transport::Trouble::PacketLimit { bytes } = trouble
            && self.coordinator.handle_packet_limit(now, bytes)
        {
            return tracing::warn!("{reason}; going on with smaller blocks, which takes more messages");
        }
        let kind = match trouble {
            transport::Trouble::PacketLimit { .. } | transport::Trouble::Evicted => Trouble::Broker,
            transport::Trouble::LargeRetained { .. } => Trouble::Retained,
        };
        self.troubles.begin(kind, reason);
        self.schedule.changed();
    }

    fn handle_echo(&mut self, heard: Heard) {
        let fleet = &self.options.fleet;
        match heard {
            Heard::Nothing => return,
            Heard::All => drop(self.troubles.end(Trouble::MessagesDropped)),
            Heard::Rival => {
                let sentence = format!(
                    "another aggregator serves the fleet {fleet} at this broker; stop one of the two, or give it a fleet \
                     of another name"
                );
                self.troubles.begin(Trouble::OtherAggregator, sentence);
            }
        }
        self.schedule.changed();
    }

    pub(super) fn check_echo(&mut self, now: Duration) {
        if let Some(missing) = self.echo.is_unheard(now) {
            self.troubles.begin(Trouble::MessagesDropped, echo::advice(&self.options.fleet, &missing));
            self.schedule.changed();
        }
        if self.echo.is_alone_again(now) && self.troubles.end(Trouble::OtherAggregator) {
            tracing::info!("the other aggregator is not heard any more");
            self.schedule.changed();
        }
    }

    pub(super) fn check_deaf_device(&mut self, now: Duration) {
        let Some(device) = self.coordinator.deaf_device(now) else {
            self.troubles.end(Trouble::UnreachedDevice);
            return;
        };
        let fleet = &self.options.fleet;
        let sentence = format!(
            "the device {device} says hello again and again and does not hear the answer: allow the client \
             `{fleet}.{device}` to read {} at the broker, and `{fleet}.{AGGREGATOR}` to write there (protocol/TOPICS.md \
             shows the rules)",
            topics::down(fleet, &device)
        );
        self.troubles.begin(Trouble::UnreachedDevice, sentence);
    }
}
