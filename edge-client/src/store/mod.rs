//! What a device keeps on its disk: features, the pending update, the newest head, its name.
//!
//! One redb file. Every commit is durable when it returns (immediate durability, two-phase commit), and every record
//! carries a checksum, so a power cut loses at most what was not committed and a bad SD card loses single records.
//! One process writes; `status` reads beside it. Read [`Store`] and [`Sample`] first.

mod device;
mod error;
mod features;
mod record;

use core::panic::AssertUnwindSafe;
use std::fs::{self, File};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use grapevine_models::Shape;
use redb::{
    Builder, ConcurrencyMode, Database, DatabaseError, Durability, ReadOnlyDatabase, ReadTransaction, ReadableDatabase,
    TableDefinition, WriteTransaction,
};

pub use device::{NewestHead, OutboxEntry};
pub use error::StoreError;
pub use features::{Dataset, Inserted, Sample, StoreLimits, Wanted};

use record::SAMPLE_KEY_BYTES;

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// Pages the database may keep in memory; a device idles in 16 MiB.
const CACHE_BYTES: usize = 2 << 20;
/// Version of the tables below.
const FORMAT: &[u8] = b"grapevine store 1";

/// Label and digest to f16 features and checksum, in the order of [`Store::load_all`].
const SAMPLES: TableDefinition<'_, &[u8; SAMPLE_KEY_BYTES], &[u8]> = TableDefinition::new("samples");
/// Digest to label: an image is stored once, whatever folder it lies in.
const LABELS: TableDefinition<'_, &[u8; 32], u16> = TableDefinition::new("labels");
/// What the samples belong to, and how many there are of each class.
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
/// Device records, each sealed with a checksum.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

const FORMAT_KEY: &str = "format";
const EXTRACTOR_KEY: &str = "extractor";
const CLASSES_KEY: &str = "classes";
const SHAPE_KEY: &str = "shape";
const COUNTS_KEY: &str = "counts";

/// What stored features mean; a store of another identity is refused.
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
    /// Refuses the store at `path`, which has this identity, if the configuration asks for another one.
    pub fn expect(&self, path: &Path, configured: &Self) -> Result<(), StoreError> {
        let path = path.to_owned();
        if self.extractor != configured.extractor {
            let hexadecimal = |digest: &Digest| digest.iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(StoreError::ExtractorChanged {
                path,
                stored: hexadecimal(&self.extractor),
                configured: hexadecimal(&configured.extractor),
            });
        }
        if self.classes != configured.classes {
            return Err(StoreError::ClassesChanged {
                path,
                stored: self.classes.clone(),
                configured: configured.classes.clone(),
            });
        }
        if self.shape != configured.shape {
            return Err(StoreError::ShapeChanged {
                path,
                stored: self.shape.features(),
                configured: configured.shape.features(),
            });
        }
        Ok(())
    }
}

/// The store of one device. Share it by reference or in an `Arc`: all methods take `&self`.
pub struct Store {
    /// Present until the store is dropped.
    database: Option<Backing>,
    path: PathBuf,
    shape: Shape,
    limits: StoreLimits,
}

enum Backing {
    Writer(Database),
    Reader(ReadOnlyDatabase),
}

impl Store {
    /// Opens the store at `path`, or creates it (and its folder), and refuses features of another identity.
    pub fn open(path: &Path, identity: &StoreIdentity) -> Result<Self, StoreError> {
        check_names(identity)?;
        let store = Self::create(path, identity.shape)?;
        match store.read_identity()? {
            None => store.write_identity(identity)?,
            Some(stored) => stored.expect(path, identity)?,
        }
        Ok(store)
    }

    /// Opens the store at `path` whatever it holds and forgets features, head and pending update; the device keeps
    /// its name and notes. A file too damaged for that is moved aside to `<path>.damaged`.
    pub fn reset(path: &Path, identity: &StoreIdentity) -> Result<Self, StoreError> {
        check_names(identity)?;
        let emptied = Self::create(path, identity.shape).and_then(|store| {
            store.empty()?;
            Ok(store)
        });
        let store = match emptied {
            Err(StoreError::Damaged { .. }) => {
                let mut aside = path.as_os_str().to_owned();
                aside.push(".damaged");
                fs::rename(path, aside).map_err(|source| StoreError::File { path: path.to_owned(), source })?;
                Self::create(path, identity.shape)?
            }
            emptied => emptied?,
        };
        store.write_identity(identity)?;
        Ok(store)
    }

    /// Opens an existing store for reading, also beside a process that writes it. Writing methods refuse.
    pub fn open_read_only(path: &Path) -> Result<(Self, StoreIdentity), StoreError> {
        let database = opened(path, || builder().open_read_only(path))?;
        let mut store = Self {
            database: Some(Backing::Reader(database)),
            path: path.to_owned(),
            shape: Shape::new(2, 1).expect("two classes and one feature are within the limits"),
            limits: StoreLimits::default(),
        };
        let Some(identity) = store.read_identity()? else {
            return Err(StoreError::Missing { path: path.to_owned() });
        };
        store.shape = identity.shape;
        Ok((store, identity))
    }

