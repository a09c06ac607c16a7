//! `storm`: federations in memory by the thousand, a crowd of devices, a long run.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "a command says what happens and how long it took")]

mod cli;

use std::process::ExitCode;

use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

fn main() -> ExitCode {
    cli::main()
}
