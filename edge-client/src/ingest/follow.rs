//! Following a folder that a camera writes into.
//!
//! A full disk does not end it: what was extracted waits until there is room. An image that lies under two classes at
//! once is left as it was until one of the two files has gone.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf, absolute};
use std::time::Instant;

use grapevine_host::Shutdown;
use grapevine_host::sentence::sentence;

use super::batch::{Batch, Image, Outcome};
use super::{Conflict, Ingest, IngestError, MAX_NAMED, Report};
use crate::store::Digest;
use crate::watch::{Arrival, Watch, WatchError};
use grapevine_vision::source::passed_over::{PassedOver, Reason};
use grapevine_vision::source::{EntryError, Mark, printable, read_image};

/// Before a store that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

impl Ingest<'_> {
    /// Stores the images of a watched folder as they are complete, until `shutdown`. `observe` is told the whole report
    /// after each batch that held something, and when what is left aside changes.
    ///
    /// A file that cannot be used may still be written to; it is reported once it has stayed the same for
    /// [`crate::watch::PATIENCE`]. A folder that is away is waited for, and so is room on a full disk.
    ///
    /// # Errors
    /// If what was extracted last still cannot be stored at the end.
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
            let mut pause = Duration::ZERO;
            match following.step(self, watch, started.elapsed(), shutdown) {
                Ok(looked) => {
                    if following.recover() | following.has_news() {
                        observe(&following.report);
                    }
                    let text = looked.err().map(|error| error.to_string());
                    if let Some(text) = text.as_ref().filter(|_| complaint != text) {
                        tracing::warn!("{text}; it is looked for again and again");
                    }
                    complaint = text;
                }
                Err(error) => {
                    if following.fail(&error) {
                        observe(&following.report);
                    }
                    pause = RETRY;
                }
            }
            // Only a request ends the wait early.
            let _ = shutdown.receiver().recv_timeout(watch.pause().max(pause));
        }
        let last = following.batch.commit(self.store, &mut following.report);
        following.report.unreadable.sort();
        match last {
            Ok(()) => Ok(following.report),
            Err(error) => Err(error.after(following.report)),
        }
    }
}

/// A folder that is being followed.
#[derive(Default)]
pub(super) struct Following {
    pub(super) report: Report,
    batch: Batch,
    /// By [`Mark::file`]: so much of the content's digest, and the class.
    files: BTreeMap<u64, (u64, u16)>,
    /// So much of a digest, and the files of this content.
    by_content: BTreeSet<(u64, u64)>,
    /// Contents under two classes, with the files of each that were met.
    conflicts: BTreeMap<Digest, BTreeMap<u64, u16>>,
    /// Files that cannot be used: the name and the reason.
    troubles: BTreeMap<u64, (String, Reason)>,
    /// What the observer knows.
    told: (usize, PassedOver),
}

impl Following {
    /// One look and what comes of it. The inner error is about the folder, the outer one about the store.
    pub(super) fn step(
        &mut self,
        ingest: &Ingest<'_>,
        watch: &mut Watch,
        now: Duration,
        shutdown: &Shutdown,
    ) -> Result<Result<(), WatchError>, IngestError> {
        // What the disk had no room for.
        self.batch.commit(ingest.store, &mut self.report)?;
        let looked = watch.look_but(now, &mut |class, mark| self.is_known(ingest, class, mark));
        let arrivals = match looked {
            Ok(arrivals) => arrivals,
            Err(error) => return Ok(Err(error)),
        };
        self.take(ingest, watch, &arrivals, shutdown)?;
        Ok(Ok(()))
    }

