//! Extracted features on disk, so that no image is extracted twice on a machine.
//!
//! One folder per extractor and preparation, holding files that are written once: a header, records of an image's digest
//! and its features as f16, and a checksum. A file that was torn or altered is noticed and deleted, and its images are
//! extracted anew. The oldest files give way when all of them together pass [`MAX_CACHE_BYTES`].

use core::time::Duration;
use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use grapevine_edge_client::store::Digest;
use grapevine_host::files;
use half::f16;

/// Most bytes of all cached features together.
pub const MAX_CACHE_BYTES: u64 = 4 << 30;
/// Images per file: seconds of work, a few megabytes.
const FILE_IMAGES: usize = 4_096;
/// Largest file that is read, in bytes: [`FILE_IMAGES`] of the most features.
const MAX_FILE_BYTES: u64 = 32 << 20;
const MAGIC: &[u8] = b"grapevine features 1\n";
const ENDING: &str = "features";
/// A temporary file that is older than this is what a crash left.
const ABANDONED: Duration = Duration::from_secs(3_600);
const DIGEST_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 4;

/// Where features are kept, or that they are not.
#[derive(Clone, Debug)]
pub struct FeatureCache {
    folder: Option<PathBuf>,
    max_bytes: u64,
}

/// Why there is no place for features.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// Neither variable is set.
    #[error(
        "there is no cache folder: neither XDG_CACHE_HOME nor HOME is set; give one with --cache, or use --no-cache"
    )]
    NoHome,
    /// The folder cannot be made.
    #[error("cannot make the cache folder {}; give another with --cache, or use --no-cache", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl FeatureCache {
    /// In `folder`, which is made, or else in the user's cache folder.
    ///
    /// # Errors
    /// If the folder cannot be made, or `folder` is not given and the user's cache folder is unknown.
    pub fn open(folder: Option<&Path>) -> Result<Self, CacheError> {
        let path = match folder {
            Some(folder) => folder.to_owned(),
            None => users_folder().ok_or(CacheError::NoHome)?,
        }
        .join(ENDING);
        fs::create_dir_all(&path).map_err(|source| CacheError::Folder { path: path.clone(), source })?;
        Ok(Self { folder: Some(path), max_bytes: MAX_CACHE_BYTES })
    }

    /// Keeps nothing.
    pub fn none() -> Self {
        Self { folder: None, max_bytes: 0 }
    }

    /// What is known under one key, where every image has `features` numbers.
    pub(super) fn book(&self, key: &Digest, features: usize) -> Book<'_> {
        let hexadecimal: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = self.folder.as_ref().map(|folder| folder.join(hexadecimal));
        Book { cache: self, folder, key: *key, features, records: Vec::new(), images: 0 }
    }

    /// Deletes the oldest files until all are within the limit, and what crashes left.
    fn sweep(&self) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let mut files = Vec::new();
        for key in fs::read_dir(folder)? {
            let Ok(entries) = fs::read_dir(key?.path()) else { continue };
            for entry in entries {
                let entry = entry?;
                // Another process may sweep too.
                let Ok(metadata) = entry.metadata() else { continue };
                files.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        let now = now();
        for (modified, length, path) in files {
            let is_abandoned = path.extension().is_none_or(|ending| ending != ENDING)
                && now.duration_since(modified).is_ok_and(|age| age > ABANDONED);
            if is_abandoned || bytes > self.max_bytes {
                let _ = fs::remove_file(path);
                bytes -= length;
            }
        }
        Ok(())
    }
}

/// The features known for one extractor, and those that are added.
pub(super) struct Book<'a> {
    cache: &'a FeatureCache,
    folder: Option<PathBuf>,
    key: Digest,
    features: usize,
    /// Records that are not on disk yet.
    records: Vec<u8>,
    images: usize,
}

