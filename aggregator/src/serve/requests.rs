//! Requests of other processes to a serving aggregator: a file each in `<state>/requests`, deleted when it is done.
//!
//! Files, because they need no port, no login and no second writer of the ledger: who may write into the state folder may
//! ask. An aggregator that was stopped does at its next start what was asked meanwhile.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use grapevine_host::files;
use grapevine_protocol::DeviceId;

const FOLDER: &str = "requests";
/// What is asked for. A device's name holds no dot, so the ending of a file's name says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// To let a quarantined device take part again.
    Release,
    /// To remove a device from the registry.
    Forget,
}

impl Request {
    const ALL: [Self; 2] = [Self::Release, Self::Forget];

    fn ending(self) -> &'static str {
        match self {
            Self::Release => ".release",
            Self::Forget => ".forget",
        }
    }
}

/// Requests read at a time.
const AT_ONCE: usize = 64;

/// Asks the aggregator that serves from this folder to do something about a device.
///
/// # Errors
/// If the request cannot be written into the folder.
pub fn ask(state: &Path, request: Request, device: &DeviceId) -> Result<(), files::WriteError> {
    // A folder that is there already is as good, and one that cannot be made is told by the write.
    let _ = fs::create_dir(state.join(FOLDER));
    files::write_atomic(&path(state, request, device), b"")
}

/// What is asked for and not done yet.
pub fn asked(state: &Path) -> Vec<(Request, DeviceId)> {
    let entries = match fs::read_dir(state.join(FOLDER)) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::debug!("requests cannot be read: {error}");
            }
            return Vec::new();
        }
    };
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name();
        let of = |request: Request| Some((request, name.to_str()?.strip_suffix(request.ending())?.parse().ok()?));
        Request::ALL.into_iter().find_map(of)
    };
    entries.flatten().filter_map(read).take(AT_ONCE).collect()
}

/// The request is granted, or of no use.
pub fn done(state: &Path, request: Request, device: &DeviceId) {
    // One that stays is granted once more, without effect.
    let _ = fs::remove_file(path(state, request, device));
}

fn path(state: &Path, request: Request, device: &DeviceId) -> PathBuf {
    state.join(FOLDER).join(format!("{device}{}", request.ending()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_waits_until_it_is_done() {
        let state = tempfile::tempdir().unwrap();
        assert!(asked(state.path()).is_empty());
        let device = |name: &str| name.parse::<DeviceId>().unwrap();
        let requests = [(Request::Release, device("camera-1")), (Request::Forget, device("release"))];
        requests.iter().for_each(|(request, device)| ask(state.path(), *request, device).unwrap());
        for stray in ["NOBODY.release", ".release", "camera-2", "camera-2.now"] {
            fs::write(state.path().join(FOLDER).join(stray), "").unwrap();
        }
        let mut found = asked(state.path());
        found.sort_by_key(|(_, device)| device.clone());
        assert_eq!(found, requests);
        done(state.path(), Request::Release, &requests[0].1);
        done(state.path(), Request::Release, &requests[0].1);
        assert_eq!(asked(state.path()), requests[1..]);
    }
}
