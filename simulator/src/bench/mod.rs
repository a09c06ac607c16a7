//! `fleet bench`: many methods on the same fleets, seed after seed, in this process and without a broker. Training,
//! merging and bytes are those of the real system; equal seeds give equal heads, whatever the number of threads.
//!
//! Read [`run`] first; a run itself is in `federation`.

mod choosing;
mod federation;
mod fleet;
mod grid;
mod logit_offset;
mod pool;
mod results;
mod schedule;
mod sources;
#[cfg(test)]
mod tests;
mod wire;

use std::path::PathBuf;
use std::time::Instant;

use grapevine_host::Shutdown;
use grapevine_models::{HyperParameter, Method, Params, ParamsError, ShapeError};
use grapevine_protocol::limits::MAX_BLOB_BYTES;
use grapevine_protocol::{Encoding, largest_side_information};
use grapevine_vision::extractor::ExtractorError;
use grapevine_vision::image_input::DecodeError;
use grapevine_vision::source::SourceError;

use crate::data::images::{CacheError, ImageProgress, ImagesError};
use crate::data::long_tail::LongTailError;
use crate::data::partition::{Partition, PartitionError};
use crate::data::synthetic::SyntheticError;
use crate::report::results::Report;
use grapevine_vision::frozen::FrozenExtractorError;

use choosing::Chosen;
pub use federation::FederationError;
use federation::{Outcome, Setup};
use fleet::Validation;
pub use grid::{Assignment, Axis, AxisError, MAX_POINTS};
use grid::{Point, points};
pub use logit_offset::{LogitOffsetOptions, USUAL_TAUS};
use pool::{Deal, Pool};
use schedule::{Fleets, run_all};
pub(crate) use sources::unusual_spread;
pub use sources::{Cache, Source};

/// Share of the training samples that hyper-parameters are chosen on at a time.
pub const VALIDATION_SHARE: f64 = 0.2;
/// Such shares that there are.
pub const MAX_FOLDS: u32 = 5;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Where samples come from.
    pub source: Source,
    /// Samples of the most frequent class per sample of the rarest; `None` takes the training samples as they are.
    pub imbalance: Option<f64>,
    /// How samples are dealt to devices.
    pub partition: Partition,
    /// Concentration of the partition.
    pub alpha: f64,
    /// Devices of the fleet.
    pub devices: usize,
    /// Devices per round; `None` for all.
    pub participants: Option<usize>,
    /// Rounds of every method that trains.
    pub rounds: u32,
    /// One fleet for each, the same for all methods.
    pub seeds: Vec<u64>,
    /// One run each for every seed.
    pub methods: Vec<Method>,
    /// Hyper-parameters in place of the methods' own, where a method reads them.
    pub settings: Vec<Assignment>,
    /// Hyper-parameters to choose, each method for itself, on a part of the training samples.
    pub grid: Vec<Axis>,
    /// Whose final heads are shifted by the class shares, and how far.
    pub logit_offset: LogitOffsetOptions,
    /// How many shares of the training samples are held out, one after another, where something is chosen; at most
    /// [`MAX_FOLDS`].
    pub folds: u32,
    /// How updates are written.
    pub encoding: Encoding,
    /// The command line, for the report.
    pub command: String,
}

/// What a bench tells while it runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// Images are listed or extracted.
    Images(ImageProgress),
    /// A part of the work is known; it begins.
    Planned {
        /// Whether it chooses hyper-parameters.
        tuning: bool,
        /// Runs.
        runs: usize,
        /// Rounds of all of them.
        rounds: u64,
    },
    /// One of those rounds is over.
    Round,
    /// A run is over.
    Ran {
        /// Its method.
        method: Method,
        /// Its seed.
        seed: u64,
        /// With these values, where they are being chosen.
        values: Vec<Assignment>,
        /// On the test samples; on those held out of the training samples where hyper-parameters are being chosen.
        balanced_accuracy: f64,
    },
}

