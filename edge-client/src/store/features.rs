//! The bounded, class-aware table of features.

use grapevine_models::limits::MAX_FEATURE_VALUE;
use grapevine_protocol::DatasetId;
use redb::{ReadableTable, ReadableTableMetadata, Table};

use super::identity::COUNTS_KEY;
use super::intake::note_origin;
use super::record::{
    SAMPLE_KEY_BYTES, is_intact, pack_features, relabel, sample_bytes, sample_key, split_sample_key, unpack_features,
};
use super::{Digest, Inserted, LABELS, NewLabel, SAMPLES, STATE, Store, StoreError};

/// How much a store may hold; whichever bound is met first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Most samples.
    pub max_samples: u32,
    /// Most samples of one class.
    pub max_samples_per_class: u32,
    /// Most bytes of disk that the samples may take, by an estimate of what the trees around them need. On top come the
    /// index of known files, with at most half as much, and heads, a pending update and the pages that one commit
    /// replaces: a few MiB.
    pub max_bytes: u64,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { max_samples: 20_000, max_samples_per_class: u32::MAX, max_bytes: 64 << 20 }
    }
}

/// One labelled feature vector, on its way into a store.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Index into the class list.
    pub label: u16,
    /// SHA-256 of the image file's bytes. It must be a digest: a full class keeps its smallest digests, which is a
    /// uniform choice because digests look random.
    pub digest: Digest,
    /// Standardised features `[d]`.
    pub features: &'a [f32],
}

/// Whether a store has a use for an image, before the cost of extracting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It would be stored.
    Yes,
    /// Its content is stored under this class.
    Duplicate,
    /// Its content is stored under another class, whose label this is: it needs no extraction, only its new label.
    Labelled(u16),
    /// The store or its class is full and the image would be left out.
    Full,
}

/// Everything a device trains on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// `[sample][feature]`, row-major.
    pub features: Vec<f32>,
    /// `[sample]`.
    pub labels: Vec<u16>,
    /// Which samples they are, see [`Store::dataset`].
    pub id: DatasetId,
    /// Records left out because their checksum does not fit; ingesting their images again repairs them.
    pub damaged: u32,
}

impl Dataset {
    /// How much memory the samples take.
    pub fn bytes(&self) -> u64 {
        (size_of_val(self.features.as_slice()) + size_of_val(self.labels.as_slice())) as u64
    }

    pub(super) fn warn_of_damage(&self) {
        if self.damaged > 0 {
            tracing::warn!(damaged = self.damaged, "stored samples are damaged and left out; ingest them again");
        }
    }
}

