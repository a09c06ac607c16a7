//! What is said between devices and the aggregator: messages, topics, frames, blocks, and the checks on
//! everything that arrives.
//!
//! This crate knows bytes and meanings; it never touches a socket, a clock, a file or a random source. It is `no_std`
//! with `alloc`. Everything received goes one way: bytes, then a wire type, then a checked domain type; a checked
//! type in hand means that shapes, sizes and numbers are what the fleet agreed on.
//!
//! Read [`ToAggregator`] and [`ToDevice`] first.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod bitmap;
mod blob;
mod body;
mod frame;
mod gradients;
mod ids;
mod labels;
pub mod limits;
mod memory;
mod messages;
mod refusal;
mod tensor;
pub mod topics;

pub use bitmap::Bitmap;
pub use blob::{Assembler, BlobRef, BlockError, BlockSize, block};
pub use body::{
    AidBody, BodyError, HeadsBody, ReceivedAid, Update, largest_aid, largest_heads, largest_update, trained_bytes,
};
pub use frame::{FrameError, VERSION, decode_to_aggregator, decode_to_device, encode};
// The contents of bodies.
pub use gradients::EncodedPrototypes;
pub use grapevine_models::{Aid, UpdateContent};
pub use ids::{AGGREGATOR, BootId, DatasetId, DeviceId, Digest, FleetId, IdError, RoundId, RunId, class_list_digest};
pub use labels::{BUILT_IN as BUILT_IN_LABELS, LabelError, LabelValue, Labels, is_label_name};
pub use memory::{MemoryBody, StatisticsBody};
pub use messages::{
    BlockHeader, Hello, Leaving, Notice, Offer, Receipt, Refused, Task, ToAggregator, ToDevice, Want, Welcome,
    is_selected, named_ticket, selection_ticket,
};
pub use refusal::Refusal;
pub use tensor::{Encoding, TensorError};
