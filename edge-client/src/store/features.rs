//! The bounded, class-aware table of features.

use grapevine_models::limits::MAX_FEATURE_VALUE;
use redb::{ReadableTable, ReadableTableMetadata, Table};

use super::record::{
    SAMPLE_KEY_BYTES, is_intact, pack_features, sample_bytes, sample_key, split_sample_key, unpack_features,
};
use super::{COUNTS_KEY, Digest, LABELS, SAMPLES, STATE, Store, StoreError};

/// How much a store may hold; whichever bound is met first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Most samples.
    pub max_samples: u32,
    /// Most bytes of samples. The file is a little larger: it also holds trees, free pages and device records.
    pub max_bytes: u64,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self { max_samples: 20_000, max_bytes: 64 << 20 }
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
    /// New samples of a largest class, left out of a full store.
    pub refused: u32,
}

/// Whether a store has a use for an image, before the cost of extracting it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It would be stored.
    Yes,
    /// Its content is stored.
    Duplicate,
    /// The store is full and the image would be left out.
    Full,
}

/// Everything a device trains on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataset {
    /// `[sample][feature]`, row-major.
    pub features: Vec<f32>,
    /// `[sample]`.
    pub labels: Vec<u16>,
    /// Records left out because their checksum does not fit; ingesting their images again repairs them.
    pub damaged: u32,
}

impl Store {
    /// Stores a batch in one commit. When the store is full, the class with the most samples gives way; inside a
    /// class the images with the smallest digests stay: a uniform sample of all that were seen, the same whatever
    /// the order, and ingesting a folder again changes nothing.
    pub fn insert_batch(&self, samples: &[Sample<'_>]) -> Result<Inserted, StoreError> {
        samples.iter().try_for_each(|sample| self.check(sample))?;
        if samples.is_empty() {
            return Ok(Inserted::default());
        }
        let (capacity, features, classes) = (self.capacity(), self.shape().features(), self.shape().classes());
        self.write(|transaction| {
            let mut state = transaction.open_table(STATE)?;
            let mut tables = Tables {
                samples: transaction.open_table(SAMPLES)?,
                labels: transaction.open_table(LABELS)?,
                counts: unpack_counts(state.get(COUNTS_KEY)?.as_ref().map(|counts| counts.value()), classes),
                capacity,
                features,
            };
            let mut inserted = Inserted::default();
            let mut record = Vec::new();
            for sample in samples {
                tables.insert(sample, &mut record, &mut inserted)?;
            }
            let counts: Vec<u8> = tables.counts.iter().flat_map(|count| count.to_le_bytes()).collect();
            state.insert(COUNTS_KEY, counts.as_slice())?;
            Ok(inserted)
        })
    }

    /// Whether this content is stored and readable.
    pub fn contains(&self, digest: &Digest) -> Result<bool, StoreError> {
        let features = self.shape().features();
        self.read(|transaction| {
            let Some(label) = transaction.open_table(LABELS)?.get_owned(digest)? else { return Ok(false) };
            let key = sample_key(label.value(), digest);
            let record = transaction.open_table(SAMPLES)?.get_owned(&key)?;
            Ok(record.is_some_and(|record| is_intact(&key, record.value(), features)))
        })
    }

    /// Whether a new image of this class and content would be stored now.
    pub fn wants(&self, label: u16, digest: &Digest) -> Result<Wanted, StoreError> {
        if self.contains(digest)? {
            return Ok(Wanted::Duplicate);
        }
        let (capacity, classes) = (self.capacity(), self.shape().classes());
        self.read(|transaction| {
            let state = transaction.open_table(STATE)?.get_owned(COUNTS_KEY)?;
            let counts = unpack_counts(state.as_ref().map(|counts| counts.value()), classes);
            if counts.iter().sum::<u32>() < capacity || largest(&counts, label).0 != label {
                return Ok(Wanted::Yes);
            }
            let samples = transaction.open_table(SAMPLES)?;
            let beaten = last_of(&samples, label)?.is_some_and(|last| *digest < last);
            Ok(if beaten { Wanted::Yes } else { Wanted::Full })
        })
    }

    /// Every readable sample, ordered by label, then digest: the same rows whatever order they arrived in.
    pub fn load_all(&self) -> Result<Dataset, StoreError> {
        let width = self.shape().features();
        let dataset = self.read(|transaction| {
            let samples = transaction.open_table(SAMPLES)?;
            let rows = samples.len()? as usize;
            let mut dataset =
                Dataset { features: Vec::with_capacity(rows * width), labels: Vec::with_capacity(rows), damaged: 0 };
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
        self.read(|transaction| {
            let counts = transaction.open_table(STATE)?.get_owned(COUNTS_KEY)?;
            Ok(unpack_counts(counts.as_ref().map(|counts| counts.value()), classes))
        })
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
    features: usize,
}

impl Tables<'_> {
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
        while self.counts.iter().sum::<u32>() >= self.capacity {
            let (label, count) = largest(&self.counts, sample.label);
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

/// The class that gives way and its samples: the largest; among equals the newcomer's own, so that an exchange
/// which balances nothing does not happen.
fn largest(counts: &[u32], newcomer: u16) -> (u16, u32) {
    let own = counts.get(usize::from(newcomer)).copied().unwrap_or(0);
    let start = (newcomer, own);
    (0_u16..).zip(counts).fold(start, |best, (label, &count)| if count > best.1 { (label, count) } else { best })
}

fn unpack_counts(bytes: Option<&[u8]>, classes: usize) -> Vec<u32> {
    let mut counts: Vec<u32> =
        bytes.unwrap_or_default().chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    counts.resize(classes, 0);
    counts
}
