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

mod attributes;
mod bitmap;
mod blob;
mod body;
mod fields;
mod frame;
mod gradients;
mod ids;
pub mod limits;
mod messages;
mod refusal;
mod server_state;
mod tensor;
pub mod topics;
mod update;

pub use bitmap::Bitmap;
pub use blob::{Assembler, BlobRef, BlockError, BlockSize, block};
pub use body::{
    BodyError, HeadsBody, ReceivedSideInformation, SideInformationBody, largest_heads, largest_side_information,
};
pub use fields::DeviceStateBody;
pub use frame::{FrameError, VERSION, decode_to_aggregator, decode_to_device, encode};
// The contents of bodies.
pub use attributes::{AttributeError, AttributeValue, Attributes, BUILT_IN as BUILT_IN_ATTRIBUTES, is_attribute_name};
pub use gradients::EncodedPrototypes;
pub use grapevine_models::{Request, Response, SideInformation};
pub use ids::{
    AGGREGATOR, DatasetId, DeviceId, Digest, FleetId, IdError, Incarnation, RoundId, RunId, class_list_digest,
};
pub use messages::{
    BlockHeader, BlockRequest, Goodbye, Hello, Offer, Receipt, Refused, RoundAnnouncement, Task, ToAggregator,
    ToDevice, Welcome, is_selected, named_draw, selection_draw,
};
pub use refusal::Refusal;
pub use server_state::{ServerStateBody, StatisticsBody};
pub use tensor::{Encoding, TensorError};
pub use update::{SentPrototypes, Update, largest_update, response_bytes};
