//! Images between the extractor and the store.

use core::time::Duration;
use std::time::Instant;

use rayon::prelude::*;

use super::sightings::{Sightings, Verdict};
use super::{Conflict, Cores, Ingest, IngestError, MAX_NAMED, Report};
use crate::store::{Digest, Inserted, Intake, KnownFile, NewLabel, Sample, Store, StoreError, Wanted};
use grapevine_vision::source::passed_over::Reason;
use grapevine_vision::source::{Content, EntryError, Found, Mark};

/// Most samples of one commit: a commit waits for the disk, so fewer would keep the cores waiting too.
const COMMIT_SAMPLES: usize = 512;
/// Most known files of one commit; they take no extraction.
const COMMIT_KNOWN: usize = 8_192;
/// Longest time between two commits.
const COMMIT_PERIOD: Duration = Duration::from_secs(1);

/// Dealt with and not yet committed.
#[derive(Debug, Default)]
pub(super) struct Batch {
    samples: Vec<New>,
    labels: Vec<NewLabel>,
    /// Labels that are given back because the image turned out to lie under two classes.
    restored: Vec<NewLabel>,
    forgotten: Vec<Digest>,
    known: Vec<KnownFile>,
    last_commit: Option<Instant>,
}

#[derive(Debug)]
struct New {
    label: u16,
    digest: Digest,
    features: Vec<f32>,
    origin: String,
}

/// An image on its way.
#[derive(Clone, Debug)]
pub(super) struct Image {
    /// For people.
    pub(super) name: String,
    /// Where its label stands, for the store.
    pub(super) origin: String,
    pub(super) label: u16,
    pub(super) mark: Option<Mark>,
}

/// What became of one image before the store.
#[derive(Debug)]
pub(super) enum Outcome {
    Extracted {
        digest: Digest,
        features: Vec<f32>,
    },
    Duplicate(Digest),
    /// It is stored under this other label.
    Labelled(Digest, u16),
    Full(Digest),
    /// It was not read; this is its label in the store.
    Unread(Digest, Option<u16>),
    Unreadable(Reason, String),
    Failed(StoreError),
    Stopped,
}

impl Outcome {
    /// The content, and its label in the store.
    pub(super) fn content(&self, label: u16) -> Option<(Digest, Option<u16>)> {
        match self {
            Self::Extracted { digest, .. } | Self::Full(digest) => Some((*digest, None)),
            Self::Duplicate(digest) => Some((*digest, Some(label))),
            Self::Labelled(digest, before) => Some((*digest, Some(*before))),
            Self::Unread(digest, before) => Some((*digest, *before)),
            Self::Unreadable(..) | Self::Failed(_) | Self::Stopped => None,
        }
    }
}

impl From<EntryError> for Outcome {
    fn from(error: EntryError) -> Self {
        let reason = if matches!(error, EntryError::Permission) { Reason::Permission } else { Reason::Unusable };
        Self::Unreadable(reason, error.to_string())
    }
}

