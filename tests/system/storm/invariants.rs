//! What must be true after every step, whatever happened.

use core::fmt::Display;
use core::time::Duration;

use grapevine_aggregator::round::Select;
use grapevine_aggregator::store::RoundPhase;
use grapevine_protocol::{
    DeviceId, Digest, Receipt, Refusal, Request, RoundAnnouncement, RoundId, ToDevice, decode_to_device, is_selected,
};

use super::aggregator::Said;
use super::device::Device;
use super::ledger::{MemoryLedger, Round};
use super::stimulus::Part;
use super::world::World;

/// Timers fire when they are due; this covers what comes in the same instant.
const SLACK: Duration = Duration::from_secs(1);

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("broken: {invariant} ({found})")]
pub struct Broken {
    /// What should be true.
    pub invariant: &'static str,
    /// What is true instead.
    pub found: String,
}

impl Broken {
    pub(super) fn new(invariant: &'static str, found: impl Display) -> Self {
        Self { invariant, found: found.to_string() }
    }
}

/// Checks what the step of a part can have broken.
pub(super) fn check(world: &mut World, part: Part) -> Result<(), Broken> {
    match part {
        Part::Aggregator => {
            invariant_one_round_is_open(world)?;
            invariant_memory_is_bounded(world)?;
            invariant_only_those_asked_for_take_part(world)?;
            invariant_a_quarantined_device_is_away(world)?;
            invariant_a_round_ends(world)?;
            invariant_no_receipt_is_lost(world)?;
            invariant_heads_are_those_of_a_quiet_run(world)
        }
        Part::Device(device) => {
            invariant_an_outbox_is_emptied_by_a_receipt_or_the_end(world, device)?;
            invariant_a_device_keeps_published_heads(world, device)
        }
    }
}

/// What the aggregator says is true of its disk at that moment.
pub(super) fn what_is_said_is_true(
    ledger: &MemoryLedger,
    devices: &[Device],
    select: &Select,
    said: &Said,
) -> Result<(), Broken> {
    match said {
        Said::Receipt(device, receipt) => {
            invariant_a_receipt_follows_its_row(ledger, device, receipt)?;
            invariant_who_was_asked_is_not_turned_away(ledger, devices, select, device, receipt)
        }
        Said::Quarantined(device) => invariant_a_quarantine_is_durable(ledger, device),
        Said::RoundAnnouncement(announcement) => invariant_a_notice_follows_what_it_names(ledger, announcement),
    }
}

/// And an update that was merged last is not refused.
fn invariant_a_receipt_follows_its_row(
    ledger: &MemoryLedger,
    device: &DeviceId,
    receipt: &Receipt,
) -> Result<(), Broken> {
    let round = ledger.round(receipt.round);
    let row = round.and_then(|round| round.updates.get(device));
    let is_stored = row.is_some_and(|row| row.digest == receipt.digest);
    if receipt.refused.is_none() && !is_stored {
        let found = format!("{device} has a receipt of round {} without a row", receipt.round);
        return Err(Broken::new("what is said is durable", found));
    }
    let newest = ledger.rounds().iter().rev().find(|round| round.row.phase == RoundPhase::Merged);
    let is_newest = newest.is_some_and(|round| round.row.round == receipt.round);
    if receipt.refused.is_some() && is_stored && is_newest {
        let found = format!("{device} is told that its update of round {} is refused", receipt.round);
        return Err(Broken::new("what is merged is not refused", found));
    }
    Ok(())
}

/// A device whose attributes fit at every start has its update of an open round looked at, also by an aggregator that was
/// started again and has not heard a hello of it.
fn invariant_who_was_asked_is_not_turned_away(
    ledger: &MemoryLedger,
    devices: &[Device],
    select: &Select,
    device: &DeviceId,
    receipt: &Receipt,
) -> Result<(), Broken> {
    if receipt.refused != Some(Refusal::NotSelected) {
        return Ok(());
    }
    let always_fits = devices
        .iter()
        .find(|known| known.id == *device)
        .is_some_and(|known| known.attributes.iter().all(|attributes| select.matches(attributes)));
    let announcement = ledger.round(receipt.round).map(|round| decode_to_device(&round.row.announcement));
    match announcement {
        Some(Ok((ToDevice::RoundAnnouncement(announcement), _)))
            if always_fits && is_selected(&announcement, device) =>
        {
            let found = format!("{device} was asked for round {} and is told that it was not", receipt.round);
            Err(Broken::new("who was asked is not turned away", found))
        }
        Some(_) | None => Ok(()),
    }
}

