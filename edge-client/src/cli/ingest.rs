//! `edge-client ingest`: images in, features stored.

use core::fmt::Write;
use core::num::NonZeroUsize;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use grapevine_edge_client::extractor::trial::TrialError;
use grapevine_edge_client::image_input::ImageInput;
use grapevine_edge_client::ingest::{Cores, Ingest, Plan, Progress, Report, check_features, ingest_features};
use grapevine_edge_client::resources::{Governor, Resources};
use grapevine_edge_client::source::{Source, Split};
use grapevine_edge_client::store::{Store, StoreError};
use grapevine_edge_client::watch::Watch;
use grapevine_host::Shutdown;
use grapevine_host::sentence::{one_line, sentence};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde::Serialize;

use super::beside::Beside;
use super::setup::Setup;
use super::{Answer, Common, INTERRUPTED};

const EXAMPLES: &str = "\
Examples:
  edge-client ingest pictures/              # pictures/<class>/*.png, *.jpg
  edge-client ingest labelled/              # labelled/labels.csv: file,label
  edge-client ingest cifar-10-binary.tar.gz --split test
  edge-client ingest features.npz           # train_features, train_labels
  edge-client ingest pictures/ --reset      # after a change of extractor or class list
  edge-client ingest pictures/ --json | jq .added
  edge-client ingest --watch camera/        # camera/<class>/*.jpg as they come, until Ctrl-C

Reads folders of class folders, tables (labels.csv), either under train/ and test/, .tar and .tar.gz of class folders,
CIFAR-10 and CIFAR-100 in binary form, IDX files (MNIST), and .npz of features as the extractor's manifest defines them.
Images that are stored already are passed over, so data can be ingested again and again. Ctrl-C keeps what is done.
`[resources]` in the configuration limits the cores and pauses a hot device. Exit code 1 if an image or a class could not be used; all others are stored.";

/// Extract features from images and store them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// A folder, a table, an archive or an .npz.
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// The split to store, of data that have splits.
    #[arg(long, value_name = "SPLIT", default_value_t = Split::Train)]
    split: Split,
    /// Follow the folder PATH and store what is written to it, until Ctrl-C.
    #[arg(long, conflicts_with = "split")]
    watch: bool,
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
    unreadable_more: usize,
    unknown_classes: Vec<String>,
    stopped: bool,
    seconds: f64,
    images_per_second: f64,
    stored_by_class: Vec<Stored>,
}

#[derive(Serialize)]
struct Unreadable {
    file: String,
    reason: String,
}

#[derive(Serialize)]
struct Stored {
    class: String,
    samples: u32,
}

pub(super) fn ingest(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let shutdown = Shutdown::on_signals()?;
    match ingest_until(common, arguments, &shutdown) {
        Err(error) if error.is::<TrialError>() && shutdown.is_requested() => {
            Ok(Answer::complaint(error.to_string(), INTERRUPTED))
        }
        other => other,
    }
}

fn ingest_until(common: &Common, arguments: &Arguments, shutdown: &Shutdown) -> anyhow::Result<Answer> {
    let setup = Setup::load(common.configuration()?)?;
    let started = now();
    let (report, store) = if arguments.watch {
        follow(&setup, arguments, shutdown)?
    } else {
        match Source::open(&arguments.path)? {
            Source::Images(source) => {
                // Before the store is touched: wrong data must not cost a `--reset` its features.
                let plan = Plan::new(&arguments.path, &source, arguments.split, &setup.config.classes)?;
                store_images(&setup, arguments, &plan, shutdown)?
            }
            Source::Features(source) => {
                let (path, split, classes) = (&arguments.path, arguments.split, &setup.config.classes);
                check_features(path, &source, split, classes, setup.shape.features())?;
                let store = open(&setup, arguments)?;
                let bar = bar(source.labels(split).len(), "storing");
                let stop = || shutdown.is_requested();
                let progress = |progress| show(&bar, progress);
                let report = ingest_features(path, &source, split, classes, &store, &progress, &stop);
                bar.finish_and_clear();
                (report?, store)
            }
        }
    };
    let counts = store.counts()?.into_iter().zip(&setup.config.classes);
    let stored = counts.map(|(samples, class)| Stored { class: class.clone(), samples }).collect();
    let ingested = Ingested::new(report, started.elapsed().as_secs_f64(), stored);
    let mut answer = Answer::of(&ingested, arguments.json, render)?;
    answer.complaints.extend(ingested.complaint());
    answer.code = match (ingested.stopped, answer.complaints.is_empty()) {
        (true, _) => INTERRUPTED,
        (false, true) => 0,
        (false, false) => 1,
    };
    Ok(answer)
}

fn store_images(
    setup: &Setup,
    arguments: &Arguments,
    plan: &Plan<'_>,
    shutdown: &Shutdown,
) -> anyhow::Result<(Report, Store)> {
    let extractor = setup.extractor(shutdown)?;
    let store = open(setup, arguments)?;
    let input = ImageInput::new(&setup.manifest.input);
    let classes = &setup.config.classes;
    let governor = &govern(setup)?;
    let ingest = Ingest { classes, input: &input, extractor: &extractor, store: &store, governor, cores: Cores::All };
    let bar = bar(plan.total(), "extracting");
    let report = ingest.images(plan, &|progress| show(&bar, progress), &|| !governor.passes(shutdown));
    bar.finish_and_clear();
    Ok((report?, store))
}

