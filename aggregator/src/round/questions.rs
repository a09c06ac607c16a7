//! What people and the shell ask the machine. Nothing here changes it.

use core::time::Duration;
use std::collections::BTreeMap;

use grapevine_protocol::{DeviceId, Incarnation, Refusal, RoundId, RunId};

use super::collecting::Collecting;
use super::device_index::DeviceIndex;
use super::{Coordinator, DeviceRecord, Model, TurnedAway, Untaken};

/// How far the open round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundStatus {
    /// Which.
    pub round: RoundId,
    /// Updates that are stored.
    pub accepted: usize,
    /// Updates that it waits for.
    pub expected: usize,
    /// Devices that were chosen, those included that came later.
    pub chosen: usize,
    /// How often it was given more time.
    pub extensions: u32,
    /// When it closes, on the machine's clock.
    pub deadline: Duration,
}

/// Names that [`Waiting`] tells.
const FIRST_NAMES: usize = 4;

/// What the next round waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Devices with samples that must be there.
    pub needed: usize,
    /// Devices with samples that are there and among those that rounds choose from.
    pub able: usize,
    /// The first few of them.
    pub first: Vec<DeviceId>,
}

impl Coordinator {
    /// How often each reason occurred since the start.
    pub fn refusals(&self) -> &BTreeMap<Refusal, u64> {
        self.shared.devices.refusals()
    }

    /// What is known about a device.
    pub fn device(&self, device: &DeviceId) -> Option<DeviceRecord> {
        let registry = &self.shared.devices.registry;
        registry.find(device).and_then(|index| registry.record(index))
    }

    /// The devices of which more is known than when [`Coordinator::handle_remembered`] was called last.
    pub fn news_of_devices(&self) -> impl Iterator<Item = (DeviceId, DeviceRecord)> {
        let registry = &self.shared.devices.registry;
        let known = |index| Some((registry.names().id(index), registry.record(index)?));
        registry.changed().filter_map(known)
    }

    /// Devices that are there.
    pub fn present(&self) -> usize {
        self.shared.devices.registry.present()
    }

    /// Devices that are turned away, or told something, with every hello: the newest ones.
    pub fn turned_away(&self) -> impl Iterator<Item = (&DeviceId, &TurnedAway)> {
        self.shared.devices.watchlist.turned_away()
    }

    /// A device that is welcome and says hello again and again: it does not seem to hear the aggregator.
    pub fn deaf_device(&self, now: Duration) -> Option<DeviceId> {
        self.shared.devices.watchlist.deaf(now).map(|index| self.shared.devices.id(index))
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run.id
    }

    /// The fleet's newest model.
    pub fn model(&self) -> &Model {
        &self.run.model
    }

    /// The start that the newest announcement names: that of this aggregator, counted on with each roll call.
    pub fn incarnation(&self) -> Incarnation {
        self.announcements.incarnation()
    }

    /// Whether there is nothing to do for now: the run rests, or the number of rounds that was asked for is done.
    pub fn is_resting(&self) -> bool {
        self.phase.is_resting()
    }

    /// Whether the number of rounds that was asked for is done.
    pub fn is_finished(&self) -> bool {
        self.is_resting() && self.run.is_over(&self.shared.config)
    }

    /// The open round.
    pub fn open_round(&self) -> Option<RoundStatus> {
        self.phase.collecting().map(Collecting::status)
    }

    /// Whether the open round gathers statistics that are put in the place of others: then
    /// [`Coordinator::handle_stored`] and [`Coordinator::handle_restored`] need what the device told before.
    pub fn replaces_statistics(&self) -> bool {
        self.phase.request().is_some_and(|request| self.run.is_addition(request))
    }

    /// Who is there while the next round waits for more; `None` if none waits.
    pub fn waiting(&self) -> Option<Waiting> {
        if !self.phase.is_gathering() {
            return None;
        }
        let registry = &self.shared.devices.registry;
        let names = registry.names();
        let mut able: Vec<DeviceIndex> = registry.able().collect();
        able.sort_unstable_by(|one, other| names.order(*one, *other));
        Some(Waiting {
            needed: self.shared.config.min_devices.max(1),
            able: able.len(),
            first: able.iter().take(FIRST_NAMES).map(|index| names.id(*index)).collect(),
        })
    }

    /// Why the run rests although devices have news; `None` if they will be taken in, or there are none.
    pub fn untaken(&self, now: Duration) -> Option<Untaken> {
        let rests = self.phase.is_resting();
        rests.then(|| self.run.untaken(now, &self.shared.config, &self.shared.devices.registry)).flatten()
    }

    /// Bytes of updates on their way in: what they were announced with, which is what memory they take.
    pub fn upload_bytes(&self) -> usize {
        self.uploads.bytes()
    }

    /// Updates that wait for room; they take none but their names.
    pub fn uploads_waiting(&self) -> usize {
        self.uploads.waiting()
    }
}
