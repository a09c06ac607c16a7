//! `fleet demo`: an embedded broker, an aggregator and real devices in one process, over real MQTT, once per method.

mod dataset;
mod dealing;
mod features;
mod federation;
mod fleet;
mod images;
mod reach;

use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use grapevine_aggregator::broker::{BrokerError, EmbeddedBroker};
use grapevine_host::{BrokerAddress, Shutdown, memory};
use grapevine_models::hyper_parameters::LAMBDA;
use grapevine_models::{Method, Params, ParamsError, ValidParams};
use grapevine_protocol::largest_side_information;
use grapevine_protocol::limits::MAX_BLOB_BYTES;

use crate::data::class_counts;
use crate::data::images::{FeatureCache, ImageProgress};
use crate::data::partition::Partition;
use crate::data::synthetic::SyntheticSpec;
use crate::hyper_parameters::{DEMO_LAMBDA, told_by_demo};
use crate::report::results::{Report, Run};
use grapevine_vision::frozen::FrozenExtractor;

pub use dataset::DataError;
pub use federation::FederationError;
pub use fleet::Ended;
pub use reach::NoBroker;

/// Rounds of the demo on the digits, chosen on a validation split (DESIGN.md, "the demo's numbers").
pub const DIGITS_ROUNDS: u32 = 20;

/// Imbalance ratio of the long tail on the digits and on made-up features.
pub const DIGITS_IMBALANCE: f64 = 50.0;
/// The same on a person's own data, of which there are more.
pub const OWN_IMBALANCE: f64 = 100.0;

/// Rounds of the demo on a person's own data, chosen on a validation split of CIFAR-10.
pub const OWN_ROUNDS: u32 = 20;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Where samples come from.
    pub source: Source,
    /// Devices of the fleet.
    pub devices: usize,
    /// Devices per round; `None` for all.
    pub participants: Option<usize>,
    /// Rounds of every method that trains.
    pub rounds: u32,
    /// Methods, one federation each.
    pub methods: Vec<Method>,
    /// Samples of the most frequent class per sample of the rarest; `None` for what the source usually gets: data of a
    /// person's own that are long-tailed already stay as they are.
    pub imbalance: Option<f64>,
    /// Concentration of the partition.
    pub alpha: f64,
    /// How samples are dealt to devices.
    pub partition: Partition,
    /// Decides everything random.
    pub seed: u64,
    /// An external broker, or `None` for the embedded one.
    pub broker: Option<BrokerAddress>,
    /// Replaces the method's own weight of the balanced step.
    pub lambda: Option<f32>,
    /// The command line, for the report.
    pub command: String,
}

/// Where the demo's samples come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The shipped handwritten digits, as images through the shipped extractor.
    Digits,
    /// Random class clusters in feature space.
    Synthetic {
        /// Features and classes.
        spec: SyntheticSpec,
        /// Mean number of samples per device.
        samples_per_device: usize,
    },
    /// Images of a person's own through an extractor.
    Images {
        /// Any source of images, see [`crate::data::images::ImageData::open`].
        path: PathBuf,
        /// What makes features of them.
        extractor: Arc<FrozenExtractor>,
        /// Where features are kept between runs.
        cache: FeatureCache,
    },
    /// Features that were extracted elsewhere.
    Features {
        /// An `.npz`.
        path: PathBuf,
    },
}

/// What a demo tells while it runs.
#[derive(Clone, Debug)]
pub enum Progress {
    /// A data set is being read.
    Reading(ImageProgress),
    /// The devices' images are being extracted and stored.
    Preparing {
        /// Devices done.
        done: usize,
        /// Devices in all.
        devices: usize,
    },
    /// A federation begins.
    Begins {
        /// Its method.
        method: Method,
        /// Rounds it will have.
        rounds: u32,
    },
    /// A round was merged.
    Round {
        /// The method.
        method: Method,
        /// Merged rounds so far.
        done: u32,
        /// Rounds in all.
        rounds: u32,
        /// Updates in the round and devices that were chosen.
        updates: (usize, usize),
        /// Balanced accuracy on the held-out samples, if heads were made.
        balanced_accuracy: Option<f64>,
        /// Since the federation began.
        elapsed: Duration,
    },
}

