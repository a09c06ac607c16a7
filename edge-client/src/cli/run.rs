//! `edge-client run`: takes part in the fleet's rounds until a signal.

use core::hash::{BuildHasher, Hasher};
use std::collections::hash_map::RandomState;
use std::env::consts::{ARCH, OS};
use std::fs;
use std::sync::Arc;
use std::thread;

use clap::Args;
use grapevine_edge_client::device::{self, DeviceOptions};
use grapevine_edge_client::session::{Event, Identity};
use grapevine_host::{BrokerAddress, Shutdown};
use grapevine_protocol::{BootId, class_list_digest};

use super::liveness::Heart;
use super::setup::Setup;
use super::{Answer, Common, INTERRUPTED};

const EXAMPLES: &str = "\
Examples:
  edge-client run
  edge-client run --until-finished && edge-client classify new.png
  edge-client run --broker mqtt://10.0.0.5 -v

Logs one line per round to standard error. `edge-client status` looks at a running device.
Exit code 0 after Ctrl-C or SIGTERM; with --until-finished 130 if the run was not over yet.";

/// Take part in the fleet's rounds until Ctrl-C.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Where the broker is; goes over the configuration's `broker`.
    #[arg(long, value_name = "ADDRESS")]
    broker: Option<BrokerAddress>,
    /// End when the aggregator's run is over and its last head is stored.
    #[arg(long)]
    until_finished: bool,
}

pub(super) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let shutdown = Shutdown::on_signals()?;
    let mut config = common.configuration()?;
    if let Some(broker) = &arguments.broker {
        config.broker = broker.clone();
    }
    let setup = Setup::load(config)?;
    let store = Arc::new(setup.open_store()?);
    let samples: u32 = store.counts()?.iter().sum();
    let options = options(&setup);
    let (fleet, device) = (&options.fleet, &options.identity.device);
    tracing::info!(%fleet, %device, broker = %options.broker, samples, "starting");
    if samples == 0 {
        tracing::warn!("there are no samples, so this device only waits; stop it and run `edge-client ingest DIR`");
    }
    let mut heart = Heart::start(&setup.config.state)?;
    let mut finished = false;
    let outcome = device::run(&options, &store, &shutdown, &mut |event| {
        heart.note(event);
        if arguments.until_finished && matches!(event, Event::Finished(_)) {
            finished = true;
            shutdown.request();
        }
    });
    heart.stop();
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

fn options(setup: &Setup) -> DeviceOptions {
    let config = &setup.config;
    DeviceOptions {
        fleet: config.fleet.clone(),
        broker: config.broker.clone(),
        identity: Identity {
            device: config.device.clone(),
            boot: new_boot(),
            extractor: setup.extractor,
            classes: class_list_digest(config.classes.iter().map(String::as_str)),
            shape: setup.shape,
            hardware: hardware(),
        },
        keep_alive: config.keep_alive,
        longest_pause: config.longest_pause,
        gate: None,
    }
}

/// The standard library's hasher takes its keys from the system's random source: enough to tell two starts apart.
fn new_boot() -> BootId {
    BootId(RandomState::new().build_hasher().finish())
}

/// Architecture, cores and memory, for people.
fn hardware() -> String {
    let cores = thread::available_parallelism().map(usize::from).unwrap_or(1);
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_mebibytes(&text));
    let memory = memory.map(|mebibytes| format!(", {mebibytes} MiB")).unwrap_or_default();
    format!("{ARCH} {OS}, {cores} cores{memory}")
}

fn total_mebibytes(meminfo: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? / 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_differ() {
        assert_ne!(new_boot(), new_boot());
    }

    #[test]
    fn memory_is_read_where_it_is_told() {
        assert_eq!(total_mebibytes("MemTotal:        4028748 kB\nMemFree: 1 kB\n"), Some(3_934));
        assert_eq!(total_mebibytes("MemFree: 1 kB\n"), None);
    }
}
