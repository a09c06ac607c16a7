//! `edge-client run`: takes part in the fleet's rounds until a signal.

use core::hash::{BuildHasher, Hasher};
use std::collections::hash_map::RandomState;
use std::sync::Arc;

use clap::Args;
use grapevine_edge_client::classify::{Classifier, LatestHead};
use grapevine_edge_client::config::Predictions;
use grapevine_edge_client::device::{self, DeviceOptions};
use grapevine_edge_client::predict::{Outgoing, Predictor};
use grapevine_edge_client::resources::Throttle;
use grapevine_edge_client::session::{Event, Identity};
use grapevine_edge_client::store::Store;
use grapevine_host::{BrokerAddress, Service, Shutdown};
use grapevine_protocol::{Incarnation, class_list_digest};
use grapevine_vision::extractor::trial::TrialError;

use super::background_task::BackgroundTask;
use super::liveness::StatusWriter;
use super::setup::Setup;
use super::{Answer, Common, INTERRUPTED, ingest};

const EXAMPLES: &str = "\
Examples:
  edge-client run
  edge-client run --until-finished && edge-client classify new.png
  edge-client run --broker mqtt://10.0.0.5 -v

With `[predict]` in the configuration it also classifies the images that come into a folder and publishes the predictions;
with `[ingest]` it stores those that come into class folders and learns from them.
Logs one line per round to standard error. `edge-client status` looks at a running device.
Exit code 0 after Ctrl-C or SIGTERM; with --until-finished 130 if the run was not over yet.";

/// Take part in the fleet's rounds until Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Where the broker is; overrides the configuration's `broker`.
    #[arg(long, value_name = "ADDRESS")]
    broker: Option<BrokerAddress>,
    /// End when the aggregator's run is over and its last head is stored.
    #[arg(long)]
    until_finished: bool,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let shutdown = Shutdown::on_signals()?;
    match run_until(common, arguments, &shutdown) {
        Err(error) if error.is::<TrialError>() && shutdown.is_requested() => {
            Ok(Answer { code: if arguments.until_finished { INTERRUPTED } else { 0 }, ..Answer::default() })
        }
        other => other,
    }
}

fn run_until(common: &Common, arguments: &Arguments, shutdown: &Shutdown) -> anyhow::Result<Answer> {
    let mut config = common.configuration()?;
    if let Some(broker) = &arguments.broker {
        config.broker = broker.clone();
    }
    let setup = Setup::load(config)?;
    let store = Arc::new(setup.open_store()?.with_sample_memory(setup.config.resources.sample_bytes));
    let samples: u32 = store.counts()?.iter().sum();
    let throttle = Throttle::new(&setup.config.resources);
    let predict = setup.config.predict.as_ref();
    let predicting = predict.map(|predict| Predicting::prepare(&setup, predict, &store, &throttle, shutdown));
    let predicting = predicting.transpose()?;
    let outgoing = predicting.as_ref().map(|predicting| predicting.outgoing.clone());
    let options = options(&setup, outgoing.clone(), throttle);
    let (fleet, device) = (&options.fleet, &options.identity.device);
    tracing::info!(%fleet, %device, broker = %options.broker, samples, "starting");
    if samples == 0 && setup.config.ingest_watch.is_none() {
        tracing::warn!("there are no samples, so this device only waits; stop it and run `edge-client ingest DIR`");
    }
    let mut writer = StatusWriter::start(&setup.config.state, outgoing)?;
    let predictor = predicting.map(|predicting| predicting.start(shutdown)).transpose()?;
    let watch = setup.config.ingest_watch.as_deref();
    let ingest = watch.map(|folder| ingest::in_background(&setup, folder, &store, &options.throttle, shutdown));
    let ingest = ingest.transpose()?;
    let mut finished = false;
    let outcome = device::run(&options, &store, shutdown, &mut |event| {
        writer.note(event);
        options.service.status(&writer.line());
        if arguments.until_finished && matches!(event, Event::Rests(_)) {
            finished = true;
            shutdown.request();
        }
    });
    // Whatever ended the device ends what goes on beside it.
    shutdown.request();
    let limit = shutdown.requested_at().expect("requested a line above") + device::LEAVE_BEHIND;
    ingest.into_iter().chain(predictor).for_each(|beside| beside.finish(limit));
    writer.stop();
    let report = outcome?;
    let traffic = report.traffic;
    tracing::info!(
        delivered = report.delivered,
        sent_bytes = traffic.sent_bytes,
        received_bytes = traffic.received_bytes,
        cpu_ms = report.cpu.as_millis() as u64,
        "stopped"
    );
    let code = if arguments.until_finished && !finished { INTERRUPTED } else { 0 };
    Ok(Answer { code, ..Answer::default() })
}

/// What classifies the images of a watched folder, before it runs.
struct Predicting {
    predictor: Predictor,
    outgoing: Arc<Outgoing>,
}

impl Predicting {
    fn prepare(
        setup: &Setup,
        predict: &Predictions,
        store: &Arc<Store>,
        throttle: &Throttle,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        let outgoing = Arc::new(Outgoing::new(&predict.topic));
        let classifier = Classifier::new(setup.extractor(shutdown)?, setup.config.classes.clone())?;
        let latest = LatestHead::of(store.clone());
        let device = setup.config.device.clone();
        let predictor = Predictor::new(device, classifier, latest, &predict.watch, outgoing.clone(), throttle.clone());
        tracing::info!(watch = %predict.watch.display(), topic = predict.topic, "predicting");
        Ok(Self { predictor, outgoing })
    }

    fn start(self, shutdown: &Shutdown) -> anyhow::Result<BackgroundTask> {
        let shutdown = shutdown.clone();
        BackgroundTask::start("predict", move || self.predictor.run(&shutdown))
    }
}

fn options(setup: &Setup, outgoing: Option<Arc<Outgoing>>, throttle: Throttle) -> DeviceOptions {
    let config = &setup.config;
    DeviceOptions {
        fleet: config.fleet.clone(),
        broker: config.broker.clone(),
        identity: Identity {
            device: config.device.clone(),
            incarnation: new_incarnation(),
            extractor: setup.extractor,
            classes: class_list_digest(config.classes.iter().map(String::as_str)),
            shape: setup.shape,
            attributes: config.attributes.clone(),
        },
        keep_alive: config.keep_alive,
        longest_pause: config.longest_pause,
        throttle,
        service: Service::from_environment(),
        outgoing,
    }
}

/// The standard library's hasher takes its keys from the system's random source: enough to tell two starts apart.
fn new_incarnation() -> Incarnation {
    Incarnation(RandomState::new().build_hasher().finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_differ() {
        assert_ne!(new_incarnation(), new_incarnation());
    }
}