/// After a restart the device is not welcome either.
fn invariant_a_quarantine_is_durable(ledger: &MemoryLedger, device: &DeviceId) -> Result<(), Broken> {
    match ledger.device(device).is_some_and(|row| row.quarantined.is_some()) {
        true => Ok(()),
        false => Err(Broken::new("what is said is durable", format!("{device} is told of a quarantine without a row"))),
    }
}

/// The row of its round, and its blobs.
fn invariant_a_notice_follows_what_it_names(
    ledger: &MemoryLedger,
    announcement: &RoundAnnouncement,
) -> Result<(), Broken> {
    let broken = |found: String| Err(Broken::new("what is said is durable", found));
    if let Some(lost) = [announcement.heads, announcement.side_information]
        .into_iter()
        .flatten()
        .find(|blob| !ledger.has_blob(&blob.digest))
    {
        return broken(format!("the announcement names the blob {}, which is not stored", lost.digest));
    }
    let is_open = ledger.round(announcement.round).is_some_and(|round| round.row.phase == RoundPhase::Collecting);
    if announcement.task.request().is_some() && !is_open {
        return broken(format!("round {} is announced and not open", announcement.round));
    }
    Ok(())
}

fn invariant_one_round_is_open(world: &World) -> Result<(), Broken> {
    let rounds = world.aggregator.ledger.rounds();
    let before = rounds.len().saturating_sub(1);
    // Those before were looked at when they were the last ones.
    match rounds[..before].last().filter(|round| round.row.phase == RoundPhase::Collecting) {
        Some(round) => Err(Broken::new("only the newest round is open", format!("round {} is too", round.row.round))),
        None => Ok(()),
    }
}

/// They were chosen for the round, and their attributes fit, or did at another start. Looks at the newest round.
fn invariant_only_those_asked_for_take_part(world: &mut World) -> Result<(), Broken> {
    let newest = world.aggregator.ledger.rounds().last();
    // A crowd is too large to be asked one by one.
    let Some(newest) = newest.filter(|_| world.reference.is_some()) else { return Ok(()) };
    let seen = (newest.row.round, newest.updates.len());
    if core::mem::replace(&mut world.seen_updates, seen) == seen || newest.is_let_go() {
        return Ok(());
    }
    let Ok((ToDevice::RoundAnnouncement(announcement), _)) = decode_to_device(&newest.row.announcement) else {
        return Err(Broken::new("a round's announcement can be read", newest.row.round));
    };
    let select = &world.plan.round.select;
    for device in &world.devices {
        let fits =
            device.attributes.iter().any(|labels| select.matches(labels)) && is_selected(&announcement, &device.id);
        if newest.updates.contains_key(&device.id) && !fits {
            let found = format!("{} takes part in round {} and was not asked", device.id, announcement.round);
            return Err(Broken::new("only those asked for take part", found));
        }
    }
    Ok(())
}

fn invariant_a_quarantined_device_is_away(world: &World) -> Result<(), Broken> {
    let has_quarantine = world.plan.round.quarantine.after > 0;
    let Some(process) = world.aggregator.process.as_ref().filter(|_| has_quarantine) else { return Ok(()) };
    let strange = |device: &&Device| {
        let record = process.coordinator.device(&device.id);
        record.is_some_and(|record| record.quarantined.is_some() && record.present)
    };
    match world.devices.iter().find(strange) {
        Some(device) => Err(Broken::new("a quarantined device is away", &device.id)),
        None => Ok(()),
    }
}

fn invariant_memory_is_bounded(world: &World) -> Result<(), Broken> {
    let Some(process) = &world.aggregator.process else { return Ok(()) };
    let (bytes, waiting) = (process.coordinator.upload_bytes(), process.coordinator.uploads_waiting());
    let announcement = process.coordinator.open_round();
    let largest = largest_update(world);
    let limit = world.plan.round.upload_bytes.max(largest);
    if bytes > limit || waiting > world.devices.len() || (announcement.is_none() && bytes > 0) {
        let found = format!("{bytes} bytes of updates are on their way in, {waiting} wait, {limit} bytes are allowed");
        return Err(Broken::new("memory is within its bound", found));
    }
    Ok(())
}

fn largest_update(world: &World) -> usize {
    let round = &world.plan.round;
    let (sums, train) = (Request::Statistics(round.params.needs()), round.params.method.training_request());
    grapevine_protocol::largest_update(round.shape, train).max(grapevine_protocol::largest_update(round.shape, sums))
}

