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

#[cfg(feature = "ndarray")]
mod arrays;
mod cholesky;
mod closing;
mod completion;
mod eigen;
pub mod evaluate;
mod exchange;
mod exp;
pub mod fields;
mod fleet;
mod head;
pub mod hyper_parameters;
mod kernel;
mod lbfgs;
pub mod limits;
mod merge;
mod method;
mod methods;
pub mod oneshot;
mod params;
mod possible;
mod posterior;
mod preconditioner;
mod prior;
mod prototype;
mod run;
mod samples;
mod sampling;
mod shape;
mod side_information;
mod statistics;
mod train;

#[cfg(feature = "ndarray")]
pub use arrays::ArraysError;
pub use completion::{Completed, complete};
pub use exchange::{Request, Response};
pub use fields::{DeviceState, OfMethod};
pub use fleet::{Average, Conditions, FleetModel, HeldBack, RoundResult, ServerState};
pub use head::{Head, HeadError, Heads};
pub use hyper_parameters::HyperParameter;
pub use merge::{DeviceWeight, DeviceWeights, HeadSum, MergeError, PrototypeSum};
pub use method::{Method, UnknownMethod};
pub use methods::{UnknownHyperParameter, climb, creff, redgrape_plus, scaffold};
pub use params::{Init, MAX_METHOD_PARAMS, Params, ParamsError, ValidParams};
pub use prototype::{OwnPrototypes, PrototypeError, PrototypeSource, Prototypes, SUM_VALUES};
pub use run::{Answer, Received, RoundError, RoundSum, Run, RunConfig, respond, respond_while};
pub use samples::{Samples, SamplesError};
pub use sampling::{class_counts, stream};
pub use shape::{Shape, ShapeError};
pub use side_information::{SideInformation, SideInformationView};
pub use statistics::{FloatSums, Means, Statistics, StatisticsError, Sums, triangle};
pub use train::{Balance, LocalObjective, LocalTraining, Loss, Plan, TrainingConfig};
