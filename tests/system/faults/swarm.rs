//! `faults swarm`

use std::process::ExitCode;

use clap::Args;
use grapevine_tests::swarm::{self, Swarm};

use crate::mebibytes;

/// Put as many devices on one aggregator, over a real broker, as this machine bears: seconds of a round, and the
/// aggregator's memory. Sessions and work are real; many devices share a connection.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Sizes of the fleet, one after the other.
    #[arg(long, value_name = "COUNTS", default_value = "100,1000", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=20_000))]
    devices: Vec<u32>,
    /// Connections that the devices share, each with a thread.
    #[arg(long, value_name = "COUNT", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    connections: u16,
    /// Rounds of training.
    #[arg(long, value_name = "COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let connections = usize::from(arguments.connections);
    let reports = arguments.devices.iter().map(|&devices| {
        let devices = devices as usize;
        let swarm = Swarm { devices, connections: connections.min(devices), rounds: arguments.rounds as usize };
        let report = swarm::swarm(swarm);
        let mean = report.round_seconds.iter().sum::<f64>() / report.round_seconds.len() as f64;
        eprintln!(
            "{devices} devices over {}: all there after {:.1} s, {mean:.2} s a round; aggregator {:.1} MiB in memory, {:.1} \
             without devices",
            report.broker,
            report.gathered_seconds,
            mebibytes(report.resident_bytes),
            mebibytes(report.empty_resident_bytes),
        );
        report
    });
    crate::answer(&reports.collect::<Vec<_>>())
}
