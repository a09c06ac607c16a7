//! `fleet extractor`: bringing an extractor of one's own.

mod inspect;
mod manifest;
mod probe;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use grapevine_host::answer::INTERRUPTED;
use grapevine_host::{Answer, Shutdown};
use grapevine_simulator::data::images::{CacheError, FeatureCache};
use grapevine_vision::extractor::trial::{self, TrialError, Trier};
use grapevine_vision::frozen::FrozenExtractor;
use grapevine_vision::manifest as manifests;

/// This program as its own child.
const TRIER: Trier = Trier(&["--quiet", "extractor", "trial"]);

const EXAMPLES: &str = "\
Examples:
  fleet extractor inspect resnet.onnx                     # does it run here, and how fast
  fleet extractor manifest resnet.onnx --images pictures/ # write the manifest that devices need
  fleet extractor probe --data pictures/                  # how well its features tell your classes apart";

/// Look at, describe and measure frozen extractors.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inspect(inspect::Arguments),
    Manifest(Box<manifest::Arguments>),
    Probe(probe::Arguments),
    #[command(hide = true)]
    Trial(trial::Arguments),
}

pub(super) fn extractor(arguments: &Arguments, quiet: bool) -> anyhow::Result<Answer> {
    let shutdown = Shutdown::on_signals()?;
    let answer = match &arguments.command {
        Command::Inspect(arguments) => inspect::inspect(arguments, &shutdown),
        Command::Manifest(arguments) => manifest::manifest(arguments, quiet, &shutdown),
        Command::Probe(arguments) => probe::probe(arguments, quiet, &shutdown),
        Command::Trial(arguments) => trial::here(arguments).map_err(Into::into),
    };
    match answer {
        Err(_) if shutdown.is_requested() => Ok(Answer::complaint("stopped", INTERRUPTED)),
        other => other,
    }
}

/// Where features are kept between runs.
#[derive(Debug, Args)]
pub(super) struct CacheArguments {
    /// Folder for extracted features, instead of the user's cache folder.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Extract everything anew and keep nothing.
    #[arg(long, conflicts_with = "cache")]
    no_cache: bool,
}

impl CacheArguments {
    pub(super) fn open(&self) -> Result<FeatureCache, CacheError> {
        if self.no_cache { Ok(FeatureCache::none()) } else { FeatureCache::open(self.cache.as_deref()) }
    }
}

/// The shipped extractor, or one that a person named, which is tried first in a process of its own.
pub(super) fn open(path: Option<&Path>, shutdown: &Shutdown) -> anyhow::Result<FrozenExtractor> {
    vet(path, shutdown)?;
    Ok(FrozenExtractor::shipped_or(path)?)
}

/// Refuses an extractor that a person named and that does not run, before anything loads it into this process.
pub(super) fn vet(path: Option<&Path>, shutdown: &Shutdown) -> Result<(), TrialError> {
    let Some(path) = path else { return Ok(()) };
    let manifest = manifests::beside(path);
    // Whether they belong together is the loader's business; here is only asked what loading would do.
    let Ok((_, onnx)) = manifests::load(&manifest) else { return Ok(()) };
    TRIER.vet(&manifest, &onnx, shutdown).map(drop)
}
