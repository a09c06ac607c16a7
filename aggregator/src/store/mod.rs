//! The ledger: what the aggregator must still know after a power cut.
//!
//! `<state>/ledger.sqlite` holds rows, `<state>/blobs/` holds content-addressed files. A blob reaches the disk before
//! the row that names it, and a row is durable when the call that wrote it returns, so a receipt may be sent then.
//! One process writes at a time (a lock file sees to it); any number may read beside it.

use core::time::Duration;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Params, Row, Transaction};

mod attributes;
mod backup;
mod blobs;
mod error;
mod fleet;
mod forget;
mod ledger;
mod rounds;
mod rows;
mod schema;
#[cfg(test)]
mod tests;

pub use attributes::attributes_json;
pub use backup::BackedUp;
use blobs::Blobs;
pub use blobs::Collected;
pub(crate) use blobs::sha256;
pub use error::StoreError;
pub use ledger::Ledger;
pub use rows::{
    Accepted, ContributionRow, CountersRow, DeviceRow, Digest, GONE, MergedRound, NewRound, NewUpdate, PRESENT,
    RoundPhase, RoundRow, RunRow, TakesIn, UpdateRow, digest_hex,
};

/// The file with the rows, in the state folder.
const LEDGER: &str = "ledger.sqlite";
/// How long a statement waits for a reader's or a checkpoint's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Memory for pages of the ledger. SQLite takes 2 MB, and fills them with rounds that nobody looks at.
const CACHE_KIBIBYTES: i64 = 256;

/// The ledger and its blobs, for one thread.
pub struct Store {
    connection: Connection,
    blobs: Blobs,
    path: PathBuf,
    /// Held while this process may write; dropping it lets the next one in.
    lock: Option<File>,
}

impl Store {
    /// Opens the state folder for writing, makes or migrates what is missing, and keeps every other writer out.
    ///
    /// # Errors
    /// If the folder or the ledger cannot be written, another process writes to it, or the ledger is another program's
    /// or a newer release's.
    pub fn open(state: &Path) -> Result<Self, StoreError> {
        blobs::create_folder(state)?;
        let lock = lock(state)?;
        let path = state.join(LEDGER);
        let failed = |source| StoreError::database("open", &path, source);
        let mut connection = Connection::open(&path).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        schema::check_version(&connection, &path)?;
        connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
            .and_then(|()| connection.pragma_update(None, "synchronous", "FULL"))
            .and_then(|()| connection.pragma_update(None, "foreign_keys", true))
            .and_then(|()| connection.pragma_update(None, "cache_size", -CACHE_KIBIBYTES))
            .map_err(failed)?;
        schema::migrate(&mut connection, &path)?;
        let blobs = Blobs::new(state);
        blobs.create_root()?;
        Ok(Self { connection, blobs, path, lock: Some(lock) })
    }

    /// Opens the state folder for reading, beside a process that writes to it.
    ///
    /// # Errors
    /// If there is no ledger yet, it cannot be read, or it is another program's or another release's.
    pub fn open_read_only(state: &Path) -> Result<Self, StoreError> {
        let path = state.join(LEDGER);
        if !path.is_file() {
            return Err(StoreError::NoLedger { path });
        }
        let failed = |source| StoreError::database("open", &path, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        let found = schema::check_version(&connection, &path)?;
        if found == 0 {
            return Err(StoreError::NoLedger { path });
        }
        if found < schema::VERSION {
            return Err(StoreError::OlderSchema { path, found, supported: schema::VERSION });
        }
        Ok(Self { connection, blobs: Blobs::new(state), path, lock: None })
    }

    /// Whether a process holds this state folder open for writing.
    pub fn is_in_use(state: &Path) -> bool {
        // A shared lock of a moment: it never lies in the way of a reader, and of a writer only at the instant it starts.
        let lock = File::open(state.join("ledger.lock")).map(|file| file.try_lock_shared());
        matches!(lock, Ok(Err(TryLockError::WouldBlock)))
    }

    /// The state folder.
    pub fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Stores one blob; when this returns, it is on the disk under its digest.
    ///
    /// # Errors
    /// If the blob cannot be written, or the ledger was opened for reading only.
    pub fn put_blob(&mut self, bytes: &[u8]) -> Result<Digest, StoreError> {
        self.check_writable()?;
        self.blobs.put(bytes)
    }

    /// Reads one blob and checks it against its digest.
    ///
    /// # Errors
    /// If the blob is missing or damaged, or cannot be read.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        self.blobs.read(digest)
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        match self.lock {
            Some(_) => Ok(()),
            None => Err(StoreError::ReadOnly { path: self.path.clone() }),
        }
    }

    /// Runs `work` in one transaction: all of it is durable when this returns, or none of it happened.
    fn write<T>(
        &mut self,
        action: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.check_writable()?;
        let all = || {
            let transaction = self.connection.transaction()?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        };
        let outcome = all();
        outcome.map_err(|source| StoreError::database(action, &self.path, source))
    }

    fn rows<T>(
        &self,
        query: &str,
        parameters: impl Params,
        mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let mut rows = Vec::new();
        self.each_row(query, parameters, |row| {
            rows.push(read(row)?);
            Ok(())
        })?;
        Ok(rows)
    }

    /// Hands row after row to `take`.
    fn each_row(
        &self,
        query: &str,
        parameters: impl Params,
        mut take: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
    ) -> Result<(), StoreError> {
        let all = || -> rusqlite::Result<()> {
            let mut statement = self.connection.prepare_cached(query)?;
            let mut rows = statement.query(parameters)?;
            while let Some(row) = rows.next()? {
                take(row)?;
            }
            Ok(())
        };
        all().map_err(|source| StoreError::database("read", &self.path, source))
    }

    fn row<T>(
        &self,
        query: &str,
        parameters: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let one = || self.connection.prepare_cached(query)?.query_row(parameters, read).optional();
        one().map_err(|source| StoreError::database("read", &self.path, source))
    }
}

fn lock(state: &Path) -> Result<File, StoreError> {
    let path = state.join("ledger.lock");
    let file = File::create(&path).map_err(|error| StoreError::io("open the lock file", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path }),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path, error)),
    }
}
