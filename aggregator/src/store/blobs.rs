//! Content-addressed files: `<state>/blobs/<first two hex>/<64 hex>`, named by the SHA-256 of what they hold.
//!
//! A blob is written under another name, fsynced, renamed, and its folder is fsynced, all before anything may name it.
//! So a file under a final name is whole, and a crash leaves at most a `.new` file or a blob that nothing names.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{Digest, StoreError, digest_hex};

/// The folder of all blobs, in the state folder.
const FOLDER: &str = "blobs";
/// Ends the name of a file that is not whole yet.
const UNFINISHED: &str = ".new";

/// What [`super::Store::collect_garbage`] freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Files deleted.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

pub(super) struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    pub(super) fn new(state: &Path) -> Self {
        Self { folder: state.join(FOLDER) }
    }

    /// Makes the root folder; folders of two digits are made as they are needed.
    pub(super) fn create_root(&self) -> Result<(), StoreError> {
        create_folder(&self.folder)
    }

    /// Stores one blob durably; a whole one that is already there is kept, a damaged one is replaced.
    pub(super) fn put(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        Ok(self.put_all([bytes])?[0])
    }

    /// Stores several blobs durably: each file is fsynced, each folder only once.
    pub(super) fn put_all<'a>(&self, blobs: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Digest>, StoreError> {
        let mut digests = Vec::new();
        let mut changed = BTreeSet::new();
        for bytes in blobs {
            let digest = sha256(bytes);
            digests.push(digest);
            let path = self.path(&digest);
            let folder = path.parent().expect("a blob's path has a folder").to_path_buf();
            if self.read(&digest).is_err() {
                create_folder(&folder)?;
                write_new(&path, bytes)?;
            }
            // Also for a blob that was there: whoever renamed it may have crashed before the folder reached the disk.
            changed.insert(folder);
        }
        for folder in &changed {
            sync_folder(folder)?;
        }
        Ok(digests)
    }

    /// Reads one blob and checks it against its name.
    pub(super) fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(StoreError::BlobMissing { path }),
            Err(error) => return Err(StoreError::io("read", &path, error)),
        };
        if sha256(&bytes) != *digest {
            return Err(StoreError::BlobDamaged { path });
        }
        Ok(bytes)
    }

    /// Deletes one blob; one that is gone already is fine.
    pub(super) fn delete(&self, digest: &Digest) -> Result<Collected, StoreError> {
        delete_file(&self.path(digest))
    }

    /// Deletes every file that is not a blob of `keep`.
    pub(super) fn retain(&self, keep: &BTreeSet<Digest>) -> Result<Collected, StoreError> {
        let names: BTreeSet<String> = keep.iter().map(digest_hex).collect();
        let mut collected = Collected::default();
        for folder in entries(&self.folder)? {
            if !folder.is_dir() {
                continue;
            }
            for file in entries(&folder)? {
                let kept = file.file_name().and_then(|name| name.to_str()).is_some_and(|name| names.contains(name));
                if !kept {
                    let one = delete_file(&file)?;
                    collected.files += one.files;
                    collected.bytes += one.bytes;
                }
            }
        }
        Ok(collected)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(within(digest))
    }
}

/// A blob's place in the state folder.
pub(super) fn relative_path(digest: &Digest) -> PathBuf {
    Path::new(FOLDER).join(within(digest))
}

fn within(digest: &Digest) -> PathBuf {
    let name = digest_hex(digest);
    Path::new(&name[..2]).join(&name)
}

/// The SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

/// Makes a folder that outlives a power cut: its parent is fsynced too.
pub(super) fn create_folder(folder: &Path) -> Result<(), StoreError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_folder(parent)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(StoreError::io("create the folder", folder, error));
        }
        Ok(()) | Err(_) => {}
    }
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        Some(_) | None => Ok(()),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    let written = File::create(&unfinished).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written {
        // On a full disk the half file would only make things worse; garbage collection finds it if this fails too.
        let _ = fs::remove_file(&unfinished);
        return Err(StoreError::io("write", &unfinished, error));
    }
    fs::rename(&unfinished, path).map_err(|error| StoreError::io("rename into place", path, error))
}

pub(super) fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| StoreError::io("fsync", folder, error))
}

fn delete_file(path: &Path) -> Result<Collected, StoreError> {
    let bytes = fs::metadata(path).map_or(0, |metadata| metadata.len());
    match fs::remove_file(path) {
        Ok(()) => Ok(Collected { files: 1, bytes }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Collected::default()),
        Err(error) => Err(StoreError::io("delete", path, error)),
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let list = || -> io::Result<Vec<PathBuf>> { fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect() };
    list().map_err(|error| StoreError::io("list", folder, error))
}
