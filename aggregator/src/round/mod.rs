//! The aggregator's side of the protocol as a pure machine: time and messages come in, actions go out.
//!
//! No clock, no socket, no file. The shell ([`crate::serve`]) calls a `handle_…` method, then takes every action with
//! [`Coordinator::poll_action`], in order, and comes back when [`Coordinator::poll_timeout`] says so. An action that
//! must be durable is answered by a `handle_…` call once it is; only then does the machine tell anybody.
//!
//! The [`Coordinator`] routes. What it calls are parts, each of which owns its state and decides about nothing else:
//! `devices` (the `registry` of them, their refusals, the `watchlist`), `uploads` on their way in, `downloads` on their way
//! out, `announcements` of what is going on, the `connection` to the broker, and the `run` with what it has learned and from
//! whom. A part gets what it needs beside its own state as a `context`: the time, the configuration, the devices, and
//! the list of actions. What a part cannot decide it returns.
//!
//! One file for each `phase` of a round: `gathering`, `collecting`, `sifting`, `committing`. A phase owns its data, and what
//! ends it consumes it and gives the next one; the `round_record` goes from one to the other.

mod absence;
mod action;
mod announcements;
mod collecting;
mod committing;
mod config;
mod connection;
mod context;
mod contributions;
mod coordinator;
mod counters;
mod device_index;
mod devices;
mod downloads;
mod gathering;
mod model;
mod phase;
mod questions;
mod registry;
mod round_record;
mod run;
pub mod select;
mod sifting;
#[cfg(test)]
mod tests;
mod transitions;
mod uploads;
mod watchlist;

pub use action::{Action, Durable, Event, OpenRound, Progress, RoundOutcome, Tell};
pub use collecting::AcceptedUpdate;
pub use config::{Auxiliary, Participants, Quarantine, RoundConfig};
pub use contributions::Contribution;
pub use coordinator::Coordinator;
pub use counters::Counters;
pub use gathering::choose;
pub use model::{Content, Model, ModelError};
pub use questions::{RoundStatus, Waiting};
pub use registry::{DeviceRecord, Registry};
pub use run::Untaken;
pub use select::Select;
pub use uploads::WINDOW as UPLOAD_WINDOW;
pub use watchlist::TurnedAway;