impl Store {
    /// Whether a new image of this class and content would be stored now.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn wants(&self, label: u16, digest: &Digest) -> Result<Wanted, StoreError> {
        let shape = self.shape();
        let (capacity, per_class) = (self.capacity(), self.limits.max_samples_per_class);
        self.database.read(|transaction| {
            let samples = transaction.open_table(SAMPLES)?;
            if let Some(stored) = transaction.open_table(LABELS)?.get_owned(digest)? {
                let key = sample_key(stored.value(), digest);
                // Under a damaged record the image is wanted again.
                let record = samples.get_owned(&key)?;
                let is_intact = record.is_some_and(|record| is_intact(&key, record.value(), shape.features()));
                return Ok(match is_intact {
                    false => Wanted::Yes,
                    true if stored.value() == label => Wanted::Duplicate,
                    true => Wanted::Labelled(stored.value()),
                });
            }
            let counts = counts_in(&transaction.open_table(STATE)?, shape.classes())?;
            let full = full_class(&counts, label, capacity, per_class);
            if full.is_none_or(|(gives_way, _)| gives_way != label) {
                return Ok(Wanted::Yes);
            }
            let beaten = last_of(&samples, label)?.is_some_and(|last| *digest < last);
            Ok(if beaten { Wanted::Yes } else { Wanted::Full })
        })
    }

    /// Every readable sample, ordered by label, then digest: the same rows whatever order they arrived in.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn load_all(&self) -> Result<Dataset, StoreError> {
        let width = self.shape().features();
        let dataset = self.database.read(|transaction| {
            let samples = transaction.open_table(SAMPLES)?;
            let rows = samples.len()? as usize;
            let mut dataset = Dataset {
                features: Vec::with_capacity(rows * width),
                labels: Vec::with_capacity(rows),
                ..Dataset::default()
            };
            dataset.id = dataset_in(&transaction.open_table(LABELS)?)?;
            let mut halves = Vec::with_capacity(width);
            for entry in samples.iter()? {
                let (key, record) = entry?;
                if is_intact(key.value(), record.value(), width) {
                    unpack_features(record.value(), &mut halves, &mut dataset.features);
                    dataset.labels.push(split_sample_key(key.value()).0);
                } else {
                    dataset.damaged += 1;
                }
            }
            Ok(dataset)
        })?;
        dataset.warn_of_damage();
        Ok(dataset)
    }

    /// The mean squared length of the stored features; `None` if there are fewer than `least` samples.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn mean_square(&self, least: usize) -> Result<Option<f64>, StoreError> {
        let width = self.shape().features();
        self.database.read(|transaction| {
            let (mut sum, mut rows) = (0.0, 0_usize);
            let (mut halves, mut features) = (Vec::with_capacity(width), Vec::with_capacity(width));
            for entry in transaction.open_table(SAMPLES)?.iter()? {
                let (key, record) = entry?;
                if is_intact(key.value(), record.value(), width) {
                    features.clear();
                    unpack_features(record.value(), &mut halves, &mut features);
                    sum += features.iter().map(|&feature| f64::from(feature).powi(2)).sum::<f64>();
                    rows += 1;
                }
            }
            Ok((rows >= least.max(1)).then(|| sum / rows as f64))
        })
    }

    /// Stored samples per class `[class]`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn counts(&self) -> Result<Vec<u32>, StoreError> {
        let classes = self.shape().classes();
        self.database.read(|transaction| counts_in(&transaction.open_table(STATE)?, classes))
    }

    /// The bounds in force.
    pub fn limits(&self) -> StoreLimits {
        self.limits
    }

    /// Most samples the limits leave room for.
    pub fn capacity(&self) -> u32 {
        let by_bytes = self.limits.max_bytes / sample_bytes(self.shape().features());
        self.limits.max_samples.min(u32::try_from(by_bytes).unwrap_or(u32::MAX))
    }

    pub(super) fn check_label(&self, label: u16) -> Result<(), StoreError> {
        let classes = self.shape().classes();
        if usize::from(label) < classes { Ok(()) } else { Err(StoreError::Label { label, classes }) }
    }

    pub(super) fn check(&self, sample: &Sample<'_>) -> Result<(), StoreError> {
        let shape = self.shape();
        self.check_label(sample.label)?;
        if sample.features.len() != shape.features() {
            return Err(StoreError::Features { expected: shape.features(), received: sample.features.len() });
        }
        match sample.features.iter().position(|value| !value.is_finite() || value.abs() > MAX_FEATURE_VALUE) {
            Some(index) => Err(StoreError::FeatureValue { index, value: sample.features[index] }),
            None => Ok(()),
        }
    }
}

/// The tables of one write transaction.
pub(super) struct Tables<'txn> {
    pub(super) samples: Table<'txn, &'static [u8; SAMPLE_KEY_BYTES], &'static [u8]>,
    pub(super) labels: Table<'txn, &'static [u8; 32], u16>,
    pub(super) origins: Table<'txn, &'static [u8; 32], &'static str>,
    pub(super) counts: Vec<u32>,
    pub(super) capacity: u32,
    pub(super) per_class: u32,
    pub(super) features: usize,
}

