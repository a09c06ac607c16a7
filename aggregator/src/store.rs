//! The ledger: what the aggregator must still know after a power cut.
//!
//! `<state>/ledger.sqlite` holds rows, `<state>/blobs/` holds content-addressed files. A blob reaches the disk before
//! the row that names it, and a row is durable when the call that wrote it returns, so a receipt may be sent then.
//! One process writes at a time (a lock file sees to it); any number may read beside it.

use core::time::Duration;
use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, OptionalExtension, Params, Row, Transaction};

mod blobs;
mod error;
mod fleet;
mod ledger;
mod rounds;
mod rows;
mod schema;
#[cfg(test)]
mod tests;

use blobs::Blobs;
pub use blobs::Collected;
pub(crate) use blobs::sha256;
pub use error::StoreError;
pub use ledger::Ledger;
pub use rows::{
    Accepted, DeviceRow, Digest, MergedRound, NewRound, NewUpdate, RoundPhase, RoundRow, RunRow, UpdateRow, digest_hex,
};

/// How long a statement waits for a reader's or a checkpoint's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

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
    pub fn open(state: &Path) -> Result<Self, StoreError> {
        blobs::create_folder(state)?;
        let lock = lock(state)?;
        let path = state.join("ledger.sqlite");
        let failed = |source| StoreError::database("open", &path, source);
        let mut connection = Connection::open(&path).map_err(failed)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
        schema::check_version(&connection, &path)?;
        connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
            .and_then(|()| connection.pragma_update(None, "synchronous", "FULL"))
            .and_then(|()| connection.pragma_update(None, "foreign_keys", true))
            .map_err(failed)?;
        schema::migrate(&mut connection, &path)?;
        let blobs = Blobs::new(state);
        blobs.create_root()?;
        Ok(Self { connection, blobs, path, lock: Some(lock) })
    }

    /// Opens the state folder for reading, beside a process that writes to it.
    pub fn open_read_only(state: &Path) -> Result<Self, StoreError> {
        let path = state.join("ledger.sqlite");
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

    /// Stores one blob; when this returns, it is on the disk under its digest.
    pub fn put_blob(&mut self, bytes: &[u8]) -> Result<Digest, StoreError> {
        self.check_writable()?;
        self.blobs.put(bytes)
    }

    /// Reads one blob and checks it against its digest.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        self.blobs.read(digest)
    }

    /// Deletes every file among the blobs that neither a row nor `keep` names, such as what a crash left behind.
    pub fn collect_garbage(&mut self, keep: &BTreeSet<Digest>) -> Result<Collected, StoreError> {
        self.check_writable()?;
        let named = "SELECT heads FROM rounds WHERE heads IS NOT NULL \
                     UNION SELECT aid FROM rounds WHERE aid IS NOT NULL \
                     UNION SELECT memory FROM rounds WHERE memory IS NOT NULL \
                     UNION SELECT in_use FROM rounds WHERE in_use IS NOT NULL \
                     UNION SELECT digest FROM updates WHERE blob_kept = 1";
        let mut keep = keep.clone();
        keep.extend(self.rows(named, [], |row| row.get::<_, Digest>(0))?);
        self.blobs.retain(&keep)
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
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let all = || -> rusqlite::Result<Vec<T>> {
            self.connection.prepare_cached(query)?.query_map(parameters, read)?.collect()
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
