//! One enum per direction. The enums are small; blocks follow them as raw bytes in the same frame.

use alloc::vec::Vec;

use grapevine_models::{Request, Shape, ValidParams};
use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;
use crate::bitmap::Bitmap;
use crate::blob::BlobRef;
use crate::ids::{DatasetId, DeviceId, Digest, Incarnation, RoundId, RunId};
use crate::refusal::Refusal;
use crate::tensor::Encoding;

/// What a device says, on its own topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToAggregator {
    /// A device, after every connect: who it is and what it holds. Answered by `Welcome` or `Refused`.
    Hello(Hello),
    /// A device that needs blocks of the fleet's model. Answered by blocks on the blob's topic.
    BlockRequest(BlockRequest),
    /// A device whose update is ready; the first block follows. Repeated until a `Receipt` comes.
    Offer(Offer),
    /// A device, asked by `BlockRequest`: one block of its update follows.
    Block(BlockHeader),
    /// A device that goes away in good order, or its broker after a lost connection (last will).
    Goodbye(Goodbye),
}

/// What the aggregator says, to one device or to all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToDevice {
    /// To one device, whose hello fits the fleet.
    Welcome(Welcome),
    /// To one device, whose hello does not fit, or which spoke before its hello.
    Refused(Refused),
    /// To all devices, retained, and to one that seems not to have heard it: what the fleet is doing now.
    RoundAnnouncement(RoundAnnouncement),
    /// To one device: these blocks of its offered update.
    BlockRequest(BlockRequest),
    /// On a blob's topic, once for all who asked: one block follows.
    Block(BlockHeader),
    /// To one device: its update is stored, or never will be. Only this empties an outbox.
    Receipt(Receipt),
}

/// See [`ToAggregator::Hello`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// This start of the program.
    pub incarnation: Incarnation,
    /// SHA-256 of the extractor's file.
    pub extractor: Digest,
    /// Digest of the class list, see [`crate::class_list_digest`].
    pub classes: Digest,
    /// Classes and features.
    pub shape: Shape,
    /// Samples in the feature store.
    pub samples: u32,
    /// Which samples they are; said again when they change.
    pub dataset: DatasetId,
    /// What it says about itself: architecture, cores and memory, and what its owner adds.
    pub attributes: Attributes,
}

/// Blocks of a blob that somebody needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockRequest {
    /// Of which blob.
    pub blob: BlobRef,
    /// Which blocks.
    pub missing: Bitmap,
}

/// See [`ToAggregator::Offer`]. The first block follows as raw bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// The run it belongs to.
    pub run: RunId,
    /// The round it belongs to.
    pub round: RoundId,
    /// The update.
    pub blob: BlobRef,
    /// Of the block that follows.
    pub crc: u32,
}

/// Says which block the raw bytes of the frame are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockHeader {
    /// Of which blob.
    pub digest: Digest,
    /// Which block.
    pub index: u16,
    /// CRC-32 of the block.
    pub crc: u32,
}

/// See [`ToAggregator::Goodbye`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Goodbye {
    /// The start of the program that ends; a will of an earlier start is ignored.
    pub incarnation: Incarnation,
}

/// See [`ToDevice::Welcome`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The start of the program that is welcome.
    pub incarnation: Incarnation,
    /// The current run.
    pub run: RunId,
    /// Whether its attributes are among those that rounds choose from; others follow the fleet and use its heads.
    pub is_eligible: bool,
}

/// See [`ToDevice::Refused`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// The start of the program that is refused; none where the aggregator does not know it.
    pub incarnation: Option<Incarnation>,
    /// Why.
    pub reason: Refusal,
}

/// What the fleet is doing. Retained, so it is the first thing a device hears; small, so any broker keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundAnnouncement {
    /// This start of the aggregator; a device that sees a new one says hello again.
    pub incarnation: Incarnation,
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundId,
    /// What the chosen devices do.
    pub task: Task,
    /// Classes and features.
    pub shape: Shape,
    /// Method and hyper-parameters, checked.
    pub params: ValidParams,
    /// How updates are written.
    pub encoding: Encoding,
    /// The fleet's newest heads; none before the first merge.
    pub heads: Option<BlobRef>,
    /// What the method adds to the heads: prototypes, means or a prior.
    pub side_information: Option<BlobRef>,
    /// Every random choice of the run comes from this.
    pub seed: u64,
    /// A device takes part if its [`selection_draw`] is at most this.
    pub selection_threshold: u64,
    /// Unless empty, the first halves of the draws of the only devices that take part; at most
    /// [`MAX_NAMED_DEVICES`](crate::limits::MAX_NAMED_DEVICES).
    pub only: Vec<u32>,
    /// Time until the round closes, counted from the announcement's first publication.
    pub closes_in_ms: u32,
}

/// What a round asks of the devices that were chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Nothing yet: the aggregator waits for devices.
    Wait,
    /// Answer the request with an update.
    Round(Request),
    /// Nothing: nothing new is to be learned now, and the heads are those to use.
    Rest,
}

/// See [`ToDevice::Receipt`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The run of the update.
    pub run: RunId,
    /// The round of the update.
    pub round: RoundId,
    /// The update.
    pub digest: Digest,
    /// `None`: stored and part of the round. Else why it never will be; sending it again is of no use.
    pub refused: Option<Refusal>,
}

/// A device's place in the draw of a round: participation without a list of names in the announcement.
pub fn selection_draw(seed: u64, round: RoundId, device: &DeviceId) -> u64 {
    let mut text = [0_u8; 12 + crate::limits::MAX_DEVICE_ID];
    text[..8].copy_from_slice(&seed.to_le_bytes());
    text[8..12].copy_from_slice(&round.0.to_le_bytes());
    let name = device.as_str().as_bytes();
    text[12..12 + name.len()].copy_from_slice(name);
    let digest = Digest::of(&text[..12 + name.len()]);
    u64::from_le_bytes(digest.0[..8].try_into().expect("eight bytes"))
}

/// The part of a [`selection_draw`] by which [`RoundAnnouncement::only`] names its device.
pub fn named_draw(draw: u64) -> u32 {
    (draw >> 32) as u32
}

/// Whether a device takes part in the round of an announcement.
pub fn is_selected(announcement: &RoundAnnouncement, device: &DeviceId) -> bool {
    let draw = selection_draw(announcement.seed, announcement.round, device);
    draw <= announcement.selection_threshold
        && (announcement.only.is_empty() || announcement.only.contains(&named_draw(draw)))
}

impl Task {
    /// What is asked, if anything is.
    pub fn request(self) -> Option<Request> {
        match self {
            Self::Round(request) => Some(request),
            Self::Wait | Self::Rest => None,
        }
    }
}
