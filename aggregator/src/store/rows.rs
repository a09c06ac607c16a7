//! What the ledger remembers, one struct per table, and how a row becomes one.

use core::fmt;
use std::collections::BTreeMap;

use grapevine_protocol::Attributes;
use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::{Serialize, Serializer};

use super::attributes::AttributesText;

/// A SHA-256.
pub type Digest = [u8; 32];

/// `digest` as 64 lower-case hexadecimal digits.
pub fn digest_hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One run: a series of rounds with one configuration and one seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunRow {
    /// The run's id.
    pub run: u64,
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

/// [`DeviceRow::state`] of a device that is there.
pub const PRESENT: &str = "present";
/// [`DeviceRow::state`] of a device that said goodbye or whose connection broke.
pub const GONE: &str = "gone";

/// What is known about one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRow {
    /// The device's id.
    pub device: String,
    /// Its id of this start, to tell a restart from a reconnect.
    pub incarnation: u64,
    /// Samples it says it holds.
    pub samples: u32,
    /// Which samples they are, see [`grapevine_protocol::DatasetId`].
    pub dataset: u64,
    /// What it says about itself.
    pub attributes: Attributes,
    /// When it was last heard, milliseconds since 1970.
    pub last_seen_ms: u64,
    /// What it was doing then.
    pub state: String,
    /// Rounds its update was merged in.
    pub rounds_done: u32,
    /// The newest round its update was merged in.
    pub last_round: Option<u32>,
    /// What was refused of it, by reason.
    pub failures: BTreeMap<String, u32>,
    /// Bad updates since its last good one.
    pub strikes: u32,
    /// Why it is not heard any more, until somebody releases it.
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

/// What [`super::Store::open_round`] needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRound {
    /// The run.
    pub run: u64,
    /// The round, counted within the run.
    pub round: u32,
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

/// What [`super::Store::commit_round`] needs; the blobs are stored before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedRound {
    /// The run.
    pub run: u64,
    /// The round.
    pub round: u32,
    /// When it was closed, milliseconds since 1970.
    pub closed_ms: u64,
    /// The blob of the merged heads; none for a round that makes none.
    pub heads: Option<Digest>,
    /// The blob of what the next round's devices need beside the heads.
    pub side_information: Option<Digest>,
    /// The blob of what only the aggregator knows.
    pub server_state: Option<Digest>,
    /// The blob of the inference head, where it is not the main one of the heads.
    pub inference_head: Option<Digest>,
    /// The blob of the sum of the devices' statistics.
    pub statistics: Option<Digest>,
    /// How far the run is after it.
    pub counters: CountersRow,
    /// What people should know of it beside its figures.
    pub note: Option<String>,
    /// What its updates are to the run from now on.
    pub takes_in: TakesIn,
}

/// How far a run is, see [`crate::round::Counters`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CountersRow {
    /// Rounds of training that were merged.
    pub trained: u32,
    /// Rounds of training since the run last started anew.
    pub since_start: u32,
    /// Rounds of training since samples came that the run did not know.
    pub since_news: u32,
    /// Rounds of training in a row that changed next to nothing.
    pub still: u32,
    /// Whether the round changed nothing at all.
    pub is_unchanged: bool,
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
    pub device: String,
    /// Which samples, see [`grapevine_protocol::DatasetId`].
    pub dataset: u64,
    /// How many.
    pub samples: u32,
    /// The mean of their `|h|²`; 0 where it is not known.
    pub mean_square: f64,
    /// The blob of the update with its statistics, if it told any.
    pub digest: Option<Digest>,
}

/// One round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RoundRow {
    /// The run.
    pub run: u64,
    /// The round, counted within the run.
    pub round: u32,
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
    /// The blob of the merged heads.
    #[serde(serialize_with = "optional_hex")]
    pub heads: Option<Digest>,
    /// The blob of what the next round's devices need beside the heads.
    #[serde(serialize_with = "optional_hex")]
    pub side_information: Option<Digest>,
    /// The blob of what only the aggregator knows.
    #[serde(serialize_with = "optional_hex")]
    pub server_state: Option<Digest>,
    /// The blob of the inference head, where it is not the main one of the heads.
    #[serde(serialize_with = "optional_hex")]
    pub inference_head: Option<Digest>,
    /// The blob of the sum of the devices' statistics.
    #[serde(serialize_with = "optional_hex")]
    pub statistics: Option<Digest>,
    /// How far the run is after it.
    #[serde(flatten)]
    pub counters: CountersRow,
    /// What people should know of it beside its figures.
    pub note: Option<String>,
    /// Whether the blobs of the heads and of the inference head are still stored; see
    /// [`super::Store::forget_old_heads`].
    pub heads_kept: bool,
    /// The announcement as published; none once the rows of the round's updates are let go.
    #[serde(skip)]
    pub announcement: Vec<u8>,
}

/// What [`super::Store::accept_update`] needs beside the bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct NewUpdate {
    /// The run.
    pub run: u64,
    /// The round.
    pub round: u32,
    /// The device that sent it.
    pub device: String,
    /// Samples it was trained on.
    pub samples: u32,
    /// Which samples, see [`grapevine_protocol::DatasetId`].
    pub dataset: u64,
    /// The mean of their `|h|²`; 0 where it is not known.
    pub mean_square: f64,
    /// When it was accepted, milliseconds since 1970.
    pub accepted_ms: u64,
}