impl Batch {
    /// Extracts images and notes in the report what became of them; says whether `stop` kept some from it.
    pub(super) fn extract(
        &mut self,
        ingest: &Ingest<'_>,
        images: Vec<(Image, Found)>,
        sightings: &mut Sightings,
        report: &mut Report,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<bool, IngestError> {
        let extract = |(image, found): (Image, Found)| {
            let outcome = match found {
                _ if stop() => Outcome::Stopped,
                Found::Known(digest) => ingest
                    .store
                    .label_of(&digest)
                    .map_or_else(Outcome::Failed, |before| Outcome::Unread(digest, before)),
                Found::Content(Ok(content)) => ingest.extract(image.label, &content),
                Found::Content(Err(error)) => error.into(),
            };
            (image, outcome)
        };
        let outcomes = ingest.each(images, &extract);
        let mut stopped = false;
        for (image, outcome) in outcomes {
            stopped |= matches!(outcome, Outcome::Stopped);
            let verdict = outcome
                .content(image.label)
                .map(|(digest, before)| sightings.see(&digest, image.label, before, &image.name));
            match (verdict, outcome) {
                (Some(Verdict::Conflict { first, first_label, before, is_new }), outcome) => {
                    report.images += 1;
                    let Some((digest, _)) = outcome.content(image.label) else { continue };
                    if is_new {
                        self.withdraw(digest, before);
                    }
                    let class = |label: u16| ingest.classes.get(usize::from(label)).cloned().unwrap_or_default();
                    let first = first.unwrap_or_else(|| "another image".to_owned());
                    let images = [(first, class(first_label)), (image.name, class(image.label))];
                    report.note_conflict(Conflict { images, kept: before.map(class) });
                }
                // The first one is on its way.
                (Some(Verdict::Same), Outcome::Extracted { digest, .. } | Outcome::Labelled(digest, _)) => {
                    self.keep(image, Outcome::Duplicate(digest), report)?;
                }
                (Some(Verdict::First | Verdict::Same) | None, outcome) => self.keep(image, outcome, report)?,
            }
        }
        Ok(stopped)
    }

    /// Notes one outcome.
    pub(super) fn keep(&mut self, image: Image, outcome: Outcome, report: &mut Report) -> Result<(), IngestError> {
        let Image { name, origin, label, mark } = image;
        let digest = outcome.content(label).map(|(digest, _)| digest);
        match outcome {
            Outcome::Stopped => return Ok(()),
            Outcome::Extracted { digest, features } => self.samples.push(New { label, digest, features, origin }),
            Outcome::Duplicate(_) => report.duplicates += 1,
            Outcome::Labelled(digest, _) => self.labels.push(NewLabel { digest, label, origin }),
            Outcome::Full(_) => report.left_out += 1,
            Outcome::Unread(_, before) => {
                report.unread += 1;
                report.images += 1;
                *(if before.is_some() { &mut report.duplicates } else { &mut report.left_out }) += 1;
                return Ok(());
            }
            Outcome::Unreadable(reason, text) => report.note_unreadable(reason, name, text),
            Outcome::Failed(error) => return Err(error.into()),
        }
        report.images += 1;
        if let (Some(Mark { file, stamp, is_certain: true }), Some(digest)) = (mark, digest) {
            self.known.push(KnownFile { file, stamp, digest, label });
        }
        Ok(())
    }

    /// Undoes what was done to a content in this pass: it gets the label back that it had `before`, or goes.
    pub(super) fn withdraw(&mut self, digest: Digest, before: Option<u16>) {
        self.known.retain(|known| known.digest != digest);
        self.samples.retain(|sample| sample.digest != digest);
        match before {
            Some(label) => self.restored.push(NewLabel { digest, label, origin: String::new() }),
            None => self.forgotten.push(digest),
        }
    }

    /// Commits if there is much to lose.
    pub(super) fn commit_in_time(&mut self, store: &Store, report: &mut Report) -> Result<(), IngestError> {
        let since = self.last_commit.get_or_insert_with(now).elapsed();
        let is_large = self.samples.len() >= COMMIT_SAMPLES || self.known.len() >= COMMIT_KNOWN;
        if is_large || since >= COMMIT_PERIOD { self.commit(store, report) } else { Ok(()) }
    }

    /// Commits everything; what fails is kept for the next time.
    pub(super) fn commit(&mut self, store: &Store, report: &mut Report) -> Result<(), IngestError> {
        let Self { samples, labels, forgotten, known, .. } = self;
        let samples = samples.iter().map(|new| {
            let sample = Sample { label: new.label, digest: new.digest, features: &new.features };
            (sample, new.origin.as_str())
        });
        let inserted = store.take_in(&Intake { samples: samples.collect(), labels, forgotten, known })?;
        report.count(&inserted);
        (self.samples, self.labels, self.forgotten, self.known) = Default::default();
        let restored = store.take_in(&Intake { labels: &self.restored, ..Intake::default() })?;
        report.relabelled = report.relabelled.saturating_sub(restored.relabelled);
        self.restored.clear();
        self.last_commit = Some(now());
        Ok(())
    }
}

impl Report {
    fn count(&mut self, inserted: &Inserted) {
        // What turned out to lie under two classes was added by this pass.
        self.added = (self.added + inserted.added).saturating_sub(inserted.forgotten);
        self.duplicates += inserted.duplicates;
        self.relabelled += inserted.relabelled;
        self.evicted += inserted.evicted;
        self.left_out += inserted.refused;
    }

    fn note_unreadable(&mut self, reason: Reason, name: String, text: String) {
        self.passed_over.note(reason, &name);
        if self.unreadable.len() < MAX_NAMED {
            self.unreadable.push((name, text));
        } else {
            self.unreadable_more += 1;
        }
    }

    pub(super) fn note_conflict(&mut self, conflict: Conflict) {
        self.passed_over.note(Reason::Conflict, &conflict.images[1].0);
        if self.conflicts.len() < MAX_NAMED {
            self.conflicts.push(conflict);
        } else {
            self.conflicts_more += 1;
        }
    }
}

impl Ingest<'_> {
    /// Does the same to many, in their order.
    pub(super) fn each<T: Send, O: Send>(&self, items: Vec<T>, act: &(impl Fn(T) -> O + Sync)) -> Vec<O> {
        match self.cores {
            Cores::All => items.into_par_iter().map(act).collect(),
            Cores::One => items.into_iter().map(act).collect(),
        }
    }

    /// One image, as far as its features.
    pub(super) fn extract(&self, label: u16, content: &Content) -> Outcome {
        let digest = content.digest();
        match self.store.wants(label, &digest) {
            Ok(Wanted::Yes) => {}
            Ok(Wanted::Duplicate) => return Outcome::Duplicate(digest),
            Ok(Wanted::Labelled(before)) => return Outcome::Labelled(digest, before),
            Ok(Wanted::Full) => return Outcome::Full(digest),
            Err(error) => return Outcome::Failed(error),
        }
        let tensor = match self.input.prepare(content) {
            Ok(tensor) => tensor,
            Err(error) => return Outcome::Unreadable(Reason::Unusable, error.to_string()),
        };
        match self.extractor.extract(&tensor) {
            Ok(features) => Outcome::Extracted { digest, features },
            Err(error) => Outcome::Unreadable(Reason::Unusable, error.to_string()),
        }
    }

    /// The content of a file that was read before under the same class and has not changed since, if the store has no
    /// use for it now.
    pub(super) fn known(&self, mark: Mark, label: u16) -> Option<Digest> {
        let (digest, _) = self.store.known(mark.file, mark.stamp).ok()?.filter(|&(_, former)| former == label)?;
        match self.store.wants(label, &digest).ok()? {
            // A person may have given it another label since, which is newer than the file's.
            Wanted::Duplicate | Wanted::Labelled(_) | Wanted::Full => Some(digest),
            Wanted::Yes => None,
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "how much a power cut may cost is a matter of time")]
fn now() -> Instant {
    Instant::now()
}
