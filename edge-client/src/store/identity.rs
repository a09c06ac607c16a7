//! What stored features mean, and what becomes of a store when that changes.
//!
//! Another extractor gives other features: its store is refused. Another class list keeps the features: each sample
//! belongs to a class by name, so a list that was extended or put into another order takes the samples over.

use std::path::Path;

use grapevine_host::class_list;
use grapevine_models::Shape;
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use super::database::{Opened, read_from, write_to};
use super::features::{counts_in, pack_counts};
use super::intake::renumber_known;
use super::record::{SAMPLE_KEY_BYTES, is_intact, relabel, sample_key, split_sample_key};
use super::{Digest, KNOWN, LABELS, ORIGINS, SAMPLES, STATE, StoreError, device};

/// Where samples wait while they are given other labels.
const FORMER_SAMPLES: TableDefinition<'_, &[u8; SAMPLE_KEY_BYTES], &[u8]> = TableDefinition::new("former samples");

/// Version of the tables.
const FORMAT: &[u8] = b"grapevine store 1";

const FORMAT_KEY: &str = "format";
const EXTRACTOR_KEY: &str = "extractor";
const CLASSES_KEY: &str = "classes";
const SHAPE_KEY: &str = "shape";
/// Samples per class.
pub(super) const COUNTS_KEY: &str = "counts";

/// What stored features mean; a store of another identity is refused or taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreIdentity {
    /// Digest of the extractor's ONNX file.
    pub extractor: Digest,
    /// Class names; a label is an index into them.
    pub classes: Vec<String>,
    /// As many classes as names, and the features per sample.
    pub shape: Shape,
}

impl StoreIdentity {
    /// Refuses the store at `path`, which has this identity, if the configuration asks for another one. For readers;
    /// a writer may take the samples over instead, see [`Store::open`](super::Store::open).
    ///
    /// # Errors
    /// If the extractor, the number of features or the class list differs.
    pub fn expect(&self, path: &Path, configured: &Self) -> Result<(), StoreError> {
        self.expect_features(path, configured)?;
        if self.classes == configured.classes {
            return Ok(());
        }
        Err(StoreError::ClassesChanged { path: path.to_owned() })
    }

    /// Whether there is one name per class.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.classes.len() == self.shape.classes() {
            return Ok(());
        }
        Err(StoreError::ClassCount { names: self.classes.len(), classes: self.shape.classes() })
    }

    fn expect_features(&self, path: &Path, configured: &Self) -> Result<(), StoreError> {
        let path = path.to_owned();
        if self.extractor != configured.extractor {
            let hexadecimal = |digest: &Digest| digest.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(StoreError::ExtractorChanged {
                path,
                stored: hexadecimal(&self.extractor),
                configured: hexadecimal(&configured.extractor),
            });
        }
        let (stored, configured) = (self.shape.features(), configured.shape.features());
        if stored == configured { Ok(()) } else { Err(StoreError::ShapeChanged { path, stored, configured }) }
    }
}

/// Makes an open database one of this identity: a new one gets it, samples of another class list are taken over, and
/// everything else is refused.
pub(super) fn settle(path: &Path, opened: &Opened, identity: &StoreIdentity) -> Result<(), StoreError> {
    let Some(stored) = read_identity(path, opened)? else {
        return write_to(path, opened, |transaction| start_over(transaction, identity));
    };
    stored.expect_features(path, identity)?;
    if stored.classes == identity.classes {
        return Ok(());
    }
    let classes = stored.classes.len();
    let counts = read_from(path, opened, |transaction| counts_in(&transaction.open_table(STATE)?, classes))?;
    let mut places = Vec::with_capacity(stored.classes.len());
    for (class, &samples) in stored.classes.iter().zip(&counts) {
        let place = (0_u16..).zip(&identity.classes).find(|(_, other)| *other == class).map(|(label, _)| label);
        if place.is_none() && samples > 0 {
            return Err(StoreError::ClassGone { path: path.to_owned(), class: class.clone(), samples });
        }
        places.push(place);
    }
    write_to(path, opened, |transaction| take_over(transaction, identity, &places))?;
    let samples: u32 = counts.iter().sum();
    tracing::info!(samples, "the class list changed; the samples are taken over by name");
    Ok(())
}

