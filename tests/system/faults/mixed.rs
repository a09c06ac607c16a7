//! `faults mixed`

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use grapevine_tests::mixed;

/// Let a device of another architecture take part in runs, and compare their heads with those of a fleet without it:
/// where it trains on features extracted here, they must be the same bits.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The other device's edge-client.
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// What it runs under on this machine, an emulator with its arguments.
    #[arg(long, value_name = "COMMAND", default_value = "")]
    under: String,
    /// The largest difference of weights that is allowed, as a part of the largest weight, where it extracts, too.
    #[arg(long, value_name = "PART", default_value_t = 1e-4)]
    most: f64,
    /// Do not ask for the same bits where it trains, only for that difference.
    #[arg(long)]
    inexact: bool,
    /// Rounds of training of every run.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    rounds: usize,
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let Ok(program) = arguments.program.canonicalize() else {
        eprintln!("error: there is no {}; build it first, such as with cross/build", arguments.program.display());
        return ExitCode::from(2);
    };
    let mut other: Vec<OsString> = arguments.under.split_whitespace().map(OsString::from).collect();
    other.push(program.into_os_string());
    let report = mixed::compare(&other, arguments.rounds, &mut |outcome| {
        let mixed::Outcome { method, rounds, equal_when_training, equal_when_extracting, difference, .. } = outcome;
        eprintln!(
            "{method}: of {rounds} rounds, {equal_when_training} with the same heads where it trains, \
             {equal_when_extracting} where it extracts, too; weights then differ by {difference:.1e} of the largest"
        );
    });
    crate::answer(&report);
    let is_sound = |outcome: &mixed::Outcome| {
        (arguments.inexact || outcome.equal_when_training == outcome.rounds) && outcome.difference <= arguments.most
    };
    if report.iter().all(is_sound) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
