//! The command line: one file per command, each of which gives an [`Answer`], which this file delivers.
//!
//! Results go to standard output, everything else to standard error; a failure is one line.

mod background_task;
mod classify;
mod correct;
mod failure;
mod histogram;
mod ingest;
mod ingested;
mod init;
mod intake;
mod liveness;
mod model;
mod run;
mod setup;
mod status;
mod train;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;
use grapevine_host::Answer;
use grapevine_host::answer::INTERRUPTED;
use grapevine_host::command_line::{Program, completions, manual, verbosity};
use grapevine_vision::extractor::trial;

const EXAMPLES: &str = "\
Examples:
  edge-client init --fleet north --device camera-1 --broker mqtt://broker.local \\
      --extractor models/onnx/digits.toml --classes-file classes.txt
  edge-client ingest pictures/          # pictures/<class>/*.png or *.jpg
  edge-client run                       # takes part in the fleet's rounds until Ctrl-C
  edge-client classify new.png          # with the newest head
  edge-client relabel 0007.png one      # a label put right; `forget` removes a sample
  edge-client status

Environment variables (GRAPEVINE_BROKER, GRAPEVINE_MQTT__KEEP_ALIVE, ...) override the configuration, and flags override
both. GRAPEVINE_LOG takes a log filter such as `debug`.

Exit codes: 0 done, 1 failed or not all done, 2 wrong usage, 130 stopped by Ctrl-C before the end.";

const COMPLETIONS: &str = "\
Examples:
  edge-client completions bash > ~/.local/share/bash-completion/completions/edge-client
  edge-client completions zsh > ~/.zfunc/_edge-client";

const MANUAL: &str = "\
Examples:
  edge-client man > edge-client.1 && man ./edge-client.1
  edge-client man run > edge-client-run.1";

/// A device of a Grapevine fleet: stores features of its images, trains a classifier head on them, talks to the
/// aggregator.
#[derive(Debug, Parser)]
#[command(name = "edge-client", version, after_help = EXAMPLES, disable_help_subcommand = true)]
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
    #[arg(long, global = true, env = "GRAPEVINE_CONFIG", value_name = "FILE", default_value = "edge-client.toml")]
    config: PathBuf,
    /// The folder for features, newest head and status; overrides the configuration's `state`.
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Log more; twice for everything.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Log warnings only; twice for errors, three times for nothing.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    quiet: u8,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Arguments),
    Ingest(ingest::Arguments),
    Relabel(correct::RelabelArguments),
    Forget(correct::ForgetArguments),
    Run(run::Arguments),
    Train(train::Arguments),
    Classify(classify::Arguments),
    Status(status::Arguments),
    /// What this program starts itself with, to try an extractor.
    #[command(hide = true)]
    Trial(trial::Arguments),
    /// Write the completions of a shell to standard output.
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write a manual page to standard output.
    #[command(after_help = MANUAL)]
    Man {
        /// The command it is about; the whole program without it.
        command: Option<String>,
    },
}

/// The whole program.
pub(crate) fn main() -> ExitCode {
    let program = Program {
        verbosity: |arguments: &Arguments| verbosity(arguments.common.verbose, arguments.common.quiet),
        obey,
        explain: failure::answer,
    };
    program.main()
}

fn obey(arguments: &Arguments) -> anyhow::Result<Answer> {
    let common = &arguments.common;
    match &arguments.command {
        Command::Init(arguments) => init::init(common, arguments),
        Command::Ingest(arguments) => ingest::ingest(common, arguments),
        Command::Relabel(arguments) => correct::relabel(common, arguments),
        Command::Forget(arguments) => correct::forget(common, arguments),
        Command::Run(arguments) => run::run(common, arguments),
        Command::Train(arguments) => train::train(common, arguments),
        Command::Classify(arguments) => classify::classify(common, arguments),
        Command::Status(arguments) => status::status(common, arguments),
        Command::Trial(arguments) => Ok(trial::here(arguments)?),
        Command::Completions { shell } => Ok(completions::<Arguments>(*shell)),
        Command::Man { command } => Ok(manual::<Arguments>(command.as_deref())),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_command_shows_examples() {
        Arguments::command().debug_assert();
        for command in Arguments::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "`{}` has no examples", command.get_name());
        }
    }
}
