//! The command line: one file per command, each of which gives an [`Answer`]. Only this file writes to the terminal.
//!
//! Results go to standard output, everything else to standard error; a failure is one line.

mod completions;
mod devices;
mod export;
mod failure;
mod init;
mod ledger;
mod live;
mod rounds;
mod serve;
mod show;
mod status;

use core::panic::AssertUnwindSafe;
use std::io::{self, ErrorKind, Write};
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, Parser, Subcommand};
use grapevine_aggregator::broker::LOG_FILTER;
use grapevine_aggregator::config::{self, ValidConfig};
use serde::Serialize;

/// What a shell expects of a process that Ctrl-C ended: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

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

/// What a command has to say at its end.
#[derive(Debug, Default)]
struct Answer {
    /// For standard output.
    text: String,
    /// For standard error, a sentence.
    complaint: Option<String>,
    code: u8,
}

impl Answer {
    /// A success.
    fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// A success, as JSON if that was asked for.
    fn of<T: Serialize>(value: &T, json: bool, render: impl FnOnce(&T) -> String) -> anyhow::Result<Self> {
        let text = if json { serde_json::to_string_pretty(value)? + "\n" } else { render(value) };
        Ok(Self::text(text))
    }

    /// A failure.
    fn failure(complaint: String, code: u8) -> Self {
        Self { complaint: Some(complaint), code, ..Self::default() }
    }
}

/// The whole program.
pub(crate) fn main() -> ExitCode {
    let answer = match Arguments::try_parse() {
        Ok(arguments) => {
            let Common { verbose, quiet, .. } = arguments.common;
            // Counts of a flag on one command line; more than 100 of them mean no more than 100.
            grapevine_host::log::init_with(verbose.min(100) as i8 - quiet.min(100) as i8, LOG_FILTER);
            failure::note_panics();
            // The hook has noted the panic; what it leaves behind is dropped with the process.
            catch_unwind(AssertUnwindSafe(|| obey(&arguments)))
                .unwrap_or_else(|_| Ok(failure::of_a_panic()))
                .unwrap_or_else(|error| Answer::failure(failure::sentence(error.as_ref()), 1))
        }
        Err(error) => failure::of_usage(&error),
    };
    ExitCode::from(deliver(&answer))
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

/// Writes an answer and gives the exit code.
fn deliver(answer: &Answer) -> u8 {
    let mut code = answer.code;
    let mut complaints: Vec<String> = answer.complaint.clone().into_iter().collect();
    let mut output = io::stdout().lock();
    match output.write_all(answer.text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => {}
        // The reader had enough, as in `| head`.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        Err(error) => {
            complaints.push(format!("cannot write the result: {error}; check where the output goes"));
            code = code.max(1);
        }
    }
    for complaint in complaints {
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(io::stderr(), "error: {complaint}");
    }
    code
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
