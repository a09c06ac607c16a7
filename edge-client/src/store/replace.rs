//! A store that takes the place of another one when it is complete, and not before: what goes wrong until then costs the
//! former store nothing.

use std::fs;
use std::path::{Path, PathBuf};

use super::database::{Opened, open_writer};
use super::{Store, StoreError, StoreIdentity, StoreLimits, beside, file_error, sync_folder_of};

/// A store that is being filled beside the one whose place it is to take. Dropped, it leaves the former one as it was.
#[derive(Debug)]
pub struct Replacement {
    store: Option<Store>,
    path: PathBuf,
    identity: StoreIdentity,
    limits: StoreLimits,
    former: Former,
}

/// What is in the place now, held so that nobody else writes it meanwhile.
enum Former {
    None,
    Held(Opened),
    Damaged,
}

impl core::fmt::Debug for Former {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Held(_) => "Held",
            Self::Damaged => "Damaged",
        })
    }
}

impl Store {
    /// An empty store that can take the place of the one at `path`, whatever that one holds.
    ///
    /// # Errors
    /// If another process writes the store at `path`, or the disk has no room for another one beside it.
    pub fn replacement(path: &Path, identity: &StoreIdentity, limits: StoreLimits) -> Result<Replacement, StoreError> {
        identity.check()?;
        let former = if path.exists() {
            match open_writer(path) {
                Ok(opened) => Former::Held(opened),
                Err(StoreError::Damaged { .. }) => Former::Damaged,
                Err(error) => return Err(error),
            }
        } else {
            Former::None
        };
        let staged = staged(path);
        if staged.exists() {
            // What a process left that was killed on its way.
            fs::remove_file(&staged).map_err(|source| file_error(&staged, source))?;
        }
        let store = match Self::open(&staged, identity) {
            Ok(store) => store.with_limits(limits),
            Err(error) => {
                // Half a store would take the room that the device lacks.
                let _ = (fs::remove_file(beside(&staged, ".new")), fs::remove_file(&staged));
                return Err(error);
            }
        };
        Ok(Replacement { store: Some(store), path: path.to_owned(), identity: identity.clone(), limits, former })
    }
}

impl Replacement {
    /// The store to fill.
    pub fn store(&self) -> &Store {
        self.store.as_ref().expect("it is there until it takes its place")
    }

    /// Takes the place. A former file that was no store is moved aside to `<path>.damaged`.
    ///
    /// # Errors
    /// If the disk fails; then the former store is still there.
    pub fn take_place(mut self) -> Result<Store, StoreError> {
        drop(self.store.take());
        let staged = staged(&self.path);
        if matches!(self.former, Former::Damaged) {
            fs::rename(&self.path, beside(&self.path, ".damaged")).map_err(|source| file_error(&self.path, source))?;
        }
        if cfg!(not(unix)) {
            // There an open file cannot be replaced.
            self.former = Former::None;
        }
        fs::rename(&staged, &self.path).map_err(|source| file_error(&self.path, source))?;
        sync_folder_of(&self.path)?;
        match core::mem::replace(&mut self.former, Former::None) {
            Former::Held(opened) => drop(opened),
            Former::None | Former::Damaged => {}
        }
        Ok(Store::open(&self.path, &self.identity)?.with_limits(self.limits))
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if self.store.take().is_some() {
            // What stays is removed by the next one.
            let _ = fs::remove_file(staged(&self.path));
        }
    }
}

fn staged(path: &Path) -> PathBuf {
    beside(path, ".staged")
}
