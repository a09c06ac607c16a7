//! `edge-client ingest`: images in, features stored.

use core::fmt::Write;
use core::num::NonZeroUsize;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use grapevine_edge_client::ingest::{
    Cores, Ingest, IngestError, Plan, Progress, Report, check_features, ingest_features,
};
use grapevine_edge_client::resources::{Resources, Throttle};
use grapevine_edge_client::store::{Replacement, Store, StoreError};
use grapevine_edge_client::watch::Watch;
use grapevine_host::Shutdown;
use grapevine_host::sentence::sentence;
use grapevine_vision::extractor::trial::TrialError;
use grapevine_vision::image_input::ImageInput;
use grapevine_vision::source::{Source, Split};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::background_task::BackgroundTask;
use super::ingested::{Ingested, Stored};
use super::intake::Intakes;
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
Images that are stored already are passed over, so data can be ingested again and again; files that have not changed are not
even read. The newest label counts: an image that was moved to another class folder or listed anew gets its new class. One
image under two classes at once is named, keeps the class that it has in the store, and is left out if it is new. A file
that is deleted does not take its sample with it: see `edge-client forget`.
After Ctrl-C the images that were stored stay. With `--reset` the old samples go only when all new ones are there, so a
failure before that changes nothing. An .npz of features is stored whole, or not at all if one row is unusable. `[resources]`
in the configuration limits the threads and pauses a hot device. Exit code 1 if an image or a class could not be used, or if
an image lies under two classes; all others are stored.";

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
    /// Forget all stored features, the newest head and the pending update, once the new ones are complete.
    #[arg(long)]
    reset: bool,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
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
    let throttle = govern(&setup)?;
    let take_in = if arguments.watch { follow } else { once };
    let outcome = take_in(&setup, arguments, &throttle, shutdown)?;
    let Outcome { report, store, failure } = outcome;
    let state = &setup.config.state;
    if arguments.reset && store.is_some() {
        Intakes::clear(state);
    }
    if store.is_some() {
        Intakes::note(state, &arguments.path, &report);
    }
    let counts = store.map(|store| store.counts()).transpose()?;
    let counts = counts.into_iter().flatten().zip(&setup.config.classes);
    let stored = counts.map(|(samples, class)| Stored { class: class.clone(), samples }).collect();
    Ingested::new(report, started.elapsed().as_secs_f64(), stored, failure).answer(arguments.json)
}

/// What an ingest leaves.
struct Outcome {
    report: Report,
    /// `None` if the former store stays as it was.
    store: Option<Store>,
    /// What ended it before its time.
    failure: Option<String>,
}

/// Where samples go.
enum Target {
    /// Into the store that is there.
    Store(Store),
    /// Into one that takes its place in the end.
    Replacement(Replacement),
}

impl Target {
    /// Nothing of the store that is there may be lost before all is well.
    fn open(setup: &Setup, arguments: &Arguments) -> Result<Self, StoreError> {
        if arguments.reset { setup.replacement().map(Self::Replacement) } else { setup.open_store().map(Self::Store) }
    }

    fn store(&self) -> &Store {
        match self {
            Self::Store(store) => store,
            Self::Replacement(replacement) => replacement.store(),
        }
    }

    fn settle(self, result: Result<Report, IngestError>) -> anyhow::Result<Outcome> {
        match (self, result) {
            (Self::Store(store), Ok(report)) => Ok(Outcome { report, store: Some(store), failure: None }),
            (Self::Store(store), Err(error @ IngestError::Partial { .. })) => {
                let failure = Some(sentence(&error));
                let IngestError::Partial { report, .. } = error else { unreachable!("the pattern above") };
                Ok(Outcome { report: *report, store: Some(store), failure })
            }
            (Self::Store(_), Err(error)) => Err(error.into()),
            (Self::Replacement(_), Ok(report)) if report.stopped => Ok(Outcome { report, store: None, failure: None }),
            (Self::Replacement(new), Ok(report)) if new.store().counts()?.iter().all(|&count| count == 0) => {
                let failure = Some("not one sample could be stored, so the store stays as it was".to_owned());
                Ok(Outcome { report, store: None, failure })
            }
            (Self::Replacement(new), Ok(report)) => {
                Ok(Outcome { report, store: Some(new.take_place()?), failure: None })
            }
            (Self::Replacement(_), Err(error)) => {
                let error = if let IngestError::Partial { source, .. } = error { *source } else { error };
                Err(anyhow::anyhow!("{}; the store stays as it was", sentence(&error)))
            }
        }
    }
}

