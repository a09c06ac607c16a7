//! Frames: one version byte, one message in postcard, and the raw bytes of a block.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_FRAME_BYTES, MAX_HEADER_BYTES};
use crate::messages::{ToAggregator, ToDevice};
use crate::refusal::Refusal;

/// The version this crate speaks, and the only one it understands.
pub const VERSION: u8 = 1;

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than any frame.
    #[error("a frame of {0} bytes is longer than any message")]
    TooLong(usize),
    /// Another version, or nothing at all.
    #[error("protocol version {0:?} is not understood; this is version 1")]
    Version(Option<u8>),
    /// No message.
    #[error("the bytes are no message of this protocol")]
    Garbage,
    /// Raw bytes behind a message that has none, or none behind one that has.
    #[error("the message and the bytes behind it do not fit")]
    Block,
}

impl FrameError {
    /// Under which name it is counted.
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Version(Some(_)) => Refusal::Version,
            Self::TooLong(_) | Self::Version(None) | Self::Garbage | Self::Block => Refusal::Garbage,
        }
    }
}

/// Writes a frame; `block` is empty for messages without one.
///
/// ```
/// use grapevine_protocol::{FrameError, Goodbye, Incarnation, ToAggregator, VERSION, decode_to_aggregator, encode};
///
/// let goodbye = ToAggregator::Goodbye(Goodbye { incarnation: Incarnation(7) });
/// let mut frame = encode(&goodbye, &[]);
/// assert_eq!(frame[0], VERSION, "the first byte is the version");
/// assert_eq!(decode_to_aggregator(&frame), Ok((goodbye, &[][..])));
/// // Of a frame of another version nothing but that byte is read.
/// frame[0] = VERSION + 1;
/// assert_eq!(decode_to_aggregator(&frame), Err(FrameError::Version(Some(VERSION + 1))));
/// ```
pub fn encode<M: Serialize>(message: &M, block: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(128 + block.len());
    frame.push(VERSION);
    let mut frame = postcard::to_extend(message, frame).expect("messages are bounded and always serialise");
    debug_assert!(frame.len() <= MAX_HEADER_BYTES, "a message header of {} bytes", frame.len());
    frame.extend_from_slice(block);
    frame
}

/// Reads what a device said, and the block behind it.
///
/// # Errors
/// If the frame is too long, of another version or no message, or if it lacks its block or has one too many.
pub fn decode_to_aggregator(frame: &[u8]) -> Result<(ToAggregator, &[u8]), FrameError> {
    let (message, block) = decode(frame)?;
    let wants_block = match &message {
        ToAggregator::Offer(_) | ToAggregator::Block(_) => true,
        ToAggregator::Hello(_) | ToAggregator::BlockRequest(_) | ToAggregator::Goodbye(_) => false,
    };
    fits(message, block, wants_block)
}

/// Reads what the aggregator said, and the block behind it.
///
/// # Errors
/// If the frame is too long, of another version or no message, or if it lacks its block or has one too many.
pub fn decode_to_device(frame: &[u8]) -> Result<(ToDevice, &[u8]), FrameError> {
    let (message, block) = decode(frame)?;
    let wants_block = match &message {
        ToDevice::Block(_) => true,
        ToDevice::Welcome(_)
        | ToDevice::Refused(_)
        | ToDevice::RoundAnnouncement(_)
        | ToDevice::BlockRequest(_)
        | ToDevice::Receipt(_) => false,
    };
    fits(message, block, wants_block)
}

fn decode<'a, M: Deserialize<'a>>(frame: &'a [u8]) -> Result<(M, &'a [u8]), FrameError> {
    if frame.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLong(frame.len()));
    }
    let (&version, rest) = frame.split_first().ok_or(FrameError::Version(None))?;
    if version != VERSION {
        return Err(FrameError::Version(Some(version)));
    }
    postcard::take_from_bytes(rest).map_err(|_| FrameError::Garbage)
}

fn fits<M>(message: M, block: &[u8], wants_block: bool) -> Result<(M, &[u8]), FrameError> {
    if block.is_empty() == wants_block {
        return Err(FrameError::Block);
    }
    Ok((message, block))
}
