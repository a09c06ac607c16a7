//! The command line of `fleet`: one file per command, each of which gives an [`Answer`], which this file delivers.

mod bench;
mod demo;
mod extractor;
mod images_bar;
mod screen;
mod usage;

use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};
use grapevine_aggregator::broker::LOG_FILTER;
use grapevine_host::{Answer, log, panics};

/// Whole Grapevine federations on one machine.
#[derive(Debug, Parser)]
#[command(name = "fleet", version, propagate_version = true, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Log more; twice for every message.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    /// Say less: no progress, errors only.
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(Box<demo::Arguments>),
    Bench(Box<bench::Arguments>),
    Extractor(extractor::Arguments),
    /// Write the completions of a shell to standard output.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// The whole program.
pub(crate) fn main() -> ExitCode {
    let answer = match Arguments::try_parse() {
        Ok(arguments) => {
            // Progress is shown by other means than the log, so rounds are logged only when asked for.
            let verbosity = if arguments.quiet { -2 } else { arguments.verbose.min(100) as i8 - 1 };
            log::init_with(verbosity, LOG_FILTER);
            panics::note();
            // The hook has noted the panic; what it leaves behind is dropped with the process.
            catch_unwind(AssertUnwindSafe(|| obey(&arguments)))
                .unwrap_or_else(|_| Ok(Answer::complaint(panics::fault("fleet"), 1)))
                .unwrap_or_else(|error| Answer::failure(error.as_ref()))
        }
        Err(error) => usage::answer(&error),
    };
    ExitCode::from(answer.deliver())
}

fn obey(arguments: &Arguments) -> anyhow::Result<Answer> {
    match &arguments.command {
        Command::Demo(demo) => demo::demo(demo, arguments.quiet),
        Command::Bench(bench) => bench::bench(bench, arguments.quiet),
        Command::Extractor(extractor) => extractor::extractor(extractor, arguments.quiet),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "fleet", &mut text);
            Ok(Answer::text(String::from_utf8_lossy(&text)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
