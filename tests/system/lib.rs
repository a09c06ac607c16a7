//! What the system tests share: a real broker to start and kill, a small federation of real devices, and the shipped
//! programs as processes.

pub mod federation;
pub mod mosquitto;
pub mod programs;
