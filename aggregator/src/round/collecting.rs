//! An open round: updates come in, are stored, and are added to the sum.

use core::time::Duration;
use std::collections::BTreeMap;

use grapevine_models::{RoundSum, Statistics};
use grapevine_protocol::{
    DeviceId, Digest, Incarnation, Offer, Refusal, RoundAnnouncement, RoundId, RunId, Update, is_selected,
    largest_update,
};

use super::absence::Absence;
use super::action::Durable;
use super::committing::{Committing, discard};
use super::context::Ctx;
use super::contributions::Contributions;
use super::device_index::{DeviceIndex, DeviceSet};
use super::devices::UpdateName;
use super::phase::Phase;
use super::registry::Registry;
use super::round_record::{RoundRecord, contribution, gradient_length, refusal};
use super::run::RunState;
use super::sifting::Sifting;
use super::{Contribution, Event, ModelError, RoundStatus};

/// A checked update on its way to the ledger.
#[derive(Clone, Debug)]
pub struct AcceptedUpdate {
    /// Whose.
    pub device: DeviceId,
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundId,
    /// Its digest.
    pub digest: Digest,
    /// What it tells of the device's samples.
    pub contribution: Contribution,
    /// As received.
    pub content: Vec<u8>,
}

/// Updates come in.
pub(super) struct Collecting {
    record: RoundRecord,
    sum: RoundSum,
    /// Updates that are checked and not yet durable.
    storing: BTreeMap<DeviceIndex, (Digest, Update)>,
    absence: Absence,
    /// When it was opened or resumed.
    opened: Duration,
    /// Updates of the ledger that are not in the sum again yet.
    restoring: usize,
    deadline: Duration,
    /// Time that may still be given back after a broker was gone.
    spare: Duration,
}

/// The deadline of a round has passed.
#[must_use]
pub(super) enum Overdue {
    /// There are enough updates to merge.
    Enough,
    /// The round was given more time.
    Extended,
    /// There is no time left to give.
    TooFew,
}

impl Collecting {
    /// A round that opens, which does not wait for the `absent` ones of the devices that were asked.
    pub(super) fn new(record: RoundRecord, sum: RoundSum, absent: DeviceSet, now: Duration, whole: Duration) -> Self {
        Self {
            record,
            sum,
            storing: BTreeMap::new(),
            absence: Absence::of(absent),
            opened: now,
            restoring: 0,
            deadline: now + whole,
            spare: whole,
        }
    }

    /// The same round, which so many updates of the ledger are in.
    pub(super) fn restoring(self, updates: usize) -> Self {
        Self { restoring: updates, ..self }
    }

    pub(super) fn announcement(&self) -> &RoundAnnouncement {
        &self.record.announcement
    }