impl Book<'_> {
    /// Gives every record: the image's digest, and its features for whoever wants them.
    pub(super) fn read(&self, mut take: impl FnMut(&Digest, &dyn Fn() -> Vec<f16>)) {
        let Some(folder) = &self.folder else { return };
        let Ok(entries) = fs::read_dir(folder) else { return };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|ending| ending == ENDING));
        // Were a digest in two files, the same one would win in every run.
        paths.sort();
        for path in paths {
            let Ok(bytes) = read_bounded(&path) else { continue };
            let Some(records) = self.records_of(&bytes) else {
                tracing::warn!(file = %path.display(), "cached features are damaged and will be made anew");
                let _ = fs::remove_file(&path);
                continue;
            };
            for record in records.chunks_exact(DIGEST_BYTES + 2 * self.features) {
                let Some((digest, halves)) = record.split_first_chunk::<DIGEST_BYTES>() else { continue };
                let (halves, _) = halves.as_chunks::<2>();
                take(digest, &|| halves.iter().map(|half| f16::from_le_bytes(*half)).collect());
            }
            // What is used stays.
            let _ = File::options().write(true).open(&path).and_then(|file| file.set_modified(now()));
        }
    }

    /// Keeps the features of one image, in memory until a file is full.
    pub(super) fn add(&mut self, digest: &Digest, features: &[f16]) {
        if self.folder.is_none() || features.len() != self.features {
            return;
        }
        self.records.extend_from_slice(digest);
        self.records.extend(features.iter().flat_map(|half| half.to_le_bytes()));
        self.images += 1;
        if self.images >= FILE_IMAGES {
            self.close();
        }
    }

    /// Writes what is not on disk yet. A cache that cannot be written costs time later and nothing else.
    pub(super) fn close(&mut self) {
        let Some(folder) = self.folder.clone().filter(|_| self.images > 0) else { return };
        let mut bytes = self.header();
        bytes.append(&mut self.records);
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        self.images = 0;
        let name: String =
            grapevine_protocol::Digest::of(&bytes).0.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        let path = folder.join(name).with_extension(ENDING);
        let written = fs::create_dir_all(&folder).map_err(|error| error.to_string()).and_then(|()| {
            files::write_atomic(&path, &bytes).map_err(|error| grapevine_host::sentence::sentence(&error))
        });
        if let Err(reason) = written {
            tracing::warn!(%reason, "features could not be cached and will be extracted again next time");
        }
        if let Err(error) = self.cache.sweep() {
            tracing::warn!(%error, "the cache folder cannot be listed, so that it may grow beyond its limit");
        }
    }

    fn header(&self) -> Vec<u8> {
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&self.key);
        header.extend((self.features as u32).to_le_bytes());
        header
    }

    /// The records of a file, if every byte is as it was written.
    fn records_of<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        let records = body.strip_prefix(self.header().as_slice())?;
        let is_whole = records.len().is_multiple_of(DIGEST_BYTES + 2 * self.features);
        (is_whole && crc32fast::hash(body).to_le_bytes() == *checksum).then_some(records)
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MAX_FILE_BYTES {
        return Ok(Vec::new());
    }
    fs::read(path)
}

fn users_folder() -> Option<PathBuf> {
    let of = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = of("XDG_CACHE_HOME").or_else(|| of("HOME").map(|home| home.join(".cache")));
    caches.map(|folder| folder.join("grapevine"))
}

#[allow(clippy::disallowed_methods, reason = "files carry the time of their last use")]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Digest = [7; 32];

    fn halves(first: f32) -> Vec<f16> {
        [first, -0.5, 255.0].map(f16::from_f32).to_vec()
    }

    fn known(cache: &FeatureCache, key: &Digest, features: usize) -> Vec<(Digest, Vec<f16>)> {
        let mut known = Vec::new();
        cache.book(key, features).read(|digest, features| known.push((*digest, features())));
        known
    }

    fn filled() -> (tempfile::TempDir, FeatureCache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = FeatureCache::open(Some(folder.path())).unwrap();
        let mut book = cache.book(&KEY, 3);
        book.add(&[1; 32], &halves(0.25));
        book.add(&[2; 32], &halves(1.25));
        book.close();
        (folder, cache)
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let folders = fs::read_dir(folder.join("features")).unwrap();
        folders.flat_map(|key| fs::read_dir(key.unwrap().path()).unwrap()).map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn features_come_back_for_the_same_extractor_alone() {
        let (_folder, cache) = filled();
        assert_eq!(known(&cache, &KEY, 3), [([1; 32], halves(0.25)), ([2; 32], halves(1.25))]);
        assert_eq!(known(&cache, &[8; 32], 3), []);
        assert_eq!(known(&FeatureCache::none(), &KEY, 3), []);
        let mut book = cache.book(&KEY, 3);
        book.add(&[3; 32], &halves(2.0));
        book.close();
        assert_eq!(known(&cache, &KEY, 3).len(), 3);
    }

    #[test]
    fn a_file_with_any_byte_changed_or_missing_is_made_anew() {
        let (folder, cache) = filled();
        let [path] = files(folder.path()).try_into().unwrap();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            for damaged in [&flipped[..], &whole[..at]] {
                fs::write(&path, damaged).unwrap();
                assert_eq!(known(&cache, &KEY, 3), [], "byte {at}");
                assert!(!path.exists());
            }
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(known(&cache, &KEY, 3).len(), 2);
    }

    #[test]
    fn the_oldest_files_give_way() {
        let (folder, mut cache) = filled();
        let [old] = files(folder.path()).try_into().unwrap();
        let past = now() - Duration::from_secs(100);
        File::options().write(true).open(&old).unwrap().set_modified(past).unwrap();
        let abandoned = old.with_file_name(".new-1");
        fs::write(&abandoned, b"half").unwrap();
        File::options().write(true).open(&abandoned).unwrap().set_modified(now() - 2 * ABANDONED).unwrap();
        cache.max_bytes = fs::metadata(&old).unwrap().len() + 10;
        let mut book = cache.book(&KEY, 3);
        book.add(&[3; 32], &halves(2.0));
        book.close();
        assert_eq!(known(&cache, &KEY, 3), [([3; 32], halves(2.0))]);
        assert_eq!(files(folder.path()).len(), 1);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("file");
        fs::write(&taken, b"").unwrap();
        assert!(FeatureCache::open(Some(&taken)).unwrap_err().to_string().contains("--no-cache"));
    }
}
