//! Fills the store: images through the extractor, features as they are.
//!
//! Each image is hashed first; one whose content is stored is not extracted again. What was extracted is committed at
//! least once a second, so stopping at any moment, by whatever means, loses a second of work and no image: the same
//! command goes on from there.
//!
//! Read [`Ingest`] first.

mod batch;
mod features;
mod follow;

use core::ops::ControlFlow;
use core::time::Duration;
use std::path::{Path, PathBuf};
use std::thread;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::extractor::Extractor;
use crate::image_input::ImageInput;
use crate::resources::Governor;
use crate::source::{Entry, ImageSource, Source, SourceError, Split, printable};
use crate::store::{Store, StoreError};
use batch::Batch;
pub use features::{check_features, ingest_features};

/// Images that are handed over together, and the bytes after which there are fewer: three such chunks are in memory, one
/// being read, one waiting and one being extracted.
const CHUNK_IMAGES: usize = 64;
const CHUNK_BYTES: usize = 4 << 20;
/// Most unusable images that a report names; the others are counted.
pub const MAX_NAMED: usize = 10_000;
/// How often a wish to stop is looked for while nothing comes from the source.
const STOP_PERIOD: Duration = Duration::from_millis(100);

/// What turns data into stored features.
#[derive(Clone, Copy, Debug)]
pub struct Ingest<'a> {
    /// The store's class list.
    pub classes: &'a [String],
    /// Prepares images for the extractor.
    pub input: &'a ImageInput,
    /// The frozen extractor.
    pub extractor: &'a Extractor,
    /// Where features go.
    pub store: &'a Store,
    /// What extraction waits for, where it follows a folder.
    pub governor: &'a Governor,
    /// How much of the machine to take.
    pub cores: Cores,
}

/// How much of the machine to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cores {
    /// All of it: extraction runs on rayon's threads.
    All,
    /// The calling thread alone: there is other work to do beside.
    One,
}

/// How far an ingest has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Images or rows dealt with.
    pub done: usize,
    /// Images or rows there are.
    pub total: usize,
}

/// What became of the images or rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Images or rows of classes of the list that were dealt with.
    pub images: usize,
    /// Stored.
    pub added: u32,
    /// Their content was stored already, under any name.
    pub duplicates: u32,
    /// Stored ones that gave way to smaller classes or by the draw inside their class.
    pub evicted: u32,
    /// Left out because the store is full of their class.
    pub left_out: u32,
    /// Names of images that could not be used, and why, ordered by name; at most [`MAX_NAMED`].
    pub unreadable: Vec<(String, String)>,
    /// How many more there were.
    pub unreadable_more: usize,
    /// Classes of the source that are not in the list, ordered by name.
    pub unknown_classes: Vec<String>,
    /// Whether a wish to stop ended the ingest before the last image.
    pub stopped: bool,
}

/// Why data cannot be ingested.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The data themselves.
    #[error(transparent)]
    Source(#[from] SourceError),
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

/// What an ingest will do, found out before anything is stored.
#[derive(Debug)]
pub struct Plan<'a> {
    source: &'a ImageSource,
    split: Split,
    /// For each class of the source its label in the list.
    labels: Vec<Option<u16>>,
    total: usize,
    unknown_classes: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Looks for the classes of a split in the class list, and refuses data without one image of them. `path` is what
    /// the source was opened from.
    pub fn new(path: &Path, source: &'a ImageSource, split: Split, classes: &[String]) -> Result<Self, IngestError> {
        check_split(path, split, &source.splits())?;
        let label = |class: &String| (0_u16..).zip(classes).find(|(_, known)| *known == class).map(|(label, _)| label);
        let labels: Vec<Option<u16>> = source.classes().iter().map(label).collect();
        let counts = || labels.iter().zip(source.counts(split));
        let total = counts().filter(|(label, _)| label.is_some()).map(|(_, &count)| count as usize).sum();
        let unknown =
            source.classes().iter().zip(counts()).filter(|(_, (label, count))| label.is_none() && **count > 0);
        let unknown_classes: Vec<String> = unknown.map(|(class, _)| class.clone()).collect();
        if total == 0 {
            let example = classes.first().cloned().unwrap_or_default();
            return Err(IngestError::NoImages { path: path.to_owned(), example, unknown_classes });
        }
        Ok(Self { source, split, labels, total, unknown_classes })
    }

    /// Images of classes of the list.
    pub fn total(&self) -> usize {
        self.total
    }

    fn label(&self, class: u16) -> Option<u16> {
        self.labels.get(usize::from(class)).copied().flatten()
    }
}

