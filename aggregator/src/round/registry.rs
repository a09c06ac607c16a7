//! The books: every device that ever said a fitting hello, and whether it is there.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use grapevine_protocol::limits::MAX_DEVICES;
use grapevine_protocol::{BootId, DatasetId, DeviceId, Hello, Labels, Refusal, RoundId};

use super::places::{Column, Names, Place, PlaceSet};

/// What is known about one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Its newest start.
    pub boot: BootId,
    /// Samples it holds.
    pub samples: u32,
    /// Which samples they are.
    pub dataset: DatasetId,
    /// What it says about itself.
    pub labels: Labels,
    /// Whether its labels are among those that rounds choose from.
    pub is_eligible: bool,
    /// Whether it is there.
    pub present: bool,
    /// When it was last heard, on the machine's clock.
    pub last_seen: Duration,
    /// Rounds its update was merged in.
    pub rounds_done: u32,
    /// The newest round its update was merged in.
    pub last_round: Option<RoundId>,
    /// What was refused of it, by reason.
    pub failures: BTreeMap<Refusal, u32>,
    /// Bad updates since its last good one.
    pub strikes: u32,
    /// Why it is not heard any more, until somebody releases it.
    pub quarantined: Option<Refusal>,
    /// Bytes of blocks received from it.
    pub bytes_up: u64,
    /// Bytes of blocks published while it fetched them.
    pub bytes_down: u64,
}

/// The books. A device costs them its name and a hundred bytes or so, whatever it does; labels are kept once for all who
/// say the same.
#[derive(Default)]
pub struct Registry {
    /// Also of devices that the ledger names and that never said hello since.
    names: Names,
    records: Column<Record>,
    labels: BTreeSet<Arc<Labels>>,
    known: PlaceSet,
    present: PlaceSet,
    eligible: PlaceSet,
    /// Whose record is newer than its row in the ledger.
    changed: PlaceSet,
}

/// As [`DeviceRecord`], in as few bytes as it takes: there is one for each device of a large fleet.
#[derive(Default)]
struct Record {
    boot: BootId,
    bytes_up: u64,
    bytes_down: u64,
    last_seen_ms: u64,
    /// None only before its first hello.
    labels: Option<Arc<Labels>>,
    /// Most devices never do anything wrong.
    wrongs: Option<Box<Wrongs>>,
    last_round: Option<RoundId>,
    samples: u32,
    rounds_done: u32,
    dataset: DatasetId,
    /// When its newest hello came.
    hello_ms: u64,
    /// Until when it is not asked for news, in milliseconds; it did not answer when it was asked last.
    silent_until_ms: u64,
    /// Rounds in a row that it did not answer.
    missed: u8,
}

/// What a device did wrong.
#[derive(Clone, Default)]
struct Wrongs {
    failures: Vec<(Refusal, u32)>,
    strikes: u32,
    quarantined: Option<Refusal>,
}

const _: () = assert!(size_of::<Record>() <= 96);

impl Registry {
    /// Takes a device over from the ledger; one beyond the most that there may be is left out.
    pub fn remember(&mut self, device: &DeviceId, record: DeviceRecord) {
        if self.known.len() >= MAX_DEVICES {
            return;
        }
        let place = self.names.place(device);
        self.known.insert(place);
        if record.is_eligible {
            self.eligible.insert(place);
        }
        let labels = self.shared(record.labels);
        let wrongs = Wrongs {
            failures: record.failures.into_iter().collect(),
            strikes: record.strikes,
            quarantined: record.quarantined,
        };
        let is_clean = wrongs.failures.is_empty() && wrongs.strikes == 0 && wrongs.quarantined.is_none();
        *self.records.slot(place) = Record {
            boot: record.boot,
            bytes_up: record.bytes_up,
            bytes_down: record.bytes_down,
            last_seen_ms: milliseconds(record.last_seen),
            labels: Some(labels),
            wrongs: (!is_clean).then(|| Box::new(wrongs)),
            last_round: record.last_round,
            samples: record.samples,
            rounds_done: record.rounds_done,
            dataset: record.dataset,
            hello_ms: 0,
            silent_until_ms: 0,
            missed: 0,
        };
    }

    /// The place of a name that is in the ledger, whoever it is.
    pub(super) fn place(&mut self, device: &DeviceId) -> Place {
        self.names.place(device)
    }

