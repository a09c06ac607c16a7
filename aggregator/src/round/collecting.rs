//! An open round: updates come in, are stored, and are added to the sum.

use core::cmp::Ordering;
use core::time::Duration;
use std::collections::BTreeMap;

use grapevine_models::{Request, Response, RoundError, RoundSum, Statistics};
use grapevine_protocol::{
    DeviceId, Digest, Offer, Receipt, Refusal, RoundAnnouncement, RoundId, RunId, ToDevice, Update, is_selected,
    largest_update,
};

use super::absence::Absence;
use super::action::Durable;
use super::device_index::{Answers, DeviceIndex, DeviceSet};
use super::{Contribution, Coordinator, Event, ModelError, OpenRound, Phase, RoundStatus};

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

pub(super) struct Collecting {
    pub(super) announcement: RoundAnnouncement,
    /// What the announcement asks.
    pub(super) request: Request,
    /// Who was asked and is known to have been, those who came later and who answered included.
    asked: DeviceSet,
    pub(super) accepted: Answers,
    /// Updates that are checked and not yet durable.
    storing: BTreeMap<DeviceIndex, (Digest, Update)>,
    /// What the updates in the sum tell of their devices' samples.
    pub(super) contributions: Vec<(DeviceIndex, Contribution)>,
    absence: Absence,
    /// When it was opened or resumed.
    opened: Duration,
    /// `None` once it is merged.
    pub(super) sum: Option<RoundSum>,
    pub(super) samples: u64,
    /// Updates that the round waited for when it opened; with fewer it waits for its deadline.
    wanted: usize,
    /// Devices that were chosen when the round opened; more than are wanted if there is a reserve.
    chosen: usize,
    /// Updates of the ledger that are not in the sum again yet.
    restoring: usize,
    deadline: Duration,
    /// Time that may still be given back after a broker was gone.
    spare: Duration,
    extensions: u32,
}

impl Collecting {
    pub(super) fn new(
        announcement: RoundAnnouncement,
        request: Request,
        sum: RoundSum,
        asked: DeviceSet,
        wanted: usize,
        now: Duration,
        whole: Duration,
    ) -> Self {
        Self {
            sum: Some(sum),
            announcement,
            request,
            accepted: Answers::default(),
            storing: BTreeMap::new(),
            contributions: Vec::new(),
            absence: Absence::default(),
            opened: now,
            samples: 0,
            wanted,
            chosen: asked.len(),
            asked,
            restoring: 0,
            deadline: now + whole,
            spare: whole,
            extensions: 0,
        }
    }

    /// The same round, which does not wait for these of the devices that were asked.
    pub(super) fn without(self, absent: DeviceSet) -> Self {
        Self { absence: Absence::of(absent), ..self }
    }

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(super) fn status(&self) -> RoundStatus {
        RoundStatus {
            round: self.announcement.round,
            accepted: self.accepted.len(),
            expected: self.expected(),
            chosen: self.asked.len().max(self.chosen),
            extensions: self.extensions,
            deadline: self.deadline,
        }
    }

    /// Updates that the round waits for. Without a reserve these are those of everybody who was asked; a resumed round
    /// has heard of fewer than were chosen.
    fn expected(&self) -> usize {
        if self.has_reserve() { self.wanted } else { self.asked.len().max(self.chosen) }
    }

    /// Of these, the ones that can still come: devices that are known to be gone are not waited for.
    fn awaited(&self) -> usize {
        let there = self.asked.len().max(self.chosen).saturating_sub(self.absence.len());
        self.expected().min(there)
    }

