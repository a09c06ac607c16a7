//! `faults mixed`

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use grapevine_tests::mixed;

/// Let a device of another architecture take part in runs, and compare their heads with those of a fleet without it.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The other device's edge-client.
    #[arg(long, value_name = "FILE")]
    program: PathBuf,
    /// What it runs under on this machine, an emulator with its arguments.
    #[arg(long, value_name = "COMMAND", default_value = "")]
    under: String,
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
        let mixed::Outcome { method, equal_rounds, rounds, .. } = outcome;
        eprintln!("{method}: {equal_rounds} of {rounds} rounds with the same heads");
    });
    crate::answer(&report);
    if report.iter().all(|outcome| outcome.equal_rounds == outcome.rounds) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
