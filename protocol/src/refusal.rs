//! Why something is refused: one name per reason, counted by the aggregator and told to the device.

use core::fmt;

use serde::{Deserialize, Serialize};

/// A reason. New reasons go to the end: the order is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Refusal {
    /// Bytes that are no message.
    Garbage,
    /// A message of another protocol version.
    Version,
    /// A message on a topic that does not fit it.
    Topic,
    /// A device that has not said hello since the aggregator started.
    UnknownDevice,
    /// Another extractor than the fleet's.
    Extractor,
    /// Another class list than the fleet's.
    Classes,
    /// Other numbers of classes or features than the fleet's.
    Shape,
    /// The registry is full.
    TooManyDevices,
    /// A message of another run.
    WrongRun,
    /// A message of a round that is not open.
    WrongRound,
    /// The round closed just before, and the update was not complete.
    Late,
    /// The device was not chosen for this round.
    NotSelected,
    /// A second, different update of the same device in the same round.
    Duplicate,
    /// More bytes than an update of this fleet can have.
    TooLarge,
    /// A block that does not belong to any blob on its way, or does not fit it.
    Block,
    /// A block damaged on the way.
    Crc,
    /// A content without the digest that was announced.
    Digest,
    /// A content that is not what the round asked for.
    Content,
    /// A NaN or an infinity.
    NotFinite,
    /// Numbers that no training can have produced.
    Absurd,
    /// An update of no samples, or of more than a device may hold.
    Samples,
    /// The aggregator could not store the update; it says why in its log.
    Storage,
    /// An update of a round that closed longer ago than the last one.
    Stale,
    /// An update that is stored already came again: counted, and answered with its receipt.
    Replayed,
    /// A device that sent too many bad updates, until the fleet's operator releases it.
    Quarantined,
    /// Another device with the same name: two of them say hello in turn. Told, and not kept from taking part.
    SameName,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 26] = [
        Self::Garbage,
        Self::Version,
        Self::Topic,
        Self::UnknownDevice,
        Self::Extractor,
        Self::Classes,
        Self::Shape,
        Self::TooManyDevices,
        Self::WrongRun,
        Self::WrongRound,
        Self::Late,
        Self::NotSelected,
        Self::Duplicate,
        Self::TooLarge,
        Self::Block,
        Self::Crc,
        Self::Digest,
        Self::Content,
        Self::NotFinite,
        Self::Absurd,
        Self::Samples,
        Self::Storage,
        Self::Stale,
        Self::Replayed,
        Self::Quarantined,
        Self::SameName,
    ];

    /// The name under which it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Garbage => "garbage",
            Self::Version => "version",
            Self::Topic => "topic",
            Self::UnknownDevice => "unknown-device",
            Self::Extractor => "extractor",
            Self::Classes => "classes",
            Self::Shape => "shape",
            Self::TooManyDevices => "too-many-devices",
            Self::WrongRun => "wrong-run",
            Self::WrongRound => "wrong-round",
            Self::Late => "late",
            Self::NotSelected => "not-selected",
            Self::Duplicate => "duplicate",
            Self::TooLarge => "too-large",
            Self::Block => "block",
            Self::Crc => "crc",
            Self::Digest => "digest",
            Self::Content => "content",
            Self::NotFinite => "not-finite",
            Self::Absurd => "absurd",
            Self::Samples => "samples",
            Self::Storage => "storage",
            Self::Stale => "stale",
            Self::Replayed => "replayed",
            Self::Quarantined => "quarantined",
            Self::SameName => "same-name",
        }
    }

    /// What the owner of a refused device should do.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Version => "install the release of edge-client that fits the aggregator",
            Self::Extractor => "set `extractor` to the fleet's manifest and run `edge-client ingest --reset`",
            Self::Classes => "set `classes` to the fleet's class list, in the same order",
            Self::Shape => "set `extractor` and `classes` to the fleet's, then run `edge-client ingest --reset`",
            Self::TooManyDevices => {
                "the aggregator knows as many devices as it can; run `aggregator forget` there for devices that are gone"
            }
            Self::SameName => {
                "another device uses the same name, perhaps a copy of this one's card; \
                 run `edge-client init` on one of them with another `--device`"
            }
            Self::UnknownDevice
            | Self::WrongRun
            | Self::WrongRound
            | Self::Late
            | Self::NotSelected
            | Self::Stale
            | Self::Replayed => "nothing: the device takes part again in the next round",
            Self::Garbage | Self::Topic | Self::Duplicate | Self::TooLarge | Self::Block | Self::Crc => {
                "look for another program with this device's name on the broker"
            }
            Self::Digest | Self::Content | Self::NotFinite | Self::Absurd | Self::Samples => {
                "look at the device's images and extractor; its training gave unusable numbers"
            }
            Self::Storage => "look at the aggregator's log and at the space on its disk",
            Self::Quarantined => {
                "look at the device's images and extractor, then run `aggregator release` with its name on the aggregator"
            }
        }
    }
}

impl Refusal {
    /// Whether a device that is refused for this stays so until a person does something.
    pub fn needs_a_person(self) -> bool {
        match self {
            Self::Version
            | Self::Extractor
            | Self::Classes
            | Self::Shape
            | Self::TooManyDevices
            | Self::Quarantined
            | Self::SameName => true,
            Self::Garbage
            | Self::Topic
            | Self::UnknownDevice
            | Self::WrongRun
            | Self::WrongRound
            | Self::Late
            | Self::NotSelected
            | Self::Duplicate
            | Self::TooLarge
            | Self::Block
            | Self::Crc
            | Self::Digest
            | Self::Content
            | Self::NotFinite
            | Self::Absurd
            | Self::Samples
            | Self::Storage
            | Self::Stale
            | Self::Replayed => false,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