    /// Who was asked and has not answered.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = DeviceIndex> {
        self.asked.iter().filter(|index| !self.accepted.has(*index))
    }

    /// When the next device that went is not waited for any more.
    pub(super) fn absence_at(&self) -> Option<Duration> {
        self.absence.next_at()
    }

    pub(super) fn expire_absence(&mut self, now: Duration) -> bool {
        self.absence.expire(now)
    }

    /// A device went.
    pub(super) fn left(&mut self, index: DeviceIndex, now: Duration) {
        if self.asked.contains(index) && !self.accepted.has(index) && !self.storing.contains_key(&index) {
            self.absence.left(index, now);
        }
    }

    /// The broker was gone: whoever does not come back went with it.
    pub(super) fn all_may_be_gone(&mut self, now: Duration) {
        let asked: Vec<DeviceIndex> = self.unanswered().collect();
        asked.into_iter().for_each(|index| self.left(index, now));
    }

    /// Whether more devices were chosen than are wanted.
    fn has_reserve(&self) -> bool {
        self.wanted < self.chosen
    }

    /// Whether nothing more is waited for. Who answered was asked, so equal numbers mean the same devices.
    fn is_complete(&self) -> bool {
        let is_quiet = self.storing.is_empty() && self.restoring == 0;
        is_quiet && !self.accepted.is_empty() && self.accepted.len() >= self.awaited()
    }

    /// The broker is back, and devices need time to come back, too. The round has all of its time again, but no more than
    /// once: one whose broker comes and goes would never end.
    pub(super) fn go_on(&mut self, now: Duration, gone_at: Duration, whole: Duration) {
        let left = self.deadline.saturating_sub(gone_at).min(whole);
        let given = self.spare.min(whole - left);
        self.spare -= given;
        self.deadline = now + left + given;
    }

    /// A device that comes in the middle of a round takes part if it was chosen.
    pub(super) fn welcome_back(&mut self, index: DeviceIndex, device: &DeviceId, samples: u32) {
        if samples > 0 && is_selected(&self.announcement, device) {
            self.asked.insert(index);
            self.absence.came(index);
        }
    }

    /// Whether an update of this device is in the round, or on its way to the ledger.
    pub(super) fn has(&self, index: DeviceIndex) -> bool {
        self.accepted.has(index) || self.storing.contains_key(&index)
    }

    /// A device is not in the registry any more.
    pub(super) fn forget(&mut self, index: DeviceIndex) {
        if !self.has(index) {
            self.asked.remove(index);
        }
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
        let sum = self.sum.as_mut().ok_or(Refusal::Late)?;
        let added = sum.add_in_place_of(former, device.as_str(), &update.response, update.samples);
        added.map_err(|error| refusal(&error))?;
        self.samples += u64::from(update.samples);
        self.accepted.insert(index, &digest);
        self.absence.came(index);
        self.contributions.push((index, contribution(update)));
        Ok(())
    }

    /// The round is merged without this device's update.
    pub(super) fn take_out(&mut self, index: DeviceIndex) {
        self.accepted.remove(index);
        self.asked.remove(index);
        let taken_out = self.contributions.extract_if(.., |(from, _)| *from == index);
        self.samples -= taken_out.map(|(_, contribution)| u64::from(contribution.samples)).sum::<u64>();
    }

    /// An update as the ledger has it.
    pub(super) fn decode(&self, content: &[u8]) -> Result<Update, Refusal> {
        Update::decode(content, self.announcement.shape, self.request).map_err(|error| error.refusal())
    }

    /// What the ledger has of the device's earlier statistics, if this round puts others in their place.
    pub(super) fn former(&self, content: Option<&[u8]>) -> Result<Option<Statistics>, Refusal> {
        let Some(content) = content.filter(|_| !self.request.is_training()) else { return Ok(None) };
        match self.decode(content) {
            Ok(Update { response: Response::Statistics(former), .. }) => Ok(Some(former)),
            // The ledger holds only what was checked before.
            Ok(_) | Err(_) => Err(Refusal::Storage),
        }
    }
}

/// What an update tells of its device's samples.
fn contribution(update: &Update) -> Contribution {
    let mean_square = match &update.response {
        Response::Statistics(statistics) => statistics.mean_square().unwrap_or(0.0) as f32,
        Response::Heads { .. } | Response::Gradient(_) | Response::Prototypes(_) | Response::OfMethod(_) => 0.0,
    };
    Contribution { dataset: update.dataset, samples: update.samples, mean_square }
}

/// The length of a gradient; of anything else, nothing.
fn gradient_length(update: &Update) -> f64 {
    let Response::Gradient(gradient) = &update.response else { return 0.0 };
    let values = gradient.weight.iter().chain(&gradient.bias);
    values.map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt()
}

/// Under which name a sum's refusal is counted.
fn refusal(error: &RoundError) -> Refusal {
    match error {
        RoundError::Content => Refusal::Content,
        RoundError::Heads(_) => Refusal::Samples,
        RoundError::Prototypes(_) => Refusal::TooManyDevices,
        RoundError::Statistics(_) => Refusal::Absurd,
    }
}

