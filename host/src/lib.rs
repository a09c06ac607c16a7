//! What the programs need from the machine they run on: MQTT, configuration files, manifests, signals, logging, the
//! process's own figures, and one way to end with a sentence.
//!
//! This crate knows sockets, files, clocks and signals so that the session and the round need not. It must never
//! hold a decision of the protocol: bytes go in and out of [`Transport`] unread.
//!
//! Read [`Transport`] first, then [`config::load`].

pub mod answer;
pub mod broker_address;
pub mod class_list;
pub mod clock;
pub mod command_line;
pub mod config;
pub mod cpu;
pub mod draft;
pub mod files;
pub mod log;
mod manual;
pub mod memory;
pub mod panics;
mod printable;
pub mod sentence;
pub mod service;
pub mod signals;
pub mod transport;

pub use answer::Answer;
pub use broker_address::BrokerAddress;
pub use printable::{Printable, printable, printable_lines};
pub use service::Service;
pub use signals::Shutdown;
pub use transport::Transport;
