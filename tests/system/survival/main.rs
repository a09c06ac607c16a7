//! Real brokers, links and processes that fail at any moment, in the middle of rounds. The same at length:
//! `cargo run -p grapevine-tests --bin faults -- --help`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it saw")]

mod brokers;
mod links;
mod loss;
mod processes;
mod soak;
#[cfg(unix)]
mod stopping;
mod swarm;
mod vanishing;
