//! What tells a file that has not changed since it was read from one that must be read again.

use std::fs::Metadata;
use std::path::{Path, absolute};

use sha2::{Digest as _, Sha256};

/// A file that was changed in this time before it was read may change again without another time on it: clocks of file
/// systems are coarse. Milliseconds.
const FRESH_MS: u64 = 2_000;

/// A file's path and the state it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Tells its absolute path.
    pub file: u64,
    /// Tells its size, its times and its inode.
    pub stamp: u64,
    /// Whether another state of the file would have another stamp for certain.
    pub is_certain: bool,
}

impl Mark {
    /// The mark of a file with this metadata, at `now_ms` since 1970.
    pub fn of(path: &Path, metadata: &Metadata, now_ms: u64) -> Self {
        let path = absolute(path).unwrap_or_else(|_| path.to_owned());
        let state = State::of(metadata);
        let file = Sha256::digest(path.as_os_str().as_encoded_bytes());
        let mut stamp = Sha256::new();
        for number in [u128::from(metadata.len()), state.modified_ns, state.changed_ns, u128::from(state.inode)] {
            stamp.update(number.to_le_bytes());
        }
        let newest_ms = state.modified_ns.max(state.changed_ns) / 1_000_000;
        Self {
            file: first_word(&file),
            stamp: first_word(&stamp.finalize()),
            is_certain: newest_ms + u128::from(FRESH_MS) < u128::from(now_ms),
        }
    }
}

/// What a file system says about a file beside its size. Who overwrites a file and sets its time back still changes the
/// time of the inode.
struct State {
    modified_ns: u128,
    changed_ns: u128,
    inode: u64,
}

impl State {
    #[cfg(unix)]
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        let time = |seconds: i64, ns: i64| {
            u128::from(seconds.max(0).unsigned_abs()) * 1_000_000_000 + u128::from(ns.max(0).unsigned_abs())
        };
        Self {
            modified_ns: time(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: time(metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }

    #[cfg(not(unix))]
    fn of(metadata: &Metadata) -> Self {
        let since_epoch = |time: std::io::Result<std::time::SystemTime>| {
            let since = time.ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            since.map_or(0, |since| since.as_nanos())
        };
        let modified_ns = since_epoch(metadata.modified());
        Self { modified_ns, changed_ns: since_epoch(metadata.created()).max(modified_ns), inode: 0 }
    }
}

fn first_word(digest: &[u8]) -> u64 {
    let (word, _) = digest.split_first_chunk::<8>().expect("a digest has 32 bytes");
    u64::from_le_bytes(*word)
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn a_file_that_was_overwritten_has_another_stamp_whatever_its_time_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        fs::write(&path, b"one").unwrap();
        let metadata = || fs::metadata(&path).unwrap();
        let (before, time) = (Mark::of(&path, &metadata(), u64::MAX), metadata().modified().unwrap());
        assert!(before.is_certain && !Mark::of(&path, &metadata(), 0).is_certain);
        assert_eq!(Mark::of(&path, &metadata(), u64::MAX), before);
        // The clock of the file system has a grain; a few writes take longer than that.
        let changed = (0..1_000_000).any(|_| {
            fs::write(&path, b"two").unwrap();
            File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            Mark::of(&path, &metadata(), u64::MAX).stamp != before.stamp
        });
        assert!(changed && metadata().modified().unwrap() == time && metadata().len() == 3);
        assert_eq!(Mark::of(&path, &metadata(), u64::MAX).file, before.file);
    }
}
