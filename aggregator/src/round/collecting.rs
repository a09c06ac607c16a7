//! An open round: updates come in, are stored, and are added to the sum.

use core::cmp::Ordering;
use core::time::Duration;
use std::collections::BTreeMap;

use grapevine_models::{RoundError, RoundSum, Step};
use grapevine_protocol::{
    DeviceId, Digest, Notice, Offer, Receipt, Refusal, RoundId, RunId, Task, ToDevice, Update, is_selected,
    largest_update,
};

use super::places::{Answers, Place, PlaceSet};
use super::{Action, Coordinator, Event, OpenRound, Phase, RoundStatus};

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
    /// Samples behind it.
    pub samples: u32,
    /// As received.
    pub content: Vec<u8>,
}

pub(super) struct Collecting {
    pub(super) notice: Notice,
    /// Who was asked and is known to have been, those who came later and who answered included.
    asked: PlaceSet,
    pub(super) accepted: Answers,
    /// Updates that are checked and not yet durable.
    storing: BTreeMap<Place, (Digest, Update)>,
    pub(super) sum: RoundSum,
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
        notice: Notice,
        sum: RoundSum,
        asked: PlaceSet,
        wanted: usize,
        now: Duration,
        whole: Duration,
    ) -> Self {
        Self {
            sum,
            notice,
            accepted: Answers::default(),
            storing: BTreeMap::new(),
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

    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(super) fn status(&self) -> RoundStatus {
        RoundStatus {
            round: self.notice.round,
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

    /// Whether more devices were chosen than are wanted.
    fn has_reserve(&self) -> bool {
        self.wanted < self.chosen
    }

    /// Whether nothing more is waited for. Who answered was asked, so equal numbers mean the same devices.
    fn is_complete(&self) -> bool {
        let is_quiet = self.storing.is_empty() && self.restoring == 0;
        is_quiet && !self.accepted.is_empty() && self.accepted.len() >= self.expected()
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
    pub(super) fn welcome_back(&mut self, place: Place, device: &DeviceId, samples: u32) {
        if samples > 0 && is_selected(&self.notice, device) {
            self.asked.insert(place);
        }
    }

    /// Whether an update of this device is in the round, or on its way to the ledger.
    pub(super) fn has(&self, place: Place) -> bool {
        self.accepted.has(place) || self.storing.contains_key(&place)
    }

    /// A device is not in the books any more.
    pub(super) fn forget(&mut self, place: Place) {
        if !self.has(place) {
            self.asked.remove(place);
        }
    }

    /// Adds a stored update; an update that cannot be added has no effect.
    fn add(&mut self, place: Place, device: &DeviceId, digest: Digest, update: &Update) -> Result<(), Refusal> {
        self.sum.add(device.as_str(), &update.content, update.samples).map_err(|error| refusal(&error))?;
        self.samples += u64::from(update.samples);
        self.accepted.insert(place, &digest);
        Ok(())
    }
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
    pub(super) fn empty_sum(&self, task: Task) -> RoundSum {
        let step = match task {
            Task::Statistics { extent } => Step::Gather(extent),
            Task::Train => Step::Train,
            Task::Wait | Task::Finished => Step::Done,
        };
        let memory = self.progress.model.decoded_memory(&self.config);
        RoundSum::new(self.config.shape, step, &self.config.params, &memory)
    }

    /// Continues a round that a stop interrupted; its time begins anew.
    pub(super) fn resume_round(&mut self, open: OpenRound, now: Duration) {
        let notice = Notice { boot: self.boot, ..open.notice };
        let sum = self.empty_sum(notice.task);
        let mut collecting =
            Collecting::new(notice, sum, PlaceSet::default(), open.expected, now, self.config.deadline);
        (collecting.chosen, collecting.extensions) = (open.chosen, open.extensions);
        collecting.restoring = open.accepted;
        self.phase = Phase::Collecting(Box::new(collecting));
    }

    /// An update of the ledger is in the sum of the resumed round again. They come one by one, so that no more than one
    /// of them is in memory.
    pub fn handle_restored(&mut self, device: &DeviceId, content: &[u8]) {
        let place = self.registry.place(device);
        let Phase::Collecting(collecting) = &mut self.phase else { return };
        collecting.restoring = collecting.restoring.saturating_sub(1);
        collecting.asked.insert(place);
        let Notice { shape, task, params, .. } = collecting.notice;
        // The ledger holds only updates that passed this check before.
        let update = Update::decode(content, shape, task, params.method).map_err(|error| error.refusal());
        let added = update.and_then(|update| collecting.add(place, device, Digest::of(content), &update));
        if let Err(reason) = added {
            self.count(Some(device), reason);
        }
        self.close_if_complete();
    }

    /// An update that is in the newest merged round, by the ledger: whoever asks for its receipt gets it again.
    pub fn handle_merged_before(&mut self, device: &DeviceId, digest: &Digest) {
        let place = self.registry.place(device);
        if let Some((_, answers)) = &mut self.closed {
            answers.insert(place, digest);
        }
    }

    /// Where an offered update belongs: `Ok` if the open round waits for it.
    pub(super) fn place_offer(&self, place: Place, offer: &Offer) -> Result<(), Refusal> {
        if offer.run != self.run {
            return Err(Refusal::WrongRun);
        }
        let closed = self.progress.next_round.checked_sub(1).map(RoundId);
        let collecting = match &self.phase {
            Phase::Collecting(collecting) if offer.round == collecting.notice.round => collecting,
            // It is being merged.
            Phase::Committing(_) if offer.round.0 == self.progress.next_round => return Err(Refusal::Late),
            Phase::Collecting(_) | Phase::Committing(_) | Phase::Gathering | Phase::Finished => {
                return Err(match Some(offer.round).cmp(&closed) {
                    Ordering::Less => Refusal::Stale,
                    Ordering::Equal => Refusal::Late,
                    Ordering::Greater => Refusal::WrongRound,
                });
            }
        };
        if !self.registry.is_eligible(place) || !is_selected(&collecting.notice, &self.registry.names().id(place)) {
            return Err(Refusal::NotSelected);
        }
        if collecting.accepted.has(place) {
            return Err(Refusal::Duplicate);
        }
        let limit = largest_update(collecting.notice.shape, collecting.notice.task, collecting.notice.params.method);
        offer.blob.check(limit).map_err(|_| Refusal::TooLarge)
    }

    /// Whether this very update is stored already, in this round or the one before.
    pub(super) fn is_stored(&self, place: Place, offer: &Offer) -> bool {
        let stored_in = |round: RoundId, accepted: &Answers| {
            offer.run == self.run && offer.round == round && accepted.is(place, &offer.blob.digest)
        };
        let open = match &self.phase {
            Phase::Collecting(collecting) => stored_in(collecting.notice.round, &collecting.accepted),
            Phase::Gathering | Phase::Committing(_) | Phase::Finished => false,
        };
        open || self.closed.as_ref().is_some_and(|(round, accepted)| stored_in(*round, accepted))
    }

    /// All blocks of an update are there and have its digest: check it and have it stored.
    pub(super) fn take_content(&mut self, place: Place, digest: Digest, content: Vec<u8>) {
        let Phase::Collecting(collecting) = &mut self.phase else { return };
        let notice = &collecting.notice;
        let (run, round) = (notice.run, notice.round);
        if collecting.storing.contains_key(&place) || collecting.accepted.has(place) {
            return;
        }
        match Update::decode(&content, notice.shape, notice.task, notice.params.method) {
            Ok(update) => {
                let samples = update.samples;
                collecting.storing.insert(place, (digest, update));
                let device = self.registry.names().id(place);
                self.actions.push_back(Action::StoreUpdate(AcceptedUpdate {
                    device,
                    run,
                    round,
                    digest,
                    samples,
                    content,
                }));
            }
            Err(error) => self.refuse_update(place, run, round, digest, error.refusal()),
        }
    }

    /// An update is durable: only now is it in the sum, and only now does its device hear so.
    pub fn handle_stored(&mut self, device: &DeviceId, round: RoundId) {
        let Phase::Collecting(collecting) = &mut self.phase else { return };
        let run = collecting.notice.run;
        if collecting.notice.round != round {
            return;
        }
        let Some(place) = self.registry.find(device) else { return };
        let Some((digest, update)) = collecting.storing.remove(&place) else { return };
        collecting.asked.insert(place);
        match collecting.add(place, device, digest, &update) {
            Ok(()) => {
                self.registry.forgive(place);
                self.send(place, ToDevice::Receipt(Receipt { run, round, digest, refused: None }));
                self.report(Event::UpdateAccepted { device: device.clone(), round });
            }
            Err(reason) => self.refuse_update(place, run, round, digest, reason),
        }
        self.close_if_complete();
    }

    /// An update could not be made durable; the device keeps it and offers it again.
    pub fn handle_store_failed(&mut self, device: &DeviceId) {
        if let (Phase::Collecting(collecting), Some(place)) = (&mut self.phase, self.registry.find(device)) {
            collecting.storing.remove(&place);
        }
        self.count(Some(device), Refusal::Storage);
    }

    pub(super) fn check_deadline(&mut self, now: Duration) {
        let Phase::Collecting(collecting) = &mut self.phase else { return };
        // Without the broker nobody can answer, and what is stored waits for those who could not.
        if collecting.deadline > now || !collecting.storing.is_empty() || self.gone_at.is_some() {
            return;
        }
        let round = collecting.notice.round;
        let quorum = (self.config.quorum * collecting.expected() as f64).ceil() as usize;
        if collecting.accepted.len() >= quorum.max(1) {
            self.close_round();
        } else if collecting.extensions < self.config.extensions {
            collecting.extensions += 1;
            collecting.deadline = now + self.config.deadline;
            self.actions.push_back(Action::ExtendRound(self.run, round));
            self.report(Event::RoundExtended(round));
            self.tell(now);
        } else {
            self.progress.next_round += 1;
            self.actions.push_back(Action::AbandonRound(self.run, round));
            self.report(Event::RoundAbandoned(round));
            self.uploads.clear();
            self.gather_and_tell(now);
        }
    }

    fn close_if_complete(&mut self) {
        if matches!(&self.phase, Phase::Collecting(collecting) if collecting.is_complete()) {
            self.close_round();
        }
    }
}
