//! What the executor finds around the machine: the broker, the log, and whoever observes.

use core::time::Duration;
use std::time::Instant;

use grapevine_host::transport::{PublishError, Transport};
use grapevine_protocol::{RoundAnnouncement, ToDevice, encode, topics};

use super::super::event_log::log;
use super::super::executor::Publisher;
use super::super::schedule::StatusSchedule;
use super::super::versions::Versions;
use super::super::{Observer, ServeOptions, ledger};
use crate::round::{Coordinator, Event, RoundOutcome, RoundStatus, Tell};

/// What the line of the next merged round tells.
#[derive(Default)]
pub(super) struct Figures {
    /// Refusals since the last merge.
    refused: u64,
    /// When the newest round was opened or resumed.
    opened_at: Duration,
}

/// The shell without machine, disk and executor.
pub(super) struct Surroundings<'a> {
    pub(super) options: &'a ServeOptions,
    pub(super) transport: &'a Transport,
    pub(super) observer: &'a mut dyn Observer,
    pub(super) started: Instant,
    pub(super) unsent: &'a mut Option<RoundAnnouncement>,
    pub(super) figures: &'a mut Figures,
    pub(super) schedule: &'a mut StatusSchedule,
    pub(super) versions: &'a Versions,
    /// The open round before its deadline passed.
    pub(super) before: Option<RoundStatus>,
}

impl<L: ?Sized> Publisher<L> for Surroundings<'_> {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn tell(&mut self, _machine: &Coordinator, _ledger: &L, tell: Tell) {
        let fleet = &self.options.fleet;
        match tell {
            Tell::Device(device, message) => self.publish(&topics::down(fleet, &device), &message, &[]),
            Tell::Followers(kind, header, block) => {
                self.publish(&topics::blob(fleet, kind), &ToDevice::Block(header), &block);
            }
            Tell::Everybody(announcement) => self.publish_announcement(announcement),
            Tell::People(event) => self.report(&event),
        }
    }

    fn committed(&mut self, outcome: &RoundOutcome) {
        self.schedule.changed();
        let Figures { refused, opened_at } = *self.figures;
        self.figures.refused = 0;
        tracing::info!(
            round = outcome.round.0,
            updates = outcome.accepted,
            of = outcome.expected,
            chosen = outcome.chosen,
            extensions = outcome.extensions,
            samples = outcome.samples,
            seconds = self.started.elapsed().saturating_sub(opened_at).as_millis() as f64 / 1e3,
            refusals = refused,
            "round merged"
        );
        if let Some(note) = ledger::note(outcome).filter(|_| outcome.held_back.is_some()) {
            tracing::warn!(round = outcome.round.0, "{note}");
        }
        let inference_head = outcome.model.inference_head(&self.options.round);
        self.observer.merged(outcome, inference_head.as_ref());
    }
}

impl Surroundings<'_> {
    fn report(&mut self, event: &Event) {
        match event {
            Event::Refused { .. } => self.figures.refused += 1,
            Event::RoundOpened { .. } => self.figures.opened_at = self.started.elapsed(),
            Event::Finished | Event::Rested => self.schedule.finished(self.started.elapsed()),
            Event::DeviceCame(_)
            | Event::DeviceLeft(_)
            | Event::UpdateAccepted { .. }
            | Event::Quarantined { .. }
            | Event::Released(_)
            | Event::TurnedAway { .. }
            | Event::Forgotten(_)
            | Event::RoomMade(_)
            | Event::RoundExtended(_)
            | Event::RoundAbandoned(_)
            | Event::UpdateTakenOut { .. }
            | Event::RoundUnusable { .. }
            | Event::NewsGathered { .. } => {}
        }
        log(event, self.before, self.versions);
        self.schedule.changed();
        self.observer.event(event);
    }

    /// No device can ask for an announcement. One for which the transport has no room is kept until there is some. After a lost
    /// connection the machine gives a new one.
    pub(super) fn publish_announcement(&mut self, announcement: RoundAnnouncement) {
        let frame = encode(&ToDevice::RoundAnnouncement(announcement.clone()), &[]);
        let result = self.transport.publish(&topics::announcement(&self.options.fleet), frame, true);
        *self.unsent = matches!(result, Err(PublishError::Full)).then_some(announcement);
    }

    /// What cannot go out now, the device that misses it asks for again.
    fn publish(&self, topic: &str, message: &ToDevice, block: &[u8]) {
        match self.transport.publish(topic, encode(message, block), false) {
            Ok(()) => {}
            Err(error @ (PublishError::Full | PublishError::Disconnected)) => tracing::debug!("{error}"),
            Err(error @ (PublishError::TooLarge { .. } | PublishError::Topic { .. })) => tracing::error!("{error}"),
        }
    }
}
