//! `faults kills`

use std::process::ExitCode;

use clap::Args;
use grapevine_tests::kills::{self, Kills};

/// Kill the shipped programs at random moments; every run must end with the heads of a run without kills.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Kills of the aggregator.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    aggregator: u32,
    /// Kills of devices.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    devices: u32,
    /// Rounds of training of every run.
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    rounds: usize,
    /// Decides victims and moments.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let &Arguments { aggregator, devices, rounds, seed } = arguments;
    let all = aggregator + devices;
    let report = kills::kill(Kills { aggregator, devices, rounds, seed }, &mut |kill| {
        let kills::Kill { number, run, victim, after_ms, after_saying } = kill;
        eprintln!("{number}/{all}: run {run}: {victim} killed after {after_ms} ms, it had said `{after_saying}`");
    });
    crate::answer(&report)
}