    /// Deals with a batch of arrivals; says whether anything came of it.
    pub(super) fn take(
        &mut self,
        ingest: &Ingest<'_>,
        watch: &mut Watch,
        arrivals: &[Arrival],
        shutdown: &Shutdown,
    ) -> Result<bool, IngestError> {
        let before = self.report.images;
        self.forget_files(watch);
        let labelled: Vec<(u16, &Arrival)> =
            arrivals.iter().filter_map(|arrival| Some((self.label(ingest, arrival)?, arrival))).collect();
        let outcomes = ingest.each(labelled.clone(), &|(label, arrival): (u16, &Arrival)| {
            if !ingest.throttle.passes(shutdown) {
                return Outcome::Stopped;
            }
            match read_image(&arrival.path) {
                Ok(content) => ingest.throttle.in_turn(|| ingest.extract(label, &content)),
                // A camera's other half may have taken it away.
                Err(EntryError::Read(error)) if error.kind() == ErrorKind::NotFound => Outcome::Stopped,
                Err(error) => error.into(),
            }
        });
        let mut failed: Result<(), IngestError> = Ok(());
        for ((label, arrival), outcome) in labelled.into_iter().zip(outcomes) {
            let name = printable(&arrival.path);
            match outcome {
                // A file that may not be read is whole for all that is known; new permissions are a change of it.
                Outcome::Unreadable(Reason::Unusable, _) if !arrival.last_try => watch.give_back(arrival),
                Outcome::Unreadable(reason, _) if self.troubles.len() < MAX_NAMED => {
                    self.troubles.insert(arrival.mark.file, (name.clone(), reason));
                    self.batch.keep(image(name, label, arrival), outcome, &mut self.report)?;
                }
                Outcome::Failed(error) => {
                    watch.give_again(arrival.mark.file);
                    failed = Err(error.into());
                }
                outcome @ (Outcome::Extracted { .. }
                | Outcome::Duplicate(_)
                | Outcome::Labelled(..)
                | Outcome::Full(_)
                | Outcome::Unread(..)
                | Outcome::Unreadable(..)
                | Outcome::Stopped) => self.settle(ingest, watch, image(name, label, arrival), outcome)?,
            }
        }
        self.note_passed_over(ingest, watch);
        failed?;
        self.batch.commit(ingest.store, &mut self.report)?;
        Ok(self.report.images > before)
    }

    /// Keeps an image, unless its content lies under another class too.
    fn settle(
        &mut self,
        ingest: &Ingest<'_>,
        watch: &Watch,
        image: Image,
        outcome: Outcome,
    ) -> Result<(), IngestError> {
        let (Some((digest, before)), Some(mark)) = (outcome.content(image.label), image.mark) else {
            return self.batch.keep(image, outcome, &mut self.report);
        };
        self.troubles.remove(&mark.file);
        self.see(mark.file, &digest, image.label);
        let content = first_word(&digest);
        let same = self.by_content.range((content, 0)..=(content, u64::MAX)).map(|&(_, file)| file);
        let others: BTreeMap<u64, u16> = same
            .filter(|file| *file != mark.file && watch.holds(*file))
            .filter_map(|file| self.files.get(&file).map(|&(_, label)| (file, label)))
            .filter(|&(_, label)| label != image.label)
            .collect();
        let Some((&other, &other_label)) = others.first_key_value() else {
            return self.batch.keep(image, outcome, &mut self.report);
        };
        self.report.images += 1;
        if before.is_none() {
            // Both came at once.
            self.batch.withdraw(digest, None);
        }
        let class = |label: u16| ingest.classes.get(usize::from(label)).cloned().unwrap_or_default();
        let origin = ingest.store.origin_of(&digest)?.filter(|origin| file_of(origin) == Some(other));
        let other_name = origin.unwrap_or_else(|| format!("a file in `{}`", class(other_label)));
        let images = [(other_name, class(other_label)), (image.name, class(image.label))];
        let conflict = Conflict { images, kept: before.map(class) };
        let files = self.conflicts.entry(digest).or_default();
        if files.insert(mark.file, image.label).is_none() {
            tracing::warn!("{}; {}", conflict.line(), Reason::Conflict.cure());
            self.report.note_conflict(conflict);
        }
        files.extend(others);
        Ok(())
    }

    /// Whether a file that is met first was dealt with before this start.
    fn is_known(&mut self, ingest: &Ingest<'_>, class: Option<&str>, mark: Mark) -> bool {
        let Some(label) = class.and_then(|class| label_of(ingest, class)) else { return false };
        let Some(digest) = ingest.known(mark, label) else { return false };
        self.see(mark.file, &digest, label);
        self.report.images += 1;
        self.report.unread += 1;
        self.report.duplicates += 1;
        true
    }

    fn see(&mut self, file: u64, digest: &Digest, label: u16) {
        let content = first_word(digest);
        if let Some((former, _)) = self.files.insert(file, (content, label)) {
            self.by_content.remove(&(former, file));
        }
        self.by_content.insert((content, file));
    }