/// `None` if the file is new.
pub(super) fn read_identity(path: &Path, opened: &Opened) -> Result<Option<StoreIdentity>, StoreError> {
    let fields = read_from(path, opened, |transaction| {
        let state = match transaction.open_table(STATE) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            state => state?,
        };
        let field = |key| Ok::<_, redb::Error>(state.get_owned(key)?.map(|value| value.value().to_vec()));
        Ok(Some([field(FORMAT_KEY)?, field(EXTRACTOR_KEY)?, field(CLASSES_KEY)?, field(SHAPE_KEY)?]))
    })?;
    let Some([format, extractor, classes, shape]) = fields else { return Ok(None) };
    let damaged = |reason: &str| StoreError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    if format.as_deref() != Some(FORMAT) {
        return Err(damaged("its format is of another version"));
    }
    let extractor = extractor.and_then(|bytes| Digest::try_from(bytes).ok());
    let classes = classes.and_then(|bytes| serde_json::from_slice::<Vec<String>>(&bytes).ok());
    let classes = classes.map(|classes| classes.iter().map(|class| class_list::canonical(class)).collect());
    let shape = shape.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match (extractor, classes, shape) {
        (Some(extractor), Some(classes), Some(shape)) => Ok(Some(StoreIdentity { extractor, classes, shape })),
        _ => Err(damaged("its description is incomplete")),
    }
}

/// Forgets everything in the store.
pub(super) fn start_over(transaction: &WriteTransaction, identity: &StoreIdentity) -> Result<(), redb::Error> {
    transaction.delete_table(SAMPLES)?;
    transaction.delete_table(LABELS)?;
    transaction.delete_table(STATE)?;
    transaction.delete_table(ORIGINS)?;
    transaction.delete_table(KNOWN)?;
    transaction.open_table(SAMPLES)?;
    transaction.open_table(LABELS)?;
    transaction.open_table(ORIGINS)?;
    transaction.open_table(KNOWN)?;
    device::forget_model(transaction)?;
    describe(transaction, identity, &vec![0; identity.shape.classes()])
}

/// Gives every sample its label in another class list; `places` are by the former label. The head and the pending
/// update are of the former list and are forgotten.
fn take_over(
    transaction: &WriteTransaction,
    identity: &StoreIdentity,
    places: &[Option<u16>],
) -> Result<(), redb::Error> {
    let is_moved = |(label, place): (u16, &Option<u16>)| place.is_some_and(|place| place != label);
    let counts = if (0_u16..).zip(places).any(is_moved) {
        relabel_all(transaction, identity.shape, places)?
    } else {
        counts_in(&transaction.open_table(STATE)?, identity.shape.classes())?
    };
    device::forget_model(transaction)?;
    describe(transaction, identity, &counts)
}

/// Gives the samples per class. Damaged records are left behind.
fn relabel_all(transaction: &WriteTransaction, shape: Shape, places: &[Option<u16>]) -> Result<Vec<u32>, redb::Error> {
    let mut counts = vec![0; shape.classes()];
    transaction.rename_table(SAMPLES, FORMER_SAMPLES)?;
    {
        let former = transaction.open_table(FORMER_SAMPLES)?;
        let mut samples = transaction.open_table(SAMPLES)?;
        let mut labels = transaction.open_table(LABELS)?;
        let mut origins = transaction.open_table(ORIGINS)?;
        let mut moved = Vec::new();
        for entry in former.iter()? {
            let (key, record) = entry?;
            let (label, digest) = split_sample_key(key.value());
            let place = places.get(usize::from(label)).copied().flatten();
            let Some(place) = place.filter(|_| is_intact(key.value(), record.value(), shape.features())) else {
                labels.remove(&digest)?;
                origins.remove(&digest)?;
                continue;
            };
            let key = sample_key(place, &digest);
            relabel(&key, record.value(), &mut moved);
            samples.insert(&key, moved.as_slice())?;
            labels.insert(&digest, place)?;
            counts[usize::from(place)] += 1;
        }
    }
    transaction.delete_table(FORMER_SAMPLES)?;
    renumber_known(transaction, places)?;
    Ok(counts)
}

fn describe(transaction: &WriteTransaction, identity: &StoreIdentity, counts: &[u32]) -> Result<(), redb::Error> {
    let classes = serde_json::to_vec(&identity.classes).expect("strings are JSON");
    let shape = serde_json::to_vec(&identity.shape).expect("two numbers are JSON");
    let mut state = transaction.open_table(STATE)?;
    state.insert(FORMAT_KEY, FORMAT)?;
    state.insert(EXTRACTOR_KEY, identity.extractor.as_slice())?;
    state.insert(CLASSES_KEY, classes.as_slice())?;
    state.insert(SHAPE_KEY, shape.as_slice())?;
    state.insert(COUNTS_KEY, pack_counts(counts).as_slice())?;
    Ok(())
}
