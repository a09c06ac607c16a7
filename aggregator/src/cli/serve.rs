//! `aggregator serve`: holds rounds until a signal.

use std::path::Path;

use anyhow::Context;
use clap::Args;
use grapevine_aggregator::broker::EmbeddedBroker;
use grapevine_aggregator::config::{Broker, BrokerSection, MAX_ROUNDS, Rounds};
use grapevine_aggregator::serve::{self, RunChoice, ServeOptions};
use grapevine_aggregator::store;
use grapevine_host::{BrokerAddress, Service, Shutdown, files};
use grapevine_protocol::{Incarnation, RunId};
use grapevine_vision::manifest;

use super::live::LiveFile;
use super::{Answer, Common, INTERRUPTED};

const EXAMPLES: &str = "\
Examples:
  aggregator serve
  aggregator serve --embedded --until-finished && aggregator export --output north.onnx
  aggregator serve --rounds 100          # goes on with a run of fewer rounds
  aggregator serve --rounds endless      # rests when nothing new is learned, goes on when devices or images come
  aggregator serve --new-run             # begins another run; the ledger keeps the earlier ones

Logs one line per round to standard error. It can be stopped at any moment: the next start goes on with the open
round. Exit code 0 after Ctrl-C or SIGTERM; with --until-finished 130 if the run was not over yet.";

/// Hold rounds until Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// End when all rounds are done, or the run rests, and the devices have had time to fetch the last heads (2 s of silence, at most 30 s).
    #[arg(long)]
    until_finished: bool,
    /// Begin a new run instead of going on with the newest.
    #[arg(long)]
    new_run: bool,
    /// Rounds of training, or `endless`; overrides the configuration's `rounds`.
    #[arg(long, value_name = "COUNT", value_parser = rounds)]
    rounds: Option<Rounds>,
    /// Run a broker inside this process; overrides the configuration's `url`.
    #[arg(long)]
    embedded: bool,
    /// Where the broker is; overrides the configuration's [broker].
    #[arg(long, value_name = "ADDRESS", conflicts_with = "embedded")]
    broker: Option<BrokerAddress>,
}

/// A number of rounds within the limit, or none.
fn rounds(text: &str) -> Result<Rounds, String> {
    match text.parse() {
        Ok(rounds @ (Rounds::Endless | Rounds::Count(1..=MAX_ROUNDS))) => Ok(rounds),
        Ok(Rounds::Count(_)) | Err(_) => Err(format!("it must be 1 to {MAX_ROUNDS}, or `endless`")),
    }
}

/// What the names in a state folder begin with.
const STATE_NAMES: [&str; 5] = ["ledger.", "blobs", "requests", "status.json", ".new-"];

fn keep_private(state: &Path) -> anyhow::Result<()> {
    files::private_by_default();
    let kept = files::keep_state_private(state, &STATE_NAMES);
    kept.with_context(|| format!("cannot use the state folder {}; check its permissions", state.display()))
}

pub(super) fn serve(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let shutdown = Shutdown::on_signals()?;
    let mut config = common.configuration()?;
    config.round.rounds = arguments.rounds.unwrap_or(config.round.rounds);
    let (manifest, _) = manifest::load(&config.extractor)?;
    let round = config.round_config(&manifest)?;
    keep_private(&config.state)?;
    // First of all: a second aggregator on this folder must not take the first one's port or name.
    let ledger = store::open(&config.state)?;
    let (broker, embedded) = broker(config.broker, arguments)?;
    let run = RunId(random()?);
    let options = ServeOptions {
        fleet: config.fleet,
        broker,
        round,
        incarnation: Incarnation(random()?),
        run: if arguments.new_run { RunChoice::New(run) } else { RunChoice::Continue(run) },
        keep_alive: config.mqtt.keep_alive,
        longest_pause: config.mqtt.longest_pause,
        kept_heads: config.kept_heads,
        until_finished: arguments.until_finished,
        service: Service::from_environment(),
    };
    tracing::info!(
        fleet = %options.fleet,
        broker = %options.broker,
        method = %options.round.params.method,
        rounds = %config.round.rounds,
        min_devices = options.round.min_devices,
        "serving"
    );
    let live = LiveFile::new(&config.state, options.broker.to_string(), options.service.clone());
    let mut live = live.of_classes(config.classes, config.params.min_samples_to_share);
    let report = serve::serve(&options, &config.state, ledger, &shutdown, &mut live)?;
    drop(embedded);
    tracing::info!(
        sent_bytes = report.traffic.sent_bytes,
        received_bytes = report.traffic.received_bytes,
        cpu_ms = report.cpu.as_millis() as u64,
        "stopped"
    );
    let code = if arguments.until_finished && !live.is_finished { INTERRUPTED } else { 0 };
    Ok(Answer { code, ..Answer::default() })
}

/// The broker's address, and the broker itself where it is part of this process.
fn broker(configured: Broker, arguments: &Arguments) -> anyhow::Result<(BrokerAddress, Option<EmbeddedBroker>)> {
    if let Some(address) = &arguments.broker {
        return Ok((address.clone(), None));
    }
    let (listen, port) = match configured {
        Broker::Embedded { listen, port } => (listen, port),
        Broker::At(_) if arguments.embedded => {
            let BrokerSection { listen, port, .. } = BrokerSection::default();
            (listen, port)
        }
        Broker::At(address) => return Ok((address, None)),
    };
    let broker = EmbeddedBroker::start(port, listen)?;
    let address = broker.address();
    if !listen.is_loopback() {
        tracing::info!(%address, "whoever reaches this address may speak to the fleet; use a broker with logins elsewhere");
    }
    Ok((Broker::address_here(address.ip(), address.port()), Some(broker)))
}

fn random() -> anyhow::Result<u64> {
    getrandom::u64().context("the system gives no random numbers; it must be broken")
}
