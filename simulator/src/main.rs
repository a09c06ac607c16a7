//! `fleet`: whole federations on one machine.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
