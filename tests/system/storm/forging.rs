//! Who speaks in another's name: what is said, and that it has no effect but to be counted.

use std::rc::Rc;

use grapevine_protocol::{
    Attributes, BlobRef, DatasetId, DeviceId, Digest, Goodbye, Hello, Incarnation, Offer, RoundId, RunId, ToAggregator,
    block, encode,
};

use super::invariants::Broken;
use super::stimulus::{Fault, Forgery, Part, Stimulus};
use super::world::World;

/// What no update begins with.
const JUNK: [u8; 40] = [0xee; 40];
/// A start that no device ever has: theirs are drawn from 64 bits.
const NO_BOOT: Incarnation = Incarnation(0);

impl World {
    /// Somebody says something that does not belong.
    pub(super) fn forge(&mut self, device: u32, forgery: Forgery) {
        let Some(process) = &self.aggregator.process else { return };
        let run = process.coordinator.run();
        let round = process.coordinator.open_round().map_or(RoundId(0), |status| status.round);
        let stranger: DeviceId = format!("stranger-{device}").parse().expect("letters and digits");
        let name = self.devices[device as usize].id.clone();
        let blob = BlobRef::of(&JUNK);
        let (header, bytes) = block(&blob, &JUNK, 0).expect("it has one block");
        let offer = |run, round| ToAggregator::Offer(Offer { run, round, blob, crc: header.crc });
        let (speaker, message, bytes) = match forgery {
            Forgery::StrangersUpdate => (stranger, offer(run, round), bytes),
            Forgery::StrangersHello => (stranger, self.foreign_hello(), &[][..]),
            Forgery::OtherRun => (name, offer(RunId(run.0 + 1), round), bytes),
            Forgery::LaterRound => (name, offer(run, RoundId(round.0 + 7)), bytes),
            Forgery::BadUpdate => (name, offer(run, round), bytes),
            Forgery::OldGoodbye => (name, ToAggregator::Goodbye(Goodbye { incarnation: NO_BOOT }), &[][..]),
            Forgery::Block => (name, ToAggregator::Block(header), bytes),
        };
        let frame: Rc<[u8]> = encode(&message, bytes).into();
        let make = |broker| Stimulus::Forged { speaker: speaker.clone(), frame: frame.clone(), broker };
        self.network.carry(self.now, &mut self.queue, &make);
    }

    fn foreign_hello(&self) -> ToAggregator {
        ToAggregator::Hello(Hello {
            incarnation: NO_BOOT,
            extractor: Digest([9; 32]),
            classes: self.plan.round.classes,
            shape: self.plan.round.shape,
            samples: 5,
            dataset: DatasetId(5),
            attributes: Attributes::default(),
        })
    }

    /// It reaches the aggregator.
    pub(super) fn hear_forged(&mut self, speaker: &DeviceId, frame: &[u8]) -> Result<(), Broken> {
        let before = self.counted();
        self.aggregator.hear(self.now, speaker, frame, &mut self.meter);
        self.figures.forged += 1;
        let Some((updates, present, refused)) = self.counted() else { return Ok(()) };
        let (updates_before, present_before, refused_before) = before.expect("the aggregator runs before and after");
        let has_no_place = self.aggregator.process.as_ref().is_none_or(|process| {
            super::world::number(&self.devices, speaker).is_some() || process.coordinator.device(speaker).is_none()
        });
        // A device may be sent away for it; nothing comes of it but that.
        if updates == updates_before && present <= present_before && refused <= refused_before + 1 && has_no_place {
            return Ok(());
        }
        let found = format!(
            "{speaker}: {updates_before} updates became {updates}, {present_before} devices {present}, {refused_before} \
             refusals {refused}"
        );
        Err(Broken::new("what is forged has no effect", found))
    }

    /// Updates of the open round, devices that are there, refusals.
    fn counted(&self) -> Option<(usize, usize, u64)> {
        let coordinator = &self.aggregator.process.as_ref()?.coordinator;
        let updates = coordinator.open_round().map_or(0, |status| status.accepted);
        Some((updates, coordinator.present(), coordinator.refusals().values().sum()))
    }

    /// Somebody looks after a device. Once everything works that goes on until the run is over.
    pub(super) fn release(&mut self, device: u32) -> Result<Option<Part>, Broken> {
        if self.healed_at.is_some() {
            self.later(super::faults::LOOKED_AFTER, Fault::Release { device });
        }
        let id = self.devices[device as usize].id.clone();
        let Some(process) = &mut self.aggregator.process else { return Ok(None) };
        if !process.coordinator.handle_release(&id) {
            return Ok(None);
        }
        self.figures.released += 1;
        self.act(Part::Aggregator)?;
        Ok(Some(Part::Aggregator))
    }
}
