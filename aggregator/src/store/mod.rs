//! The ledger: what the aggregator must still know after a power cut.
//!
//! [`Records`] and [`Ledger`] say what is read and what is written; [`rows`](RunRow) hold the values. [`open`] and
//! [`open_read_only`] choose the implementation, and nothing outside this folder knows which one it is. Today it is one
//! SQLite file with blobs as files beside it. A blob reaches the disk before the row that names it, and a row is durable
//! when the call that wrote it returns, so a receipt may be sent then. One process writes at a time (a lock file sees to
//! it); any number may read beside it.

use std::path::Path;

mod blobs;
mod error;
mod ledger;
mod rows;
mod sqlite;

pub use blobs::{Blob, Collected};
pub use error::StoreError;
pub use ledger::{Ledger, Records};
pub use rows::{
    Accepted, ContributionRow, DeviceRow, MergedRound, ModelDigests, NewRound, NewUpdate, RoundPhase, RoundRow, RunRow,
    TakesIn, UpdateRow, attributes_json,
};
use sqlite::SqliteLedger;
pub use sqlite::{BackedUp, is_in_use};

/// Opens the state folder for writing, makes or migrates what is missing, and keeps every other writer out.
///
/// # Errors
/// If the folder or the ledger cannot be written, another process writes to it, or the ledger is another program's
/// or a newer release's.
pub fn open(state: &Path) -> Result<Box<dyn Ledger + Send>, StoreError> {
    Ok(Box::new(SqliteLedger::open(state)?))
}

/// Opens the state folder for reading, beside a process that writes to it.
///
/// # Errors
/// If there is no ledger yet, it cannot be read, or it is another program's or another release's.
pub fn open_read_only(state: &Path) -> Result<Box<dyn Records>, StoreError> {
    Ok(Box::new(SqliteLedger::open_read_only(state)?))
}

/// Writes the ledger of a state folder and every blob it names into one tar file, durably and as a whole or not at all,
/// also beside a process that writes. Unpacked into an empty folder it is a state folder again.
///
/// # Errors
/// If the ledger or a blob cannot be read, or the file cannot be written.
pub fn back_up(state: &Path, target: &Path) -> Result<BackedUp, StoreError> {
    SqliteLedger::open_read_only(state)?.back_up(target)
}
