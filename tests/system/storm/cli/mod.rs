//! The command line of `storm`.

mod crowd;
mod seeds;

use core::convert::Infallible;
use core::error::Error;
use core::ops::RangeInclusive;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use grapevine_host::Answer;
use grapevine_host::command_line::Program;
use grapevine_tests::storm::Weather;

const EXAMPLES: &str = "\
Examples:
  storm --seeds 10000               # runs seeds 0 to 9999 in the worst weather, on all cores
  storm --seed 4711 --trace         # runs one seed again and says what happens
  storm --seeds 1000 --loss 0.6     # worse still
  storm crowd --devices 10000       # a round with so many devices: memory and seconds
  storm soak --rounds 5000          # memory over many rounds

Exit codes: 0 every invariant held, 1 one was broken, 2 wrong usage.";

/// Federations in memory: real machines on a virtual clock, a network and disks that fail, invariants after each step.
#[derive(Debug, Parser)]
#[command(name = "storm", version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    seeds: seeds::Seeds,
    /// Write one JSON object instead of text.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Many devices on one aggregator, without a fault.
    Crowd(crowd::Crowd),
    /// Many rounds, without a fault.
    Soak(crowd::Soak),
}

/// The whole program.
pub(crate) fn main() -> ExitCode {
    let program = Program {
        // The answer says what happened.
        verbosity: |_: &Arguments| -1,
        obey: |arguments| Ok(obey(arguments).unwrap_or_else(|error| Answer::failure(error.as_ref()))),
        explain: |never: &Infallible| match *never {},
    };
    program.main()
}

fn obey(arguments: &Arguments) -> Result<Answer, Box<dyn Error>> {
    match &arguments.command {
        None => seeds::run(&arguments.seeds, arguments.json),
        Some(Command::Crowd(crowd)) => crowd::crowd(crowd, arguments.json),
        Some(Command::Soak(soak)) => crowd::soak(soak, arguments.json),
    }
}

/// For clap: a share of messages.
fn share(text: &str) -> Result<f64, String> {
    const SHARES: RangeInclusive<f64> = 0.0..=0.9;
    let share = text.parse().ok().filter(|share| SHARES.contains(share));
    share.ok_or_else(|| format!("a share is a number from {} to {}", SHARES.start(), SHARES.end()))
}

/// What the weather is by default.
const STORM: Weather = Weather::STORM;
