//! The command line: one file per command, each of which gives an [`Answer`], which this file delivers.
//!
//! Results go to standard output, everything else to standard error; a failure is one line.

mod backup;
mod devices;
mod export;
mod forget;
mod gaps;
mod init;
mod ledger;
mod live;
mod release;
mod rounds;
mod serve;
mod show;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;
use grapevine_aggregator::config::{self, ValidConfig};
use grapevine_host::Answer;
use grapevine_host::answer::INTERRUPTED;
use grapevine_host::command_line::{Program, completions, manual, verbosity};

const EXAMPLES: &str = "\
Examples:
  aggregator init --fleet north --extractor models/onnx/digits.toml --classes-file classes.txt --embedded
  aggregator serve                       # holds rounds until Ctrl-C; goes on where it stopped
  aggregator status                      # also beside a running `serve`
  aggregator export --output north.onnx  # extractor and newest head in one file

Environment variables (GRAPEVINE_ROUND__DEADLINE, ...) override the configuration, and flags override both.
GRAPEVINE_LOG takes a log filter such as `debug`.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C before the end.";

const COMPLETIONS: &str = "\
Examples:
  aggregator completions bash > ~/.local/share/bash-completion/completions/aggregator
  aggregator completions zsh > ~/.zfunc/_aggregator";

const MANUAL: &str = "\
Examples:
  aggregator man > aggregator.1 && man ./aggregator.1
  aggregator man serve > aggregator-serve.1";

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
    /// The folder for the ledger and the merged heads; overrides the configuration's `state`.
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
    Release(release::Arguments),
    Forget(forget::Arguments),
    Backup(backup::Arguments),
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
        explain: |error: &anyhow::Error| Answer::failure(error.as_ref()),
    };
    program.main()
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
        Command::Release(arguments) => release::release(common, arguments),
        Command::Forget(arguments) => forget::forget(common, arguments),
        Command::Backup(arguments) => backup::backup(common, arguments),
        Command::Completions { shell } => Ok(completions::<Arguments>(*shell)),
        Command::Man { command } => Ok(manual::<Arguments>(command.as_deref())),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use grapevine_host::command_line::usage;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_command_shows_examples() {
        Arguments::command().debug_assert();
        for command in Arguments::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "`{}` has no examples", command.get_name());
        }
    }

    #[test]
    fn mistakes_are_one_line_and_help_is_whole() {
        for (arguments, expected) in [
            (&["aggregator", "serv"][..], "unrecognized subcommand 'serv'"),
            (&["aggregator", "serve", "--round", "3"], "unexpected argument '--round' found"),
            (&["aggregator", "serve", "--rounds", "0"], "invalid value '0' for '--rounds <COUNT>'"),
            (&["aggregator", "serve", "--embedded", "--broker", "mqtt://h"], "cannot be used with"),
            (&["aggregator", "init"], "required arguments were not provided: --fleet <NAME>"),
            (&["aggregator"], "no command was given"),
        ] {
            let answer = usage::<Arguments>(&Arguments::try_parse_from(arguments).unwrap_err());
            assert_eq!((answer.code, answer.text.as_str()), (2, ""));
            let line = answer.complaints.concat();
            assert!(line.contains(expected) && !line.contains('\n') && line.contains("--help"), "{line}");
        }
        let help = usage::<Arguments>(&Arguments::try_parse_from(["aggregator", "--help"]).unwrap_err());
        assert!(help.code == 0 && help.complaints.is_empty() && help.text.contains("Examples:"), "{help:?}");
    }
}
