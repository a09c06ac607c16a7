//! What `ingest` says at its end.

use core::fmt::Write;

use grapevine_edge_client::ingest::{Conflict, Report};
use grapevine_host::sentence::one_line;
use grapevine_vision::source::passed_over::{PassedOver, Reason};
use serde::Serialize;

use super::{Answer, INTERRUPTED};

/// The report of one ingest.
#[derive(Serialize)]
pub(super) struct Ingested {
    images: usize,
    added: u32,
    duplicates: u32,
    relabelled: u32,
    evicted: u32,
    left_out: u32,
    /// Files that have not changed since they were read.
    unread: u32,
    conflicts: Vec<Conflicting>,
    conflicts_more: usize,
    unreadable: Vec<Unreadable>,
    unreadable_more: usize,
    unknown_classes: Vec<String>,
    passed_over: Vec<Aside>,
    warnings: Vec<String>,
    stopped: bool,
    /// What ended it before its time.
    failure: Option<String>,
    seconds: f64,
    images_per_second: f64,
    /// Empty if the store stayed as it was.
    stored_by_class: Vec<Stored>,
}

#[derive(Serialize)]
struct Unreadable {
    file: String,
    reason: String,
}

/// One image under two classes.
#[derive(Serialize)]
struct Conflicting {
    images: [Labelled; 2],
    /// The class it is stored under; absent if it was left out.
    kept: Option<String>,
    #[serde(skip)]
    line: String,
}

#[derive(Serialize)]
struct Labelled {
    image: String,
    class: String,
}

/// Files of one reason.
#[derive(Serialize)]
pub(super) struct Aside {
    reason: Reason,
    count: u64,
    examples: Vec<String>,
    cure: &'static str,
    #[serde(skip)]
    pub(super) sentence: String,
}

/// Samples of one class.
#[derive(Serialize)]
pub(super) struct Stored {
    pub(super) class: String,
    pub(super) samples: u32,
}

impl Aside {
    /// For people and for JSON.
    pub(super) fn all(passed_over: &PassedOver) -> Vec<Self> {
        let aside = passed_over.iter().map(|(reason, named)| Self {
            reason,
            count: named.count,
            examples: named.examples.clone(),
            cure: reason.cure(),
            sentence: named.sentence(reason),
        });
        aside.collect()
    }
}

impl From<Conflict> for Conflicting {
    fn from(conflict: Conflict) -> Self {
        let line = conflict.line();
        let Conflict { images, kept } = conflict;
        Self { images: images.map(|(image, class)| Labelled { image, class }), kept, line }
    }
}

impl Ingested {
    pub(super) fn new(report: Report, seconds: f64, stored_by_class: Vec<Stored>, failure: Option<String>) -> Self {
        let unreadable = |(file, reason): (String, String)| Unreadable { file, reason: one_line(&reason) };
        Self {
            images: report.images,
            added: report.added,
            duplicates: report.duplicates,
            relabelled: report.relabelled,
            evicted: report.evicted,
            left_out: report.left_out,
            unread: report.unread,
            conflicts: report.conflicts.into_iter().map(Conflicting::from).collect(),
            conflicts_more: report.conflicts_more,
            unreadable: report.unreadable.into_iter().map(unreadable).collect(),
            unreadable_more: report.unreadable_more,
            unknown_classes: report.unknown_classes,
            passed_over: Aside::all(&report.passed_over),
            warnings: report.warnings,
            stopped: report.stopped,
            failure,
            seconds,
            images_per_second: if seconds > 0.0 { report.images as f64 / seconds } else { 0.0 },
            stored_by_class,
        }
    }

    /// The report, as JSON if that was asked for, and what a person must look at.
    pub(super) fn answer(mut self, json: bool) -> anyhow::Result<Answer> {
        // Text for people has them already.
        if json {
            self.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        }
        let mut answer = Answer::of(&self, json, render)?;
        let complaint = self.complaint();
        answer.complaints.extend(self.failure.take());
        answer.complaints.extend(complaint);
        answer.code = match (self.stopped, answer.complaints.is_empty()) {
            (true, _) => INTERRUPTED,
            (false, true) => 0,
            (false, false) => 1,
        };
        Ok(answer)
    }

