//! `faults`: what the `survival` tests do in a short form, at any length: brokers, links and programs that fail.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to people")]

mod brokers;
mod links;
mod mixed;
mod processes;
mod soak;
mod swarm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde::Serialize;

const EXAMPLES: &str = "\
Examples:
  cargo run -p grapevine-tests --bin faults -- kills --aggregator 200 --devices 200 --seed 1
  cargo run -p grapevine-tests --bin faults -- brokers --count 20
  cargo run -p grapevine-tests --bin faults -- links | jq .upload.seconds
  cargo run -p grapevine-tests --bin faults -- mixed --program edge-client-armv7 --under 'qemu-arm-static -L /usr/arm-linux-gnueabihf'
  cargo run -p grapevine-tests --bin faults -- soak --rounds 2000
  cargo run -p grapevine-tests --bin faults -- swarm --devices 100,1000,5000

Progress goes to standard error, the results go to standard output as JSON. What does not end as it must ends the
program with exit code 101 and says what happened; the same seed gives the same victims and moments.";

/// Brokers, links and programs that fail in the middle of rounds, as often as you like.
#[derive(Debug, Parser)]
#[command(name = "faults", version, disable_help_subcommand = true, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Kills(processes::Arguments),
    Brokers(brokers::Arguments),
    Links(links::Arguments),
    Mixed(mixed::Arguments),
    Soak(soak::Arguments),
    Swarm(swarm::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Kills(arguments) => processes::run(&arguments),
        Command::Brokers(arguments) => brokers::run(&arguments),
        Command::Links(arguments) => links::run(&arguments),
        Command::Mixed(arguments) => mixed::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Swarm(arguments) => swarm::run(&arguments),
    }
}

/// The results, for standard output.
fn answer(results: &impl Serialize) -> ExitCode {
    println!("{}", serde_json::to_string_pretty(results).expect("plain numbers and strings serialise"));
    ExitCode::SUCCESS
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