    /// Forgets files that have gone. What lay under two classes and lies under one now is given again.
    fn forget_files(&mut self, watch: &mut Watch) {
        let Self { files, by_content, troubles, conflicts, .. } = self;
        if files.len() > watch.count() {
            files.retain(|file, (content, _)| watch.holds(*file) || !by_content.remove(&(*content, *file)));
        }
        troubles.retain(|file, _| watch.holds(*file));
        conflicts.retain(|_, files| {
            files.retain(|file, _| watch.holds(*file));
            let is_settled = files.values().collect::<BTreeSet<_>>().len() < 2;
            if is_settled {
                files.keys().for_each(|file| watch.give_again(*file));
            }
            !is_settled
        });
    }

    /// The label of an arrival, if it is of a class.
    fn label(&mut self, ingest: &Ingest<'_>, arrival: &Arrival) -> Option<u16> {
        label_of(ingest, arrival.class.as_deref()?)
    }

    /// Brings the report up to date with what the last look met.
    fn note_passed_over(&mut self, ingest: &Ingest<'_>, watch: &Watch) {
        let mut passed_over = watch.tally().passed_over.clone();
        let mut unknown = Vec::new();
        for (folder, &count) in &watch.tally().by_folder {
            let folder = folder.as_deref();
            if folder.and_then(|folder| label_of(ingest, folder)).is_none() {
                let shown = folder.unwrap_or(".");
                passed_over.note_many(Reason::NoClass, &printable(&watch.folder().join(shown)), count);
                unknown.push(shown.to_owned());
            }
        }
        unknown.truncate(MAX_NAMED);
        self.troubles.values().for_each(|(name, reason)| passed_over.note(*reason, name));
        for files in self.conflicts.values() {
            let classes: BTreeSet<&str> = files
                .values()
                .filter_map(|label| ingest.classes.get(usize::from(*label)))
                .map(String::as_str)
                .collect();
            let classes: Vec<String> = classes.iter().map(|class| format!("`{class}`")).collect();
            passed_over.note(Reason::Conflict, &format!("one in {}", classes.join(" and ")));
        }
        (self.report.unknown_classes, self.report.passed_over) = (unknown, passed_over);
    }

    /// Whether there is something that the observer does not know; says in the log what changed.
    pub(super) fn has_news(&mut self) -> bool {
        let (images, told) = &self.told;
        let has_images = *images != self.report.images;
        let has_changed = *told != self.report.passed_over;
        for (reason, named) in self.report.passed_over.iter().filter(|(reason, named)| told.of(*reason) != Some(*named))
        {
            match reason.is_trouble() {
                true => tracing::warn!("{}", named.sentence(reason)),
                false => tracing::info!("{}", named.sentence(reason)),
            }
        }
        self.told = (self.report.images, self.report.passed_over.clone());
        has_images || has_changed
    }

    /// Notes that the store failed; says whether that is news.
    fn fail(&mut self, error: &IngestError) -> bool {
        let text = sentence(error);
        let is_news = self.report.storing_fails.as_ref() != Some(&text);
        if is_news {
            tracing::error!("no images are stored for now, it is tried again: {text}");
            self.report.storing_fails = Some(text);
        }
        is_news
    }

    /// Notes that the store works; says whether that is news.
    fn recover(&mut self) -> bool {
        let is_news = self.report.storing_fails.take().is_some();
        if is_news {
            tracing::info!("images are stored again");
        }
        is_news
    }
}

fn image(name: String, label: u16, arrival: &Arrival) -> Image {
    let origin = absolute(&arrival.path).unwrap_or_else(|_| PathBuf::from(&arrival.path));
    Image { name, origin: origin.to_string_lossy().into_owned(), label, mark: Some(arrival.mark) }
}

fn label_of(ingest: &Ingest<'_>, class: &str) -> Option<u16> {
    (0_u16..).zip(ingest.classes).find(|(_, known)| *known == class).map(|(label, _)| label)
}

/// [`Mark::file`] of a file that is there.
fn file_of(origin: &str) -> Option<u64> {
    let path = Path::new(origin);
    path.metadata().ok().map(|metadata| Mark::of(path, &metadata, 0).file)
}

fn first_word(digest: &Digest) -> u64 {
    let (word, _) = digest.split_first_chunk::<8>().expect("a digest has 32 bytes");
    u64::from_le_bytes(*word)
}

#[allow(clippy::disallowed_methods, reason = "this is a shell: the watch gets its time from here")]
fn now() -> Instant {
    Instant::now()
}
