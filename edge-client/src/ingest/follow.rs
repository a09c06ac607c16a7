//! Following a folder that a camera writes into.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::time::Instant;

use grapevine_host::Shutdown;

use super::batch::{Batch, Outcome};
use super::{Ingest, IngestError, MAX_NAMED, Report};
use crate::source::{EntryError, printable, read_image};
use crate::watch::{Arrival, Watch};

impl Ingest<'_> {
    /// Stores the images of a watched folder as they are complete, until `shutdown`. `observe` is told the whole report
    /// after each batch that held something.
    ///
    /// A file that cannot be used may still be written to; it is reported once it has stayed the same for
    /// [`crate::watch::PATIENCE`]. A folder that is away is waited for.
    pub fn follow(
        &self,
        watch: &mut Watch,
        shutdown: &Shutdown,
        observe: &mut dyn FnMut(&Report),
    ) -> Result<Report, IngestError> {
        let started = now();
        let mut following = Following::default();
        let mut complaint = None;
        while !shutdown.is_requested() {
            match watch.look(started.elapsed()) {
                Ok(arrivals) => {
                    if following.take(self, watch, &arrivals, shutdown)? {
                        observe(&following.report);
                    }
                    complaint = None;
                }
                Err(error) => {
                    let text = Some(error.to_string());
                    if complaint != text {
                        tracing::warn!("{error}; it is looked for again and again");
                        complaint = text;
                    }
                }
            }
            // Only a request ends the wait early.
            let _ = shutdown.receiver().recv_timeout(watch.pause());
        }
        following.report.unreadable.sort();
        Ok(following.report)
    }
}

/// A folder that is being followed.
#[derive(Default)]
pub(super) struct Following {
    pub(super) report: Report,
    batch: Batch,
    unknown: BTreeSet<String>,
}

impl Following {
    /// Deals with a batch of arrivals; says whether anything came of it.
    pub(super) fn take(
        &mut self,
        ingest: &Ingest<'_>,
        watch: &mut Watch,
        arrivals: &[Arrival],
        shutdown: &Shutdown,
    ) -> Result<bool, IngestError> {
        let before = self.report.images;
        let labelled: Vec<(u16, &Arrival)> =
            arrivals.iter().filter_map(|arrival| Some((self.label(ingest, arrival)?, arrival))).collect();
        let outcomes = ingest.each(labelled.clone(), &|(label, arrival): (u16, &Arrival)| {
            if !ingest.governor.passes(shutdown) {
                return Outcome::Stopped;
            }
            match read_image(&arrival.path) {
                Ok(content) => ingest.governor.in_turn(|| ingest.extract(label, &content)),
                // A camera's other half may have taken it away.
                Err(EntryError::Read(error)) if error.kind() == ErrorKind::NotFound => Outcome::Stopped,
                Err(error) => Outcome::Unreadable(error.to_string()),
            }
        });
        for ((_, arrival), outcome) in labelled.iter().zip(outcomes) {
            if matches!(outcome, Outcome::Unreadable(_)) && !arrival.last_try {
                watch.give_back(arrival);
            } else {
                self.batch.note(printable(&arrival.path), outcome, &mut self.report)?;
            }
        }
        self.batch.commit(ingest.store, &mut self.report)?;
        Ok(self.report.images > before)
    }

    /// The label of an arrival; those of no class are mentioned once.
    fn label(&mut self, ingest: &Ingest<'_>, arrival: &Arrival) -> Option<u16> {
        let class = arrival.class.as_deref().unwrap_or(".");
        let label = (0_u16..).zip(ingest.classes).find(|(_, known)| *known == class).map(|(label, _)| label);
        if label.is_none() && self.unknown.len() < MAX_NAMED && self.unknown.insert(class.to_owned()) {
            tracing::warn!(folder = class, "images in this folder are of no class of the configuration and not taken");
            self.report.unknown_classes = self.unknown.iter().cloned().collect();
        }
        label
    }
}

#[allow(clippy::disallowed_methods, reason = "this is a shell: the watch gets its time from here")]
fn now() -> Instant {
    Instant::now()
}
