//! Images between the extractor and the store.

use core::time::Duration;
use std::time::Instant;

use rayon::prelude::*;

use super::{Cores, Ingest, IngestError, MAX_NAMED, Report};
use crate::source::{Content, Entry};
use crate::store::{Digest, Sample, Store, StoreError, Wanted};

/// Most samples of one commit: a commit waits for the disk, so fewer would keep the cores waiting too.
const COMMIT_SAMPLES: usize = 512;
/// Longest time between two commits.
const COMMIT_PERIOD: Duration = Duration::from_secs(1);

/// Extracted and not yet committed.
#[derive(Debug, Default)]
pub(super) struct Batch {
    samples: Vec<(u16, Digest, Vec<f32>)>,
    last_commit: Option<Instant>,
}

/// What became of one image before the store.
pub(super) enum Outcome {
    Extracted { label: u16, digest: Digest, features: Vec<f32> },
    Duplicate,
    Full,
    Unreadable(String),
    Failed(StoreError),
    Stopped,
}

impl Batch {
    /// Extracts labelled images and notes in the report what became of them; says whether `stop` kept some from it.
    pub(super) fn extract(
        &mut self,
        ingest: &Ingest<'_>,
        entries: Vec<(u16, Entry)>,
        report: &mut Report,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<bool, IngestError> {
        let extract = |(label, entry): (u16, Entry)| {
            let outcome = match entry.content {
                _ if stop() => Outcome::Stopped,
                Ok(content) => ingest.extract(label, &content),
                Err(error) => Outcome::Unreadable(error.to_string()),
            };
            (entry.name, outcome)
        };
        let outcomes = ingest.each(entries, &extract);
        let mut stopped = false;
        for (name, outcome) in outcomes {
            stopped |= matches!(outcome, Outcome::Stopped);
            self.note(name, outcome, report)?;
        }
        Ok(stopped)
    }

    /// Notes one outcome.
    pub(super) fn note(&mut self, name: String, outcome: Outcome, report: &mut Report) -> Result<(), IngestError> {
        match outcome {
            Outcome::Stopped => return Ok(()),
            Outcome::Extracted { label, digest, features } => self.samples.push((label, digest, features)),
            Outcome::Duplicate => report.duplicates += 1,
            Outcome::Full => report.left_out += 1,
            Outcome::Unreadable(reason) if report.unreadable.len() < MAX_NAMED => {
                report.unreadable.push((name, reason))
            }
            Outcome::Unreadable(_) => report.unreadable_more += 1,
            Outcome::Failed(error) => return Err(error.into()),
        }
        report.images += 1;
        Ok(())
    }

    /// Commits if there is much to lose.
    pub(super) fn commit_in_time(&mut self, store: &Store, report: &mut Report) -> Result<(), IngestError> {
        let since = self.last_commit.get_or_insert_with(now).elapsed();
        if self.samples.len() >= COMMIT_SAMPLES || since >= COMMIT_PERIOD { self.commit(store, report) } else { Ok(()) }
    }

    pub(super) fn commit(&mut self, store: &Store, report: &mut Report) -> Result<(), IngestError> {
        let samples =
            self.samples.iter().map(|(label, digest, features)| Sample { label: *label, digest: *digest, features });
        let inserted = store.insert_batch(&samples.collect::<Vec<_>>())?;
        report.added += inserted.added;
        report.duplicates += inserted.duplicates;
        report.evicted += inserted.evicted;
        report.left_out += inserted.refused;
        self.samples.clear();
        self.last_commit = Some(now());
        Ok(())
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
            Ok(Wanted::Duplicate) => return Outcome::Duplicate,
            Ok(Wanted::Full) => return Outcome::Full,
            Err(error) => return Outcome::Failed(error),
        }
        let tensor = match self.input.prepare(content) {
            Ok(tensor) => tensor,
            Err(error) => return Outcome::Unreadable(error.to_string()),
        };
        match self.extractor.extract(&tensor) {
            Ok(features) => Outcome::Extracted { label, digest, features },
            Err(error) => Outcome::Unreadable(error.to_string()),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "how much a power cut may cost is a matter of time")]
fn now() -> Instant {
    Instant::now()
}
