//! What can be wrong with data that people bring.

use std::io;
use std::path::{Path, PathBuf};

use super::limits::{MAX_CLASSES, MAX_EXPANSION};
use super::printable;
use crate::image_input::MAX_IMAGE_BYTES;
use crate::source::passed_over::{PassedOver, Reason};
use grapevine_host::sentence::one_line;

/// Why data cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing there, or no permission.
    #[error("cannot open {}: {source}; check the path", printable(path))]
    Open {
        /// What was to be opened.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder cannot be listed.
    #[error("cannot list {}: {source}; check its permissions", printable(path))]
    List {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// None of the kinds that are known.
    #[error(
        "{} is no data set known here; give a folder of class folders, a folder with labels.csv, a .tar.gz of class \
         folders, a CIFAR archive, IDX files or an .npz of features",
        printable(path)
    )]
    Unknown {
        /// What was looked at.
        path: PathBuf,
    },
    /// A source without a single image.
    #[error(
        "no PNG or JPEG image in {}; put images into one folder per class{}{}",
        printable(path),
        found(classes),
        aside(passed_over)
    )]
    NoImages {
        /// What was looked at.
        path: PathBuf,
        /// Classes without images.
        classes: Vec<String>,
        /// What is there instead.
        passed_over: PassedOver,
    },
    /// The bytes end too early or contradict each other.
    #[error("{} is damaged ({reason}); copy it again", place(path, part))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The archive's member, if it is known.
        part: Option<String>,
        /// What is wrong with it.
        reason: String,
    },
    /// A part of the file that cannot be used: a row, a record, a member.
    #[error("{}: {reason}", place(path, &Some(part.clone())))]
    Part {
        /// The file.
        path: PathBuf,
        /// Which part of it.
        part: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The whole file cannot be used.
    #[error("{}: {reason}", printable(path))]
    Whole {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// An archive that would fill any disk.
    #[error(
        "{} unpacks to more than {limit} times its size, which no archive of images does; unpack it by hand if you \
         trust it",
        printable(path),
        limit = MAX_EXPANSION
    )]
    Bomb {
        /// The archive.
        path: PathBuf,
    },
    /// A fault of this program.
    #[error("the reader gave up on the data; please report what is printed above")]
    Unreadable,
    /// More classes than labels can number.
    #[error("{} has more than {limit} classes; is it the right folder?", printable(path), limit = MAX_CLASSES)]
    TooManyClasses {
        /// The source.
        path: PathBuf,
    },
}

/// Why one image of a source cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// This user may not read the file.
    #[error("may not be read by this user; {}", Reason::Permission.cure())]
    Permission,
    /// The file is over [`MAX_IMAGE_BYTES`].
    #[error("is larger than {limit} bytes; scale the image down", limit = MAX_IMAGE_BYTES)]
    TooLarge,
    /// A path that leads out of its data set.
    #[error("lies outside the folder of its table; give a path inside")]
    Outside,
}

impl SourceError {
    pub(super) fn open(path: &Path, source: io::Error) -> Self {
        Self::Open { path: path.to_owned(), source }
    }

    pub(super) fn list(path: &Path, source: io::Error) -> Self {
        Self::List { path: path.to_owned(), source }
    }

    pub(super) fn damaged(path: &Path, part: Option<&str>, reason: impl ToString) -> Self {
        Self::Damaged { path: path.to_owned(), part: part.map(str::to_owned), reason: one_line(&reason.to_string()) }
    }

    pub(super) fn part(path: &Path, part: impl ToString, reason: impl ToString) -> Self {
        Self::Part { path: path.to_owned(), part: part.to_string(), reason: reason.to_string() }
    }

    pub(super) fn whole(path: &Path, reason: impl ToString) -> Self {
        Self::Whole { path: path.to_owned(), reason: reason.to_string() }
    }

    /// Sorts what a reader says in the middle of a file.
    pub(super) fn reading(path: &Path, part: Option<&str>, error: &io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<Expanded>()) {
            return Self::Bomb { path: path.to_owned() };
        }
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return Self::damaged(path, part, "it ends in the middle");
        }
        Self::damaged(path, part, error)
    }
}

/// Says inside an [`io::Error`] that an archive unpacks to more than it may.
#[derive(Debug, thiserror::Error)]
#[error("it unpacks to more than it may")]
pub(super) struct Expanded;

impl From<io::Error> for EntryError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::PermissionDenied { Self::Permission } else { Self::Read(error) }
    }
}

/// What lies in a folder instead of images.
fn aside(passed_over: &PassedOver) -> String {
    passed_over.sentences().map(|(_, sentence)| format!("; {sentence}")).collect()
}

fn place(path: &Path, part: &Option<String>) -> String {
    match part {
        Some(part) => format!("{}: {part}", printable(path)),
        None => printable(path),
    }
}

fn found(classes: &[String]) -> String {
    let names: Vec<&str> = classes.iter().take(5).map(String::as_str).collect();
    if names.is_empty() { String::new() } else { format!(" (found empty folders: {})", names.join(", ")) }
}
