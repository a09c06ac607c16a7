//! What stays in memory of the samples from round to round: only an ingest, new labels, forgetting and ageing change them.

use std::sync::{Arc, Mutex, PoisonError};

use grapevine_protocol::DatasetId;

use super::features::{Dataset, dataset_in};
use super::{LABELS, Store, StoreError};

/// Most bytes of decoded samples that stay in memory, unless somebody says otherwise: more than a store takes of the disk
/// by default.
pub const SAMPLE_MEMORY_BYTES: u64 = 64 << 20;

/// What was read, each with the count of changes before it.
pub(super) struct Kept {
    /// Most bytes of samples.
    bytes: u64,
    id: Mutex<Option<(u64, DatasetId)>>,
    samples: Mutex<KeptSamples>,
}

#[derive(Default)]
struct KeptSamples {
    newest: Option<(u64, Arc<Dataset>)>,
    /// Whether it was told that they take too much memory.
    is_told: bool,
}

impl Default for Kept {
    fn default() -> Self {
        Self { bytes: SAMPLE_MEMORY_BYTES, id: Mutex::default(), samples: Mutex::default() }
    }
}

impl Store {
    /// The same store, which keeps decoded samples in memory up to so many bytes; above them it reads them each time.
    pub fn with_sample_memory(mut self, bytes: u64) -> Self {
        self.kept.bytes = bytes;
        self
    }

    /// What [`Store::load_all`] gives, read again only after a change. A store opened for reading reads each time.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn samples(&self) -> Result<Arc<Dataset>, StoreError> {
        // Held while they are read: a second thread waits for the same samples.
        let mut kept = self.kept.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = self.database.changes()?;
        if let Some((_, samples)) = kept.newest.as_ref().filter(|(at, _)| *at == changes) {
            samples.warn_of_damage();
            return Ok(samples.clone());
        }
        // Before the others are read: the memory holds both only while a round still trains on the former ones.
        kept.newest = None;
        let samples = Arc::new(self.load_all()?);
        let bytes = samples.bytes();
        if bytes > self.kept.bytes {
            if !core::mem::replace(&mut kept.is_told, true) {
                tracing::info!(
                    bytes,
                    limit = self.kept.bytes,
                    "the samples take more memory than `resources.sample_megabytes` allows and are read in each round"
                );
            }
        } else if self.database.is_writer() {
            kept.newest = Some((changes, samples.clone()));
        }
        Ok(samples)
    }

    /// Which samples are stored: the same name as long as the same images have the same labels. Cheap while nothing
    /// changes them; a store opened for reading goes on saying what it found first.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub fn dataset(&self) -> Result<DatasetId, StoreError> {
        let changes = self.database.changes()?;
        let known = *self.kept.id.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, dataset)) = known.filter(|(at, _)| *at == changes) {
            return Ok(dataset);
        }
        let dataset = self.database.read(|transaction| dataset_in(&transaction.open_table(LABELS)?))?;
        *self.kept.id.lock().unwrap_or_else(PoisonError::into_inner) = Some((changes, dataset));
        Ok(dataset)
    }
}
