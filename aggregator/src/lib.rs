//! What a round is: devices, quorum, deadline, merging, and the ledger.
//!
//! [`round::Coordinator`] decides and touches nothing; [`serve::serve`] is the shell around it. The rest are the things
//! an aggregator has: the [`store`] (the only place that knows SQLite and blob files), the embedded [`broker`] (the
//! only place here that knows tokio), and [`export`], which joins extractor and head into one ONNX file.
//!
//! Read [`round::Coordinator`] and [`serve::serve`] first.

pub mod broker;
pub mod config;
pub mod export;
pub mod round;
pub mod serve;
pub mod store;
