//! One federation of a demo, from the first hello to the final heads on every device.

use core::time::Duration;
use std::sync::Arc;

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use grapevine_aggregator::round::{
    Auxiliary, Event as RoundEvent, Participants, Quarantine, RoundConfig, RoundOutcome, Select,
};
use grapevine_aggregator::serve::ServeReport;
use grapevine_aggregator::store::{self, StoreError};
use grapevine_edge_client::device::DeviceReport;
use grapevine_host::Shutdown;
use grapevine_models::evaluate::Accuracy;
use grapevine_models::limits::MAX_SAMPLES;
use grapevine_models::{Head, Sums, ValidParams};
use grapevine_protocol::{Digest, Encoding, RunId, class_list_digest};

use super::dataset::{DataError, Prepared};
use super::fleet::{Ended, Fleet, FleetPlan, Told};
use super::{DemoError, DemoOptions, Place, Progress, now};
use crate::data::by_frequency;
use crate::hyper_parameters::hyper_parameters;
use crate::report::results::Run;

/// A round that takes longer than this is stuck.
const DEADLINE: Duration = Duration::from_secs(300);
/// How long the last device may take to fetch the final heads.
const LAST_HEADS: Duration = Duration::from_secs(60);
/// How often Ctrl-C is looked for while nothing happens.
const LOOK_UP: Duration = Duration::from_millis(100);
/// Updates on their way in at any time.
const UPLOAD_BYTES: usize = 64 << 20;

/// Why a federation failed.
#[derive(Debug, thiserror::Error)]
pub enum FederationError {
    /// The aggregator's ledger.
    #[error(transparent)]
    Ledger(#[from] StoreError),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; try fewer devices")]
    Thread(std::io::Error),
    /// Part of the federation ended early.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// Everybody runs and nobody says why it does not go on.
    #[error("the federation ended without a result; look at the log with -v")]
    NoResult,
    /// A round closed without enough updates.
    #[error("round {0} was abandoned: too few devices answered within five minutes; try fewer devices")]
    Abandoned(u32),
}

/// Runs one method and measures it.
pub(super) fn run(
    options: &DemoOptions,
    prepared: &Prepared,
    params: ValidParams,
    place: &Place,
    shutdown: &Shutdown,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Run, DemoError> {
    let trained = if params.method.is_one_shot() { 0 } else { options.rounds };
    let rounds = trained + u32::from(params.needs() != Sums::Nothing);
    progress(&Progress::Begins { method: params.method, rounds });
    let identifier = getrandom::u64().unwrap_or(options.seed);
    let plan = FleetPlan {
        fleet: format!("demo-{identifier:016x}").parse().expect("letters, digits and a dash"),
        broker: place.broker.clone(),
        round: round_config(options, prepared, params)?,
        run: RunId(identifier),
        stores: prepared.stores.clone(),
    };
    let ledger = store::open(&place.folder).map_err(FederationError::from)?;
    let (told, hear) = unbounded();
    let fleet = Fleet::start(&plan, &place.folder, ledger, &told).map_err(FederationError::Thread)?;
    let mut watch = Watch { options, prepared, params, rounds, by_round: Vec::new(), accuracy: None, last: None };
    let watched = watch.until_finished(&hear, shutdown, progress);
    let stopped = fleet.stop();
    let elapsed = match watched {
        Ok(elapsed) => elapsed,
        // What ended a thread says more than that it ended.
        Err(error) => return Err(stopped.err().map_or(error, |ended| FederationError::from(ended).into())),
    };
    let (aggregator, devices) = stopped.map_err(FederationError::from)?;
    Ok(watch.into_run(elapsed, &aggregator, &devices))
}

fn round_config(options: &DemoOptions, prepared: &Prepared, params: ValidParams) -> Result<RoundConfig, DataError> {
    let auxiliary =
        params.method.auxiliary().map(|per_class| auxiliary(prepared, usize::from(per_class))).transpose()?;
    Ok(RoundConfig {
        shape: prepared.shape,
        extractor: prepared.extractor,
        classes: class_list_digest(prepared.class_names.iter().map(String::as_str)),
        params,
        rounds: Some(options.rounds),
        rest_after: options.rounds,
        news_after: Duration::ZERO,
        max_samples: MAX_SAMPLES,
        min_devices: options.devices,
        select: Select::default(),
        participants: options.participants.map_or(Participants::All, Participants::Count),
        over_select: 0.0,
        quorum: 1.0,
        deadline: DEADLINE,
        extensions: 0,
        quarantine: Quarantine::default(),
        encoding: Encoding::F32,
        seed: options.seed,
        upload_bytes: UPLOAD_BYTES,
        auxiliary: auxiliary.map(Arc::new),
    })
}

/// Copies of the first samples of each class that the devices hold, where the method wants the aggregator to have some.
fn auxiliary(prepared: &Prepared, per_class: usize) -> Result<Auxiliary, DataError> {
    let mut auxiliary = Auxiliary { features: Vec::new(), labels: Vec::new() };
    let mut taken = vec![0; prepared.shape.classes()];
    for store in &prepared.stores {
        let dataset = store.load_all()?;
        for (features, &label) in dataset.features.chunks_exact(prepared.shape.features()).zip(&dataset.labels) {
            if taken[usize::from(label)] < per_class {
                taken[usize::from(label)] += 1;
                auxiliary.features.extend_from_slice(features);
                auxiliary.labels.push(label);
            }
        }
    }
    Ok(auxiliary)
}

/// What is known while a federation runs.
struct Watch<'a> {
    options: &'a DemoOptions,
    prepared: &'a Prepared,
    params: ValidParams,
    rounds: u32,
    by_round: Vec<f64>,
    accuracy: Option<Accuracy>,
    last: Option<Digest>,
}

impl Watch<'_> {
    /// Listens until the run is over and the devices have its heads; gives the time from the first round's opening to
    /// the last merge.
    fn until_finished(
        &mut self,
        hear: &Receiver<Told>,
        shutdown: &Shutdown,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Duration, DemoError> {
        let began = now();
        let (mut opened, mut merged, mut done) = (None, began, 0);
        let mut finished = None;
        let mut informed: usize = 0;
        loop {
            if shutdown.is_requested() {
                return Err(DemoError::Stopped);
            }
            match hear.recv_timeout(LOOK_UP) {
                Ok(Told::Round(RoundEvent::Finished | RoundEvent::Rested)) => finished = Some(now()),
                Ok(Told::Round(RoundEvent::RoundAbandoned(round))) => {
                    return Err(FederationError::Abandoned(round.0).into());
                }
                Ok(Told::Round(_)) => drop(opened.get_or_insert_with(now)),
                Ok(Told::Merged(outcome, head)) => {
                    merged = now();
                    done += 1;
                    informed = 0;
                    self.evaluate(&outcome, head.as_ref());
                    progress(&Progress::Round {
                        method: self.params.method,
                        done,
                        rounds: self.rounds,
                        updates: (outcome.accepted, outcome.expected),
                        balanced_accuracy: self.by_round.last().copied(),
                        elapsed: merged - began,
                    });
                }
                Ok(Told::NewHeads(digest)) if Some(digest) == self.last => informed += 1,
                Ok(Told::NewHeads(_)) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Told::Ended) | Err(RecvTimeoutError::Disconnected) => return Err(FederationError::NoResult.into()),
            }
            if let Some(finished) = finished
                && (informed >= self.options.devices || now() - finished > LAST_HEADS)
            {
                return Ok(merged - opened.unwrap_or(began));
            }
        }
    }