/// Why a bench ended without results.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A fleet of one is none.
    #[error("a fleet of {0}: give --devices at least 2")]
    Devices(usize),
    /// More are chosen than there are.
    #[error("{participants} participants of {devices} devices: --participants is at most --devices")]
    Participants {
        /// Asked for each round.
        participants: usize,
        /// Of the fleet.
        devices: usize,
    },
    /// Nothing to run.
    #[error("no method to run; name some with --methods")]
    NoMethod,
    /// Nothing to run.
    #[error("no seed to run; give --seeds a number or a list")]
    NoSeed,
    /// A hyper-parameter that makes no difference.
    #[error("no method of this bench reads `{0}`; leave it out, or add a method that does")]
    Unread(&'static HyperParameter),
    /// Too large a search.
    #[error("the grid has more than {MAX_POINTS} combinations for {0}; give fewer values")]
    Grid(Method),
    /// A logit offset of nothing.
    #[error("the logit offset of {0} is asked for, but {0} does not run; name it in --methods too")]
    LogitOffset(Method),
    /// A hyper-parameter out of range.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// Blobs beyond what the protocol carries.
    #[error(
        "{method} would send up to {bytes} bytes at a time, more than the protocol carries; use redgrape-live for such a shape"
    )]
    TooLarge {
        /// The method.
        method: Method,
        /// Of the largest blob.
        bytes: usize,
    },
    /// Images where features belong.
    #[error("{} holds images; leave out --standardise, their extractor says how features are scaled", path.display())]
    NotFeatures {
        /// The file or folder.
        path: PathBuf,
    },
    /// Features where images belong.
    #[error("{} holds features that were extracted already; leave out --extractor", path.display())]
    Extracted {
        /// The file.
        path: PathBuf,
    },
    /// Nothing to test on.
    #[error("{} has no test samples; add test_features and test_labels, equally many of each class", path.display())]
    NoTest {
        /// The file.
        path: PathBuf,
    },
    /// A test sample of no class.
    #[error("test_labels, row {row}: no training sample has label {label}; they go from 0 to {last}")]
    TestLabel {
        /// Its position.
        row: usize,
        /// Its label.
        label: u16,
        /// The largest label of a training sample.
        last: u16,
    },
    /// A class that nobody can learn or be tested on.
    #[error("class {class} of {classes} has no {part} sample; number the classes from 0 without gaps, or add samples")]
    EmptyClass {
        /// The class.
        class: usize,
        /// Training or test.
        part: &'static str,
        /// Classes.
        classes: usize,
    },
    /// A file that went away.
    #[error("cannot read {}: {source}; check the path", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Data that cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Too many classes or features.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// An image of the shipped ones.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The extractor of the shipped digits.
    #[error(transparent)]
    Extractor(#[from] ExtractorError),
    /// The extractor of images.
    #[error(transparent)]
    FrozenExtractor(#[from] FrozenExtractorError),
    /// The place for features of images.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Images.
    #[error(transparent)]
    Images(ImagesError),
    /// The long tail.
    #[error(transparent)]
    LongTail(#[from] LongTailError),
    /// Who holds what.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// Made-up features.
    #[error(transparent)]
    Synthetic(#[from] SyntheticError),
    /// A run.
    #[error(transparent)]
    Federation(#[from] FederationError),
    /// Ctrl-C before there was anything to keep.
    #[error("stopped")]
    Stopped,
}

impl From<ImagesError> for BenchError {
    fn from(error: ImagesError) -> Self {
        if matches!(error, ImagesError::Stopped) { Self::Stopped } else { Self::Images(error) }
    }
}

/// Runs every method on every seed's fleet. Stopped in the middle, it gives the runs that are over, if there is one.
///
/// # Errors
/// If an option or the data cannot be used, a run fails, or a stop is requested before any run is over.
pub fn run(
    options: &BenchOptions,
    shutdown: &Shutdown,
    progress: &(dyn Fn(&Progress) + Sync),
) -> Result<Report, BenchError> {
    let began = now();
    options.check()?;
    let pool = sources::open(options, &mut |step| progress(step), shutdown)?;
    let plans = options.plans(pool.shape.classes())?;
    for method in &options.methods {
        let bytes = largest_side_information(pool.shape, *method);
        if bytes > MAX_BLOB_BYTES {
            return Err(BenchError::TooLarge { method: *method, bytes });
        }
    }
    let bench = Bench { options, pool: &pool, stop: &|| shutdown.is_requested(), progress };
    let (chosen, trials) = bench.choose(&plans)?;
    let outcomes = bench.measure(&chosen)?;
    if outcomes.iter().all(Option::is_none) {
        return Err(BenchError::Stopped);
    }
    let first = pool.draw(&options.deal(), options.seeds[0])?;
    let report = results::report(options, &pool, &first, &chosen, &trials, outcomes);
    Ok(Report { seconds: Some((now() - began).as_secs_f64()), ..report })
}

impl BenchOptions {
    fn check(&self) -> Result<(), BenchError> {
        if self.devices < 2 {
            return Err(BenchError::Devices(self.devices));
        }
        if let Some(participants) = self.participants.filter(|participants| *participants > self.devices) {
            return Err(BenchError::Participants { participants, devices: self.devices });
        }
        if self.methods.is_empty() {
            return Err(BenchError::NoMethod);
        }
        if self.seeds.is_empty() {
            return Err(BenchError::NoSeed);
        }
        if let Some(&method) = self.logit_offset.methods.iter().find(|method| !self.methods.contains(method)) {
            return Err(BenchError::LogitOffset(method));
        }
        let set = self.settings.iter().map(|set| set.parameter);
        for parameter in set.chain(self.grid.iter().map(|axis| axis.parameter)) {
            // A value that is out of range has an error of its own.
            let reads = |method: &Method| self.params(*method, 2).map_or(true, |params| params.applies(parameter));
            if !self.methods.iter().any(reads) {
                return Err(BenchError::Unread(parameter));
            }
        }
        Ok(())
    }

    /// The method's parameters before anything is chosen.
    fn params(&self, method: Method, classes: usize) -> Result<Params, ParamsError> {
        let mut params = Params::defaults(method, classes);
        // In the order of the table: the start decides whether its scale is read.
        for parameter in params.all() {
            let set = self.settings.iter().find(|set| set.parameter == parameter);
            if let Some(set) = set.filter(|_| params.applies(parameter)) {
                params = params.with(parameter, set.value)?;
            }
        }
        params.check().map(|_| params)
    }

    /// Whether anything is chosen on held-out samples.
    fn chooses(&self) -> bool {
        !self.grid.is_empty() || !self.logit_offset.methods.is_empty()
    }

    /// For each method what is to be tried.
    fn plans(&self, classes: usize) -> Result<Vec<Vec<Point>>, BenchError> {
        let plan = |&method: &Method| {
            let points = points(self.params(method, classes)?, &self.grid)?;
            if points.len() > MAX_POINTS { Err(BenchError::Grid(method)) } else { Ok(points) }
        };
        self.methods.iter().map(plan).collect()
    }

    fn deal(&self) -> Deal {
        Deal { devices: self.devices, partition: self.partition, alpha: self.alpha, imbalance: self.imbalance }
    }
}

/// A bench under way.
struct Bench<'a> {
    options: &'a BenchOptions,
    pool: &'a Pool,
    stop: &'a (dyn Fn() -> bool + Sync),
    progress: &'a (dyn Fn(&Progress) + Sync),
}

/// One run of a point.
struct Job<'a> {
    point: &'a Point,
    setup: Setup<'a>,
}

impl Bench<'_> {
    /// The outcomes of the chosen points on the test samples: method after method, seed after seed.
    fn measure(&self, chosen: &[Chosen]) -> Result<Vec<Option<Outcome>>, BenchError> {
        self.run_points(&chosen.iter().map(|chosen| &chosen.point).collect::<Vec<_>>(), None)
    }

    fn run_points(
        &self,
        points: &[&Point],
        validation: Option<Validation>,
    ) -> Result<Vec<Option<Outcome>>, BenchError> {
        let mut jobs = Vec::new();
        for &point in points {
            let has_offsets = self.options.logit_offset.methods.contains(&point.params.method);
            let setup = Setup {
                params: point.params.check()?,
                taus: if has_offsets { &self.options.logit_offset.taus } else { &[] },
                rounds: self.options.rounds,
                participants: self.options.participants,
                encoding: self.options.encoding,
            };
            jobs.extend((0..self.options.seeds.len()).map(|seed| (seed, Job { point, setup })));
        }
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let rounds = jobs.iter().map(|(_, job)| u64::from(job.setup.steps())).sum();
        (self.progress)(&Progress::Planned { tuning: validation.is_some(), runs: jobs.len(), rounds });
        let (pool, seeds) = (self.pool, &self.options.seeds);
        let fleets = Fleets { pool, deal: self.options.deal(), seeds, validation };
        let at_once = self.options.participants.unwrap_or(self.options.devices);
        let side_by_side = rayon::current_num_threads().div_ceil(at_once);
        run_all(&fleets, &jobs, side_by_side, self.stop, &|fleet, job, stop| {
            let outcome = federation::run(fleet, &job.setup, stop, &|| (self.progress)(&Progress::Round))?;
            if let Some(outcome) = &outcome {
                (self.progress)(&Progress::Ran {
                    method: job.point.params.method,
                    seed: fleet.seed,
                    values: if validation.is_some() { job.point.values.clone() } else { Vec::new() },
                    balanced_accuracy: outcome.balanced(),
                });
            }
            Ok(outcome)
        })
    }
}

#[allow(clippy::disallowed_methods, reason = "the bench reports wall-clock times")]
fn now() -> Instant {
    Instant::now()
}
