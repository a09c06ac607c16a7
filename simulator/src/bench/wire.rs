//! What a run would send and receive over MQTT, from the protocol's own encoders: topics and payloads of every message,
//! as a transport counts them. Nothing is lost and nothing is said twice.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use grapevine_aggregator::round::UPLOAD_WINDOW;
use grapevine_edge_client::session::DOWNLOAD_WINDOW;
use grapevine_models::{Head, Response, Shape};
use grapevine_protocol::topics::{self, BlobKind};
use grapevine_protocol::{
    AttributeValue, Attributes, BUILT_IN_ATTRIBUTES, Bitmap, BlobRef, BlockHeader, BlockRequest, BlockSize, DatasetId,
    DeviceId, Digest, Encoding, FleetId, Hello, Incarnation, Offer, Receipt, RoundAnnouncement, RoundId, RunId,
    ToAggregator, ToDevice, Update, Welcome, encode,
};

/// Numbers that are random in a real fleet; long ones, as nearly all of them are.
const BOOT: Incarnation = Incarnation(u64::MAX);
const RUN: RunId = RunId(u64::MAX);
const CRC: u32 = u32::MAX;

/// Bytes sent and received by devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) up: u64,
    pub(super) down: u64,
}

impl core::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.up += other.up;
        self.down += other.down;
    }
}

/// Lengths of the messages of one fleet.
pub(super) struct Wire {
    shape: Shape,
    encoding: Encoding,
    fleet: FleetId,
    up_topic: usize,
    down_topic: usize,
    /// Lengths of updates: they depend on nothing but this.
    updates: Mutex<BTreeMap<UpdateForm, usize>>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct UpdateForm {
    samples_bits: u32,
    supplementary: bool,
    prototypes: usize,
    /// Which response it is.
    kind: u8,
}

/// What a board says about itself; the same on every machine, so that figures can be compared.
fn attributes() -> Attributes {
    let text = |text| AttributeValue::text(text).expect("a short word");
    let values = [text("aarch64"), text("linux"), AttributeValue::Number(4), AttributeValue::Number(3_795)];
    let mut labels = Attributes::default();
    for (name, value) in BUILT_IN_ATTRIBUTES.into_iter().zip(values) {
        labels.insert(name, value).expect("four attributes of fixed names");
    }
    labels
}

impl Wire {
    /// `device` is any device of the fleet: their names are equally long.
    pub(super) fn new(fleet: FleetId, device: &DeviceId, shape: Shape, encoding: Encoding) -> Self {
        let (up_topic, down_topic) = (topics::up(&fleet, device).len(), topics::down(&fleet, device).len());
        Self { shape, encoding, fleet, up_topic, down_topic, updates: Mutex::new(BTreeMap::new()) }
    }

    /// A device comes: its hello and the welcome.
    pub(super) fn greeting(&self, samples: usize) -> Traffic {
        let hello = Hello {
            incarnation: BOOT,
            extractor: Digest([0; 32]),
            classes: Digest([0; 32]),
            shape: self.shape,
            samples: samples as u32,
            // Of the usual length.
            dataset: DatasetId(u64::MAX / 3),
            attributes: attributes(),
        };
        let welcome = Welcome { incarnation: BOOT, run: RUN, is_eligible: true };
        Traffic { up: self.up(ToAggregator::Hello(hello), 0), down: self.down(ToDevice::Welcome(welcome), 0) }
    }

    /// What every device hears of a round.
    pub(super) fn announcement(&self, announcement: &RoundAnnouncement) -> u64 {
        (topics::announcement(&self.fleet).len()
            + encode(&ToDevice::RoundAnnouncement(announcement.clone()), &[]).len()) as u64
    }

    /// A device fetches a blob of the fleet's model.
    pub(super) fn download(&self, kind: BlobKind, bytes: usize) -> Traffic {
        let blob = blob(bytes);
        let mut missing = Bitmap::all(blob.blocks());
        let mut traffic = Traffic::default();
        while !missing.is_empty() {
            let window = missing.first(DOWNLOAD_WINDOW);
            traffic.up += self.up(ToAggregator::BlockRequest(BlockRequest { blob, missing: window.clone() }), 0);
            for index in window.iter() {
                missing.remove(index);
                let header = BlockHeader { digest: blob.digest, index: index as u16, crc: CRC };
                let topic = topics::blob(&self.fleet, kind).len();
                traffic.down += (topic + encode(&ToDevice::Block(header), &[]).len()) as u64;
            }
        }
        traffic.down += bytes as u64;
        traffic
    }

    /// A device delivers an update of so many bytes.
    pub(super) fn upload(&self, round: RoundId, bytes: usize) -> Traffic {
        let blob = blob(bytes);
        let offer = Offer { run: RUN, round, blob, crc: CRC };
        let receipt = Receipt { run: RUN, round, digest: blob.digest, refused: None };
        let mut missing = Bitmap::all(blob.blocks());
        missing.remove(0);
        let mut traffic =
            Traffic { up: self.up(ToAggregator::Offer(offer), bytes), down: self.down(ToDevice::Receipt(receipt), 0) };
        while !missing.is_empty() {
            let window = missing.first(UPLOAD_WINDOW);
            traffic.down += self.down(ToDevice::BlockRequest(BlockRequest { blob, missing: window.clone() }), 0);
            for index in window.iter() {
                missing.remove(index);
                let header = BlockHeader { digest: blob.digest, index: index as u16, crc: CRC };
                traffic.up += self.up(ToAggregator::Block(header), 0);
            }
        }
        traffic
    }

    /// Bytes of an update.
    pub(super) fn update_bytes(&self, content: &Response, samples: u32) -> usize {
        let (kind, supplementary, prototypes) = match content {
            Response::Statistics(_) => (0, false, 0),
            Response::Heads { heads, prototypes, loss: _ } => {
                let Head { weight, bias } = &heads.supplementary;
                let is_sent = weight.iter().chain(bias).any(|value| *value != 0.0);
                (1, is_sent, prototypes.as_ref().map_or(0, |prototypes| prototypes.by_class.len()))
            }
            Response::Gradient(_) => (2, false, 0),
            Response::Prototypes(prototypes) => (3, false, prototypes.by_class.len()),
            Response::OfMethod(_) => (4, false, 0),
        };
        // Small numbers are written in as many groups of seven bits as they need.
        let samples_bits = (u32::BITS - samples.leading_zeros()).div_ceil(7);
        let form = UpdateForm { samples_bits, supplementary, prototypes, kind };
        if let Some(&bytes) = self.updates.lock().unwrap_or_else(PoisonError::into_inner).get(&form) {
            return bytes;
        }
        let bytes = Update { samples, dataset: DatasetId::default(), response: content.clone() }
            .encode(self.shape, self.encoding)
            .len();
        self.updates.lock().unwrap_or_else(PoisonError::into_inner).insert(form, bytes);
        bytes
    }

    fn up(&self, message: ToAggregator, block: usize) -> u64 {
        (self.up_topic + encode(&message, &[]).len() + block) as u64
    }

    fn down(&self, message: ToDevice, block: usize) -> u64 {
        (self.down_topic + encode(&message, &[]).len() + block) as u64
    }
}

/// A blob of this length; its digest is as long as any.
pub(super) fn blob(bytes: usize) -> BlobRef {
    BlobRef { digest: Digest([0; 32]), bytes: bytes as u32, block: BlockSize::default() }
}