/// Everything that is there now.
fn once(setup: &Setup, arguments: &Arguments, throttle: &Throttle, shutdown: &Shutdown) -> anyhow::Result<Outcome> {
    let (path, split, classes) = (&arguments.path, arguments.split, &setup.config.classes);
    // Before the store is touched: wrong data cost nothing.
    match Source::open_for(path, classes)? {
        Source::Images(source) => {
            let plan = Plan::new(path, &source, split, classes)?;
            let extractor = setup.extractor(shutdown)?;
            let target = Target::open(setup, arguments)?;
            let input = ImageInput::new(&setup.manifest.input);
            let store = target.store();
            let ingest = Ingest { classes, input: &input, extractor: &extractor, store, throttle, cores: Cores::All };
            let bar = bar(plan.total(), "extracting");
            let result = ingest.images(&plan, &|progress| show(&bar, progress), &|| !throttle.passes(shutdown));
            bar.finish_and_clear();
            target.settle(result)
        }
        Source::Features(source) => {
            check_features(path, &source, split, classes, setup.shape.features())?;
            let target = Target::open(setup, arguments)?;
            let bar = bar(source.labels(split).len(), "storing");
            let (progress, stop) = (|progress| show(&bar, progress), || shutdown.is_requested());
            let result = ingest_features(path, &source, split, classes, target.store(), &progress, &stop);
            bar.finish_and_clear();
            target.settle(result)
        }
    }
}

/// Stores the images of a watched folder beside other work, on one core, until `shutdown`.
pub(super) fn in_background(
    setup: &Setup,
    folder: &Path,
    store: &Arc<Store>,
    throttle: &Throttle,
    shutdown: &Shutdown,
) -> anyhow::Result<BackgroundTask> {
    let (extractor, input) = (setup.extractor(shutdown)?, ImageInput::new(&setup.manifest.input));
    let (classes, store, shutdown) = (setup.config.classes.clone(), store.clone(), shutdown.clone());
    let (throttle, state) = (throttle.clone(), setup.config.state.clone());
    let mut watch = Watch::new(folder);
    // What an earlier process said is over.
    Intakes::note(&state, folder, &Report::default());
    tracing::info!(watch = %folder.display(), "storing images as they come");
    BackgroundTask::start("ingest", move || {
        throttle.lower_priority();
        let (classes, store, throttle) = (&classes, &*store, &throttle);
        let ingest = Ingest { classes, input: &input, extractor: &extractor, store, throttle, cores: Cores::One };
        let folder = watch.folder().to_owned();
        let mut observe = |report: &Report| observe(&state, &folder, report);
        if let Err(error) = ingest.follow(&mut watch, &shutdown, &mut observe) {
            // The files are still there, and are taken with the next start.
            tracing::error!("the last images are not stored: {}", sentence(&error));
        }
    })
}

fn follow(setup: &Setup, arguments: &Arguments, throttle: &Throttle, shutdown: &Shutdown) -> anyhow::Result<Outcome> {
    let extractor = setup.extractor(shutdown)?;
    let mut watch = Watch::new(&arguments.path);
    // A folder that is away later may come back; one that was never there is a mistake.
    watch.check()?;
    if arguments.reset {
        // What is there now replaces the store as a whole, or not at all.
        let first = once(setup, arguments, throttle, shutdown)?;
        if first.store.is_none() || first.failure.is_some() || first.report.stopped {
            return Ok(first);
        }
        observe(&setup.config.state, &arguments.path, &first.report);
    }
    let store = setup.open_store().map_err(|error| {
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
    let ingest = Ingest { classes, input: &input, extractor: &extractor, store: &store, throttle, cores: Cores::All };
    let state = &setup.config.state;
    let result = ingest.follow(&mut watch, shutdown, &mut |report| observe(state, &arguments.path, report));
    Target::Store(store).settle(result)
}

/// Lets the threads that extract yield as the configuration says. Called once.
fn govern(setup: &Setup) -> anyhow::Result<Throttle> {
    let resources = &setup.config.resources;
    // The threads' number bounds them already; turns would only make them wait.
    let throttle = Throttle::new(&Resources { threads: None, ..resources.clone() });
    let (first, others) = (throttle.clone(), throttle.clone());
    first.lower_priority();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(resources.threads.map_or(0, NonZeroUsize::get));
    pool.start_handler(move |_| others.lower_priority()).build_global()?;
    Ok(throttle)
}

/// One line for each batch of a watched folder, and a note for `status`.
fn observe(state: &Path, folder: &Path, report: &Report) {
    let Report { images, added, duplicates, relabelled, left_out, .. } = report;
    let aside: u64 = report.passed_over.iter().filter(|(reason, _)| reason.is_trouble()).map(|(_, of)| of.count).sum();
    if report.storing_fails.is_none() {
        tracing::info!(images, added, duplicates, relabelled, left_out, unusable = aside, "images came in");
    }
    Intakes::note(state, folder, report);
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
