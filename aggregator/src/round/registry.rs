//! The registry: every device that ever said a fitting hello, and whether it is there.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use grapevine_protocol::limits::MAX_DEVICES;
use grapevine_protocol::{Attributes, DatasetId, DeviceId, Hello, Incarnation, Refusal, RoundId};

use super::device_index::{Column, DeviceIndex, DeviceSet, Names};

/// What is known about one device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Its newest start.
    pub incarnation: Incarnation,
    /// Samples it holds.
    pub samples: u32,
    /// Which samples they are.
    pub dataset: DatasetId,
    /// What it says about itself.
    pub attributes: Attributes,
    /// Whether its attributes are among those that rounds choose from.
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

/// The registry. A device costs it its name and a hundred bytes or so, whatever it does; attributes are kept once for
/// all who say the same.
#[derive(Default)]
pub struct Registry {
    /// Also of devices that the ledger names and that never said hello since.
    names: Names,
    records: Column<Record>,
    attributes: BTreeSet<Arc<Attributes>>,
    known: DeviceSet,
    present: DeviceSet,
    eligible: DeviceSet,
    /// Whose record is newer than its row in the ledger.
    changed: DeviceSet,
}

/// As [`DeviceRecord`], in as few bytes as it takes: there is one for each device of a large fleet.
#[derive(Default)]
struct Record {
    incarnation: Incarnation,
    bytes_up: u64,
    bytes_down: u64,
    last_seen_ms: u64,
    /// None only before its first hello.
    attributes: Option<Arc<Attributes>>,
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
        let index = self.names.index(device);
        self.known.insert(index);
        if record.is_eligible {
            self.eligible.insert(index);
        }
        let attributes = self.shared(record.attributes);
        let wrongs = Wrongs {
            failures: record.failures.into_iter().collect(),
            strikes: record.strikes,
            quarantined: record.quarantined,
        };
        let is_clean = wrongs.failures.is_empty() && wrongs.strikes == 0 && wrongs.quarantined.is_none();
        *self.records.slot(index) = Record {
            incarnation: record.incarnation,
            bytes_up: record.bytes_up,
            bytes_down: record.bytes_down,
            last_seen_ms: milliseconds(record.last_seen),
            attributes: Some(attributes),
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
    pub(super) fn index(&mut self, device: &DeviceId) -> DeviceIndex {
        self.names.index(device)
    }

    /// The place of a device that once said a fitting hello.
    pub(super) fn find(&self, device: &DeviceId) -> Option<DeviceIndex> {
        self.names.find(device).filter(|index| self.known.contains(*index))
    }

    /// Whether it said a fitting hello, and was not forgotten since.
    pub(super) fn is_known(&self, index: DeviceIndex) -> bool {
        self.known.contains(index)
    }

    pub(super) fn names(&self) -> &Names {
        &self.names
    }

    /// Takes a device in, or takes note of its return; `None` if the registry is full.
    pub(super) fn greet(
        &mut self,
        device: &DeviceId,
        hello: &Hello,
        is_eligible: bool,
        now: Duration,
    ) -> Option<DeviceIndex> {
        if self.find(device).is_none() && self.known.len() >= MAX_DEVICES {
            return None;
        }
        let index = self.names.index(device);
        self.known.insert(index);
        self.present.insert(index);
        self.changed.insert(index);
        if is_eligible {
            self.eligible.insert(index);
        } else {
            self.eligible.remove(index);
        }
        let record = self.records.slot(index);
        if (record.incarnation, record.dataset) != (hello.incarnation, hello.dataset) {
            // It started anew, or has something new to tell: it is worth asking.
            record.silent_until_ms = 0;
        }
        record.incarnation = hello.incarnation;
        record.samples = hello.samples;
        record.dataset = hello.dataset;
        record.hello_ms = milliseconds(now);
        record.last_seen_ms = milliseconds(now);
        if record.attributes.as_deref() != Some(&hello.attributes) {
            let former = record.attributes.take();
            former.into_iter().for_each(|former| self.let_go(former));
            let attributes = self.shared(hello.attributes.clone());
            self.records.slot(index).attributes = Some(attributes);
        }
        Some(index)
    }

    /// Up to `most` devices that never delivered anything, those first that are not there or were silent for longest.
    pub(super) fn strangers(&self, most: usize, is_busy: impl Fn(DeviceIndex) -> bool) -> DeviceSet {
        let is_stranger = |index: &DeviceIndex| {
            let has_delivered = self.records.get(*index).is_some_and(|record| record.rounds_done > 0);
            !has_delivered && !self.is_quarantined(*index) && !is_busy(*index)
        };
        let mut strangers: Vec<DeviceIndex> = self.known.iter().filter(is_stranger).collect();
        let seen = |index: &DeviceIndex| self.records.get(*index).map_or(0, |record| record.last_seen_ms);
        strangers.sort_by_key(|index| (self.present.contains(*index), seen(index)));
        strangers.into_iter().take(most).collect()
    }

    /// Takes devices out of the registry. Nothing else may mean them by their indices from now on.
    pub(super) fn evict(&mut self, indices: &DeviceSet) {
        indices.iter().for_each(|index| self.forget(index));
        self.names.remove(indices);
    }

    /// Takes a device out of the registry; its name keeps its index.
    pub(super) fn forget(&mut self, index: DeviceIndex) {
        for set in [&mut self.known, &mut self.present, &mut self.eligible, &mut self.changed] {
            set.remove(index);
        }
        let former = self.records.get_mut(index).map(core::mem::take);
        former.and_then(|record| record.attributes).into_iter().for_each(|attributes| self.let_go(attributes));
    }

    pub(super) fn is_present(&self, index: DeviceIndex) -> bool {
        self.present.contains(index)
    }

    /// A known device spoke, with so many bytes of a block; `None` if it never said hello.
    pub(super) fn heard(&mut self, device: &DeviceId, now: Duration, bytes: usize) -> Option<DeviceIndex> {
        let index = self.find(device)?;
        let record = self.records.get_mut(index)?;
        record.last_seen_ms = milliseconds(now);
        record.bytes_up += bytes as u64;
        Some(index)
    }

    /// A device went; `false` if that was an earlier start of it.
    pub(super) fn leave(&mut self, index: DeviceIndex, incarnation: Incarnation) -> bool {
        let is_it = self.records.get(index).is_some_and(|record| record.incarnation == incarnation);
        let has_left = is_it && self.present.remove(index);
        if has_left {
            self.changed.insert(index);
        }
        has_left
    }

    /// Nobody is known to be there any more.
    pub(super) fn all_away(&mut self) {
        self.changed.extend(core::mem::take(&mut self.present).iter());
    }

    pub(super) fn record(&self, index: DeviceIndex) -> Option<DeviceRecord> {
        let record = self.records.get(index).filter(|_| self.known.contains(index))?;
        let wrongs = record.wrongs.as_deref().cloned().unwrap_or_default();
        Some(DeviceRecord {
            incarnation: record.incarnation,
            samples: record.samples,
            dataset: record.dataset,
            attributes: record.attributes.as_deref().cloned().unwrap_or_default(),
            is_eligible: self.eligible.contains(index),
            present: self.present.contains(index),
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

    pub(super) fn incarnation(&self, index: DeviceIndex) -> Option<Incarnation> {
        self.records.get(index).map(|record| record.incarnation)
    }

    /// Devices that are there.
    pub(super) fn present(&self) -> usize {
        self.present.len()
    }

    /// The devices that can take part in a round: they are there, fit, and hold samples.
    pub(super) fn able(&self) -> impl Iterator<Item = DeviceIndex> {
        let has_samples = |index: &DeviceIndex| self.records.get(*index).is_some_and(|record| record.samples > 0);
        self.there().filter(has_samples)
    }

    /// The devices that are there and fit, those without samples included: they may have had some.
    pub(super) fn there(&self) -> impl Iterator<Item = DeviceIndex> {
        self.present.iter().filter(|index| self.eligible.contains(*index))
    }

    /// Which samples a device says it holds, and how many.
    pub(super) fn dataset(&self, index: DeviceIndex) -> Option<(DatasetId, u32)> {
        self.records.get(index).map(|record| (record.dataset, record.samples))
    }

    /// Whether a device may hold so many samples: about as many as it said, for it may have got some more since.
    pub(super) fn may_hold(&self, index: DeviceIndex, samples: u32) -> bool {
        /// Of what it said, and besides.
        const ROOM: (u32, u32) = (4, 64);
        let said = self.records.get(index).map_or(0, |record| record.samples);
        samples <= said.saturating_add(said / ROOM.0).saturating_add(ROOM.1)
    }

    /// A device answered a round that was opened then: it is there, whatever was lost on the way, and rounds wait for it again.
    /// It holds what the answer is of, unless it said something else since the round was opened. A hello from before may have
    /// been long on its way. `true` if it was not known to be there.
    pub(super) fn answered(&mut self, index: DeviceIndex, dataset: DatasetId, samples: u32, opened: Duration) -> bool {
        if let Some(record) = self.records.get_mut(index) {
            (record.missed, record.silent_until_ms) = (0, 0);
            if record.hello_ms < milliseconds(opened) {
                (record.dataset, record.samples) = (dataset, samples);
                self.changed.insert(index);
            }
        }
        let came = !self.present.contains(index);
        self.present.insert(index);
        came
    }

    /// A device did not answer a round. It is asked for news again after a pause that doubles each time.
    pub(super) fn count_missed(&mut self, index: DeviceIndex, now: Duration, pause: Duration) {
        /// A thousand deadlines are long enough.
        const MOST: u8 = 10;
        if let Some(record) = self.records.get_mut(index) {
            record.missed = record.missed.saturating_add(1).min(MOST);
            record.silent_until_ms = milliseconds(now.saturating_add(pause.saturating_mul(1 << record.missed)));
        }
    }

    /// Whether a device did not answer the last round that asked it: rounds do not wait for it.
    pub(super) fn has_missed(&self, index: DeviceIndex) -> bool {
        self.records.get(index).is_some_and(|record| record.missed > 0)
    }

    /// Whether a device that did not answer is not asked for news yet.
    pub(super) fn is_silent(&self, index: DeviceIndex, now: Duration) -> bool {
        self.records.get(index).is_some_and(|record| record.silent_until_ms > milliseconds(now))
    }

    /// Those whose record is newer than the ledger's.
    pub(super) fn changed(&self) -> impl Iterator<Item = DeviceIndex> {
        self.changed.iter()
    }

    /// The ledger has all of them.
    pub(super) fn are_written(&mut self) {
        self.changed.clear();
    }

    pub(super) fn is_eligible(&self, index: DeviceIndex) -> bool {
        self.eligible.contains(index)
    }

    pub(super) fn is_quarantined(&self, index: DeviceIndex) -> bool {
        let wrongs = self.records.get(index).and_then(|record| record.wrongs.as_ref());
        wrongs.is_some_and(|wrongs| wrongs.quarantined.is_some())
    }

    pub(super) fn count_failure(&mut self, index: DeviceIndex, reason: Refusal) {
        self.changed.insert(index);
        let failures = &mut self.wrongs(index).failures;
        match failures.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => {
                failures.reserve_exact(1);
                failures.push((reason, 1));
            }
        }
    }

    /// A bad update of a device; `true` if it was one too many, and the device is away now.
    pub(super) fn strike(&mut self, index: DeviceIndex, most: u32, reason: Refusal) -> bool {
        let wrongs = self.wrongs(index);
        wrongs.strikes += 1;
        if wrongs.strikes < most {
            return false;
        }
        wrongs.quarantined = Some(reason);
        self.present.remove(index);
        true
    }

    /// A good update: what was bad before it is forgiven.
    pub(super) fn forgive(&mut self, index: DeviceIndex) {
        self.changed.insert(index);
        if let Some(wrongs) = self.records.get_mut(index).and_then(|record| record.wrongs.as_mut()) {
            wrongs.strikes = 0;
        }
    }

    /// `false` if the device is not quarantined.
    pub(super) fn release(&mut self, index: DeviceIndex) -> bool {
        self.forgive(index);
        let wrongs = self.records.get_mut(index).and_then(|record| record.wrongs.as_mut());
        wrongs.is_some_and(|wrongs| wrongs.quarantined.take().is_some())
    }

    pub(super) fn count_down(&mut self, index: DeviceIndex, bytes: usize) {
        if let Some(record) = self.records.get_mut(index) {
            record.bytes_down += bytes as u64;
        }
    }

    pub(super) fn count_done(&mut self, index: DeviceIndex, round: RoundId) {
        self.changed.insert(index);
        if let Some(record) = self.records.get_mut(index) {
            record.rounds_done += 1;
            record.last_round = Some(round);
        }
    }

    fn wrongs(&mut self, index: DeviceIndex) -> &mut Wrongs {
        self.records.slot(index).wrongs.get_or_insert_default()
    }

    /// These attributes, once for all who say the same.
    fn shared(&mut self, attributes: Attributes) -> Arc<Attributes> {
        match self.attributes.get(&attributes) {
            Some(shared) => shared.clone(),
            None => {
                let attributes = Arc::new(attributes);
                self.attributes.insert(attributes.clone());
                attributes
            }
        }
    }

    /// Forgets attributes that nobody says any more.
    fn let_go(&mut self, attributes: Arc<Attributes>) {
        /// The caller's, and that of the set.
        const NOBODYS: usize = 2;
        if Arc::strong_count(&attributes) == NOBODYS {
            self.attributes.remove(&attributes);
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
