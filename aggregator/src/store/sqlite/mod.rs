//! The ledger in SQLite: `<state>/ledger.sqlite` holds rows, `<state>/blobs/` holds content-addressed files.

use core::time::Duration;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Params, Row, Transaction};

mod backup;
mod columns;
mod forget;
mod reading;
mod schema;
#[cfg(test)]
mod tests;
mod writing;

use super::StoreError;
use super::blobs::{self, Blobs};
pub use backup::BackedUp;

/// The file with the rows, in the state folder.
const LEDGER: &str = "ledger.sqlite";
/// Locked by the process that writes.
const LOCK: &str = "ledger.lock";
/// How long a statement waits for a reader's or a checkpoint's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Memory for pages of the ledger. SQLite takes 2 MB, and fills them with rounds that nobody looks at.
const CACHE_KIBIBYTES: i64 = 256;

/// The ledger and its blobs, for one thread.
pub(super) struct SqliteLedger {
    connection: Connection,
    blobs: Blobs,
    path: PathBuf,
    /// Held while this process may write; dropping it lets the next one in.
    lock: Option<File>,
}

impl SqliteLedger {
    /// See [`super::open`].
    pub(super) fn open(state: &Path) -> Result<Self, StoreError> {
        blobs::create_folder(state)?;
        let lock = lock(state)?;
        let path = state.join(LEDGER);
        let failed = |source| failed("open", &path, source);
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

    /// See [`super::open_read_only`].
    pub(super) fn open_read_only(state: &Path) -> Result<Self, StoreError> {
        let path = state.join(LEDGER);
        if !path.is_file() {
            return Err(StoreError::NoLedger { path });
        }
        let failed = |source| failed("open", &path, source);
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
        outcome.map_err(|source| failed(action, &self.path, source))
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
        all().map_err(|source| failed("read", &self.path, source))
    }

    fn row<T>(
        &self,
        query: &str,
        parameters: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let one = || self.connection.prepare_cached(query)?.query_row(parameters, read).optional();
        one().map_err(|source| failed("read", &self.path, source))
    }
}

/// Whether a process holds this state folder open for writing.
pub fn is_in_use(state: &Path) -> bool {
    // A shared lock of a moment: it never lies in the way of a reader, and of a writer only at the instant it starts.
    let lock = File::open(state.join(LOCK)).map(|file| file.try_lock_shared());
    matches!(lock, Ok(Err(TryLockError::WouldBlock)))
}

fn failed(action: &'static str, path: &Path, source: rusqlite::Error) -> StoreError {
    let is_full = source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
    StoreError::Database { action, path: path.to_path_buf(), is_full, source: Box::new(source) }
}

fn lock(state: &Path) -> Result<File, StoreError> {
    let path = state.join(LOCK);
    let file = File::create(&path).map_err(|error| StoreError::io("open the lock file", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse { path }),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path, error)),
    }
}
