//! Files that survive a power cut, and how much room they take.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The path ends in no file name.
    #[error("{} names no file", path.display())]
    Name {
        /// The path.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("could not write {}; check that the folder exists, is writable and has room", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Replaces `path` by `bytes`: after a crash at any instant the file holds all of the old bytes or all of the new.
///
/// Written beside it, synced, renamed, and the folder synced. A file that exists keeps its permissions; a new one gets
/// the usual ones (`0666` less the umask). A link stays, and what it leads to is replaced. What is no file, such as a
/// pipe or `/dev/stdout`, is written to as it is.
///
/// # Errors
/// If the path names no file, or the system refuses.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    write(path, bytes, Readers::Usual)
}

/// As [`write_atomic`]; a new file is for its owner alone (mode 0600).
///
/// # Errors
/// If the path names no file, or the system refuses.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    write(path, bytes, Readers::Owner)
}

/// Writes over a file in its place, for a disk that has no room for another file. A power cut may leave a mixture of old
/// and new bytes.
///
/// # Errors
/// If the file is not there, or the system refuses.
pub fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_data()
}

/// Who may read a new file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readers {
    /// Whom the umask lets.
    Usual,
    /// Its owner alone.
    Owner,
}

fn write(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), WriteError> {
    if path.file_name().is_none() {
        return Err(WriteError::Name { path: path.to_owned() });
    }
    replace(path, bytes, readers).map_err(|source| WriteError::Io { path: path.to_owned(), source })
}

impl WriteError {
    /// Whether there is no room.
    pub fn is_full(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge];
        matches!(self, Self::Io { source, .. } if full.contains(&source.kind()))
    }
}

/// Fails as [`write_atomic`] would for the same path, and writes nothing: for a result that takes long to make.
///
/// # Errors
/// If the path names no file, or no file can be made in its folder.
pub fn check_writable(path: &Path) -> Result<(), WriteError> {
    if path.file_name().is_none() {
        return Err(WriteError::Name { path: path.to_owned() });
    }
    let check = || match Target::of(path)? {
        Target::File(path) => tempfile::tempfile_in(folder_of(&path)).map(drop),
        Target::Stream => Ok(()),
    };
    check().map_err(|source| WriteError::Io { path: path.to_owned(), source })
}

/// Makes a folder for its owner alone (mode 0700), and the folders above it; one that exists stays as it is.
///
/// # Errors
/// If the system refuses.
pub fn private_folder(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// A file that these options create is for its owner alone (mode 0600).
pub fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// New files and folders of this process are for its owner alone from now on, whatever the umask was: for programs that
/// write nothing but state.
#[cfg(target_os = "linux")]
pub fn private_by_default() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Elsewhere the folder of state has to see to that.
#[cfg(not(target_os = "linux"))]
pub fn private_by_default() {}

/// Makes a folder of state and what lies in it readable for its owner alone: it may hold the features of pictures that
/// nobody else should see. A folder that also holds other things than state, whose names begin with one of `names`, is not
/// touched, because it may be somebody's home; its mode is said then.
///
/// # Errors
/// If the folder cannot be made or listed.
pub fn keep_state_private(folder: &Path, names: &[&str]) -> io::Result<()> {
    private_folder(folder)?;
    narrow(folder, names)
}

#[cfg(unix)]
fn narrow(folder: &Path, names: &[&str]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let others = |path: &Path| Ok::<_, io::Error>(fs::metadata(path)?.permissions().mode() & 0o077);
    let mut is_ours = true;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_state = names.iter().any(|of_state| name.as_encoded_bytes().starts_with(of_state.as_bytes()));
        is_ours &= is_state;
        let path = entry.path();
        // It may have gone meanwhile; a file of another owner is his to change.
        if is_state && entry.file_type()?.is_file() && others(&path).is_ok_and(|mode| mode != 0) {
            let mode = fs::metadata(&path)?.permissions().mode() & 0o700;
            if let Err(error) = fs::set_permissions(&path, fs::Permissions::from_mode(mode)) {
                tracing::warn!("{} can be read by other users of this machine: {error}", path.display());
            }
        }
    }
    if others(folder)? == 0 {
        return Ok(());
    }
    let narrowed = is_ours && fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).is_ok();
    if !narrowed {
        let shown = folder.display();
        tracing::warn!("other users of this machine can look into the state folder {shown}; run `chmod 700 {shown}`");
    }
    Ok(())
}