/// Its time runs from its opening and from a restart of the aggregator, as long as broker and disk are; a broker that
/// comes back gives all of it again, but only once.
fn invariant_a_round_ends(world: &mut World) -> Result<(), Broken> {
    let process = world.aggregator.process.as_ref().filter(|process| !process.is_full);
    let open = process.and_then(|process| process.coordinator.open_round());
    let is_reachable = world.network.reaches(Part::Aggregator);
    let Some(round) = open.filter(|_| is_reachable).map(|status| status.round) else {
        world.seen_open_at = None;
        return Ok(());
    };
    let (before, seen_at) = match world.open_for {
        Some((known, before)) if known == round => (before, world.seen_open_at.unwrap_or(world.now)),
        Some(_) | None => (Duration::ZERO, world.now),
    };
    let open_for = before + (world.now - seen_at);
    (world.open_for, world.seen_open_at) = (Some((round, open_for)), Some(world.now));
    let limit = world.plan.round.deadline * (world.plan.round.extensions + 2) + SLACK;
    if open_for > limit {
        let found = format!("round {round} is open for {open_for:?}, {limit:?} are allowed");
        return Err(Broken::new("a round ends", found));
    }
    Ok(())
}

/// The newest two rounds: those before do not change any more.
fn invariant_no_receipt_is_lost(world: &World) -> Result<(), Broken> {
    let rounds = world.aggregator.ledger.rounds();
    if world.reference.is_none() {
        return Ok(());
    }
    let from = (RoundId(rounds.len().saturating_sub(2) as u32), 0, Digest([0; 32]));
    for ((round, device, digest), _) in world.receipts.range(from..).filter(|(_, is_stored)| **is_stored) {
        let row = world.aggregator.ledger.round(*round);
        if row.is_some_and(Round::is_let_go) {
            continue;
        }
        let row = row.and_then(|row| row.updates.get(&world.devices[*device as usize].id));
        if row.is_none_or(|row| row.digest != *digest) {
            let found = format!("device {device} has a receipt of round {round}, and the ledger has no such update");
            return Err(Broken::new("no update is receipted and lost", found));
        }
    }
    Ok(())
}

fn invariant_heads_are_those_of_a_quiet_run(world: &mut World) -> Result<(), Broken> {
    let Some(reference) = &mut world.reference else { return Ok(()) };
    reference
        .follow(world.aggregator.ledger.rounds(), &world.devices)
        .map_err(|found| Broken::new("heads are those of a quiet run", found))
}

/// An update that was put onto the disk stays there until the aggregator has said something about it, or its round is
/// over, or it is replaced by one of a later round.
fn invariant_an_outbox_is_emptied_by_a_receipt_or_the_end(world: &mut World, device: u32) -> Result<(), Broken> {
    let pending = world.devices[device as usize].outbox();
    let now = pending.map(|pending| (pending.update.round, pending.digest));
    let before = core::mem::replace(&mut world.outboxes[device as usize], now);
    let Some((round, digest)) = before.filter(|before| now != Some(*before)) else { return Ok(()) };
    let is_told = world.receipts.contains_key(&(round, device, digest));
    let is_over = world.aggregator.ledger.round(round).is_none_or(|r| r.row.phase != RoundPhase::Collecting);
    // A card that lies loses what it had acknowledged; the round goes on and the work is done again.
    let is_lost = world.devices[device as usize].has_lost_a_write();
    if is_told || is_over || is_lost {
        return Ok(());
    }
    let found = format!("device {device} lost its update of round {round}, which is open");
    Err(Broken::new("only a receipt or the end of its round empties an outbox", found))
}

fn invariant_a_device_keeps_published_heads(world: &World, device: u32) -> Result<(), Broken> {
    let Some(kept) = world.devices[device as usize].heads() else { return Ok(()) };
    if world.published.contains(&kept.digest) {
        return Ok(());
    }
    Err(Broken::new("a device keeps heads of the fleet", format!("device {device} keeps {}", kept.digest)))
}

/// Once everything works: the run rests, every device has its heads, and no update waits.
pub(super) fn what_is_missing(world: &World) -> Option<String> {
    let Some(process) = &world.aggregator.process else { return Some("the aggregator is down".into()) };
    if !process.coordinator.is_resting() {
        let rounds: Vec<(RoundId, RoundPhase)> =
            world.aggregator.ledger.rounds().iter().map(|r| (r.row.round, r.row.phase)).collect();
        let (present, open) = (process.coordinator.present(), process.coordinator.open_round());
        return Some(format!("the run does not rest: {present} devices are there, {open:?} is open of {rounds:?}"));
    }
    let wanted = process.coordinator.model().for_use().map(|content| content.blob.digest);
    for (number, device) in world.devices.iter().enumerate() {
        let kept = device.heads().map(|heads| heads.digest);
        if kept != wanted {
            return Some(format!("device {number} keeps the heads {kept:?} and not the final {wanted:?}"));
        }
        if let Some(pending) = device.outbox() {
            return Some(format!("device {number} still holds its update of round {}", pending.update.round));
        }
    }
    None
}
