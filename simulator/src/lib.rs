//! Whole federations on one machine: data sets, long tails, partitions, the demo, and reports.
//!
//! The devices and the aggregator here are the products themselves, used as libraries: the same session, the same
//! round, the same stores, over a real MQTT broker. This crate adds only what surrounds them: where data come from,
//! who holds what, and what is shown.
//!
//! Read [`demo::run`] first, then [`bench::run`].

pub mod bench;
pub mod data;
pub mod demo;
pub mod extractor;
mod hyper_parameters;
pub mod report;
