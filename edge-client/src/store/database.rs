//! The database file: opened and repaired, guarded against bytes that were altered behind its back, and opened again
//! after a failure.

use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicU64, Ordering};
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use grapevine_host::files;
use redb::backends::FileBackend;
use redb::{
    Builder, ConcurrencyMode, Database, DatabaseError, Durability, ReadOnlyDatabase, ReadTransaction, ReadableDatabase,
    StorageBackend, WriteTransaction,
};

use super::StoreError;
use super::error::{open_error, storage_error};
use super::overlay::Overlay;

/// Pages the database may keep in memory; a device idles in 16 MiB.
const CACHE_BYTES: usize = 2 << 20;
/// How often a reader looks again when the file's state changes while it opens it.
const READER_ATTEMPTS: usize = 3;

/// An open database.
pub(super) enum Opened {
    /// The one process that writes.
    Writer(Database),
    /// Beside the writer, or without one.
    Reader(ReadOnlyDatabase),
    /// What a writer left that was killed, repaired in memory only.
    Interrupted(Database),
}

/// Opens the database, as often as it is needed.
pub(super) type Opener = Box<dyn Fn() -> Result<Opened, StoreError> + Send + Sync>;

/// The database of one store. After a failure of the disk it is opened again, because the database itself refuses
/// everything from then on; nothing that was committed is lost by that.
pub(super) struct Guarded {
    path: PathBuf,
    opener: Opener,
    /// `None` after a failure that it could not be opened after.
    opened: RwLock<Option<Opened>>,
    /// Attempts of this process to change samples, and openings, before which another process may have done so.
    changes: AtomicU64,
}

impl Guarded {
    /// A database that is open, and how to open it again. `path` is for messages.
    pub(super) fn new(path: &Path, opened: Opened, opener: Opener) -> Self {
        Self { path: path.to_owned(), opener, opened: RwLock::new(Some(opened)), changes: AtomicU64::new(0) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is the state that a killed writer left, seen by a reader.
    pub(super) fn is_interrupted(&self) -> bool {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        matches!(*opened, Some(Opened::Interrupted(_)))
    }

    /// Reads from one state of the database.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.with(|opened| read_from(&self.path, opened, work))
    }

    /// Writes in one commit, which is durable when this returns.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        self.with(|opened| write_to(&self.path, opened, work))
    }

    /// As [`Guarded::write`], of samples.
    pub(super) fn change<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let outcome = self.write(work);
        self.changes.fetch_add(1, Ordering::Release);
        outcome
    }

    /// As long as it stays the same, so do the samples of the one process that writes.
    pub(super) fn changes(&self) -> Result<u64, StoreError> {
        self.open_if_closed()?;
        Ok(self.changes.load(Ordering::Acquire))
    }

    /// Whether this is the one process that writes.
    pub(super) fn is_writer(&self) -> bool {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        matches!(*opened, Some(Opened::Writer(_)))
    }

    fn with<T>(&self, work: impl FnOnce(&Opened) -> Result<T, StoreError>) -> Result<T, StoreError> {
        self.open_if_closed()?;
        let outcome = match &*self.opened.read().unwrap_or_else(PoisonError::into_inner) {
            Some(opened) => work(opened),
            None => return Err(StoreError::Closed { path: self.path.clone() }),
        };
        if let Err(StoreError::Full { .. } | StoreError::Changed { .. } | StoreError::Storage { .. }) = outcome {
            self.close();
            // At once, so that no other process takes the store in between. If it fails, the next call tries again.
            if let Err(error) = self.open_if_closed() {
                tracing::debug!("not opened again yet: {error}");
            }
        }
        outcome
    }

    fn open_if_closed(&self) -> Result<(), StoreError> {
        if self.opened.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if opened.is_none() {
            *opened = Some((self.opener)()?);
            self.changes.fetch_add(1, Ordering::Release);
        }
        Ok(())
    }

    pub(super) fn close(&self) {
        let opened = self.opened.write().unwrap_or_else(PoisonError::into_inner).take();
        if guarded(&self.path, || drop(opened)).is_err() {
            tracing::warn!(path = %self.path.display(), "a damaged store could not be closed properly");
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.close();
    }
}

