//! A copy of the whole state, taken beside a process that serves from it.
//!
//! The rows come first, through SQLite's online backup: one moment of the ledger, whatever is written meanwhile. Then
//! every blob they name. A blob that a merge let go of in between means that the moment is over: it is begun anew.

use std::fs::File;
use std::io;
use std::path::Path;

use grapevine_protocol::Digest;
use rusqlite::Connection;
use rusqlite::backup::Backup;
use tempfile::NamedTempFile;

use super::super::blobs::sync_folder;
use super::super::{Records, StoreError, blobs};
use super::{LEDGER, SqliteLedger, failed};

/// Moments that are tried before somebody has to wait for calmer ones.
const ATTEMPTS: usize = 8;
/// Whoever reads a backup reads every device's name and every head.
const MODE: u32 = 0o600;

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackedUp {
    /// Blobs beside the ledger.
    pub blobs: usize,
    /// Bytes of the file.
    pub bytes: u64,
}

impl SqliteLedger {
    /// See [`super::super::back_up`].
    pub(in super::super) fn back_up(&self, target: &Path) -> Result<BackedUp, StoreError> {
        let failed = |action, error| StoreError::io(action, target, error);
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            Some(_) | None => Path::new("."),
        };
        let mut attempt = 1;
        loop {
            let mut file = NamedTempFile::new_in(folder).map_err(|error| failed("write", error))?;
            let blobs = match self.write_moment(file.as_file_mut(), folder, target) {
                Err(StoreError::BlobMissing { .. }) if attempt < ATTEMPTS => {
                    attempt += 1;
                    continue;
                }
                other => other?,
            };
            file.as_file().sync_all().map_err(|error| failed("fsync", error))?;
            let bytes = file.as_file().metadata().map_err(|error| failed("read", error))?.len();
            file.persist(target).map_err(|error| failed("rename into place", error.error))?;
            sync_folder(folder)?;
            return Ok(BackedUp { blobs, bytes });
        }
    }

    fn write_moment(&self, file: &mut File, folder: &Path, target: &Path) -> Result<usize, StoreError> {
        let failed = |error: io::Error| StoreError::io("write", target, error);
        let moment = NamedTempFile::new_in(folder).map_err(failed)?;
        let copy = self.copy_rows(moment.path())?;
        let mut tar = tar::Builder::new(file);
        append(&mut tar, LEDGER, &mut moment.reopen().map_err(failed)?).map_err(failed)?;
        let named = copy.named_blobs()?;
        for digest in &named {
            append_bytes(&mut tar, digest, &self.blob(digest)?).map_err(failed)?;
        }
        tar.finish().map_err(failed)?;
        Ok(named.len())
    }

    /// The rows of one moment in a file of their own.
    fn copy_rows(&self, path: &Path) -> Result<Self, StoreError> {
        let copied = || -> rusqlite::Result<Connection> {
            let mut connection = Connection::open(path)?;
            let backup = Backup::new(&self.connection, &mut connection)?;
            // All pages in one step: one reading transaction, so one moment.
            while backup.step(-1)? != rusqlite::backup::StepResult::Done {}
            drop(backup);
            // One file: no log beside it that the copy would need.
            connection.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
            Ok(connection)
        };
        let connection = copied().map_err(|source| failed("back up", &self.path, source))?;
        Ok(Self {
            connection,
            blobs: blobs::Blobs::new(self.path.parent().unwrap_or(Path::new("."))),
            path: path.to_path_buf(),
            lock: None,
        })
    }
}

fn append(tar: &mut tar::Builder<&mut File>, name: &str, file: &mut File) -> io::Result<()> {
    let mut header = header(file.metadata()?.len());
    tar.append_data(&mut header, name, file)
}

fn append_bytes(tar: &mut tar::Builder<&mut File>, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
    let mut header = header(bytes.len() as u64);
    tar.append_data(&mut header, blobs::relative_path(digest), bytes)
}

/// Without time or owner: the same state gives the same file.
fn header(bytes: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(MODE);
    header.set_size(bytes);
    header
}
