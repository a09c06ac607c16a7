//! The machine driven by hand.

use std::collections::BTreeMap;

use super::*;

/// A coordinator driven by hand, with a perfect disk and a record of what it did.
pub(super) struct Harness {
    pub(super) coordinator: Coordinator,
    pub(super) sent: Vec<(DeviceId, ToDevice)>,
    pub(super) events: Vec<Event>,
    pub(super) outcomes: Vec<RoundOutcome>,
    pub(super) stored: Vec<(DeviceId, Vec<u8>)>,
    pub(super) announcement: Option<RoundAnnouncement>,
    pub(super) kept: Vec<DeviceId>,
    pub(super) forgotten: Vec<DeviceId>,
    pub(super) extended: u32,
    pub(super) now: Duration,
}

impl Harness {
    pub(super) fn new(config: RoundConfig) -> Self {
        Self::with(Coordinator::new(
            config,
            Incarnation(1),
            RunId(5),
            Progress::default(),
            Registry::default(),
            None,
            START,
        ))
    }

    pub(super) fn with(coordinator: Coordinator) -> Self {
        let mut harness = Self {
            coordinator,
            sent: Vec::new(),
            events: Vec::new(),
            outcomes: Vec::new(),
            stored: Vec::new(),
            announcement: None,
            kept: Vec::new(),
            forgotten: Vec::new(),
            extended: 0,
            now: START,
        };
        harness.act();
        harness
    }

    pub(super) fn act(&mut self) {
        while let Some(action) = self.coordinator.poll_action() {
            match action {
                Action::Tell(Tell::Device(device, message)) => self.sent.push((device, message)),
                Action::Tell(Tell::Everybody(announcement)) => self.announcement = Some(announcement),
                Action::Tell(Tell::People(event)) => self.events.push(event),
                Action::Durable(Durable::StoreUpdate(update)) => {
                    let former = self.former(&update.device);
                    self.coordinator.handle_stored(self.now, &update.device, update.round, former.as_deref());
                    self.stored.push((update.device.clone(), update.content));
                }
                Action::Durable(Durable::Commit(outcome)) => {
                    self.outcomes.push(*outcome);
                    self.coordinator.handle_committed(self.now);
                }
                Action::Durable(Durable::RereadUpdates(..)) => self.reread(),
                Action::Durable(Durable::DropUpdate(_, _, device)) => self.stored.retain(|(from, _)| *from != device),
                Action::Durable(Durable::KeepDevice(device)) => self.kept.push(device),
                Action::Durable(Durable::ForgetDevices(devices)) => self.forgotten.extend(devices),
                Action::Durable(Durable::ExtendRound(..)) => self.extended += 1,
                Action::Tell(Tell::Followers(..))
                | Action::Durable(Durable::OpenRound { .. } | Durable::AbandonRound(..) | Durable::FinishRun(_)) => {}
            }
        }
    }

    /// What a device told before, where the open round puts other statistics in its place.
    pub(super) fn former(&self, device: &DeviceId) -> Option<Vec<u8>> {
        let earlier = self.stored.iter().rev().find(|(from, _)| from == device);
        earlier.filter(|_| self.coordinator.replaces_statistics()).map(|(_, content)| content.clone())
    }

    /// The newest update of every device, in the order of their names.
    pub(super) fn reread(&mut self) {
        let newest: BTreeMap<_, _> = self.stored.iter().cloned().collect();
        newest.iter().for_each(|(device, content)| self.coordinator.handle_reread(device, content, None));
        self.coordinator.handle_all_reread(self.now);
    }

    pub(super) fn say(&mut self, number: u32, message: ToAggregator, block: &[u8]) {
        self.coordinator.handle_message(self.now, &device(number), message, block);
        self.act();
    }

    pub(super) fn greet(&mut self, numbers: core::ops::Range<u32>) {
        numbers.for_each(|number| self.say(number, ToAggregator::Hello(hello(number)), &[]));
    }

    pub(super) fn offer(&mut self, number: u32, round: u32, content: &[u8]) {
        let blob = BlobRef::of(content);
        let (header, bytes) = block(&blob, content, 0).unwrap();
        let offer = Offer { run: RunId(5), round: RoundId(round), blob, crc: header.crc };
        self.say(number, ToAggregator::Offer(offer), bytes);
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now += time;
        self.coordinator.handle_timeout(self.now);
        self.act();
    }

    pub(super) fn last_receipt(&self) -> &Receipt {
        let mut receipts = self
            .sent
            .iter()
            .rev()
            .filter_map(|(_, message)| if let ToDevice::Receipt(receipt) = message { Some(receipt) } else { None });
        receipts.next().expect("a receipt was sent")
    }

    /// The open round: its number, its updates, and how many it waits for.
    pub(super) fn open(&self) -> Option<(u32, usize, usize)> {
        self.coordinator.open_round().map(|status| (status.round.0, status.accepted, status.expected))
    }

    pub(super) fn refused(&self, reason: Refusal) -> u64 {
        self.coordinator.refusals().get(&reason).copied().unwrap_or(0)
    }
}
