//! `aggregator`: the program that holds a fleet's rounds. See `aggregator --help`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
