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
mod report;
mod sightings;

use core::ops::ControlFlow;
use core::time::Duration;
use std::path::{Path, PathBuf, absolute};
use std::thread;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::resources::Throttle;
use crate::store::Store;
use batch::{Batch, Image};
pub use features::{check_features, ingest_features};
use grapevine_vision::extractor::Extractor;
use grapevine_vision::image_input::ImageInput;
use grapevine_vision::source::passed_over::{PassedOver, Reason};
use grapevine_vision::source::{Found, ImageSource, Item, Source, SourceError, Split};
pub use report::{Conflict, IngestError, MAX_NAMED, Report};
use sightings::Sightings;

/// Images that are handed over together, and the bytes after which there are fewer: three such chunks are in memory, one
/// being read, one waiting and one being extracted.
const CHUNK_IMAGES: usize = 64;
const CHUNK_BYTES: usize = 4 << 20;
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
    pub throttle: &'a Throttle,
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

/// What an ingest will do, found out before anything is stored.
#[derive(Debug)]
pub struct Plan<'a> {
    path: PathBuf,
    source: &'a ImageSource,
    split: Split,
    /// For each class of the source its label in the list.
    labels: Vec<Option<u16>>,
    total: usize,
    unknown_classes: Vec<String>,
    passed_over: PassedOver,
}

impl<'a> Plan<'a> {
    /// Looks for the classes of a split in the class list, and refuses data without one image of them. `path` is what
    /// the source was opened from.
    ///
    /// # Errors
    /// If the split is not there, or holds no image of a class of the list.
    pub fn new(path: &Path, source: &'a ImageSource, split: Split, classes: &[String]) -> Result<Self, IngestError> {
        check_split(path, split, &source.splits())?;
        let label = |class: &String| (0_u16..).zip(classes).find(|(_, known)| *known == class).map(|(label, _)| label);
        let labels: Vec<Option<u16>> = source.classes().iter().map(label).collect();
        let counts = || labels.iter().zip(source.counts(split));
        let total = counts().filter(|(label, _)| label.is_some()).map(|(_, &count)| count as usize).sum();
        let unknown =
            source.classes().iter().zip(counts()).filter(|(_, (label, count))| label.is_none() && **count > 0);
        let mut passed_over = source.passed_over().clone();
        unknown.clone().for_each(|(class, (_, &count))| passed_over.note_many(Reason::NoClass, class, count));
        let unknown_classes: Vec<String> = unknown.map(|(class, _)| class.clone()).collect();
        if total == 0 {
            let example = classes.first().cloned().unwrap_or_default();
            return Err(IngestError::NoImages { path: path.to_owned(), example, unknown_classes });
        }
        let path = absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { path, source, split, labels, total, unknown_classes, passed_over })
    }

    /// Images of classes of the list.
    pub fn total(&self) -> usize {
        self.total
    }

    fn label(&self, class: u16) -> Option<u16> {
        self.labels.get(usize::from(class)).copied().flatten()
    }

    /// An image of the source and what it holds; `None` if it is of no class.
    fn image(&self, item: Item) -> Option<(Image, Found)> {
        let Item { name, class, mark, found } = item;
        let label = self.label(class)?;
        // A file of its own is named by its path, a part of a file below that file.
        let origin = if mark.is_some() { absolute(&name).unwrap_or_default() } else { self.path.join(&name) };
        Some((Image { origin: origin.to_string_lossy().into_owned(), name, label, mark }, found))
    }
}

impl Ingest<'_> {
    /// Extracts and stores every new image of a plan. `progress` is told after each chunk, `stop` is asked before each
    /// image.
    ///
    /// # Errors
    /// If the source or the store fails; [`IngestError::Partial`] if that is after some images were dealt with.
    pub fn images(
        &self,
        plan: &Plan<'_>,
        progress: &dyn Fn(Progress),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<Report, IngestError> {
        let (unknown_classes, passed_over) = (plan.unknown_classes.clone(), plan.passed_over.clone());
        let mut report = Report { unknown_classes, passed_over, ..Report::default() };
        let mut batch = Batch::default();
        progress(Progress { done: 0, total: plan.total });
        let (sender, chunks) = bounded(1);
        let outcome = thread::scope(|scope| {
            let reader = thread::Builder::new().name("read".into());
            let reader = reader.spawn_scoped(scope, move || self.read(plan, sender)).map_err(IngestError::Thread)?;
            let kept = self.keep_all(plan, &chunks, &mut batch, &mut report, progress, stop);
            // The reader gives up as soon as nobody takes its chunks.
            drop(chunks);
            let read = reader.join().unwrap_or(Err(SourceError::Unreadable));
            kept?;
            Ok::<(), IngestError>(read?)
        });
        report.unreadable.sort();
        match outcome {
            Ok(()) => Ok(report),
            Err(error) => Err(error.after(report)),
        }
    }

    fn keep_all(
        &self,
        plan: &Plan<'_>,
        chunks: &Receiver<Vec<Item>>,
        batch: &mut Batch,
        report: &mut Report,
        progress: &dyn Fn(Progress),
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), IngestError> {
        let mut sightings = Sightings::default();
        loop {
            if self.throttle.pause().is_some() {
                // A pause may be long and end in a power cut.
                batch.commit(self.store, report)?;
            }
            report.stopped = stop();
            if report.stopped {
                break;
            }
            match chunks.recv_timeout(STOP_PERIOD) {
                Ok(chunk) => {
                    let images = chunk.into_iter().filter_map(|item| plan.image(item)).collect();
                    report.stopped = batch.extract(self, images, &mut sightings, report, stop)?;
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

    /// Visits the source and hands its images over in chunks, until nobody takes them.
    fn read(&self, plan: &Plan<'_>, chunks: Sender<Vec<Item>>) -> Result<(), SourceError> {
        let mut chunk = Vec::with_capacity(CHUNK_IMAGES);
        let mut bytes = 0;
        let wants = |class| plan.label(class).is_some();
        let known = |mark, class| self.known(mark, plan.label(class)?);
        plan.source.visit_items(plan.split, &wants, &known, &mut |item| {
            if let Found::Content(Ok(content)) = &item.found {
                bytes += content.len();
            }
            chunk.push(item);
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
}

/// Opens `path` and ingests its training split on all cores: [`Ingest::images`] in one call.
///
/// # Errors
/// If the data cannot be read or used, or the store fails; [`IngestError::Partial`] if that is after some were dealt
/// with.
pub fn ingest(
    path: &Path,
    classes: &[String],
    input: &ImageInput,
    extractor: &Extractor,
    store: &Store,
    progress: &dyn Fn(Progress),
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Report, IngestError> {
    match Source::open_for(path, classes)? {
        Source::Images(source) => {
            let plan = Plan::new(path, &source, Split::Train, classes)?;
            let throttle = &Throttle::default();
            Ingest { classes, input, extractor, store, throttle, cores: Cores::All }.images(&plan, progress, stop)
        }
        Source::Features(source) => ingest_features(path, &source, Split::Train, classes, store, progress, stop),
    }
}

fn check_split(path: &Path, split: Split, there: &[Split]) -> Result<(), IngestError> {
    if there.contains(&split) {
        return Ok(());
    }
    let there = there.iter().map(Split::to_string).collect::<Vec<_>>().join(" and ");
    Err(IngestError::NoSplit { path: path.to_owned(), split, there })
}

#[cfg(test)]
mod tests;
