//! The command line: one file per command, each of which gives an [`Answer`], which this file delivers.
//!
//! Results go to standard output, everything else to standard error; a failure is one line.

mod completions;
mod devices;
mod export;
mod init;
mod ledger;
mod live;
mod rounds;
mod serve;
mod show;
mod status;
mod usage;

use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, Parser, Subcommand};
use grapevine_aggregator::broker::LOG_FILTER;
use grapevine_aggregator::config::{self, ValidConfig};
use grapevine_host::answer::INTERRUPTED;
use grapevine_host::{Answer, log, panics};

const EXAMPLES: &str = "\
Examples:
  aggregator init --fleet north --extractor models/onnx/digits.toml --classes-file classes.txt --embedded
  aggregator serve                       # holds rounds until Ctrl-C; goes on where it stopped
  aggregator status                      # also beside a running `serve`
  aggregator export --output north.onnx  # extractor and newest head in one file

Settings come from the configuration, the environment over it (GRAPEVINE_ROUND__DEADLINE, ...), and flags over both.
GRAPEVINE_LOG takes a log filter such as `debug`.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C before the end.";

/// The aggregator of a Grapevine fleet: opens rounds, merges what the devices learned, keeps the ledger.
#[derive(Debug, Parser)]
#[command(name = "aggregator", version, after_help = EXAMPLES, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Common {
    /// The configuration.
    #[arg(long, global = true, env = "GRAPEVINE_CONFIG", value_name = "FILE", default_value = "aggregator.toml")]
    config: PathBuf,
    /// The folder for the ledger and the merged heads; goes over the configuration's `state`.
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Log more; twice for everything.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Log warnings only; twice for errors, three times for nothing.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    quiet: u8,
}

impl Common {
    /// The configuration with the environment and the flags over it.
    fn configuration(&self) -> anyhow::Result<ValidConfig> {
        let mut config = config::load(&self.config, grapevine_host::config::environment())?;
        if let Some(state) = &self.state {
            config.state.clone_from(state);
        }
        Ok(config)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Arguments),
    Serve(serve::Arguments),
    Status(status::Arguments),
    Devices(devices::Arguments),
    Rounds(rounds::Arguments),
    Export(export::Arguments),
    Completions(completions::Arguments),
}

/// The whole program.
pub(crate) fn main() -> ExitCode {
    let answer = match Arguments::try_parse() {
        Ok(arguments) => {
            let Common { verbose, quiet, .. } = arguments.common;
            // Counts of a flag on one command line; more than 100 of them mean no more than 100.
            log::init_with(verbose.min(100) as i8 - quiet.min(100) as i8, LOG_FILTER);
            panics::note();
            // The hook has noted the panic; what it leaves behind is dropped with the process.
            catch_unwind(AssertUnwindSafe(|| obey(&arguments)))
                .unwrap_or_else(|_| Ok(Answer::complaint(panics::fault("aggregator"), 1)))
                .unwrap_or_else(|error| Answer::failure(error.as_ref()))
        }
        Err(error) => usage::answer(&error),
    };
    ExitCode::from(answer.deliver())
}

fn obey(arguments: &Arguments) -> anyhow::Result<Answer> {
    let common = &arguments.common;
    match &arguments.command {
        Command::Init(arguments) => init::init(common, arguments),
        Command::Serve(arguments) => serve::serve(common, arguments),
        Command::Status(arguments) => status::status(common, arguments),
        Command::Devices(arguments) => devices::devices(common, arguments),
        Command::Rounds(arguments) => rounds::rounds(common, arguments),
        Command::Export(arguments) => export::export(common, arguments),
        Command::Completions(arguments) => Ok(completions::completions(arguments)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_command_shows_examples() {
        Arguments::command().debug_assert();
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "`{}` has no examples", command.get_name());
        }
    }
}