impl Coordinator {
    /// The sum of a round that asks for this, with nothing in it.
    pub(super) fn empty_sum(&self, request: Request) -> Result<RoundSum, ModelError> {
        let known = self.progress.model.decode(&self.config)?;
        Ok(RoundSum::new(self.config.shape, request, &self.config.params, &known))
    }

    /// Continues a round that a stop interrupted; its time begins anew.
    pub(super) fn resume_round(&mut self, open: OpenRound, now: Duration) {
        let announcement = RoundAnnouncement { incarnation: self.incarnation, ..open.announcement };
        let request = announcement.task.request();
        let Some((request, Ok(sum))) = request.map(|request| (request, self.empty_sum(request))) else {
            // The model was read before the machine was made, and a round that asks nothing is never opened.
            return self.gather(now);
        };
        let mut collecting =
            Collecting::new(announcement, request, sum, DeviceSet::default(), open.expected, now, self.config.deadline);
        (collecting.chosen, collecting.extensions) = (open.chosen, open.extensions);
        collecting.restoring = open.accepted;
        self.phase = Phase::Collecting(Box::new(collecting));
    }

    /// An update of the ledger is in the sum of the resumed round again. They come one by one, so that no more than one
    /// of them is in memory.
    /// `former` is the device's newest update of statistics that was merged before, where
    /// [`Coordinator::replaces_statistics`] says so.
    pub fn handle_restored(&mut self, now: Duration, device: &DeviceId, content: &[u8], former: Option<&[u8]>) {
        let index = self.registry.index(device);
        let Phase::Collecting(collecting) = &mut self.phase else { return };
        collecting.restoring = collecting.restoring.saturating_sub(1);
        collecting.asked.insert(index);
        // The ledger holds only updates that passed this check before.
        let added = collecting.decode(content).and_then(|update| {
            let former = collecting.former(former)?;
            collecting.add(index, device, Digest::of(content), &update, former.as_ref())
        });
        if let Err(reason) = added {
            self.count(Some(device), reason);
        }
        self.close_if_complete(now);
    }

    /// An update that is in the newest merged round, by the ledger: whoever asks for its receipt gets it again.
    pub fn handle_merged_before(&mut self, device: &DeviceId, digest: &Digest) {
        let index = self.registry.index(device);
        if let Some((_, answers)) = &mut self.closed {
            answers.insert(index, digest);
        }
    }

    /// Where an offered update belongs: `Ok` if the open round waits for it.
    pub(super) fn place_offer(&self, index: DeviceIndex, offer: &Offer) -> Result<(), Refusal> {
        if offer.run != self.run {
            return Err(Refusal::WrongRun);
        }
        let closed = self.progress.next_round.checked_sub(1).map(RoundId);
        let collecting = match &self.phase {
            Phase::Collecting(collecting) if offer.round == collecting.announcement.round => collecting,
            // It is being merged.
            Phase::Committing(_) | Phase::Sifting(_) if offer.round.0 == self.progress.next_round => {
                return Err(Refusal::Late);
            }
            Phase::Collecting(_) | Phase::Sifting(_) | Phase::Committing(_) | Phase::Gathering | Phase::Resting => {
                return Err(match Some(offer.round).cmp(&closed) {
                    Ordering::Less => Refusal::Stale,
                    Ordering::Equal => Refusal::Late,
                    Ordering::Greater => Refusal::WrongRound,
                });
            }
        };
        if !self.registry.is_eligible(index) || !is_selected(&collecting.announcement, &self.registry.names().id(index))
        {
            return Err(Refusal::NotSelected);
        }
        if collecting.accepted.has(index) {
            return Err(Refusal::Duplicate);
        }
        let limit = largest_update(collecting.announcement.shape, collecting.request);
        offer.blob.check(limit).map_err(|_| Refusal::TooLarge)
    }

    /// Whether this very update is stored already, in this round or the one before.
    pub(super) fn is_stored(&self, index: DeviceIndex, offer: &Offer) -> bool {
        let stored_in = |round: RoundId, accepted: &Answers| {
            offer.run == self.run && offer.round == round && accepted.is(index, &offer.blob.digest)
        };
        let open = match &self.phase {
            Phase::Collecting(collecting) => stored_in(collecting.announcement.round, &collecting.accepted),
            Phase::Gathering | Phase::Sifting(_) | Phase::Committing(_) | Phase::Resting => false,
        };
        open || self.closed.as_ref().is_some_and(|(round, accepted)| stored_in(*round, accepted))
    }

