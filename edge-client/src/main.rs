//! `edge-client`: the program of one device. See `edge-client --help`.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
