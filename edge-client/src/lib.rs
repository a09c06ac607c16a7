//! What a device does: turns images into features once, keeps them, trains heads on them, and talks to the aggregator.
//!
//! [`session::Session`] decides and touches nothing; [`device::run`] is the shell around it. The rest are the things a
//! device has: a [`store`] (the only place that knows redb), and the [`work`] of a round.
//!
//! Read [`session::Session`] and [`device::run`] first.

pub mod classify;
pub mod config;
pub mod device;
pub mod ingest;
pub mod predict;
pub mod resources;
pub mod session;
pub mod store;
pub mod watch;
pub mod work;
