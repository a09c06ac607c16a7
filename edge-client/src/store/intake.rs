//! What an ingest changes in one commit: new samples, new labels, where samples came from, which files are known.
//!
//! A sample belongs to its content. Its label is the newest one that somebody gave it, and its origin is where that label
//! stood: a file, a member of an archive, a row. Known files are an index that spares reading a file again whose path,
//! size, times and inode are those of a file that was read; it may lose entries at any time, which costs a second look.

use redb::{ReadableTable, ReadableTableMetadata, Table, TableError, WriteTransaction};

use super::features::{Tables, counts_in, pack_counts};
use super::identity::COUNTS_KEY;
use super::record::split_sample_key;
use super::{Digest, KNOWN, LABELS, ORIGINS, SAMPLES, STATE, Sample, Store, StoreError};

/// Longest origin that is kept, in bytes; a longer one is as good as none.
const MAX_ORIGIN_BYTES: usize = 1 << 10;
/// Bytes of disk that a known file takes, with the trees around it and the pages that a commit replaces. Measured were 120
/// to 300.
const KNOWN_FILE_BYTES: u64 = 192;
/// Known files may take this part of what the samples may take, on top of it.
const KNOWN_PART: u64 = 2;
const KNOWN_BYTES: usize = 8 + 32 + 2;

/// What one commit takes in, in this order.
#[derive(Clone, Debug, Default)]
pub struct Intake<'a> {
    /// New samples, and where each is from.
    pub samples: Vec<(Sample<'a>, &'a str)>,
    /// New labels for samples that are stored.
    pub labels: &'a [NewLabel],
    /// Samples to forget.
    pub forgotten: &'a [Digest],
    /// Files whose content was dealt with.
    pub known: &'a [KnownFile],
}

/// Another label for a stored sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewLabel {
    /// Whose.
    pub digest: Digest,
    /// Index into the class list.
    pub label: u16,
    /// Where the label stood; empty keeps the origin that is known.
    pub origin: String,
}

/// A file that was read, and what it was read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownFile {
    /// Tells its path.
    pub file: u64,
    /// Tells its size, times and inode.
    pub stamp: u64,
    /// Its content.
    pub digest: Digest,
    /// Its class when it was read.
    pub label: u16,
}

/// What became of an intake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inserted {
    /// Samples stored, repaired ones included.
    pub added: u32,
    /// Samples whose content was there already, under the same label.
    pub duplicates: u32,
    /// Stored samples that got another label.
    pub relabelled: u32,
    /// Stored samples that gave way.
    pub evicted: u32,
    /// New samples left out: of a largest class of a full store, or of a class that is full itself.
    pub refused: u32,
    /// Samples that were forgotten on request.
    pub forgotten: u32,
}

impl Store {
    /// Stores a batch in one commit, see [`Store::take_in`].
    ///
    /// # Errors
    /// If a sample does not fit the store, or the disk fails.
    pub fn insert_batch(&self, samples: &[Sample<'_>]) -> Result<Inserted, StoreError> {
        self.take_in(&Intake { samples: samples.iter().map(|&sample| (sample, "")).collect(), ..Intake::default() })
    }

    /// Changes the store in one commit. When the store is full, the class with the most samples gives way; inside a
    /// class the images with the smallest digests stay. As digests look random that is what a reservoir gives, a uniform
    /// sample of all that were seen, to within one sample; but it needs no memory of what was seen, and ingesting a
    /// folder again changes nothing. A sample that is stored under another label gets the new one.
    ///
    /// # Errors
    /// If a sample or a label does not fit the store, or the disk fails; then nothing is changed.
    pub fn take_in(&self, intake: &Intake<'_>) -> Result<Inserted, StoreError> {
        intake.samples.iter().try_for_each(|(sample, _)| self.check(sample))?;
        intake.labels.iter().try_for_each(|new| self.check_label(new.label))?;
        let Intake { samples, labels, forgotten, known } = intake;
        if samples.is_empty() && labels.is_empty() && forgotten.is_empty() && known.is_empty() {
            return Ok(Inserted::default());
        }
        let known_capacity = self.known_capacity();
        self.change(|transaction, tables, inserted| {
            let mut record: Vec<u8> = Vec::new();
            for (sample, origin) in samples {
                tables.insert(sample, origin, &mut record, inserted)?;
            }
            for new in *labels {
                tables.give_label(new, &mut record, inserted)?;
            }
            for digest in *forgotten {
                inserted.forgotten += u32::from(tables.forget(digest)?);
            }
            if !known.is_empty() {
                let mut table = transaction.open_table(KNOWN)?;
                known.iter().try_for_each(|file| remember(&mut table, file, known_capacity))?;
            }
            Ok(())
        })
    }

    /// Forgets every sample that `matches` by digest, label and origin (empty if nobody knows it); gives how many of each
    /// class that were.
    ///
    /// # Errors
    /// If the disk fails; then nothing is forgotten.
    pub fn forget(&self, matches: &dyn Fn(&Digest, u16, &str) -> bool) -> Result<Vec<u32>, StoreError> {
        let mut chosen = Vec::new();
        self.visit_samples(&mut |digest, label, origin| {
            if matches(digest, label, origin) {
                chosen.push((*digest, label));
            }
        })?;
        let mut counts = vec![0; self.shape().classes()];
        let digests: Vec<Digest> = chosen.iter().map(|&(digest, _)| digest).collect();
        self.take_in(&Intake { forgotten: &digests, ..Intake::default() })?;
        for (_, label) in chosen {
            if let Some(count) = counts.get_mut(usize::from(label)) {
                *count += 1;
            }
        }
        Ok(counts)
    }

    /// Shows every sample's digest, label and origin (empty if nobody knows it), ordered by label, then digest.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn visit_samples(&self, visitor: &mut dyn FnMut(&Digest, u16, &str)) -> Result<(), StoreError> {
        self.database.read(|transaction| {
            let origins = match transaction.open_table(ORIGINS) {
                Err(TableError::TableDoesNotExist(_)) => None,
                origins => Some(origins?),
            };
            for entry in transaction.open_table(SAMPLES)?.iter()? {
                let (label, digest) = split_sample_key(entry?.0.value());
                let origin = origins.as_ref().map(|origins| origins.get_owned(&digest)).transpose()?.flatten();
                visitor(&digest, label, origin.as_ref().map_or("", |origin| origin.value()));
            }
            Ok(())
        })
    }