impl Tables<'_> {
    /// Brings the tables within bounds that were lowered.
    pub(super) fn trim(&mut self, inserted: &mut Inserted) -> Result<(), redb::Error> {
        while let Some(label) = self.class_over_bounds() {
            let Some(victim) = last_of(&self.samples, label)? else { break };
            self.remove(label, &victim)?;
            inserted.evicted += 1;
        }
        Ok(())
    }

    fn class_over_bounds(&self) -> Option<u16> {
        let over = (0_u16..).zip(&self.counts).find(|&(_, &count)| count > self.per_class).map(|(label, _)| label);
        let is_over = total(&self.counts) > u64::from(self.capacity);
        over.or_else(|| is_over.then(|| largest(&self.counts, 0).0))
    }

    pub(super) fn insert(
        &mut self,
        sample: &Sample<'_>,
        origin: &str,
        record: &mut Vec<u8>,
        inserted: &mut Inserted,
    ) -> Result<(), redb::Error> {
        let stored = self.stored_label(&sample.digest)?;
        match stored {
            Some(label) if label == sample.label => {
                inserted.duplicates += 1;
                return Ok(());
            }
            Some(label) => self.remove(label, &sample.digest)?,
            None => {}
        }
        if !self.make_room(sample.label, &sample.digest, inserted)? {
            return Ok(());
        }
        pack_features(&sample_key(sample.label, &sample.digest), sample.features, record);
        self.put(sample.label, &sample.digest, origin, record)?;
        *(if stored.is_some() { &mut inserted.relabelled } else { &mut inserted.added }) += 1;
        Ok(())
    }

    /// Gives a stored sample another label. It may have to give way in its new class.
    pub(super) fn give_label(
        &mut self,
        new: &NewLabel,
        record: &mut Vec<u8>,
        inserted: &mut Inserted,
    ) -> Result<(), redb::Error> {
        let Some(former) = self.stored_label(&new.digest)? else { return Ok(()) };
        if former == new.label {
            inserted.duplicates += 1;
            return Ok(());
        }
        let stored = self.samples.get(&sample_key(former, &new.digest))?.map(|record| record.value().to_vec());
        let stored = stored.unwrap_or_default();
        let origin = self.origins.get(&new.digest)?.map(|origin| origin.value().to_owned()).unwrap_or_default();
        self.remove(former, &new.digest)?;
        if self.make_room(new.label, &new.digest, inserted)? {
            relabel(&sample_key(new.label, &new.digest), &stored, record);
            let origin = if new.origin.is_empty() { &origin } else { &new.origin };
            self.put(new.label, &new.digest, origin, record)?;
            inserted.relabelled += 1;
        }
        Ok(())
    }

    /// Says whether it was there.
    pub(super) fn forget(&mut self, digest: &Digest) -> Result<bool, redb::Error> {
        let Some(label) = self.labels.get(digest)?.map(|label| label.value()) else { return Ok(false) };
        self.remove(label, digest)?;
        Ok(true)
    }

    /// Lets others give way to a newcomer; `false` if it is the newcomer that must stay out.
    fn make_room(&mut self, label: u16, digest: &Digest, inserted: &mut Inserted) -> Result<bool, redb::Error> {
        while let Some((full, count)) = self.full_class(label) {
            let victim = if count == 0 { None } else { last_of(&self.samples, full)? };
            let Some(victim) = victim.filter(|victim| full != label || digest < victim) else {
                inserted.refused += 1;
                return Ok(false);
            };
            self.remove(full, &victim)?;
            inserted.evicted += 1;
        }
        Ok(true)
    }

    fn put(&mut self, label: u16, digest: &Digest, origin: &str, record: &[u8]) -> Result<(), redb::Error> {
        self.samples.insert(&sample_key(label, digest), record)?;
        self.labels.insert(digest, label)?;
        note_origin(&mut self.origins, digest, origin)?;
        self.counts[usize::from(label)] += 1;
        Ok(())
    }

    /// The class that a newcomer pushes out of, and its samples; `None` while there is room.
    fn full_class(&self, newcomer: u16) -> Option<(u16, u32)> {
        full_class(&self.counts, newcomer, self.capacity, self.per_class)
    }

    /// The label that the content is stored under; a damaged record makes room for a good one.
    fn stored_label(&mut self, digest: &Digest) -> Result<Option<u16>, redb::Error> {
        let Some(label) = self.labels.get(digest)?.map(|label| label.value()) else { return Ok(None) };
        let key = sample_key(label, digest);
        let intact = match self.samples.get(&key)? {
            Some(record) => is_intact(&key, record.value(), self.features),
            None => false,
        };
        if !intact {
            self.remove(label, digest)?;
        }
        Ok(intact.then_some(label))
    }

    fn remove(&mut self, label: u16, digest: &Digest) -> Result<(), redb::Error> {
        self.samples.remove(&sample_key(label, digest))?;
        self.labels.remove(digest)?;
        self.origins.remove(digest)?;
        let count = &mut self.counts[usize::from(label)];
        *count = count.saturating_sub(1);
        Ok(())
    }
}

