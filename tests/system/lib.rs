//! What the system tests share: a real broker to start and kill, and a small federation of real devices.

pub mod federation;
pub mod mosquitto;