    /// The label of a stored sample; `None` if no such content is stored.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn label_of(&self, digest: &Digest) -> Result<Option<u16>, StoreError> {
        self.database
            .read(|transaction| Ok(transaction.open_table(LABELS)?.get_owned(digest)?.map(|label| label.value())))
    }

    /// Where a stored sample's label stood, if that is known.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn origin_of(&self, digest: &Digest) -> Result<Option<String>, StoreError> {
        self.database.read(|transaction| match transaction.open_table(ORIGINS) {
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            origins => Ok(origins?.get_owned(digest)?.map(|origin| origin.value().to_owned())),
        })
    }

    /// What a file was read as, if it has not changed since.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn known(&self, file: u64, stamp: u64) -> Result<Option<(Digest, u16)>, StoreError> {
        self.database.read(|transaction| {
            let known = match transaction.open_table(KNOWN) {
                Err(TableError::TableDoesNotExist(_)) => return Ok(None),
                known => known?.get_owned(file)?,
            };
            let parsed = known.as_ref().and_then(|known| parse_known(known.value()));
            Ok(parsed.filter(|&(of, _, _)| of == stamp).map(|(_, digest, label)| (digest, label)))
        })
    }

    /// Most files that are remembered.
    pub fn known_capacity(&self) -> u64 {
        self.limits.max_bytes / KNOWN_PART / KNOWN_FILE_BYTES
    }

    /// Changes samples in one commit, within the bounds.
    fn change(
        &self,
        work: impl FnOnce(&WriteTransaction, &mut Tables<'_>, &mut Inserted) -> Result<(), redb::Error>,
    ) -> Result<Inserted, StoreError> {
        let shape = self.shape();
        let (capacity, per_class) = (self.capacity(), self.limits.max_samples_per_class);
        self.database.change(|transaction| {
            let mut state = transaction.open_table(STATE)?;
            let mut tables = Tables {
                samples: transaction.open_table(SAMPLES)?,
                labels: transaction.open_table(LABELS)?,
                origins: transaction.open_table(ORIGINS)?,
                counts: counts_in(&state, shape.classes())?,
                capacity,
                per_class,
                features: shape.features(),
            };
            let mut inserted = Inserted::default();
            tables.trim(&mut inserted)?;
            work(transaction, &mut tables, &mut inserted)?;
            state.insert(COUNTS_KEY, pack_counts(&tables.counts).as_slice())?;
            Ok(inserted)
        })
    }
}

/// Keeps where a label stood.
pub(super) fn note_origin(
    origins: &mut Table<'_, &'static [u8; 32], &'static str>,
    digest: &Digest,
    origin: &str,
) -> Result<(), redb::Error> {
    if (1..=MAX_ORIGIN_BYTES).contains(&origin.len()) {
        origins.insert(digest, origin)?;
    }
    Ok(())
}

/// Gives known files their labels in another class list; `places` are by the former label.
pub(super) fn renumber_known(transaction: &WriteTransaction, places: &[Option<u16>]) -> Result<(), redb::Error> {
    let mut table = transaction.open_table(KNOWN)?;
    let mut renumbered = Vec::new();
    for entry in table.iter()? {
        let (file, known) = entry?;
        let Some((stamp, digest, label)) = parse_known(known.value()) else { continue };
        renumbered.push((file.value(), stamp, digest, places.get(usize::from(label)).copied().flatten()));
    }
    for (file, stamp, digest, place) in renumbered {
        match place {
            Some(label) => drop(table.insert(file, pack_known(stamp, &digest, label).as_slice())?),
            None => drop(table.remove(file)?),
        }
    }
    Ok(())
}

fn remember(table: &mut Table<'_, u64, &'static [u8]>, known: &KnownFile, capacity: u64) -> Result<(), redb::Error> {
    if table.get(known.file)?.is_none() && table.len()? >= capacity {
        // Keys look random, so the neighbour is as good as any other to give way.
        let next = table.range(known.file..)?.next().transpose()?.map(|(file, _)| file.value());
        let next = if next.is_none() { table.first()?.map(|(file, _)| file.value()) } else { next };
        let Some(next) = next else { return Ok(()) };
        table.remove(next)?;
    }
    table.insert(known.file, pack_known(known.stamp, &known.digest, known.label).as_slice())?;
    Ok(())
}

fn pack_known(stamp: u64, digest: &Digest, label: u16) -> [u8; KNOWN_BYTES] {
    let mut known = [0; KNOWN_BYTES];
    known[..8].copy_from_slice(&stamp.to_le_bytes());
    known[8..40].copy_from_slice(digest);
    known[40..].copy_from_slice(&label.to_le_bytes());
    known
}

fn parse_known(known: &[u8]) -> Option<(u64, Digest, u16)> {
    let (stamp, rest) = known.split_first_chunk::<8>()?;
    let (digest, rest) = rest.split_first_chunk::<32>()?;
    let label: [u8; 2] = rest.try_into().ok()?;
    Some((u64::from_le_bytes(*stamp), *digest, u16::from_le_bytes(label)))
}
