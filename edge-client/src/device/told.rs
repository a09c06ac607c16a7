//! What happens, said to people: one line each, and none again as long as it says nothing new.

use grapevine_protocol::{AGGREGATOR, DeviceId, FleetId, Refusal, topics};

use crate::session::Event;

/// What was said already.
pub(super) struct Told {
    fleet: FleetId,
    device: DeviceId,
    is_welcome: bool,
    refused: Option<Refusal>,
    is_troubled: bool,
}

impl Told {
    pub(super) fn new(fleet: &FleetId, device: &DeviceId) -> Self {
        let (fleet, device) = (fleet.clone(), device.clone());
        Self { fleet, device, is_welcome: false, refused: None, is_troubled: false }
    }

    /// The broker hangs up again and again, or something is wrong beside the connection.
    pub(super) fn flaps(&mut self, is_flapping: bool) {
        self.is_troubled |= is_flapping;
    }

    /// A connection was lost, or could not be made.
    pub(super) fn lost(&self, reason: &str) {
        if self.is_troubled {
            tracing::debug!("connection lost: {reason}; it is tried again");
        } else {
            tracing::warn!("connection lost: {reason}; it is tried again");
        }
    }

    pub(super) fn log(&mut self, event: &Event) {
        match event {
            Event::Connected if self.is_troubled => tracing::debug!("connected to the broker"),
            Event::Connected => tracing::info!("connected to the broker"),
            Event::Disconnected => {
                self.is_welcome = false;
                tracing::debug!("disconnected from the broker");
            }
            Event::Unreachable(_) => {}
            Event::Welcome => self.log_welcome(),
            Event::Refused(reason) => self.log_refusal(*reason),
            Event::Unanswered => tracing::error!("{}", unanswered(&self.fleet, &self.device)),
            Event::Trouble(reason) => tracing::error!("{reason}"),
            Event::Recovered => {
                self.is_troubled = false;
                tracing::info!("the connection to the broker lasts again");
            }
            Event::RoundBegan(round) => tracing::info!(round = round.0, "round began"),
            Event::Delivered(round) => tracing::debug!(round = round.0, "update delivered"),
            Event::Outdated(round) => tracing::warn!(round = round.0, "update dropped: its round is over"),
            Event::Ignored(reason) => tracing::debug!(%reason, "ignored"),
            Event::Unusable(reason) => tracing::error!(%reason, "the fleet's heads cannot be used"),
            Event::Rests(round) => tracing::info!(round = round.0, "the fleet rests: it has nothing new to learn"),
            Event::GoesOn => tracing::info!("the fleet goes on"),
            // The throttle has told, wherever the pause began.
            Event::Paused(_) | Event::Resumed => {}
            Event::NewHeads(digest) => tracing::debug!(?digest, "new heads"),
        }
    }

    /// Said once per connection: a roll call makes every device say hello.
    fn log_welcome(&mut self) {
        let is_new = !core::mem::replace(&mut self.is_welcome, true);
        if is_new && !self.is_troubled {
            tracing::info!("the aggregator knows this device");
        }
        // Two devices of one name are welcome, and told that there are two, with every hello.
        self.refused.take_if(|reason| *reason != Refusal::SameName);
    }

    fn log_refusal(&mut self, reason: Refusal) {
        if reason.needs_a_person() {
            self.is_welcome &= reason == Refusal::SameName;
            if self.refused.replace(reason) == Some(reason) {
                tracing::debug!(%reason, "refused again");
            } else {
                tracing::error!(%reason, "refused by the aggregator; {}", reason.advice());
            }
        } else {
            tracing::warn!(%reason, "refused; {}", reason.advice());
        }
    }
}

/// What nobody's answer may mean, and what to do.
pub fn unanswered(fleet: &FleetId, device: &DeviceId) -> String {
    let up = topics::up(fleet, device);
    let root = topics::root(fleet);
    format!(
        "the broker is there but nobody answers: start `aggregator serve` for the fleet {fleet} on it; if it runs, the \
         broker drops messages, so allow `{fleet}.{device}` to write {up} and to read {root}/down/{device}, {root}/announcement \
         and {root}/blob/+, and `{fleet}.{AGGREGATOR}` to read and write {root}/# (protocol/TOPICS.md shows the rules)"
    )
}
