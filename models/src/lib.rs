//! What is learned: linear heads on frozen features, local training, gradient prototypes, pure-sum
//! statistics, one-shot heads, and exact merging.
//!
//! This crate is pure mathematics: no clock, no socket, no file, no random source of its own, and no message
//! format. It is `no_std` with `alloc`; buffers are made once per round and nothing is allocated per batch.
//!
//! Read [`LocalTraining`] first (one device, one round), then [`HeadSum`] (the aggregator's side).
//! The mathematics is that of Yang et al., "Decentralized Decoupled Training for Federated Long-Tailed
//! Learning", TMLR 2024, restricted to the head of a frozen extractor.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod evaluate;
mod exp;
mod head;
mod kernel;
pub mod limits;
pub mod manifest;
mod merge;
pub mod oneshot;
mod params;
mod prototype;
mod sampling;
mod shape;
mod statistics;
mod train;

pub use head::{Head, HeadError, Heads};
pub use merge::{HeadSum, MergeError, PrototypeSum};
pub use params::{Method, Params, ParamsError, Sums, UnknownMethod, ValidParams};
pub use prototype::{PrototypeError, Prototypes};
pub use sampling::{Plan, class_counts, stream};
pub use shape::{Shape, ShapeError};
pub use statistics::{FloatSums, Means, Statistics, StatisticsError, triangle};
pub use train::{Balance, LocalTraining, Samples, SamplesError};