/// Stores the images of a watched folder beside other work, on one core, until `shutdown`.
pub(super) fn in_background(
    setup: &Setup,
    folder: &Path,
    store: &Arc<Store>,
    governor: &Governor,
    shutdown: &Shutdown,
) -> anyhow::Result<Beside> {
    let (extractor, input) = (setup.extractor(shutdown)?, ImageInput::new(&setup.manifest.input));
    let (classes, store, shutdown) = (setup.config.classes.clone(), store.clone(), shutdown.clone());
    let governor = governor.clone();
    let mut watch = Watch::new(folder);
    tracing::info!(watch = %folder.display(), "storing images as they come");
    Beside::start("ingest", move || {
        governor.stand_back();
        let (classes, store, governor) = (&classes, &*store, &governor);
        let ingest = Ingest { classes, input: &input, extractor: &extractor, store, governor, cores: Cores::One };
        if let Err(error) = ingest.follow(&mut watch, &shutdown, &mut log) {
            // The rounds go on with what is stored.
            tracing::error!("no more images are stored: {}", sentence(&error));
        }
    })
}

fn follow(setup: &Setup, arguments: &Arguments, shutdown: &Shutdown) -> anyhow::Result<(Report, Store)> {
    let extractor = setup.extractor(shutdown)?;
    let store = open(setup, arguments).map_err(|error| {
        let is_busy = matches!(error, StoreError::Busy { .. });
        let error = anyhow::Error::new(error);
        if !is_busy {
            return error;
        }
        error.context(format!(
            "to store images while `edge-client run` runs, let it watch the folder itself: put `watch = {:?}` under \
             `[ingest]` in the configuration and start it again",
            arguments.path
        ))
    })?;
    let input = ImageInput::new(&setup.manifest.input);
    let classes = &setup.config.classes;
    let governor = &govern(setup)?;
    let ingest = Ingest { classes, input: &input, extractor: &extractor, store: &store, governor, cores: Cores::All };
    let mut watch = Watch::new(&arguments.path);
    // A folder that is away later may come back; one that was never there is a mistake.
    watch.check()?;
    let report = ingest.follow(&mut watch, shutdown, &mut log)?;
    Ok((report, store))
}

/// Lets the threads that extract yield as the configuration says. Called once.
fn govern(setup: &Setup) -> anyhow::Result<Governor> {
    let resources = &setup.config.resources;
    // The threads' number bounds them already; turns would only make them wait.
    let governor = Governor::new(&Resources { threads: None, ..resources.clone() });
    let (first, others) = (governor.clone(), governor.clone());
    first.stand_back();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(resources.threads.map_or(0, NonZeroUsize::get));
    pool.start_handler(move |_| others.stand_back()).build_global()?;
    Ok(governor)
}

/// For writing, emptied first if that was asked for.
fn open(setup: &Setup, arguments: &Arguments) -> Result<Store, StoreError> {
    if arguments.reset { setup.reset_store() } else { setup.open_store() }
}

/// One line for each batch of a watched folder.
fn log(report: &Report) {
    let Report { images, added, duplicates, left_out, .. } = report;
    tracing::info!(images, added, duplicates, left_out, unusable = report.unreadable.len(), "images came in");
}

impl Ingested {
    fn new(report: Report, seconds: f64, stored_by_class: Vec<Stored>) -> Self {
        let unreadable = |(file, reason): (String, String)| Unreadable { file, reason: one_line(&reason) };
        Self {
            images: report.images,
            added: report.added,
            duplicates: report.duplicates,
            evicted: report.evicted,
            left_out: report.left_out,
            unreadable: report.unreadable.into_iter().map(unreadable).collect(),
            unreadable_more: report.unreadable_more,
            unknown_classes: report.unknown_classes,
            stopped: report.stopped,
            seconds,
            images_per_second: if seconds > 0.0 { report.images as f64 / seconds } else { 0.0 },
            stored_by_class,
        }
    }

    /// What a person must look at.
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
        let parts: Vec<String> = [files, classes].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("{}; the rest is stored, the report says more", parts.join(" and ")))
    }
}

fn render(ingested: &Ingested) -> String {
    let Ingested { images, added, duplicates, evicted, left_out, seconds, images_per_second, .. } = ingested;
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
    let _ = writeln!(text, "{line}; {total} stored in {seconds:.1} s, {images_per_second:.0} a second");
    for Unreadable { file, reason } in &ingested.unreadable {
        let _ = writeln!(text, "  unusable: {file}: {reason}");
    }
    if ingested.unreadable_more > 0 {
        let _ = writeln!(text, "  unusable: {} more", ingested.unreadable_more);
    }
    for class in &ingested.unknown_classes {
        let _ = writeln!(text, "  no class: {class}");
    }
    text
}

fn bar(total: usize, doing: &'static str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{msg} {bar:30} {pos}/{len}, {per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    let style = style.with_key("per_sec", |state: &ProgressState, text: &mut dyn Write| {
        // The text is the bar's own.
        let _ = write!(text, "{:.0} a second", state.per_sec());
    });
    ProgressBar::new(total as u64).with_style(style).with_message(doing)
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_length(progress.total as u64);
    bar.set_position(progress.done as u64);
}

#[allow(clippy::disallowed_methods, reason = "a command line tells people how long it took")]
fn now() -> Instant {
    Instant::now()
}