/// The largest digest of a class.
fn last_of(
    samples: &impl ReadableTable<&'static [u8; SAMPLE_KEY_BYTES], &'static [u8]>,
    label: u16,
) -> Result<Option<Digest>, redb::Error> {
    let (first, last) = (sample_key(label, &[0; 32]), sample_key(label, &[u8::MAX; 32]));
    let entry = samples.range::<&[u8; SAMPLE_KEY_BYTES]>(&first..=&last)?.next_back().transpose()?;
    Ok(entry.map(|(key, _)| split_sample_key(key.value()).1))
}

/// The class that a newcomer pushes out of, and its samples: its own if that is full, else the largest of a full store;
/// `None` while there is room.
fn full_class(counts: &[u32], newcomer: u16, capacity: u32, per_class: u32) -> Option<(u16, u32)> {
    let own = counts.get(usize::from(newcomer)).copied().unwrap_or(0);
    if own >= per_class {
        return Some((newcomer, own));
    }
    (total(counts) >= u64::from(capacity)).then(|| largest(counts, newcomer))
}

fn total(counts: &[u32]) -> u64 {
    counts.iter().map(|&count| u64::from(count)).sum()
}

/// The class that gives way and its samples: the largest; among equals the newcomer's own, so that an exchange
/// which balances nothing does not happen.
fn largest(counts: &[u32], newcomer: u16) -> (u16, u32) {
    let own = counts.get(usize::from(newcomer)).copied().unwrap_or(0);
    let start = (newcomer, own);
    (0_u16..).zip(counts).fold(start, |best, (label, &count)| if count > best.1 { (label, count) } else { best })
}

pub(super) fn dataset_in(labels: &impl ReadableTable<&'static [u8; 32], u16>) -> Result<DatasetId, redb::Error> {
    let mut fault = None;
    let samples = labels.iter()?.map_while(|entry| match entry {
        Ok((digest, label)) => Some((label.value(), *digest.value())),
        Err(error) => {
            fault = Some(error);
            None
        }
    });
    let id = DatasetId::of(samples);
    fault.map_or(Ok(id), |fault| Err(fault.into()))
}

/// Samples per class; those of classes that are not in the table are zero.
pub(super) fn counts_in(
    state: &impl ReadableTable<&'static str, &'static [u8]>,
    classes: usize,
) -> Result<Vec<u32>, redb::Error> {
    let stored = state.get(COUNTS_KEY)?;
    let bytes = stored.as_ref().map(|counts| counts.value()).unwrap_or_default();
    let mut counts: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    counts.resize(classes, 0);
    Ok(counts)
}

pub(super) fn pack_counts(counts: &[u32]) -> Vec<u8> {
    counts.iter().flat_map(|count| count.to_le_bytes()).collect()
}