/// Elsewhere the folder's own rules have to see to that.
#[cfg(not(unix))]
fn narrow(_folder: &Path, _names: &[&str]) -> io::Result<()> {
    Ok(())
}

/// What a process left for others as JSON; `None` if there is no such file, or none that can be read.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::debug!("{}: {error}", path.display());
            None
        }
    }
}

/// Bytes that this user can still write on the disk of a folder; `None` where the system does not say.
#[cfg(target_os = "linux")]
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

/// Bytes that this user can still write on the disk of a folder; `None` where the system does not say.
#[cfg(not(target_os = "linux"))]
pub fn free_bytes(_folder: &Path) -> Option<u64> {
    None
}

/// Bytes of all files below a folder. Files that vanish while they are counted count as nothing.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// What a path leads to.
enum Target {
    /// A file, or nothing yet; links are followed.
    File(PathBuf),
    /// A pipe or a device: nothing that another file could take the place of.
    Stream,
}

impl Target {
    fn of(path: &Path) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
            Ok(found) if found.is_file() => path.canonicalize().map(Self::File),
            Ok(_) => Ok(Self::Stream),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::File(path.to_owned())),
            Err(error) => Err(error),
        }
    }
}

fn replace(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    match Target::of(path)? {
        Target::File(path) => replace_file(&path, bytes, readers),
        Target::Stream => OpenOptions::new().write(true).open(path)?.write_all(bytes),
    }
}

fn replace_file(path: &Path, bytes: &[u8], readers: Readers) -> io::Result<()> {
    let folder = folder_of(path);
    let create = |path: &Path| {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        if readers == Readers::Owner { private(&mut options) } else { &mut options }.open(path)
    };
    let mut file = tempfile::Builder::new().prefix(".new-").make_in(folder, create)?;
    match fs::metadata(path) {
        Ok(old) => file.as_file().set_permissions(old.permissions())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_folder(folder)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Elsewhere a folder cannot be opened; the file system orders the rename by itself.
#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_bytes_replace_old_ones_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.toml");
        write_atomic(&path, b"old").unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        overwrite(&path, b"in its place").unwrap();
        overwrite(&path, b"last").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"last");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn permissions_stay() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret.toml");
        fs::write(&path, b"").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        write_atomic(&path, b"x").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[cfg(unix)]
    #[test]
    fn state_is_for_its_owner_alone_and_a_home_is_left_alone() {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/state");
        keep_state_private(&state, &["store"]).unwrap();
        assert_eq!((mode(&state), mode(state.parent().unwrap())), (0o700, 0o700));
        fs::write(state.join("store.redb"), b"").unwrap();
        for path in [&state, &state.join("store.redb")] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        keep_state_private(&state, &["store"]).unwrap();
        assert_eq!((mode(&state), mode(&state.join("store.redb"))), (0o700, 0o700), "what was wider is narrowed");
        fs::write(state.join("letter.txt"), b"").unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
        keep_state_private(&state, &["store"]).unwrap();
        assert_eq!(mode(&state), 0o755, "it holds other things, too");
        write_private(&state.join("new"), b"").unwrap();
        assert_eq!(mode(&state.join("new")), 0o600);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&path, b"old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write_atomic(&link, b"new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_no_file_is_written_to_and_stays() {
        use std::os::unix::fs::FileTypeExt;
        write_atomic(Path::new("/dev/null"), b"x").unwrap();
        check_writable(Path::new("/dev/null")).unwrap();
        let error = write_atomic(Path::new("/dev/full"), b"x").unwrap_err();
        assert!(error.to_string().contains("/dev/full"), "{error}");
        for device in ["/dev/null", "/dev/full"] {
            assert!(fs::metadata(device).unwrap().file_type().is_char_device(), "{device}");
        }
    }

    #[test]
    fn a_failure_names_the_file_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("folder");
        fs::create_dir(&taken).unwrap();
        let error = write_atomic(&taken, b"x").unwrap_err();
        assert!(error.to_string().contains("folder"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let nowhere = folder.path().join("none/file");
        let error = write_atomic(&nowhere, b"x").unwrap_err();
        assert_eq!(check_writable(&nowhere).unwrap_err().to_string(), error.to_string());
        assert!(check_writable(&taken).is_err());
        check_writable(&folder.path().join("file")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(write_atomic(Path::new("/"), b"x"), Err(WriteError::Name { .. })));
    }
}
