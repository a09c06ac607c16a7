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

mod aid;
mod cholesky;
mod completion;
mod curvature;
mod descent;
mod eigen;
pub mod evaluate;
mod exp;
mod fleet;
mod head;
mod kernel;
mod keys;
pub mod limits;
mod local;
pub mod manifest;
mod merge;
mod methods;
pub mod oneshot;
mod params;
mod possible;
mod posterior;
mod prior;
mod prototype;
mod round;
mod sampling;
mod shape;
mod statistics;
mod train;

pub use aid::{Aid, AidView};
pub use completion::{Completed, complete};
pub use fleet::{Average, Conditions, FleetModel, HeldBack, Memory, Merged};
pub use head::{Head, HeadError, Heads};
pub use keys::{Key, UnknownKey};
pub use local::{Local, Loss};
pub use merge::{DeviceWeight, DeviceWeights, HeadSum, MergeError, PrototypeSum};
pub use methods::{MAX_SETTINGS, Method, Setting, UnknownMethod};
pub use params::{Params, ParamsError, Start, Sums, ValidParams};
pub use prototype::{OwnPrototypes, PrototypeError, PrototypeSource, Prototypes, SUM_VALUES};
pub use round::{RoundError, RoundSum, Step, Trained, UpdateContent, train_round, train_while};
pub use sampling::{Plan, class_counts, stream};
pub use shape::{Shape, ShapeError};
pub use statistics::{FloatSums, Means, Statistics, StatisticsError, triangle};
pub use train::{Balance, LocalTraining, Samples, SamplesError};