impl Ingest<'_> {
    /// Extracts and stores every new image of a plan. `progress` is told after each chunk, `stop` is asked before each
    /// image.
    pub fn images(
        &self,
        plan: &Plan<'_>,
        progress: &dyn Fn(Progress),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Report, IngestError> {
        let mut report = Report { unknown_classes: plan.unknown_classes.clone(), ..Report::default() };
        let mut batch = Batch::default();
        progress(Progress { done: 0, total: plan.total });
        let (sender, chunks) = bounded(1);
        thread::scope(|scope| {
            let reader = thread::Builder::new().name("read".into());
            let reader = reader.spawn_scoped(scope, move || read(plan, sender)).map_err(IngestError::Thread)?;
            let kept = self.keep_all(plan, &chunks, &mut batch, &mut report, progress, stop);
            // The reader gives up as soon as nobody takes its chunks.
            drop(chunks);
            let read = reader.join().unwrap_or(Err(SourceError::Unreadable));
            kept?;
            Ok::<(), IngestError>(read?)
        })?;
        report.unreadable.sort();
        Ok(report)
    }

    fn keep_all(
        &self,
        plan: &Plan<'_>,
        chunks: &Receiver<Vec<Entry>>,
        batch: &mut Batch,
        report: &mut Report,
        progress: &dyn Fn(Progress),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), IngestError> {
        loop {
            if self.governor.pause().is_some() {
                // A pause may be long and end in a power cut.
                batch.commit(self.store, report)?;
            }
            report.stopped = stop();
            if report.stopped {
                break;
            }
            match chunks.recv_timeout(STOP_PERIOD) {
                Ok(chunk) => {
                    let labelled = chunk.into_iter().filter_map(|entry| Some((plan.label(entry.class)?, entry)));
                    report.stopped = batch.extract(self, labelled.collect(), report, stop)?;
                    batch.commit_in_time(self.store, report)?;
                    progress(Progress { done: report.images, total: plan.total.max(report.images) });
                }
                Err(RecvTimeoutError::Timeout) => batch.commit_in_time(self.store, report)?,
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if report.stopped {
                break;
            }
        }
        batch.commit(self.store, report)
    }
}

/// Opens `path` and ingests its training split on all cores: [`Ingest::images`] in one call.
pub fn ingest(
    path: &Path,
    classes: &[String],
    input: &ImageInput,
    extractor: &Extractor,
    store: &Store,
    progress: &dyn Fn(Progress),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Report, IngestError> {
    match Source::open(path)? {
        Source::Images(source) => {
            let plan = Plan::new(path, &source, Split::Train, classes)?;
            let governor = &Governor::default();
            Ingest { classes, input, extractor, store, governor, cores: Cores::All }.images(&plan, progress, stop)
        }
        Source::Features(source) => ingest_features(path, &source, Split::Train, classes, store, progress, stop),
    }
}

/// Visits the source and hands its images over in chunks, until nobody takes them.
fn read(plan: &Plan<'_>, chunks: Sender<Vec<Entry>>) -> Result<(), SourceError> {
    let mut chunk = Vec::with_capacity(CHUNK_IMAGES);
    let mut bytes = 0;
    let wants = |class| plan.label(class).is_some();
    plan.source.visit(plan.split, &wants, &mut |entry| {
        bytes += entry.content.as_ref().map_or(0, |content| content.len());
        chunk.push(entry);
        if chunk.len() < CHUNK_IMAGES && bytes < CHUNK_BYTES {
            return ControlFlow::Continue(());
        }
        bytes = 0;
        match chunks.send(core::mem::take(&mut chunk)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    })?;
    // A closed channel means that the ingest was stopped.
    let _ = chunks.send(chunk);
    Ok(())
}

fn check_split(path: &Path, split: Split, there: &[Split]) -> Result<(), IngestError> {
    if there.contains(&split) {
        return Ok(());
    }
    let there = there.iter().map(Split::to_string).collect::<Vec<_>>().join(" and ");
    Err(IngestError::NoSplit { path: path.to_owned(), split, there })
}

fn unknown_hint(classes: &[String]) -> String {
    let names: Vec<&str> = classes.iter().take(5).map(String::as_str).collect();
    if names.is_empty() { String::new() } else { format!(" (found folders of no class: {})", names.join(", ")) }
}

#[cfg(test)]
mod tests;
