//! What became of an ingest, and why one cannot be.

use std::path::PathBuf;

use crate::store::StoreError;
use grapevine_vision::source::passed_over::PassedOver;
use grapevine_vision::source::{SourceError, Split, printable};

/// Most unusable images that a report names; the others are counted.
pub const MAX_NAMED: usize = 10_000;

/// What became of the images or rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Images or rows of classes of the list that were dealt with.
    pub images: usize,
    /// Stored.
    pub added: u32,
    /// Their content was stored already, under any name.
    pub duplicates: u32,
    /// Their content was stored under another class and is of this one now.
    pub relabelled: u32,
    /// Stored ones that gave way to smaller classes or by the draw inside their class.
    pub evicted: u32,
    /// Left out because the store is full of their class.
    pub left_out: u32,
    /// Files that were not read, because they have not changed since they were.
    pub unread: u32,
    /// Contents under two classes at once; at most [`MAX_NAMED`].
    pub conflicts: Vec<Conflict>,
    /// How many more there were.
    pub conflicts_more: usize,
    /// Names of images that could not be used, and why, ordered by name; at most [`MAX_NAMED`].
    pub unreadable: Vec<(String, String)>,
    /// How many more there were.
    pub unreadable_more: usize,
    /// Classes of the source that are not in the list, ordered by name.
    pub unknown_classes: Vec<String>,
    /// All that was left aside, by reason.
    pub passed_over: PassedOver,
    /// What a person should know about the data as a whole.
    pub warnings: Vec<String>,
    /// Why nothing can be stored for now, where a folder is followed: the disk is full.
    pub storing_fails: Option<String>,
    /// Whether a wish to stop ended the ingest before the last image.
    pub stopped: bool,
}

/// One content under two classes. Neither is chosen: what was stored keeps its label, and what was not stays out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Two images of this content, and the class of each.
    pub images: [(String, String); 2],
    /// The class that it is stored under; `None` if it was left out.
    pub kept: Option<String>,
}

impl Conflict {
    /// For people.
    pub fn line(&self) -> String {
        let [(one, class), (other, other_class)] = &self.images;
        let kept = match &self.kept {
            Some(kept) => format!("it stays in `{kept}`"),
            None => "it is left out".to_owned(),
        };
        format!("{one} (`{class}`) and {other} (`{other_class}`) are the same image; {kept}")
    }
}

/// Why data cannot be ingested.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The data themselves.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Something failed after a part of the data was dealt with.
    #[error("{source}; before that, {} of {} images or rows were stored", report.added, report.images)]
    Partial {
        /// What was done until then.
        report: Box<Report>,
        /// What failed.
        source: Box<Self>,
    },
    /// A split that is not there.
    #[error("{} has no {split} split, only {there}; choose one of them with `--split`", printable(path))]
    NoSplit {
        /// The data.
        path: PathBuf,
        /// The split asked for.
        split: Split,
        /// The splits that are there.
        there: String,
    },
    /// No image under any class.
    #[error(
        "no PNG or JPEG image in {0}; put images into one folder per class, such as {0}/{example}/1.png{found}",
        printable(path),
        found = unknown_hint(unknown_classes)
    )]
    NoImages {
        /// The data.
        path: PathBuf,
        /// A class of the list.
        example: String,
        /// Classes of the source that are not in the list.
        unknown_classes: Vec<String>,
    },
    /// Features of another extractor.
    #[error("{} holds {found} features per sample, but the extractor gives {expected}", printable(path))]
    Width {
        /// The data.
        path: PathBuf,
        /// Features per sample in the data.
        found: usize,
        /// Features per sample in the store.
        expected: usize,
    },
    /// A label beyond the class list.
    #[error(
        "row {row} of the {split} split of {} has label {label}, but `classes` lists {classes} names, for the labels from 0",
        printable(path)
    )]
    Label {
        /// The data.
        path: PathBuf,
        /// The split.
        split: Split,
        /// Which row, from 0.
        row: usize,
        /// Its label.
        label: u16,
        /// Classes of the list.
        classes: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; the system is out of memory or of threads")]
    Thread(std::io::Error),
}

impl IngestError {
    /// The same failure, with what was done before it.
    pub(super) fn after(self, report: Report) -> Self {
        if report.images == 0 { self } else { Self::Partial { report: Box::new(report), source: Box::new(self) } }
    }
}

fn unknown_hint(classes: &[String]) -> String {
    let names: Vec<&str> = classes.iter().take(5).map(String::as_str).collect();
    if names.is_empty() { String::new() } else { format!(" (found folders of no class: {})", names.join(", ")) }
}
