//! What can go wrong with a store, sorted by whose fault it is.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use redb::DatabaseError;

use super::database::CHANGED;

/// Why a store could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    // Configuration: a person changed something on purpose or by mistake.
    /// The features come from another extractor.
    #[error(
        "the store {path} holds features of the extractor {stored:.12}, but the manifest now names {configured:.12}; \
         run `edge-client ingest --reset` to extract the images again, or restore the old extractor"
    )]
    ExtractorChanged {
        /// The store's file.
        path: PathBuf,
        /// Digest in the store, hexadecimal.
        stored: String,
        /// Digest asked for, hexadecimal.
        configured: String,
    },
    /// The labels mean other classes, and whoever found it only reads.
    #[error(
        "the store {path} was filled for another class list; the next `edge-client run` or `edge-client ingest` takes \
         its samples over by name"
    )]
    ClassesChanged {
        /// The store's file.
        path: PathBuf,
    },
    /// A class that has samples is no longer listed.
    #[error(
        "the store {path} holds {samples} samples of `{class}`, which the configuration no longer lists; put it back \
         into `classes`, or run `edge-client ingest --reset` to forget all samples and read the images again"
    )]
    ClassGone {
        /// The store's file.
        path: PathBuf,
        /// The missing class.
        class: String,
        /// Its samples.
        samples: u32,
    },
    /// The store's rows have another length.
    #[error(
        "the store {path} holds {stored} features per sample, but the extractor now gives {configured}; \
         run `edge-client ingest --reset` to extract the images again"
    )]
    ShapeChanged {
        /// The store's file.
        path: PathBuf,
        /// Features per sample in the store.
        stored: usize,
        /// Features per sample asked for.
        configured: usize,
    },
    /// The identity contradicts itself: a class list of another length than its shape.
    #[error("{names} class names were given for a shape of {classes} classes; give one name per class")]
    ClassCount {
        /// Names in the list.
        names: usize,
        /// Classes of the shape.
        classes: usize,
    },
    /// There is no store yet.
    #[error("there is no store at {path}; run `edge-client ingest` first")]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Another process writes it.
    #[error(
        "the store {path} is held by another edge-client (`run`, `ingest` or `train`); \
         wait until it ends or stop it (`systemctl stop grapevine-edge-client` if it is the service)"
    )]
    Busy {
        /// The store's file.
        path: PathBuf,
    },
    /// A write was asked of a store opened for reading.
    #[error("the store {path} was opened for reading only; open it with the configuration to write")]
    ReadOnly {
        /// The store's file.
        path: PathBuf,
    },
    /// A writer began while the state that a killed one left was being read.
    #[error("the store {path} changed while it was read; try again")]
    Changed {
        /// The store's file.
        path: PathBuf,
    },

    // The caller: samples that do not fit.
    /// A label beyond the class list.
    #[error("label {label} is not one of {classes} classes")]
    Label {
        /// The label.
        label: u16,
        /// Classes of the fleet.
        classes: usize,
    },
    /// A row of another length.
    #[error("a sample of {received} features was given to a store of {expected} features")]
    Features {
        /// `d` of the store.
        expected: usize,
        /// Length received.
        received: usize,
    },
    /// A NaN, an infinity, or a value no extractor of this fleet may give.
    #[error("feature {index} is {value}; it must be finite and at most {limit} in size", limit = grapevine_models::limits::MAX_FEATURE_VALUE)]
    FeatureValue {
        /// Which feature.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// An update beyond its limit.
    #[error("an update of {bytes} bytes is over the store's limit of {limit} bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },

    // The machine.
    /// The file is not a store, or its structure is broken.
    #[error(
        "the store {path} is damaged or not a store ({reason}); \
         `edge-client ingest --reset` moves it aside and starts a new one"
    )]
    Damaged {
        /// The store's file.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
    /// The file or its folder cannot be used.
    #[error("cannot use {path}: {source}; check that the folder exists, is writable and has free space")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// There is no room for what was to be written.
    #[error("the disk is full: {path} cannot grow; free some space, everything stored so far is kept")]
    Full {
        /// The store's file.
        path: PathBuf,
    },
    /// The database could not be opened again after a failure of the disk, and another thread was told why.
    #[error("the store {path} is closed after a failure of the disk; check its free space and health")]
    Closed {
        /// The store's file.
        path: PathBuf,
    },
    /// The database failed while it was open.
    #[error("the store {path} failed: {source}; check the disk's free space and health")]
    Storage {
        /// The store's file.
        path: PathBuf,
        /// What the database said.
        source: Box<redb::Error>,
    },
}

/// Sorts what the database says when it opens a file.
#[allow(clippy::wildcard_enum_match_arm, reason = "the enum is another crate's and grows")]
pub(super) fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    let path = path.to_owned();
    let error = redb::Error::from(error);
    if matches!(error, redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch) {
        return StoreError::Busy { path };
    }
    let redb::Error::Io(source) = error else { return storage_error(&path, error) };
    match source.kind() {
        ErrorKind::NotFound => StoreError::Missing { path },
        // Not a database at all, or cut short.
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof => StoreError::Damaged { path, reason: source.to_string() },
        CHANGED => StoreError::Changed { path },
        kind if is_full(kind) => StoreError::Full { path },
        _ => StoreError::File { path, source },
    }
}

/// Sorts what the database says while it is open.
#[allow(clippy::wildcard_enum_match_arm, reason = "the enum is another crate's and grows")]
pub(super) fn storage_error(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    match error {
        redb::Error::Corrupted(reason) => StoreError::Damaged { path, reason },
        redb::Error::Io(source) if source.kind() == CHANGED => StoreError::Changed { path },
        redb::Error::Io(source) if is_full(source.kind()) => StoreError::Full { path },
        error => StoreError::Storage { path, source: Box::new(error) },
    }
}

pub(super) fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}
