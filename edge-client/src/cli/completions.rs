//! `edge-client completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use super::Answer;

const EXAMPLES: &str = "\
Examples:
  edge-client completions bash > ~/.local/share/bash-completion/completions/edge-client
  edge-client completions zsh > ~/.zfunc/_edge-client";

/// Write the completions of a shell to standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The shell.
    shell: Shell,
}

pub(super) fn completions(arguments: &Arguments) -> Answer {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Arguments::command(), "edge-client", &mut text);
    Answer::text(String::from_utf8_lossy(&text))
}
