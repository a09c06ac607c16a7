//! What the system tests share: real brokers to start and kill, bad links, a small federation of real devices, and the
//! shipped programs as processes.

pub mod broker;
pub mod federation;
pub mod fleet;
pub mod kills;
pub mod links;
pub mod mixed;
pub mod mosquitto;
pub mod namespaces;
#[cfg(unix)]
pub mod other_brokers;
pub mod programs;
pub mod proxy;
pub mod restarts;
pub mod soak;
pub mod storm;
pub mod swarm;