/// Opens an existing file for writing.
pub(super) fn open_writer(path: &Path) -> Result<Opened, StoreError> {
    open_backend(path, || FileBackend::new(OpenOptions::new().read(true).write(true).open(path)?))
}

/// As [`open_writer`]; an absent file becomes an empty database.
pub(super) fn create_writer(path: &Path) -> Result<Opened, StoreError> {
    open_backend(path, || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        FileBackend::new(files::private(&mut options).open(path)?)
    })
}

/// Opens any storage for writing.
pub(super) fn open_backend<B: StorageBackend>(
    path: &Path,
    backend: impl FnOnce() -> Result<B, DatabaseError>,
) -> Result<Opened, StoreError> {
    // One writer, and readers beside it: `edge-client status` works while the daemon runs.
    let open = || builder(ConcurrencyMode::SingleWriter).create_with_backend(backend()?);
    guarded(path, open)?.map(Opened::Writer).map_err(|error| open_error(path, error))
}

/// Opens the file for reading, also beside its writer, and also if its writer was killed.
pub(super) fn open_reader(path: &Path) -> Result<Opened, StoreError> {
    let mut outcome = Err(StoreError::Changed { path: path.to_owned() });
    for _ in 0..READER_ATTEMPTS {
        let read_only = || builder(ConcurrencyMode::SingleWriter).open_read_only(path);
        outcome = match guarded(path, read_only)? {
            Ok(database) => Ok(Opened::Reader(database)),
            Err(DatabaseError::RepairAborted) => open_interrupted(path),
            Err(error) => Err(open_error(path, error)),
        };
        // A writer began its work in this moment: it is one to read beside.
        if !matches!(outcome, Err(StoreError::Changed { .. })) {
            break;
        }
    }
    outcome
}

fn open_interrupted(path: &Path) -> Result<Opened, StoreError> {
    let open = || builder(ConcurrencyMode::ExclusiveWriter).create_with_backend(Overlay::open(path)?);
    guarded(path, open)?.map(Opened::Interrupted).map_err(|error| open_error(path, error))
}

fn builder(mode: ConcurrencyMode) -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder.set_concurrency_mode(mode);
    builder
}

/// [`Guarded::read`] for a database that is open.
pub(super) fn read_from<T>(
    path: &Path,
    opened: &Opened,
    work: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    let read = || {
        let transaction = match opened {
            Opened::Writer(database) | Opened::Interrupted(database) => database.begin_read()?,
            Opened::Reader(database) => database.begin_read()?,
        };
        work(&transaction)
    };
    guarded(path, read)?.map_err(|error| storage_error(path, error))
}

/// [`Guarded::write`] for a database that is open.
pub(super) fn write_to<T>(
    path: &Path,
    opened: &Opened,
    work: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
) -> Result<T, StoreError> {
    let Opened::Writer(database) = opened else { return Err(StoreError::ReadOnly { path: path.to_owned() }) };
    let commit = || {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        // With one phase, two crashes in a row could roll back a commit that was reported as done.
        transaction.set_two_phase_commit(true);
        let result = work(&transaction)?;
        transaction.commit()?;
        Ok(result)
    };
    guarded(path, commit)?.map_err(|error| storage_error(path, error))
}

/// Does what may meet any bytes: the database panics on some files that were altered behind its back.
fn guarded<T>(path: &Path, work: impl FnOnce() -> T) -> Result<T, StoreError> {
    // A transaction that panics is dropped without a commit, and the database itself is only ever told to close.
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| StoreError::Damaged {
        path: path.to_owned(),
        reason: "its pages contradict each other".to_owned(),
    })
}

/// What [`Overlay`] says when a writer has begun to change the file below it.
pub(super) const CHANGED: ErrorKind = ErrorKind::ResourceBusy;
