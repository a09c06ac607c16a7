//! The command line of `fleet`: one file per command, each of which gives an [`Answer`], which this file delivers.

mod bench;
mod data;
mod demo;
mod extractor;
mod images_bar;
mod screen;
mod usage;

use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};
use grapevine_host::Answer;
use grapevine_host::command_line::{Program, completions, verbosity};

const EXAMPLES: &str = "\
Examples:
  fleet demo                                     # a federation here, and what four methods make of it
  fleet bench --data pictures/ --seeds 3         # many methods on images of your own
  fleet extractor inspect resnet.onnx            # whether an extractor runs, and how fast

`fleet COMMAND --help` has more of each.";
const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  fleet completions bash > ~/.local/share/bash-completion/completions/fleet
  fleet completions zsh > ~/.zfunc/_fleet";

/// Whole Grapevine federations on one machine.
#[derive(Debug, Parser)]
#[command(name = "fleet", version, propagate_version = true, disable_help_subcommand = true, after_help = EXAMPLES)]
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
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// The whole program.
pub(crate) fn main() -> ExitCode {
    let program = Program {
        // Progress is shown by other means than the log, so rounds are logged only when asked for.
        verbosity: |arguments: &Arguments| if arguments.quiet { -2 } else { verbosity(arguments.verbose, 1) },
        obey,
        explain: |error: &anyhow::Error| Answer::failure(error.as_ref()),
    };
    program.main()
}

fn obey(arguments: &Arguments) -> anyhow::Result<Answer> {
    match &arguments.command {
        Command::Demo(demo) => demo::demo(demo, arguments.quiet),
        Command::Bench(bench) => bench::bench(bench, arguments.quiet),
        Command::Extractor(extractor) => extractor::extractor(extractor, arguments.quiet),
        Command::Completions { shell } => Ok(completions::<Arguments>(*shell)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