    fn evaluate(&mut self, outcome: &RoundOutcome, head: Option<&Head>) {
        self.last = outcome.model.for_use().map(|content| content.blob.digest);
        // A head that sums give before the first round of training is where training starts, and no round of it.
        let is_start = !self.params.method.is_one_shot() && !outcome.request.is_training();
        let Some(head) = head.filter(|_| !is_start) else { return };
        let test = &self.prepared.test;
        let Ok(samples) = test.samples(self.prepared.shape) else { return };
        let accuracy = Accuracy::of(head, &samples);
        self.by_round.push(accuracy.balanced());
        self.accuracy = Some(accuracy);
    }

    fn into_run(self, elapsed: Duration, aggregator: &ServeReport, devices: &[DeviceReport]) -> Run {
        let taking_part = self.options.participants.map_or(devices.len(), |wanted| wanted.min(devices.len()));
        let shares = f64::from(self.rounds.max(1)) * taking_part.max(1) as f64;
        let mean_bytes =
            |of: fn(&DeviceReport) -> u64| (devices.iter().map(of).sum::<u64>() as f64 / shares).round() as u64;
        let cpu: Duration = devices.iter().map(|device| device.cpu).sum();
        let by_class = self.accuracy.map_or_else(Vec::new, |accuracy| accuracy.by_class);
        let rounds = f64::from(self.rounds.max(1));
        Run {
            method: self.params.method.name().into(),
            seed: self.options.seed,
            partition: self.options.partition.name().into(),
            participation: format!("{taking_part} of {}", devices.len()),
            balanced_accuracy_by_round: self.by_round,
            bytes_up_per_device_round: mean_bytes(|device| device.traffic.sent_bytes),
            bytes_down_per_device_round: mean_bytes(|device| device.traffic.received_bytes),
            seconds_per_round: elapsed.as_secs_f64() / rounds,
            head_digest: self.last.map(|digest| digest.to_string()).unwrap_or_default(),
            device_cpu_seconds_per_round: Some(cpu.as_secs_f64() / shares),
            aggregator_cpu_seconds_per_round: Some(aggregator.cpu.as_secs_f64() / rounds),
            hyper_parameters: hyper_parameters(&self.params),
            ..Run::default()
        }
        .with_accuracies_in_order(
            by_class.into_iter().map(|accuracy| accuracy.unwrap_or(0.0)).collect(),
            &by_frequency(&self.prepared.class_counts()),
        )
    }
}
