//! What can go wrong with the ledger and its blobs.

use core::error::Error;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use grapevine_protocol::{RoundId, RunId};

/// Why the ledger could not be opened, read or written. Print the whole chain: the cause is kept as the source.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be used.
    #[error("cannot {action} {path}; check free space and permissions, then start again")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database refused.
    #[error("cannot {action} the ledger {path}; check free space and permissions, then start again")]
    Database {
        /// What was being done.
        action: &'static str,
        /// The ledger.
        path: PathBuf,
        /// Whether it has no room.
        is_full: bool,
        /// What the database said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Another process writes to this folder.
    #[error("{path} is in use: another aggregator serves from this folder; stop it, or choose another state folder")]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// There is nothing to read yet.
    #[error("there is no ledger at {path} yet; start `aggregator serve` with this state folder first")]
    NoLedger {
        /// Where it would be.
        path: PathBuf,
    },
    /// The file is another program's database.
    #[error("{path} is not a Grapevine ledger; choose another state folder")]
    NotALedger {
        /// The file.
        path: PathBuf,
    },
    /// The ledger was written by a newer program.
    #[error("{path} has schema version {found}, this program knows up to {supported}; install the newer Grapevine")]
    NewerSchema {
        /// The ledger.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// The newest this program knows.
        supported: usize,
    },
    /// The ledger was written by an older program and is opened for reading only.
    #[error(
        "{path} has schema version {found}, this program reads {supported}; run `aggregator serve` once to migrate it"
    )]
    OlderSchema {
        /// The ledger.
        path: PathBuf,
        /// Its schema version.
        found: usize,
        /// What this program reads.
        supported: usize,
    },
    /// The store was opened with [`super::open_read_only`].
    #[error("the ledger {path} was opened for reading only; only `aggregator serve` writes to it")]
    ReadOnly {
        /// The ledger.
        path: PathBuf,
    },
    /// A blob is not there.
    #[error("the blob {path} is missing; restore the state folder from a backup, or start a new run")]
    BlobMissing {
        /// Where it would be.
        path: PathBuf,
    },
    /// A blob is not what its name says.
    #[error("the blob {path} is damaged: its content does not match its name; restore the state folder from a backup")]
    BlobDamaged {
        /// The file.
        path: PathBuf,
    },
    /// A row or a blob that this program did not write.
    #[error("the ledger's {what} cannot be read; restore the state folder from a backup or give `--new-run`")]
    Unreadable {
        /// Which part.
        what: &'static str,
    },
    /// The round does not take part in what was asked.
    #[error("round {round} of run {:016x} is not collecting updates; open it first, or open the next round", run.0)]
    NotCollecting {
        /// The run.
        run: RunId,
        /// The round.
        round: RoundId,
    },
}

impl StoreError {
    /// Whether the disk is full: when there is room again, the same call succeeds.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded),
            Self::Database { is_full, .. } => *is_full,
            Self::InUse { .. }
            | Self::NoLedger { .. }
            | Self::NotALedger { .. }
            | Self::NewerSchema { .. }
            | Self::OlderSchema { .. }
            | Self::ReadOnly { .. }
            | Self::BlobMissing { .. }
            | Self::BlobDamaged { .. }
            | Self::Unreadable { .. }
            | Self::NotCollecting { .. } => false,
        }
    }

    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_path_buf(), source }
    }
}
