//! Content-addressed files: `<state>/blobs/<first two hex>/<64 hex>`, named by the SHA-256 of what they hold.
//!
//! A blob is written under another name, fsynced, renamed, and its folder is fsynced, all before anything may name it.
//! So a file under a final name is whole, and a crash leaves at most a `.new` file or a blob that nothing names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use grapevine_protocol::Digest;

use super::StoreError;

/// The folder of all blobs, in the state folder.
const FOLDER: &str = "blobs";
/// Ends the name of a file that is not whole yet.
const UNFINISHED: &str = ".new";
/// Files that become durable at the same time.
const AT_ONCE: usize = 32;

/// Bytes with their digest, which is computed once: where they are made or put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob<'a> {
    digest: Digest,
    bytes: &'a [u8],
}

impl<'a> Blob<'a> {
    /// Computes the digest of some bytes.
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { digest: Digest::of(bytes), bytes }
    }

    /// Bytes whose digest was computed or checked before, which only a debug build does again.
    pub fn known(digest: Digest, bytes: &'a [u8]) -> Self {
        debug_assert_eq!(Digest::of(bytes), digest, "a blob has the digest of its bytes");
        Self { digest, bytes }
    }

    /// The name under which it is stored.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The content.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// What was deleted.
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
    pub(super) fn put(&self, blob: Blob<'_>) -> Result<(), StoreError> {
        self.put_all([blob])
    }

    /// Stores several blobs durably: each file is fsynced, each folder only once, many at a time.
    pub(super) fn put_all<'a>(&self, blobs: impl IntoIterator<Item = Blob<'a>>) -> Result<(), StoreError> {
        let paths: BTreeMap<PathBuf, Blob<'_>> =
            blobs.into_iter().map(|blob| (self.path(&blob.digest), blob)).collect();
        let folders: BTreeSet<&Path> = paths.keys().filter_map(|path| path.parent()).collect();
        folders.iter().try_for_each(|folder| create_folder(folder))?;
        many_at_once(&Vec::from_iter(&paths), |(path, blob)| match self.read(&blob.digest) {
            Ok(_) => Ok(()),
            Err(_) => write_new(path, blob.bytes),
        })?;
        // Also for a blob that was there: whoever renamed it may have crashed before the folder reached the disk.
        many_at_once(&Vec::from_iter(folders), |folder| sync_folder(folder))
    }

    /// Refuses a blob that is not there. A file under its final name is whole.
    pub(super) fn check_present(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        if path.is_file() { Ok(()) } else { Err(StoreError::BlobMissing { path }) }
    }

    /// Reads one blob and checks it against its name.
    pub(super) fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(StoreError::BlobMissing { path }),
            Err(error) => return Err(StoreError::io("read", &path, error)),
        };
        if Digest::of(&bytes) != *digest {
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
        let names: BTreeSet<String> = keep.iter().map(ToString::to_string).collect();
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
    let name = digest.to_string();
    Path::new(&name[..2]).join(&name)
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

/// Does the same to each of these, up to [`AT_ONCE`] at a time: a disk makes many files durable in the time of one.
fn many_at_once<T: Sync>(items: &[T], act: impl Fn(&T) -> Result<(), StoreError> + Sync) -> Result<(), StoreError> {
    let each = items.len().div_ceil(AT_ONCE).max(1);
    let (first, others) = items.split_at(each.min(items.len()));
    thread::scope(|scope| {
        let mut started = Vec::new();
        for part in others.chunks(each) {
            let work = || part.iter().try_for_each(&act);
            match thread::Builder::new().spawn_scoped(scope, work) {
                Ok(thread) => started.push(thread),
                // A system without room for a thread has time for it.
                Err(_) => work()?,
            }
        }
        first.iter().try_for_each(&act)?;
        started.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_blobs_at_once_are_all_there_and_one_that_fails_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(folder.path());
        // Every content twice, and more than there are threads.
        let contents: Vec<Vec<u8>> = (0..2 * 3 * AT_ONCE).map(|index| vec![(index / 2) as u8; index / 2 + 1]).collect();
        let all = || contents.iter().map(|content| Blob::of(content));
        let digests: Vec<Digest> = all().map(|blob| blob.digest()).collect();
        blobs.put_all(all()).unwrap();
        for (digest, content) in digests.iter().zip(&contents) {
            assert_eq!(&blobs.read(digest).unwrap(), content);
        }
        blobs.put_all([]).unwrap();

        let (last, others) = digests.split_last().unwrap();
        fs::remove_file(blobs.path(last)).unwrap();
        fs::create_dir(blobs.path(last)).unwrap();
        let refused = blobs.put_all(all());
        assert!(matches!(refused, Err(StoreError::Io { .. })), "{refused:?}");
        assert!(others.iter().filter(|digest| *digest != last).all(|digest| blobs.read(digest).is_ok()));
    }
}
