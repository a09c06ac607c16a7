//! What the ledger remembers: one struct per table, and one for each thing that is written at once.

use core::fmt;
use std::collections::BTreeMap;

use grapevine_protocol::{AttributeValue, Attributes, DatasetId, DeviceId, Digest, Incarnation, RoundId, RunId};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::round::{Contribution, Counters};

/// One run: a series of rounds with one configuration and one seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRow {
    /// The run's id.
    pub run: RunId,
    /// The fleet's name.
    pub fleet: String,
    /// When it was opened, milliseconds since 1970.
    pub created_ms: u64,
    /// The configuration it was opened with.
    pub config_json: String,
    /// Where all its randomness comes from.
    pub seed: u64,
    /// Whether it opens no further round.
    pub finished: bool,
}

/// What is known about one device. As JSON it is what people should see of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceRow {
    /// The device's id.
    pub device: DeviceId,
    /// Its id of this start, to tell a restart from a reconnect.
    #[serde(skip)]
    pub incarnation: Incarnation,
    /// Samples it says it holds.
    pub samples: u32,
    /// Which samples they are.
    #[serde(skip)]
    pub dataset: DatasetId,
    /// What it says about itself.
    #[serde(serialize_with = "attributes_object")]
    pub attributes: Attributes,
    /// When it was last heard, milliseconds since 1970.
    pub last_seen_ms: u64,
    /// Whether it was there then; not after a goodbye or a broken connection.
    #[serde(skip)]
    pub present: bool,
    /// Rounds its update was merged in.
    pub rounds_done: u32,
    /// The newest round its update was merged in.
    pub last_round: Option<RoundId>,
    /// What was refused of it, by reason.
    pub failures: BTreeMap<String, u32>,
    /// Bad updates since its last good one.
    pub strikes: u32,
    /// Why it is not heard any more, until somebody releases it: the last bad update's reason.
    #[serde(rename = "quarantined_for")]
    pub quarantined: Option<String>,
    /// Bytes received from it.
    pub bytes_up: u64,
    /// Bytes sent to it.
    pub bytes_down: u64,
}

/// Where a round is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RoundPhase {
    /// It takes updates.
    Collecting,
    /// Its updates are merged and the new heads are stored.
    Merged,
    /// It ended without a merge.
    Abandoned,
}

/// What [`super::Ledger::open_round`] needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRound {
    /// The run.
    pub run: RunId,
    /// The round, counted within the run.
    pub round: RoundId,
    /// What the devices are to do.
    pub task: String,
    /// When it was opened, milliseconds since 1970.
    pub opened_ms: u64,
    /// Updates it waits for.
    pub expected: u32,
    /// Devices chosen.
    pub chosen: u32,
    /// The announcement as published, so that a restart publishes the same bytes.
    pub announcement: Vec<u8>,
}

/// The blobs of a model, by digest; each is stored before a row names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelDigests {
    /// The merged heads; none for a round that makes none.
    pub heads: Option<Digest>,
    /// What the next round's devices need beside the heads.
    pub side_information: Option<Digest>,
    /// What only the aggregator knows.
    pub server_state: Option<Digest>,
    /// The inference head, where it is not the main one of the heads.
    pub inference_head: Option<Digest>,
    /// The sum of the devices' statistics.
    pub statistics: Option<Digest>,
}

/// What [`super::Ledger::commit_round`] needs; the blobs are stored before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedRound {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundId,
    /// When it was closed, milliseconds since 1970.
    pub closed_ms: u64,
    /// The blobs of the model after it.
    pub model: ModelDigests,
    /// How far the run is after it.
    pub counters: Counters,
    /// What people should know of it beside its figures.
    pub note: Option<String>,
    /// What its updates are to the run from now on.
    pub takes_in: TakesIn,
}

/// What a merged round's updates are to its run from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakesIn {
    /// Nothing: they answered a round of training of a run that knows its devices by their statistics.
    Nothing,
    /// Their devices' statistics, whose blobs are kept.
    Statistics,
    /// What is known of their devices' samples.
    Samples,
}

/// What a device last told a run of its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct ContributionRow {
    /// The device.
    pub device: DeviceId,
    /// What it told.
    pub contribution: Contribution,
    /// The blob of the update with its statistics, if it told any.
    pub digest: Option<Digest>,
}

/// One round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundRow {
    /// The run.
    pub run: RunId,
    /// The round, counted within the run.
    pub round: RoundId,
    /// Where it is.
    pub phase: RoundPhase,
    /// What the devices were to do.
    pub task: String,
    /// When it was opened, milliseconds since 1970.
    pub opened_ms: u64,
    /// When it was merged or abandoned, milliseconds since 1970.
    pub closed_ms: Option<u64>,
    /// Updates it waited for.
    pub expected: u32,
    /// Devices chosen.
    pub chosen: u32,
    /// How often it was given more time.
    pub extensions: u32,
    /// Updates that were accepted; the ledger may have let go of their rows.
    pub accepted: u32,
    /// Samples behind them.
    pub samples: u64,
    /// The blobs of the model after it, as far as it is merged.
    pub model: ModelDigests,
    /// How far the run is after it.
    pub counters: Counters,
    /// What people should know of it beside its figures.
    pub note: Option<String>,
    /// Whether the blobs of the heads and of the inference head are still stored; see
    /// [`super::Ledger::forget_old_heads`].
    pub heads_kept: bool,
    /// The announcement as published; none once the rows of the round's updates are let go.
    pub announcement: Vec<u8>,
}

/// What [`super::Ledger::accept_updates`] needs beside the bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct NewUpdate {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundId,
    /// The device that sent it.
    pub device: DeviceId,
    /// What it tells of the device's samples.
    pub contribution: Contribution,
    /// When it was accepted, milliseconds since 1970.
    pub accepted_ms: u64,
}

/// One accepted update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateRow {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundId,
    /// The device that sent it.
    pub device: DeviceId,
    /// The blob of its bytes.
    pub digest: Digest,
    /// Samples it was trained on.
    pub samples: u32,
    /// When it was accepted, milliseconds since 1970.
    pub accepted_ms: u64,
    /// Whether the blob is still stored; see [`super::Ledger::forget_updates_before`].
    pub blob_kept: bool,
}

/// Whether an update was new to the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is in the ledger now, durably.
    New,
    /// The ledger had one of this device for this round; that one stays.
    Duplicate,
}

impl ModelDigests {
    /// All that there are.
    pub fn iter(&self) -> impl Iterator<Item = Digest> {
        let Self { heads, side_information, server_state, inference_head, statistics } = *self;
        [heads, side_information, server_state, inference_head, statistics].into_iter().flatten()
    }

    /// The head that people classify with.
    pub fn for_use(&self) -> Option<Digest> {
        self.inference_head.or(self.heads)
    }
}

impl fmt::Display for RoundPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Collecting => "collecting",
            Self::Merged => "merged",
            Self::Abandoned => "abandoned",
        })
    }
}

/// Attributes as a JSON object, so that people and other programs read them too.
pub fn attributes_json(attributes: &Attributes) -> Map<String, Value> {
    let value = |value: &AttributeValue| match value {
        AttributeValue::Flag(flag) => Value::from(*flag),
        AttributeValue::Number(number) => Value::from(*number),
        AttributeValue::Text(text) => Value::from(text.as_str()),
    };
    attributes.iter().map(|(name, attribute)| (name.to_owned(), value(attribute))).collect()
}

fn attributes_object<S: Serializer>(attributes: &Attributes, serializer: S) -> Result<S::Ok, S::Error> {
    attributes_json(attributes).serialize(serializer)
}