    /// The place of a device that once said a fitting hello.
    pub(super) fn find(&self, device: &DeviceId) -> Option<Place> {
        self.names.find(device).filter(|place| self.known.contains(*place))
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Takes a device in, or takes note of its return; `None` if the books are full.
    pub(super) fn greet(
        &mut self,
        device: &DeviceId,
        hello: &Hello,
        is_eligible: bool,
        now: Duration,
    ) -> Option<Place> {
        if self.find(device).is_none() && self.known.len() >= MAX_DEVICES {
            return None;
        }
        let place = self.names.place(device);
        self.known.insert(place);
        self.present.insert(place);
        self.changed.insert(place);
        if is_eligible {
            self.eligible.insert(place);
        } else {
            self.eligible.remove(place);
        }
        let record = self.records.slot(place);
        if (record.boot, record.dataset) != (hello.boot, hello.dataset) {
            // It started anew, or has something new to tell: it is worth asking.
            record.silent_until_ms = 0;
        }
        record.boot = hello.boot;
        record.samples = hello.samples;
        record.dataset = hello.dataset;
        record.hello_ms = milliseconds(now);
        record.last_seen_ms = milliseconds(now);
        if record.labels.as_deref() != Some(&hello.labels) {
            let former = record.labels.take();
            former.into_iter().for_each(|former| self.let_go(former));
            let labels = self.shared(hello.labels.clone());
            self.records.slot(place).labels = Some(labels);
        }
        Some(place)
    }

    /// Up to `most` devices that never delivered anything, those first that are not there or were silent for longest.
    pub(super) fn strangers(&self, most: usize, is_busy: impl Fn(Place) -> bool) -> PlaceSet {
        let is_stranger = |place: &Place| {
            let has_delivered = self.records.get(*place).is_some_and(|record| record.rounds_done > 0);
            !has_delivered && !self.is_quarantined(*place) && !is_busy(*place)
        };
        let mut strangers: Vec<Place> = self.known.iter().filter(is_stranger).collect();
        let seen = |place: &Place| self.records.get(*place).map_or(0, |record| record.last_seen_ms);
        strangers.sort_by_key(|place| (self.present.contains(*place), seen(place)));
        strangers.into_iter().take(most).collect()
    }

    /// Takes devices out of the books. Nothing else may mean them by their places from now on.
    pub(super) fn evict(&mut self, places: &PlaceSet) {
        places.iter().for_each(|place| self.forget(place));
        self.names.remove(places);
    }

    /// Takes a device out of the books; its name keeps its place.
    pub(super) fn forget(&mut self, place: Place) {
        for set in [&mut self.known, &mut self.present, &mut self.eligible, &mut self.changed] {
            set.remove(place);
        }
        let former = self.records.get_mut(place).map(core::mem::take);
        former.and_then(|record| record.labels).into_iter().for_each(|labels| self.let_go(labels));
    }

    pub(super) fn is_present(&self, place: Place) -> bool {
        self.present.contains(place)
    }

    /// A known device spoke, with so many bytes of a block; `None` if it never said hello.
    pub(super) fn heard(&mut self, device: &DeviceId, now: Duration, bytes: usize) -> Option<Place> {
        let place = self.find(device)?;
        let record = self.records.get_mut(place)?;
        record.last_seen_ms = milliseconds(now);
        record.bytes_up += bytes as u64;
        Some(place)
    }

    /// A device went; `false` if that was an earlier start of it.
    pub(super) fn leave(&mut self, place: Place, boot: BootId) -> bool {
        let is_it = self.records.get(place).is_some_and(|record| record.boot == boot);
        let has_left = is_it && self.present.remove(place);
        if has_left {
            self.changed.insert(place);
        }
        has_left
    }

    /// Nobody is known to be there any more.
    pub(super) fn all_away(&mut self) {
        self.changed.extend(core::mem::take(&mut self.present).iter());
    }

    pub(super) fn record(&self, place: Place) -> Option<DeviceRecord> {
        let record = self.records.get(place).filter(|_| self.known.contains(place))?;
        let wrongs = record.wrongs.as_deref().cloned().unwrap_or_default();
        Some(DeviceRecord {
            boot: record.boot,
            samples: record.samples,
            dataset: record.dataset,
            labels: record.labels.as_deref().cloned().unwrap_or_default(),
            is_eligible: self.eligible.contains(place),
            present: self.present.contains(place),
            last_seen: Duration::from_millis(record.last_seen_ms),
            rounds_done: record.rounds_done,
            last_round: record.last_round,
            failures: wrongs.failures.into_iter().collect(),
            strikes: wrongs.strikes,
            quarantined: wrongs.quarantined,
            bytes_up: record.bytes_up,
            bytes_down: record.bytes_down,
        })
    }

    pub(super) fn boot(&self, place: Place) -> Option<BootId> {
        self.records.get(place).map(|record| record.boot)
    }

    /// Devices that are there.
    pub(super) fn present(&self) -> usize {
        self.present.len()
    }

    /// The devices that can take part in a round: they are there, fit, and hold samples.
    pub(super) fn able(&self) -> impl Iterator<Item = Place> {
        let has_samples = |place: &Place| self.records.get(*place).is_some_and(|record| record.samples > 0);
        self.there().filter(has_samples)
    }

    /// The devices that are there and fit, those without samples included: they may have had some.
    pub(super) fn there(&self) -> impl Iterator<Item = Place> {
        self.present.iter().filter(|place| self.eligible.contains(*place))
    }

    /// Which samples a device says it holds, and how many.
    pub(super) fn dataset(&self, place: Place) -> Option<(DatasetId, u32)> {
        self.records.get(place).map(|record| (record.dataset, record.samples))
    }

    /// Whether a device may hold so many samples: about as many as it said, for it may have got some more since.
    pub(super) fn may_hold(&self, place: Place, samples: u32) -> bool {
        /// Of what it said, and besides.
        const ROOM: (u32, u32) = (4, 64);
        let said = self.records.get(place).map_or(0, |record| record.samples);
        samples <= said.saturating_add(said / ROOM.0).saturating_add(ROOM.1)
    }

    /// A device answered a round that was opened then: it is there, whatever was lost on the way, and rounds wait for it again.
    /// It holds what the answer is of, unless it said something else since the round was opened. A hello from before may have
    /// been long on its way. `true` if it was not known to be there.
    pub(super) fn answered(&mut self, place: Place, dataset: DatasetId, samples: u32, opened: Duration) -> bool {
        if let Some(record) = self.records.get_mut(place) {
            (record.missed, record.silent_until_ms) = (0, 0);
            if record.hello_ms < milliseconds(opened) {
                (record.dataset, record.samples) = (dataset, samples);
                self.changed.insert(place);
            }
        }
        let came = !self.present.contains(place);
        self.present.insert(place);
        came
    }

    /// A device did not answer a round. It is asked for news again after a pause that doubles each time.
    pub(super) fn count_missed(&mut self, place: Place, now: Duration, pause: Duration) {
        /// A thousand deadlines are long enough.
        const MOST: u8 = 10;
        if let Some(record) = self.records.get_mut(place) {
            record.missed = record.missed.saturating_add(1).min(MOST);
            record.silent_until_ms = milliseconds(now.saturating_add(pause.saturating_mul(1 << record.missed)));
        }
    }

    /// Whether a device did not answer the last round that asked it: rounds do not wait for it.
    pub(super) fn has_missed(&self, place: Place) -> bool {
        self.records.get(place).is_some_and(|record| record.missed > 0)
    }

    /// Whether a device that did not answer is not asked for news yet.
    pub(super) fn is_silent(&self, place: Place, now: Duration) -> bool {
        self.records.get(place).is_some_and(|record| record.silent_until_ms > milliseconds(now))
    }

    /// Those whose record is newer than the ledger's.
    pub(super) fn changed(&self) -> impl Iterator<Item = Place> {
        self.changed.iter()
    }

    /// The ledger has all of them.
    pub(super) fn are_written(&mut self) {
        self.changed.clear();
    }

    pub(super) fn is_eligible(&self, place: Place) -> bool {
        self.eligible.contains(place)
    }

    pub(super) fn is_quarantined(&self, place: Place) -> bool {
        let wrongs = self.records.get(place).and_then(|record| record.wrongs.as_ref());
        wrongs.is_some_and(|wrongs| wrongs.quarantined.is_some())
    }

    pub(super) fn count_failure(&mut self, place: Place, reason: Refusal) {
        self.changed.insert(place);
        let failures = &mut self.wrongs(place).failures;
        match failures.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => {
                failures.reserve_exact(1);
                failures.push((reason, 1));
            }
        }
    }