    /// The same store with other bounds. Samples above a lowered bound go when the next new one arrives.
    pub fn with_limits(mut self, limits: StoreLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Classes and features per sample.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The store's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn create(path: &Path, shape: Shape) -> Result<Self, StoreError> {
        let is_new = !path.exists();
        let file_error = |path: &Path, source| StoreError::File { path: path.to_owned(), source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if is_new {
            fs::create_dir_all(folder).map_err(|source| file_error(folder, source))?;
        }
        let database = opened(path, || builder().create(path))?;
        if is_new {
            // The database syncs its file; the name in the folder needs a sync of its own to survive a power cut.
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| file_error(folder, source))?;
        }
        Ok(Self {
            database: Some(Backing::Writer(database)),
            path: path.to_owned(),
            shape,
            limits: StoreLimits::default(),
        })
    }

    fn empty(&self) -> Result<(), StoreError> {
        self.write(|transaction| {
            transaction.delete_table(SAMPLES)?;
            transaction.delete_table(LABELS)?;
            transaction.delete_table(STATE)?;
            device::forget_model(transaction)
        })
    }

    /// `None` if the file is new.
    fn read_identity(&self) -> Result<Option<StoreIdentity>, StoreError> {
        let fields = self.read(|transaction| {
            let state = match transaction.open_table(STATE) {
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
                state => state?,
            };
            let field = |key| Ok::<_, redb::Error>(state.get_owned(key)?.map(|value| value.value().to_vec()));
            Ok(Some([field(FORMAT_KEY)?, field(EXTRACTOR_KEY)?, field(CLASSES_KEY)?, field(SHAPE_KEY)?]))
        })?;
        let Some([format, extractor, classes, shape]) = fields else { return Ok(None) };
        let damaged = |reason: &str| StoreError::Damaged { path: self.path.clone(), reason: reason.to_owned() };
        if format.as_deref() != Some(FORMAT) {
            return Err(damaged("its format is of another version"));
        }
        let extractor = extractor.and_then(|bytes| Digest::try_from(bytes).ok());
        let classes = classes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let shape = shape.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        match (extractor, classes, shape) {
            (Some(extractor), Some(classes), Some(shape)) => Ok(Some(StoreIdentity { extractor, classes, shape })),
            _ => Err(damaged("its description is incomplete")),
        }
    }

    fn write_identity(&self, identity: &StoreIdentity) -> Result<(), StoreError> {
        let classes = serde_json::to_vec(&identity.classes).expect("strings are JSON");
        let shape = serde_json::to_vec(&identity.shape).expect("two numbers are JSON");
        self.write(|transaction| {
            transaction.open_table(SAMPLES)?;
            transaction.open_table(LABELS)?;
            transaction.open_table(RECORDS)?;
            let mut state = transaction.open_table(STATE)?;
            state.insert(FORMAT_KEY, FORMAT)?;
            state.insert(EXTRACTOR_KEY, identity.extractor.as_slice())?;
            state.insert(CLASSES_KEY, classes.as_slice())?;
            state.insert(SHAPE_KEY, shape.as_slice())?;
            state.insert(COUNTS_KEY, vec![0; 4 * identity.shape.classes()].as_slice())?;
            Ok(())
        })
    }

    fn database(&self) -> &Backing {
        self.database.as_ref().expect("the database is there until the store is dropped")
    }

    fn read<T>(&self, work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let read = || {
            let transaction = match self.database() {
                Backing::Writer(database) => database.begin_read()?,
                Backing::Reader(database) => database.begin_read()?,
            };
            work(&transaction)
        };
        guarded(&self.path, read)?.map_err(|error| error::storage_error(&self.path, error))
    }

    fn write<T>(&self, work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let Backing::Writer(database) = self.database() else {
            return Err(StoreError::ReadOnly { path: self.path.clone() });
        };
        let commit = || {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            // With one phase, two crashes in a row could roll back a commit that was reported as done.
            transaction.set_two_phase_commit(true);
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        guarded(&self.path, commit)?.map_err(|error| error::storage_error(&self.path, error))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let database = self.database.take();
        if guarded(&self.path, || drop(database)).is_err() {
            tracing::warn!(path = %self.path.display(), "a damaged store could not be closed properly");
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    // One writer, and readers beside it: `edge-client status` works while the daemon runs.
    builder.set_concurrency_mode(ConcurrencyMode::SingleWriter);
    builder
}

/// Does what may meet any bytes: the database panics on some files that were altered behind its back.
fn guarded<T>(path: &Path, work: impl FnOnce() -> T) -> Result<T, StoreError> {
    // A transaction that panics is dropped without a commit, and the database itself is only ever told to close.
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| StoreError::Damaged {
        path: path.to_owned(),
        reason: "its pages contradict each other".to_owned(),
    })
}

fn opened<T>(path: &Path, open: impl FnOnce() -> Result<T, DatabaseError>) -> Result<T, StoreError> {
    guarded(path, open)?.map_err(|error| error::open_error(path, error))
}

fn check_names(identity: &StoreIdentity) -> Result<(), StoreError> {
    if identity.classes.len() == identity.shape.classes() {
        return Ok(());
    }
    Err(StoreError::ClassCount { names: identity.classes.len(), classes: identity.shape.classes() })
}

#[cfg(test)]
mod tests;
