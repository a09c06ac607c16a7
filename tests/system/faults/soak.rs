//! `faults soak`

use std::process::ExitCode;

use clap::Args;
use grapevine_tests::soak::{self, Soak};

use crate::mebibytes;

/// Most bytes by which a program's memory may grow after the warm-up.
const MOST_GROWTH_BYTES: i64 = 1 << 20;
/// Heads that an aggregator keeps by default: its state grows until there are so many.
const KEPT_HEADS: usize = 100;

/// Run the shipped programs for thousands of short rounds; their memory must not grow by 1 MiB after the warm-up.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Rounds of training; the first tenth of them, and at least 150, warm up.
    #[arg(long, value_name = "COUNT", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(300..))]
    rounds: u32,
    /// Devices of the fleet.
    #[arg(long, value_name = "COUNT", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=10))]
    devices: u16,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let rounds = arguments.rounds as usize;
    let soak = Soak { rounds, warm_up: (rounds / 10).max(KEPT_HEADS * 3 / 2), devices: arguments.devices.into() };
    let report = soak::soak(soak, &mut |sample| {
        let soak::Sample { merged, aggregator, device, seconds_per_round } = sample;
        eprintln!(
            "{merged}/{rounds} rounds, {:.1} ms each: aggregator {:.2} MiB in memory, {:.2} MiB on disk; device {:.2} MiB \
             in memory, {:.2} MiB on disk",
            seconds_per_round * 1e3,
            mebibytes(aggregator.resident_bytes),
            mebibytes(aggregator.state_bytes),
            mebibytes(device.resident_bytes),
            mebibytes(device.state_bytes),
        );
    });
    let printed = crate::answer(&report);
    let has_grown = report.aggregator_growth_bytes.max(report.device_growth_bytes) >= MOST_GROWTH_BYTES;
    if has_grown {
        eprintln!("error: memory grew by {MOST_GROWTH_BYTES} bytes or more after the warm-up");
        return ExitCode::FAILURE;
    }
    printed
}
