//! `edge-client ingest`: images in, features stored.

use core::fmt::Write;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use grapevine_edge_client::image_input::ImageInput;
use grapevine_edge_client::ingest::{Progress, Report, count_images};
use grapevine_host::Shutdown;
use grapevine_host::sentence::one_line;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::setup::Setup;
use super::{Answer, Common, INTERRUPTED};

const EXAMPLES: &str = "\
Examples:
  edge-client ingest pictures/              # pictures/<class>/*.png, *.jpg
  edge-client ingest pictures/ --reset      # after a change of extractor or class list
  edge-client ingest pictures/ --json | jq .added

Images that are stored already are passed over, so a folder can be ingested again and again. Ctrl-C keeps what is done.
Exit code 1 if a file or a folder could not be used; all others are stored.";

/// Extract features from a folder of images and store them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// A folder with one folder of images per class.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Forget all stored features, the newest head and the pending update first.
    #[arg(long)]
    reset: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Ingested {
    images: usize,
    added: u32,
    duplicates: u32,
    evicted: u32,
    left_out: u32,
    unreadable: Vec<Unreadable>,
    unknown_folders: Vec<PathBuf>,
    stopped: bool,
    seconds: f64,
    stored_by_class: Vec<Stored>,
}

#[derive(Serialize)]
struct Unreadable {
    file: PathBuf,
    reason: String,
}

#[derive(Serialize)]
struct Stored {
    class: String,
    samples: u32,
}

pub(super) fn ingest(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let shutdown = Shutdown::on_signals()?;
    let setup = Setup::load(common.configuration()?)?;
    let (folder, classes) = (&arguments.folder, &setup.config.classes);
    // Both before the store is touched: a wrong folder must not cost a `--reset` its features.
    let images = count_images(folder, classes)?;
    let extractor = setup.extractor()?;
    let store = if arguments.reset { setup.reset_store() } else { setup.open_store() }?;
    let bar = bar(images);
    let progress = |progress: Progress| bar.set_position(progress.done as u64);
    let input = ImageInput::new(&setup.manifest.input);
    let started = now();
    let stop = || shutdown.is_requested();
    let report = grapevine_edge_client::ingest::ingest(folder, classes, &input, &extractor, &store, &progress, &stop);
    bar.finish_and_clear();
    let counts = store.counts()?.into_iter().zip(classes);
    let stored = counts.map(|(samples, class)| Stored { class: class.clone(), samples }).collect();
    let ingested = Ingested::new(report?, started.elapsed().as_secs_f64(), stored);
    let mut answer = Answer::of(&ingested, arguments.json, render)?;
    answer.complaints.extend(ingested.complaint());
    answer.code = match (ingested.stopped, answer.complaints.is_empty()) {
        (true, _) => INTERRUPTED,
        (false, true) => 0,
        (false, false) => 1,
    };
    Ok(answer)
}

impl Ingested {
    fn new(report: Report, seconds: f64, stored_by_class: Vec<Stored>) -> Self {
        let unreadable = |(file, reason): (PathBuf, String)| Unreadable { file, reason: one_line(&reason) };
        Self {
            images: report.images,
            added: report.added,
            duplicates: report.duplicates,
            evicted: report.evicted,
            left_out: report.left_out,
            unreadable: report.unreadable.into_iter().map(unreadable).collect(),
            unknown_folders: report.unknown_folders,
            stopped: report.stopped,
            seconds,
            stored_by_class,
        }
    }

    /// What a person must look at.
    fn complaint(&self) -> Option<String> {
        let files = match self.unreadable.as_slice() {
            [] => None,
            [one] => Some(format!("{} could not be used", one.file.display())),
            several => Some(format!("{} files could not be used", several.len())),
        };
        let folders = match self.unknown_folders.as_slice() {
            [] => None,
            [one] => Some(format!("{} is no class of the configuration", one.display())),
            several => Some(format!("{} folders are no classes of the configuration", several.len())),
        };
        let parts: Vec<String> = [files, folders].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("{}; the rest is stored, the report says more", parts.join(" and ")))
    }
}

fn render(ingested: &Ingested) -> String {
    let Ingested { images, added, duplicates, evicted, left_out, seconds, .. } = ingested;
    let total: u32 = ingested.stored_by_class.iter().map(|stored| stored.samples).sum();
    let mut text = String::new();
    if ingested.stopped {
        text.push_str("stopped; what is done is kept, the same command goes on from here\n");
    }
    let mut line = format!("{images} images: {added} added, {duplicates} duplicates");
    for (count, what) in [(*evicted, "evicted by smaller classes"), (*left_out, "left out of a full store")] {
        if count > 0 {
            // Writing to a string cannot fail.
            let _ = write!(line, ", {count} {what}");
        }
    }
    let _ = writeln!(text, "{line}; {total} stored in {seconds:.1} s");
    for Unreadable { file, reason } in &ingested.unreadable {
        let name = file.display().to_string();
        let line = if reason.contains(&name) { reason.clone() } else { format!("{name}: {reason}") };
        let _ = writeln!(text, "  unusable: {line}");
    }
    for folder in &ingested.unknown_folders {
        let _ = writeln!(text, "  no class: {}", folder.display());
    }
    text
}

fn bar(images: usize) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "extracting {bar:30} {pos}/{len} images, {eta} left";
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    ProgressBar::new(images as u64).with_style(style)
}

#[allow(clippy::disallowed_methods, reason = "a command line tells people how long it took")]
fn now() -> Instant {
    Instant::now()
}
