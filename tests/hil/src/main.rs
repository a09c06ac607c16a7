//! `hil`: hardware in the loop. Boards, real or emulated, take part in the rounds of a small fleet, lose their power in the
//! middle of the second, boot again, and must end with the fleet's head. It contains nothing of the products: it runs
//! them as processes and believes what their commands say. Read [`trial`] first, then [`board::Board`].
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that talks to people")]

mod board;
mod cli;
mod digits;
mod fleet;
mod inventory;
mod junit;
mod process;
mod program;
mod progress;
mod report;
mod table;
mod trial;
mod trouble;
mod waiting;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