    /// What a person must look at, in one sentence.
    fn complaint(&self) -> Option<String> {
        let files = match self.unreadable.as_slice() {
            [] => None,
            [one] => Some(format!("{} could not be used", one.file)),
            several => Some(format!("{} images could not be used", several.len() + self.unreadable_more)),
        };
        let classes = match self.unknown_classes.as_slice() {
            [] => None,
            [one] => Some(format!("`{one}` is no class of the configuration")),
            several => Some(format!("{} folders are no classes of the configuration", several.len())),
        };
        let count =
            |of: Reason| self.passed_over.iter().find(|aside| aside.reason == of).map_or(0, |aside| aside.count);
        let loose = match (count(Reason::NoClass), &classes) {
            (0, _) | (_, Some(_)) => None,
            (1, None) => Some("1 image lies in no class folder".to_owned()),
            (several, None) => Some(format!("{several} images lie in no class folder")),
        };
        let closed = match count(Reason::ClosedFolder) {
            0 => None,
            1 => Some("1 folder may not be listed".to_owned()),
            several => Some(format!("{several} folders may not be listed")),
        };
        let conflicts = match self.conflicts.len() + self.conflicts_more {
            0 => None,
            1 => Some("1 image lies under two classes".to_owned()),
            several => Some(format!("{several} images lie under two classes")),
        };
        let parts: Vec<String> = [files, classes, loose, closed, conflicts].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("{}; the rest is stored, the report says more", parts.join(" and ")))
    }
}

fn render(ingested: &Ingested) -> String {
    let Ingested { images, added, duplicates, seconds, images_per_second, .. } = ingested;
    let total: u32 = ingested.stored_by_class.iter().map(|stored| stored.samples).sum();
    let mut text = String::new();
    let is_replaced = !ingested.stored_by_class.is_empty();
    match (ingested.stopped, is_replaced) {
        (true, true) => text.push_str("stopped; what is done is kept, the same command goes on from here\n"),
        (true, false) => text.push_str("stopped before the end; the store stays as it was\n"),
        (false, _) => {}
    }
    let noun = if *images == 1 { "image" } else { "images" };
    let mut line = format!("{images} {noun}: {added} added, {duplicates} duplicates");
    for (count, what) in [
        (ingested.relabelled, "of another class now"),
        (ingested.evicted, "evicted by smaller classes"),
        (ingested.left_out, "left out of a full store"),
        (ingested.unread, "not read again"),
    ] {
        if count > 0 {
            // Writing to a string cannot fail.
            let _ = write!(line, ", {count} {what}");
        }
    }
    let stored = if is_replaced { format!("{total} stored") } else { "nothing stored".to_owned() };
    let _ = writeln!(text, "{line}; {stored} in {seconds:.1} s, {images_per_second:.0} a second");
    for warning in &ingested.warnings {
        let _ = writeln!(text, "  warning: {warning}");
    }
    for conflict in &ingested.conflicts {
        let _ = writeln!(text, "  two classes: {}", conflict.line);
    }
    if ingested.conflicts_more > 0 {
        let _ = writeln!(text, "  two classes: {} more", ingested.conflicts_more);
    }
    for Unreadable { file, reason } in &ingested.unreadable {
        let _ = writeln!(text, "  unusable: {file}: {reason}");
    }
    if ingested.unreadable_more > 0 {
        let _ = writeln!(text, "  unusable: {} more", ingested.unreadable_more);
    }
    for class in &ingested.unknown_classes {
        let _ = writeln!(text, "  no class: {class}");
    }
    let is_said = |reason: Reason| matches!(reason, Reason::Unusable | Reason::Conflict);
    for aside in ingested.passed_over.iter().filter(|aside| !is_said(aside.reason)) {
        let _ = writeln!(text, "  passed over: {}", aside.sentence);
    }
    text
}