    pub(super) fn record(&self) -> &RoundRecord {
        &self.record
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(super) fn status(&self) -> RoundStatus {
        RoundStatus {
            round: self.record.announcement.round,
            accepted: self.record.accepted.len(),
            expected: self.record.expected(),
            chosen: self.record.chosen(),
            extensions: self.record.extensions,
            deadline: self.deadline,
        }
    }

    /// When the next device that went is not waited for any more.
    pub(super) fn absence_at(&self) -> Option<Duration> {
        self.absence.next_at()
    }

    /// Devices that went some time ago are not waited for any more; says whether there were any.
    #[must_use]
    pub(super) fn expire_absence(&mut self, now: Duration) -> bool {
        self.absence.expire(now)
    }

    /// A device went.
    pub(super) fn left(&mut self, index: DeviceIndex, now: Duration) {
        if self.record.asked.contains(index) && !self.has(index) {
            self.absence.left(index, now);
        }
    }

    /// The broker is back, and devices need time to come back, too; whoever does not went with it. The round has all of its
    /// time again, but no more than once: one whose broker comes and goes would never end.
    pub(super) fn go_on(&mut self, now: Duration, lost_at: Duration, whole: Duration, incarnation: Incarnation) {
        self.record.announcement.incarnation = incarnation;
        let left = self.deadline.saturating_sub(lost_at).min(whole);
        let given = self.spare.min(whole - left);
        self.spare -= given;
        self.deadline = now + left + given;
        let asked: Vec<DeviceIndex> = self.record.unanswered().collect();
        asked.into_iter().for_each(|index| self.left(index, now));
    }

    /// A device that comes in the middle of a round takes part if it was chosen.
    pub(super) fn welcome_back(&mut self, index: DeviceIndex, device: &DeviceId, samples: u32) {
        if samples > 0 && is_selected(&self.record.announcement, device) {
            self.record.asked.insert(index);
            self.absence.came(index);
        }
    }

    /// Whether an update of this device is in the round, or on its way to the ledger.
    pub(super) fn has(&self, index: DeviceIndex) -> bool {
        self.record.accepted.has(index) || self.storing.contains_key(&index)
    }

    /// A device is not in the registry any more.
    pub(super) fn forget(&mut self, index: DeviceIndex) {
        if !self.has(index) {
            self.record.asked.remove(index);
        }
    }

    /// Whether the round waits for an update that is offered in it.
    pub(super) fn check_offer(&self, index: DeviceIndex, offer: &Offer, registry: &Registry) -> Result<(), Refusal> {
        let announcement = &self.record.announcement;
        if !registry.is_eligible(index) || !is_selected(announcement, &registry.names().id(index)) {
            return Err(Refusal::NotSelected);
        }
        if self.record.accepted.has(index) {
            return Err(Refusal::Duplicate);
        }
        let limit = largest_update(announcement.shape, self.record.request);
        offer.blob.check(limit).map_err(|_| Refusal::TooLarge)
    }

    /// All blocks of an update are there and have its digest: checks it and has it stored.
    ///
    /// # Errors
    /// Why the update is refused.
    pub(super) fn take(
        &mut self,
        ctx: &mut Ctx<'_>,
        known: &Contributions,
        index: DeviceIndex,
        digest: Digest,
        content: Vec<u8>,
    ) -> Result<(), Refusal> {
        if self.has(index) {
            return Ok(());
        }
        let update = self.record.decode(&content)?;
        if gradient_length(&update) > known.largest_gradient(index) {
            return Err(Refusal::Absurd);
        }
        if !ctx.devices.registry.may_hold(index, update.samples) || update.samples > ctx.config.max_samples {
            return Err(Refusal::Samples);
        }
        let contribution = contribution(&update);
        self.storing.insert(index, (digest, update));
        let UpdateName { run, round, digest } = self.record.update(digest);
        let device = ctx.id(index);
        let update = AcceptedUpdate { device, run, round, digest, contribution, content };
        ctx.out.durable(Durable::StoreUpdate(update));
        Ok(())
    }

    /// An update is durable: only now is it in the sum, and only now does its device hear so. `None` if none of this device
    /// was on its way to the ledger; else whether it could be added. `former` is what the device told before, as the ledger
    /// has it.
    #[must_use]
    pub(super) fn stored(
        &mut self,
        ctx: &mut Ctx<'_>,
        index: DeviceIndex,
        former: Option<&[u8]>,
    ) -> Option<Result<(), (UpdateName, Refusal)>> {
        let (digest, update) = self.storing.remove(&index)?;
        let device = ctx.id(index);
        self.record.asked.insert(index);
        let name = self.record.update(digest);
        let former = self.record.former(former);
        if let Err(reason) = former.and_then(|former| self.add(index, &device, digest, &update, former.as_ref())) {
            return Some(Err((name, reason)));
        }
        let registry = &mut ctx.devices.registry;
        if registry.is_known(index) {
            registry.forgive(index);
            if registry.answered(index, update.dataset, update.samples, self.opened) {
                ctx.report(Event::DeviceCame(device.clone()));
            }
        }
        ctx.send(index, name.receipt(None));
        ctx.report(Event::UpdateAccepted { device, round: name.round });
        Some(Ok(()))
    }

    /// An update of the ledger is in the sum of the resumed round again.
    ///
    /// # Errors
    /// If it does not fit; the ledger holds only updates that passed this check before.
    pub(super) fn restored(
        &mut self,
        index: DeviceIndex,
        device: &DeviceId,
        content: &[u8],
        former: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        self.restoring = self.restoring.saturating_sub(1);
        self.record.asked.insert(index);
        let update = self.record.decode(content)?;
        let former = self.record.former(former)?;
        self.add(index, device, Digest::of(content), &update, former.as_ref())
    }

    /// Adds a stored update, in the place of the statistics that its device told before; an update that cannot be added has
    /// no effect.
    fn add(
        &mut self,
        index: DeviceIndex,
        device: &DeviceId,
        digest: Digest,
        update: &Update,
        former: Option<&Statistics>,
    ) -> Result<(), Refusal> {
        let added = self.sum.add_in_place_of(former, device.as_str(), &update.response, update.samples);
        added.map_err(|error| refusal(&error))?;
        self.record.accept(index, &digest, update);
        self.absence.came(index);
        Ok(())
    }

    /// Whether nothing more is waited for. Who answered was asked, so equal numbers mean the same devices.
    #[must_use]
    pub(super) fn is_complete(&self) -> bool {
        let is_quiet = self.storing.is_empty() && self.restoring == 0;
        is_quiet && !self.record.accepted.is_empty() && self.record.accepted.len() >= self.awaited()
    }

    /// Updates that can still come: devices that are known to be gone are not waited for.
    fn awaited(&self) -> usize {
        self.record.awaited(self.absence.len())
    }

    /// What is to be done about the deadline, if it has passed. What is stored waits for those who could not answer.
    /// `is_addition`: what came is added to what is known, and there is no sum that would be too small.
    pub(super) fn check_deadline(&mut self, ctx: &mut Ctx<'_>, is_addition: bool) -> Option<Overdue> {
        if self.deadline > ctx.now || !self.storing.is_empty() {
            return None;
        }
        let quorum = (ctx.config.quorum * self.awaited() as f64).ceil() as usize;
        let needed = if is_addition { 1 } else { quorum.max(1) };
        if self.record.accepted.len() >= needed {
            return Some(Overdue::Enough);
        }
        if self.record.extensions >= ctx.config.extensions {
            return Some(Overdue::TooFew);
        }
        let RoundAnnouncement { run, round, .. } = self.record.announcement;
        self.record.extensions += 1;
        self.deadline = ctx.now + ctx.config.deadline;
        ctx.out.durable(Durable::ExtendRound(run, round));
        ctx.report(Event::RoundExtended(round));
        Some(Overdue::Extended)
    }

    /// Merges what the round has and has it made durable.
    #[must_use]
    pub(super) fn close(self, ctx: &mut Ctx<'_>, run: &mut RunState) -> Phase {
        let Self { record, sum, .. } = self;
        match run.merge(sum, ctx.config) {
            Ok(after) => Committing::begin(ctx, run, record, after).into(),
            Err(ModelError::Unusable) => Sifting::begin(ctx, run, record),
            Err(fault @ ModelError::Unreadable(_)) => discard(ctx, run, record, fault),
        }
    }

    /// The round counts for nothing.
    pub(super) fn abandon(self, ctx: &mut Ctx<'_>, run: &mut RunState) {
        let RoundAnnouncement { run: id, round, .. } = self.record.announcement;
        run.count_round();
        self.record.count_missed(ctx);
        ctx.out.durable(Durable::AbandonRound(id, round));
        ctx.report(Event::RoundAbandoned(round));
    }
}
