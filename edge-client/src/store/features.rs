//! The bounded, class-aware table of features.

use std::sync::PoisonError;

use grapevine_models::limits::MAX_FEATURE_VALUE;
use grapevine_protocol::DatasetId;
use redb::{ReadableTable, ReadableTableMetadata, Table};

use super::identity::COUNTS_KEY;
use super::record::{
    SAMPLE_KEY_BYTES, is_intact, pack_features, sample_bytes, sample_key, split_sample_key, unpack_features,
};
use super::{Digest, LABELS, SAMPLES, STATE, Store, StoreError};

/// How much a store may hold; whichever bound is met first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Most samples.
    pub max_samples: u32,
    /// Most samples of one class.
    pub max_samples_per_class: u32,
    /// Most bytes of disk that the samples may take, by an estimate of what the trees around them need. Heads, a pending
    /// update and the pages that one commit replaces come on top: a few MiB.
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

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inserted {
    /// Samples stored, repaired ones included.
    pub added: u32,
    /// Samples whose content was there already.
    pub duplicates: u32,
    /// Stored samples that gave way.
    pub evicted: u32,
    /// New samples left out: of a largest class of a full store, or of a class that is full itself.
    pub refused: u32,
}

/// Whether a store has a use for an image, before the cost of extracting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It would be stored.
    Yes,
    /// Its content is stored.
    Duplicate,
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

impl Store {
    /// Stores a batch in one commit. When the store is full, the class with the most samples gives way; inside a
    /// class the images with the smallest digests stay. As digests look random that is what a reservoir gives, a uniform
    /// sample of all that were seen, to within one sample; but it needs no memory of what was seen, and ingesting a
    /// folder again changes nothing.
    pub fn insert_batch(&self, samples: &[Sample<'_>]) -> Result<Inserted, StoreError> {
        samples.iter().try_for_each(|sample| self.check(sample))?;
        if samples.is_empty() {
            return Ok(Inserted::default());
        }
        let shape = self.shape();
        let (capacity, per_class) = (self.capacity(), self.limits.max_samples_per_class);
        self.database.write(|transaction| {
            let mut state = transaction.open_table(STATE)?;
            let mut tables = Tables {
                samples: transaction.open_table(SAMPLES)?,
                labels: transaction.open_table(LABELS)?,
                counts: counts_in(&state, shape.classes())?,
                capacity,
                per_class,
                features: shape.features(),
            };
            let mut inserted = Inserted::default();
            tables.trim(&mut inserted)?;
            let mut record = Vec::new();
            for sample in samples {
                tables.insert(sample, &mut record, &mut inserted)?;
            }
            state.insert(COUNTS_KEY, pack_counts(&tables.counts).as_slice())?;
            Ok(inserted)
        })
    }

    /// Whether a new image of this class and content would be stored now.
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
                return Ok(if is_intact { Wanted::Duplicate } else { Wanted::Yes });
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
        if dataset.damaged > 0 {
            tracing::warn!(damaged = dataset.damaged, "stored samples are damaged and left out; ingest them again");
        }
        Ok(dataset)
    }

    /// Stored samples per class `[class]`.
    pub fn counts(&self) -> Result<Vec<u32>, StoreError> {
        let classes = self.shape().classes();
        self.database.read(|transaction| counts_in(&transaction.open_table(STATE)?, classes))
    }

    /// Which samples are stored: the same name as long as the same images have the same labels. Cheap while this process
    /// writes nothing; a store opened for reading goes on saying what it found first.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn dataset(&self) -> Result<DatasetId, StoreError> {
        let writes = self.database.writes();
        let known = *self.known_dataset.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, dataset)) = known.filter(|(at, _)| *at == writes) {
            return Ok(dataset);
        }
        let dataset = self.database.read(|transaction| dataset_in(&transaction.open_table(LABELS)?))?;
        *self.known_dataset.lock().unwrap_or_else(PoisonError::into_inner) = Some((writes, dataset));
        Ok(dataset)
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

    fn check(&self, sample: &Sample<'_>) -> Result<(), StoreError> {
        let shape = self.shape();
        if usize::from(sample.label) >= shape.classes() {
            return Err(StoreError::Label { label: sample.label, classes: shape.classes() });
        }
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
struct Tables<'txn> {
    samples: Table<'txn, &'static [u8; SAMPLE_KEY_BYTES], &'static [u8]>,
    labels: Table<'txn, &'static [u8; 32], u16>,
    counts: Vec<u32>,
    capacity: u32,
    per_class: u32,
    features: usize,
}

impl Tables<'_> {
    /// Brings the tables within bounds that were lowered.
    fn trim(&mut self, inserted: &mut Inserted) -> Result<(), redb::Error> {
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

    fn insert(
        &mut self,
        sample: &Sample<'_>,
        record: &mut Vec<u8>,
        inserted: &mut Inserted,
    ) -> Result<(), redb::Error> {
        if self.is_stored(&sample.digest)? {
            inserted.duplicates += 1;
            return Ok(());
        }
        while let Some((label, count)) = self.full_class(sample.label) {
            let victim = if count == 0 { None } else { last_of(&self.samples, label)? };
            let Some(victim) = victim.filter(|victim| label != sample.label || sample.digest < *victim) else {
                inserted.refused += 1;
                return Ok(());
            };
            self.remove(label, &victim)?;
            inserted.evicted += 1;
        }
        let key = sample_key(sample.label, &sample.digest);
        pack_features(&key, sample.features, record);
        self.samples.insert(&key, record.as_slice())?;
        self.labels.insert(&sample.digest, sample.label)?;
        self.counts[usize::from(sample.label)] += 1;
        inserted.added += 1;
        Ok(())
    }

    /// The class that a newcomer pushes out of, and its samples; `None` while there is room.
    fn full_class(&self, newcomer: u16) -> Option<(u16, u32)> {
        full_class(&self.counts, newcomer, self.capacity, self.per_class)
    }

    /// Whether the content is stored; a damaged record makes room for a good one.
    fn is_stored(&mut self, digest: &Digest) -> Result<bool, redb::Error> {
        let Some(label) = self.labels.get(digest)?.map(|label| label.value()) else { return Ok(false) };
        let key = sample_key(label, digest);
        let intact = match self.samples.get(&key)? {
            Some(record) => is_intact(&key, record.value(), self.features),
            None => false,
        };
        if !intact {
            self.remove(label, digest)?;
        }
        Ok(intact)
    }

    fn remove(&mut self, label: u16, digest: &Digest) -> Result<(), redb::Error> {
        self.samples.remove(&sample_key(label, digest))?;
        self.labels.remove(digest)?;
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

fn dataset_in(labels: &impl ReadableTable<&'static [u8; 32], u16>) -> Result<DatasetId, redb::Error> {
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
