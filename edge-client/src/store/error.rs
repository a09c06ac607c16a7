//! What can go wrong with a store, sorted by whose fault it is.

use std::path::{Path, PathBuf};

use redb::DatabaseError;

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
    /// The labels mean other classes.
    #[error(
        "the store {path} was filled for the classes {stored:?}, but the configuration now lists {configured:?}; \
         run `edge-client ingest --reset` to read the images again, or restore the old list"
    )]
    ClassesChanged {
        /// The store's file.
        path: PathBuf,
        /// The list in the store.
        stored: Vec<String>,
        /// The list asked for.
        configured: Vec<String>,
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
    /// The process that wrote it was killed, and a reader must not repair.
    #[error("the store {path} was not closed properly; `edge-client run` or `edge-client ingest` repairs it")]
    NeedsRepair {
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
    /// A text or blob beyond its limit.
    #[error("{what} of {bytes} bytes is over the store's limit of {limit} bytes")]
    TooLarge {
        /// What was to be stored.
        what: &'static str,
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
    /// The database failed while it was open.
    #[error("the store {path} failed: {source}; check the disk's free space and health, then start again")]
    Storage {
        /// The store's file.
        path: PathBuf,
        /// What the database said.
        source: Box<redb::Error>,
    },
}

/// Sorts what the database says when it opens a file.
pub(super) fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    use std::io::ErrorKind;
    let path = path.to_owned();
    let error = redb::Error::from(error);
    if matches!(error, redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch) {
        return StoreError::Busy { path };
    }
    if matches!(error, redb::Error::RepairAborted) {
        return StoreError::NeedsRepair { path };
    }
    let redb::Error::Io(source) = error else { return storage_error(&path, error) };
    if source.kind() == ErrorKind::NotFound {
        return StoreError::Missing { path };
    }
    // Not a database at all, or cut short.
    if matches!(source.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) {
        return StoreError::Damaged { path, reason: source.to_string() };
    }
    StoreError::File { path, source }
}

/// Sorts what the database says while it is open.
pub(super) fn storage_error(path: &Path, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    if let redb::Error::Corrupted(reason) = error {
        return StoreError::Damaged { path, reason };
    }
    StoreError::Storage { path, source: Box::new(error) }
}