/// One accepted update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UpdateRow {
    /// The run.
    pub run: u64,
    /// The round.
    pub round: u32,
    /// The device that sent it.
    pub device: String,
    /// The blob of its bytes.
    #[serde(serialize_with = "hex")]
    pub digest: Digest,
    /// Samples it was trained on.
    pub samples: u32,
    /// When it was accepted, milliseconds since 1970.
    pub accepted_ms: u64,
    /// Whether the blob is still stored; see [`super::Store::forget_updates_before`].
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

/// An unsigned 64-bit value, stored bit for bit in SQLite's signed integer.
#[derive(Clone, Copy)]
pub(super) struct Bits(pub(super) u64);

impl ToSql for Bits {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.cast_signed().into())
    }
}

impl FromSql for Bits {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        i64::column_result(value).map(|bits| Self(bits.cast_unsigned()))
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

impl FromSql for RoundPhase {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let all = [Self::Collecting, Self::Merged, Self::Abandoned];
        let text = value.as_str()?;
        all.into_iter().find(|phase| phase.to_string() == text).ok_or(FromSqlError::InvalidType)
    }
}

/// Columns in the order [`RunRow::read`] wants them.
pub(super) const RUN_COLUMNS: &str = "run, fleet, created_ms, config_json, seed, finished";

impl RunRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            run: row.get::<_, Bits>(0)?.0,
            fleet: row.get(1)?,
            created_ms: row.get::<_, Bits>(2)?.0,
            config_json: row.get(3)?,
            seed: row.get::<_, Bits>(4)?.0,
            finished: row.get(5)?,
        })
    }
}

/// Columns in the order [`DeviceRow::read`] wants them.
pub(super) const DEVICE_COLUMNS: &str = "device, incarnation, samples, attributes, last_seen_ms, state, rounds_done, last_round, \
    strikes, quarantined, bytes_up, bytes_down, dataset";

impl DeviceRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            device: row.get(0)?,
            incarnation: row.get::<_, Bits>(1)?.0,
            samples: row.get(2)?,
            attributes: row.get::<_, AttributesText>(3)?.0,
            last_seen_ms: row.get::<_, Bits>(4)?.0,
            state: row.get(5)?,
            rounds_done: row.get(6)?,
            last_round: row.get(7)?,
            failures: BTreeMap::new(),
            strikes: row.get(8)?,
            quarantined: row.get(9)?,
            bytes_up: row.get::<_, Bits>(10)?.0,
            bytes_down: row.get::<_, Bits>(11)?.0,
            dataset: row.get::<_, Bits>(12)?.0,
        })
    }
}

/// Columns in the order [`RoundRow::read`] wants them; `accepted` and `samples` are counted as long as there are
/// rows to count, so they can never disagree with the ledger.
pub(super) const ROUND_COLUMNS: &str = "run, round, phase, task, opened_ms, closed_ms, expected, \
    coalesce(accepted, \
        (SELECT count(*) FROM updates WHERE updates.run = rounds.run AND updates.round = rounds.round)), \
    heads, side_information, announcement, server_state, inference_head, chosen, extensions, heads_kept, \
    coalesce(samples, (SELECT coalesce(sum(updates.samples), 0) FROM updates \
        WHERE updates.run = rounds.run AND updates.round = rounds.round)), \
    statistics, since_start, since_news, still, is_unchanged, note, trained";

impl RoundRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            run: row.get::<_, Bits>(0)?.0,
            round: row.get(1)?,
            phase: row.get(2)?,
            task: row.get(3)?,
            opened_ms: row.get::<_, Bits>(4)?.0,
            closed_ms: row.get::<_, Option<Bits>>(5)?.map(|bits| bits.0),
            expected: row.get(6)?,
            accepted: row.get(7)?,
            heads: row.get(8)?,
            side_information: row.get(9)?,
            announcement: row.get(10)?,
            server_state: row.get(11)?,
            inference_head: row.get(12)?,
            chosen: row.get(13)?,
            extensions: row.get(14)?,
            heads_kept: row.get(15)?,
            samples: row.get::<_, Bits>(16)?.0,
            statistics: row.get(17)?,
            counters: CountersRow {
                trained: row.get(23)?,
                since_start: row.get(18)?,
                since_news: row.get(19)?,
                still: row.get(20)?,
                is_unchanged: row.get(21)?,
            },
            note: row.get(22)?,
        })
    }
}

/// Columns in the order [`UpdateRow::read`] wants them.
pub(super) const UPDATE_COLUMNS: &str = "run, round, device, digest, samples, accepted_ms, blob_kept";

impl UpdateRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            run: row.get::<_, Bits>(0)?.0,
            round: row.get(1)?,
            device: row.get(2)?,
            digest: row.get(3)?,
            samples: row.get(4)?,
            accepted_ms: row.get::<_, Bits>(5)?.0,
            blob_kept: row.get(6)?,
        })
    }
}

/// Columns in the order [`ContributionRow::read`] wants them.
pub(super) const CONTRIBUTION_COLUMNS: &str = "device, dataset, samples, mean_square, digest";

impl ContributionRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            device: row.get(0)?,
            dataset: row.get::<_, Bits>(1)?.0,
            samples: row.get(2)?,
            mean_square: row.get(3)?,
            digest: row.get(4)?,
        })
    }
}

fn hex<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&digest_hex(digest))
}

fn optional_hex<S: Serializer>(digest: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
    match digest {
        Some(digest) => hex(digest, serializer),
        None => serializer.serialize_none(),
    }
}
