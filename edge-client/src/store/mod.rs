//! What a device keeps on its disk: features, the pending update, the newest head.
//!
//! One redb file. Every commit is durable when it returns (immediate durability, two-phase commit), and every record
//! carries a checksum, so a power cut loses at most what was not committed and a bad SD card loses single records.
//! One process writes; others read beside it, also what a killed one left. Read [`Store`] and [`Sample`] first.

mod database;
mod device;
mod error;
mod features;
mod identity;
mod intake;
mod kept;
mod overlay;
mod record;
mod replace;
#[cfg(test)]
pub(crate) mod tests;

use core::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use grapevine_host::files;
use grapevine_models::Shape;
use redb::TableDefinition;

pub use device::{MethodState, NewestHead, OutboxEntry};
pub use error::StoreError;
pub use features::{Dataset, Sample, StoreLimits, Wanted};
pub use identity::StoreIdentity;
pub use intake::{Inserted, Intake, KnownFile, NewLabel};
pub use kept::SAMPLE_MEMORY_BYTES;
pub use replace::Replacement;

use database::{Guarded, Opened, create_writer, open_reader, open_writer, write_to};
use error::is_full;
use identity::{read_identity, settle, start_over};
use kept::Kept;
use record::SAMPLE_KEY_BYTES;

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// Label and digest to f16 features and checksum, in the order of [`Store::load_all`].
const SAMPLES: TableDefinition<'_, &[u8; SAMPLE_KEY_BYTES], &[u8]> = TableDefinition::new("samples");
/// Digest to label: an image is stored once, whatever folder it lies in.
const LABELS: TableDefinition<'_, &[u8; 32], u16> = TableDefinition::new("labels");
/// Digest to where its label stood: a path, below which an archive's member or a row may follow.
const ORIGINS: TableDefinition<'_, &[u8; 32], &str> = TableDefinition::new("origins");
/// Files that were read, so that they need not be read again.
const KNOWN: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("known files");
/// What the samples belong to, and how many there are of each class.
const STATE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("state");
/// Device records, each sealed with a checksum.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

/// The store of one device. Share it by reference or in an `Arc`: all methods take `&self`.
pub struct Store {
    database: Guarded,
    shape: Shape,
    limits: StoreLimits,
    kept: Kept,
}

impl Store {
    /// Opens the store at `path`, or creates it (and its folder).
    ///
    /// Features of another extractor are refused. If only the class list changed, each sample keeps its class by name
    /// and the head and the pending update are forgotten; a list that lacks a class with samples is refused.
    ///
    /// # Errors
    /// If the file cannot be used, is damaged, or another process writes it. If its samples do not fit `identity`, or
    /// that does not name each class.
    pub fn open(path: &Path, identity: &StoreIdentity) -> Result<Self, StoreError> {
        identity.check()?;
        if !path.exists() {
            create(path, identity)?;
        }
        let (file, settled) = (path.to_owned(), identity.clone());
        Self::over(path, identity.shape, move || {
            let opened = open_writer(&file)?;
            settle(&file, &opened, &settled)?;
            Ok(opened)
        })
    }

    /// Opens an existing store for reading, also beside a process that writes it. Writing methods refuse.
    ///
    /// # Errors
    /// If there is no store at `path`, or it is damaged or cannot be read.
    pub fn open_read_only(path: &Path) -> Result<(Self, StoreIdentity), StoreError> {
        let opened = open_reader(path)?;
        let identity = read_identity(path, &opened)?.ok_or_else(|| StoreError::Missing { path: path.to_owned() })?;
        let file = path.to_owned();
        let database = Guarded::new(path, opened, Box::new(move || open_reader(&file)));
        Ok((Self::with(database, identity.shape), identity))
    }

    /// A store over a database that `opener` opens and settles.
    fn over(
        path: &Path,
        shape: Shape,
        opener: impl Fn() -> Result<Opened, StoreError> + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let database = Guarded::new(path, opener()?, Box::new(opener));
        Ok(Self::with(database, shape))
    }

    fn with(database: Guarded, shape: Shape) -> Self {
        Self { database, shape, limits: StoreLimits::default(), kept: Kept::default() }
    }

    /// The same store with other bounds. Samples above a lowered bound go with the next batch.
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
        self.database.path()
    }

    /// Whether the process that wrote the store was killed or lost its power and none has opened it for writing since.
    /// Only a store opened for reading can be found like that.
    pub fn is_interrupted(&self) -> bool {
        self.database.is_interrupted()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("path", &self.path()).field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// Makes a store under another name first, so that a power cut leaves none or a whole one.
fn create(path: &Path, identity: &StoreIdentity) -> Result<(), StoreError> {
    let folder = folder_of(path);
    files::private_folder(folder).map_err(|source| file_error(folder, source))?;
    let draft = beside(path, ".new");
    let opened = match create_writer(&draft) {
        // What a power cut left of an earlier attempt.
        Err(StoreError::Damaged { .. }) => {
            fs::remove_file(&draft).map_err(|source| file_error(&draft, source))?;
            create_writer(&draft)?
        }
        opened => opened?,
    };
    // Whoever holds the draft's lock is alone here. Another process may have been here before.
    if path.exists() {
        drop(opened);
        // It may have become the store itself, under another name.
        let _ = fs::remove_file(&draft);
        return Ok(());
    }
    write_to(&draft, &opened, |transaction| start_over(transaction, identity))?;
    fs::rename(&draft, path).map_err(|source| file_error(path, source))?;
    sync_folder_of(path)
}

/// The database syncs its file; the name in the folder needs a sync of its own to survive a power cut.
fn sync_folder_of(path: &Path) -> Result<(), StoreError> {
    let folder = folder_of(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| file_error(folder, source))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn file_error(path: &Path, source: std::io::Error) -> StoreError {
    let path = path.to_owned();
    if is_full(source.kind()) { StoreError::Full { path } } else { StoreError::File { path, source } }
}