    /// A bad update of a device; `true` if it was one too many, and the device is away now.
    pub(super) fn strike(&mut self, place: Place, most: u32, reason: Refusal) -> bool {
        let wrongs = self.wrongs(place);
        wrongs.strikes += 1;
        if wrongs.strikes < most {
            return false;
        }
        wrongs.quarantined = Some(reason);
        self.present.remove(place);
        true
    }

    /// A good update: what was bad before it is forgiven.
    pub(super) fn forgive(&mut self, place: Place) {
        self.changed.insert(place);
        if let Some(wrongs) = self.records.get_mut(place).and_then(|record| record.wrongs.as_mut()) {
            wrongs.strikes = 0;
        }
    }

    /// `false` if the device is not quarantined.
    pub(super) fn release(&mut self, place: Place) -> bool {
        self.forgive(place);
        let wrongs = self.records.get_mut(place).and_then(|record| record.wrongs.as_mut());
        wrongs.is_some_and(|wrongs| wrongs.quarantined.take().is_some())
    }

    pub(super) fn count_down(&mut self, place: Place, bytes: usize) {
        if let Some(record) = self.records.get_mut(place) {
            record.bytes_down += bytes as u64;
        }
    }

    pub(super) fn count_done(&mut self, place: Place, round: RoundId) {
        self.changed.insert(place);
        if let Some(record) = self.records.get_mut(place) {
            record.rounds_done += 1;
            record.last_round = Some(round);
        }
    }

    fn wrongs(&mut self, place: Place) -> &mut Wrongs {
        self.records.slot(place).wrongs.get_or_insert_default()
    }

    /// These labels, once for all who say the same.
    fn shared(&mut self, labels: Labels) -> Arc<Labels> {
        match self.labels.get(&labels) {
            Some(shared) => shared.clone(),
            None => {
                let labels = Arc::new(labels);
                self.labels.insert(labels.clone());
                labels
            }
        }
    }

    /// Forgets labels that nobody says any more.
    fn let_go(&mut self, labels: Arc<Labels>) {
        /// The caller's, and that of the set.
        const NOBODYS: usize = 2;
        if Arc::strong_count(&labels) == NOBODYS {
            self.labels.remove(&labels);
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
