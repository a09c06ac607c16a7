//! What other processes ask of a serving aggregator: a file each in `<state>/requests`, deleted when it is done.
//!
//! Files, because they need no port, no login and no second writer of the ledger: who may write into the state folder may
//! ask. An aggregator that was stopped does at its next start what was asked meanwhile.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use grapevine_host::files;
use grapevine_protocol::DeviceId;

const FOLDER: &str = "requests";
/// Ends the name of a request to release a device, which stands before it.
const RELEASE: &str = ".release";
/// Requests read at a time.
const AT_ONCE: usize = 64;

/// Asks the aggregator that serves from this folder to release a device.
pub fn ask_release(state: &Path, device: &DeviceId) -> Result<(), files::WriteError> {
    // A folder that is there already is as good, and one that cannot be made is told by the write.
    let _ = fs::create_dir(state.join(FOLDER));
    files::write_atomic(&path(state, device), b"")
}

/// Devices whose release is asked for.
pub(super) fn releases(state: &Path) -> Vec<DeviceId> {
    let entries = match fs::read_dir(state.join(FOLDER)) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::debug!("requests cannot be read: {error}");
            }
            return Vec::new();
        }
    };
    let device = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(RELEASE)?.parse().ok();
    entries.flatten().filter_map(device).take(AT_ONCE).collect()
}

/// The request is granted, or of no use.
pub(super) fn done(state: &Path, device: &DeviceId) {
    // One that stays is granted once more, without effect.
    let _ = fs::remove_file(path(state, device));
}

fn path(state: &Path, device: &DeviceId) -> PathBuf {
    state.join(FOLDER).join(format!("{device}{RELEASE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_until_it_is_done() {
        let state = tempfile::tempdir().unwrap();
        assert!(releases(state.path()).is_empty());
        let devices: Vec<DeviceId> = ["camera-1", ".."].map(|name| name.parse().unwrap()).into();
        devices.iter().for_each(|device| ask_release(state.path(), device).unwrap());
        fs::write(state.path().join(FOLDER).join("NOBODY.release"), "").unwrap();
        let mut found = releases(state.path());
        found.sort_by(|one, other| other.cmp(one));
        assert_eq!(found, devices);
        done(state.path(), &devices[0]);
        done(state.path(), &devices[0]);
        assert_eq!(releases(state.path()), devices[1..]);
    }
}