    /// All blocks of an update are there and have its digest: check it and have it stored.
    pub(super) fn take_content(&mut self, index: DeviceIndex, digest: Digest, content: Vec<u8>) {
        let Phase::Collecting(collecting) = &mut self.phase else { return };
        let RoundAnnouncement { run, round, .. } = collecting.announcement;
        if collecting.storing.contains_key(&index) || collecting.accepted.has(index) {
            return;
        }
        let checked = collecting.decode(&content).and_then(|update| {
            let largest = self.contributions.largest_gradient(index);
            if gradient_length(&update) > largest {
                return Err(Refusal::Absurd);
            }
            if !self.registry.may_hold(index, update.samples) || update.samples > self.config.max_samples {
                return Err(Refusal::Samples);
            }
            Ok(update)
        });
        match checked {
            Ok(update) => {
                let contribution = contribution(&update);
                collecting.storing.insert(index, (digest, update));
                let device = self.registry.names().id(index);
                self.actions.durable(Durable::StoreUpdate(AcceptedUpdate {
                    device,
                    run,
                    round,
                    digest,
                    contribution,
                    content,
                }));
            }
            Err(reason) => self.refuse_update(index, run, round, digest, reason),
        }
    }

    /// An update is durable: only now is it in the sum, and only now does its device hear so.
    /// `former` is as in [`Coordinator::handle_restored`].
    pub fn handle_stored(&mut self, now: Duration, device: &DeviceId, round: RoundId, former: Option<&[u8]>) {
        let Phase::Collecting(collecting) = &mut self.phase else { return };
        let run = collecting.announcement.run;
        if collecting.announcement.round != round {
            return;
        }
        let Some(index) = self.registry.find(device) else { return };
        let Some((digest, update)) = collecting.storing.remove(&index) else { return };
        collecting.asked.insert(index);
        let former = collecting.former(former);
        match former.and_then(|former| collecting.add(index, device, digest, &update, former.as_ref())) {
            Ok(()) => {
                self.registry.forgive(index);
                let Update { dataset, samples, .. } = update;
                if self.registry.answered(index, dataset, samples, collecting.opened) {
                    self.report(Event::DeviceCame(device.clone()));
                }
                self.send(index, ToDevice::Receipt(Receipt { run, round, digest, refused: None }));
                self.report(Event::UpdateAccepted { device: device.clone(), round });
            }
            Err(reason) => self.refuse_update(index, run, round, digest, reason),
        }
        self.close_if_complete(now);
    }

    pub(super) fn check_deadline(&mut self, now: Duration) {
        let Phase::Collecting(collecting) = &mut self.phase else { return };
        // Without the broker nobody can answer, and what is stored waits for those who could not.
        if collecting.deadline > now || !collecting.storing.is_empty() || self.gone_at.is_some() {
            return;
        }
        let round = collecting.announcement.round;
        let quorum = (self.config.quorum * collecting.awaited() as f64).ceil() as usize;
        // What came is added to what is known: there is no sum that would be too small.
        let is_addition = self.progress.model.statistics.is_some() && !collecting.request.is_training();
        let needed = if is_addition { 1 } else { quorum.max(1) };
        if collecting.accepted.len() >= needed {
            self.close_round(now);
        } else if collecting.extensions < self.config.extensions {
            collecting.extensions += 1;
            collecting.deadline = now + self.config.deadline;
            self.actions.durable(Durable::ExtendRound(self.run, round));
            self.report(Event::RoundExtended(round));
            self.tell(now);
        } else {
            let missed: Vec<DeviceIndex> = collecting.unanswered().collect();
            self.progress.next_round += 1;
            self.count_missed(now, &missed);
            self.actions.durable(Durable::AbandonRound(self.run, round));
            self.report(Event::RoundAbandoned(round));
            self.uploads.clear();
            self.gather_and_tell(now);
        }
    }

    pub(super) fn close_if_complete(&mut self, now: Duration) {
        if matches!(&self.phase, Phase::Collecting(collecting) if collecting.is_complete()) {
            self.close_round(now);
        }
    }
}