/// Why a demo ended early.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The broker did not start.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The external broker cannot be used.
    #[error(transparent)]
    NoBroker(#[from] NoBroker),
    /// The data could not be made.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A hyper-parameter out of range.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// A federation failed.
    #[error(transparent)]
    Federation(#[from] FederationError),
    /// No folder for the devices' stores.
    #[error("cannot make a temporary folder for the devices: {0}; free some space or set TMPDIR")]
    Folder(std::io::Error),
    /// Dense prototypes beyond what the protocol carries.
    #[error("{method} would send up to {bytes} bytes of class gradients at a time; use redgrape-live for such a shape")]
    TooLarge {
        /// The method.
        method: Method,
        /// Bytes of the fleet's prototypes.
        bytes: usize,
    },
    /// Ctrl-C.
    #[error("stopped")]
    Stopped,
}

/// Runs one federation per method on the same devices, samples and held-out set.
///
/// # Errors
/// If the broker, an option or the data cannot be used, a federation fails, or a stop is requested.
pub fn run(
    options: &DemoOptions,
    shutdown: &Shutdown,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Report, DemoError> {
    if let Some(broker) = &options.broker {
        reach::reach(broker, shutdown)?;
    }
    let folder = tempfile::Builder::new().prefix("grapevine-demo-").tempdir().map_err(DemoError::Folder)?;
    let prepared = dataset::prepare(options, folder.path(), shutdown, progress)?;
    let embedded = match &options.broker {
        Some(_) => None,
        None => Some(EmbeddedBroker::start(0, core::net::Ipv4Addr::LOCALHOST.into())?),
    };
    let broker = match (&options.broker, &embedded) {
        (Some(external), _) => external.clone(),
        (None, Some(embedded)) => BrokerAddress::new("127.0.0.1", embedded.port()),
        (None, None) => unreachable!("one of the two was made above"),
    };
    let mut runs = Vec::new();
    for &method in &options.methods {
        let bytes = largest_side_information(prepared.shape, method);
        if bytes > MAX_BLOB_BYTES {
            return Err(DemoError::TooLarge { method, bytes });
        }
    }
    for (index, &method) in options.methods.iter().enumerate() {
        if shutdown.is_requested() {
            return Err(DemoError::Stopped);
        }
        let params = params(options, method, prepared.shape.classes())?;
        let place = Place { folder: folder.path().join(format!("aggregator-{index}")), broker: broker.clone() };
        runs.push(federation::run(options, &prepared, params, &place, shutdown, progress)?);
    }
    Ok(report(options, &prepared, runs))
}

/// Where one federation lives.
pub(crate) struct Place {
    /// The aggregator's state.
    folder: PathBuf,
    broker: BrokerAddress,
}

fn params(options: &DemoOptions, method: Method, classes: usize) -> Result<ValidParams, ParamsError> {
    let mut params = Params::defaults(method, classes);
    if params.applies(&LAMBDA) && options.source.is_real() {
        params.lambda = DEMO_LAMBDA;
    }
    if let Some(lambda) = options.lambda {
        params.lambda = lambda;
    }
    params.check()
}

impl Source {
    /// Whether accuracies say something; made-up features are for speed, memory and bytes.
    fn is_real(&self) -> bool {
        match self {
            Self::Digits | Self::Images { .. } | Self::Features { .. } => true,
            Self::Synthetic { .. } => false,
        }
    }
}

/// What the data say of themselves, and where a bench has other hyper-parameters.
fn notes(options: &DemoOptions, prepared: &dataset::Prepared) -> Vec<String> {
    let is_own = options.lambda.is_none() && options.source.is_real();
    let methods: &[Method] = if is_own { &options.methods } else { &[] };
    prepared.notes.iter().cloned().chain(told_by_demo(methods, prepared.shape.classes())).collect()
}

fn report(options: &DemoOptions, prepared: &dataset::Prepared, runs: Vec<Run>) -> Report {
    let classes = prepared.shape.classes();
    let counts = &prepared.device_class_counts;
    Report {
        runs,
        devices: options.devices,
        rounds: options.rounds as usize,
        classes,
        features: prepared.shape.features(),
        peak_memory_bytes: memory::peak_bytes(),
        data: prepared.name.clone(),
        imbalance_ratio: prepared.imbalance_ratio,
        alpha: options.alpha,
        class_counts: prepared.class_counts(),
        device_class_counts: counts.clone(),
        class_names: prepared.class_names.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        command: options.command.clone(),
        test_class_counts: class_counts(prepared.test.labels.iter().copied(), classes),
        notes: notes(options, prepared),
        ..Report::default()
    }
}

#[allow(clippy::disallowed_methods, reason = "the demo reports wall-clock times")]
fn now() -> Instant {
    Instant::now()
}
