//! How a row becomes a struct, and a value a column. Unsigned 64-bit values are stored bit for bit in SQLite's signed
//! integers.

use core::error::Error;
use core::str::FromStr;
use std::collections::BTreeMap;

use grapevine_protocol::{
    AttributeError, AttributeValue, Attributes, DatasetId, DeviceId, Digest, Incarnation, RoundId, RunId,
};
use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde_json::{Map, Value};

use super::super::{
    ContributionRow, DeviceRow, ModelDigests, RoundPhase, RoundRow, RunRow, UpdateRow, attributes_json,
};
use crate::round::{Contribution, Counters};

/// A value of ours as a column.
pub(super) struct Sql<T>(pub(super) T);

macro_rules! bits {
    ($($name:ident),*) => {$(
        impl ToSql for Sql<$name> {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.0.0.cast_signed().into())
            }
        }

        impl FromSql for Sql<$name> {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                i64::column_result(value).map(|bits| Self($name(bits.cast_unsigned())))
            }
        }
    )*};
}

bits!(RunId, DatasetId, Incarnation);

impl ToSql for Sql<u64> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.cast_signed().into())
    }
}

impl FromSql for Sql<u64> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        i64::column_result(value).map(|bits| Self(bits.cast_unsigned()))
    }
}

impl ToSql for Sql<RoundId> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.0.into())
    }
}

impl FromSql for Sql<RoundId> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        u32::column_result(value).map(|round| Self(RoundId(round)))
    }
}

impl ToSql for Sql<&DeviceId> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.as_str().into())
    }
}

impl FromSql for Sql<DeviceId> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        DeviceId::from_str(value.as_str()?).map(Self).map_err(other)
    }
}

impl ToSql for Sql<Digest> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.0.0.as_slice().into())
    }
}

impl FromSql for Sql<Digest> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        <[u8; 32]>::column_result(value).map(|digest| Self(Digest(digest)))
    }
}

impl FromSql for Sql<RoundPhase> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let all = [RoundPhase::Collecting, RoundPhase::Merged, RoundPhase::Abandoned];
        let text = value.as_str()?;
        all.into_iter().find(|phase| phase.to_string() == text).map(Self).ok_or(FromSqlError::InvalidType)
    }
}

impl ToSql for Sql<&Attributes> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(Value::Object(attributes_json(self.0)).to_string().into())
    }
}

impl FromSql for Sql<Attributes> {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let object: Map<String, Value> = serde_json::from_str(value.as_str()?).map_err(other)?;
        let mut attributes = Attributes::default();
        for (name, value) in object {
            let value = match value {
                Value::Bool(flag) => Ok(AttributeValue::Flag(flag)),
                Value::Number(number) => number.as_i64().map(AttributeValue::Number).ok_or(AttributeError::Text),
                Value::String(text) => AttributeValue::text(&text),
                Value::Null | Value::Array(_) | Value::Object(_) => Err(AttributeError::Text),
            };
            value.and_then(|value| attributes.insert(&name, value)).map_err(other)?;
        }
        Ok(Self(attributes))
    }
}

fn other(error: impl Error + Send + Sync + 'static) -> FromSqlError {
    FromSqlError::Other(Box::new(error))
}

/// A value of ours out of a row.
pub(super) fn column<T>(row: &Row<'_>, name: &str) -> rusqlite::Result<T>
where
    Sql<T>: FromSql,
{
    row.get::<_, Sql<T>>(name).map(|value| value.0)
}

/// The same where there may be none.
fn optional<T>(row: &Row<'_>, name: &str) -> rusqlite::Result<Option<T>>
where
    Sql<T>: FromSql,
{
    Ok(row.get::<_, Option<Sql<T>>>(name)?.map(|value| value.0))
}

pub(super) const RUN_COLUMNS: &str = "run, fleet, created_ms, config_json, seed, finished";

pub(super) fn run_row(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        run: column(row, "run")?,
        fleet: row.get("fleet")?,
        created_ms: column(row, "created_ms")?,
        config_json: row.get("config_json")?,
        seed: column(row, "seed")?,
        finished: row.get("finished")?,
    })
}

pub(super) const DEVICE_COLUMNS: &str = "device, incarnation, samples, dataset, attributes, last_seen_ms, present, rounds_done, \
     last_round, strikes, quarantined, bytes_up, bytes_down";

/// Without what was refused of it, which another table holds.
pub(super) fn device_row(row: &Row<'_>) -> rusqlite::Result<DeviceRow> {
    Ok(DeviceRow {
        device: column(row, "device")?,
        incarnation: column(row, "incarnation")?,
        samples: row.get("samples")?,
        dataset: column(row, "dataset")?,
        attributes: column(row, "attributes")?,
        last_seen_ms: column(row, "last_seen_ms")?,
        present: row.get("present")?,
        rounds_done: row.get("rounds_done")?,
        last_round: optional(row, "last_round")?,
        failures: BTreeMap::new(),
        strikes: row.get("strikes")?,
        quarantined: row.get("quarantined")?,
        bytes_up: column(row, "bytes_up")?,
        bytes_down: column(row, "bytes_down")?,
    })
}

/// `accepted` and `samples` are counted as long as there are rows to count, so they can never disagree with the ledger.
pub(super) const ROUND_COLUMNS: &str = "run, round, phase, task, opened_ms, closed_ms, expected, chosen, extensions, \
     coalesce(accepted, (SELECT count(*) FROM updates \
         WHERE updates.run = rounds.run AND updates.round = rounds.round)) AS accepted, \
     coalesce(samples, (SELECT coalesce(sum(updates.samples), 0) FROM updates \
         WHERE updates.run = rounds.run AND updates.round = rounds.round)) AS samples, \
     heads, side_information, server_state, inference_head, statistics, heads_kept, \
     trained, since_start, since_news, still, is_unchanged, note, announcement";

pub(super) fn round_row(row: &Row<'_>) -> rusqlite::Result<RoundRow> {
    Ok(RoundRow {
        run: column(row, "run")?,
        round: column(row, "round")?,
        phase: column(row, "phase")?,
        task: row.get("task")?,
        opened_ms: column(row, "opened_ms")?,
        closed_ms: optional(row, "closed_ms")?,
        expected: row.get("expected")?,
        chosen: row.get("chosen")?,
        extensions: row.get("extensions")?,
        accepted: row.get("accepted")?,
        samples: column(row, "samples")?,
        model: ModelDigests {
            heads: optional(row, "heads")?,
            side_information: optional(row, "side_information")?,
            server_state: optional(row, "server_state")?,
            inference_head: optional(row, "inference_head")?,
            statistics: optional(row, "statistics")?,
        },
        counters: Counters {
            trained: row.get("trained")?,
            since_start: row.get("since_start")?,
            since_news: row.get("since_news")?,
            still: row.get("still")?,
            is_unchanged: row.get("is_unchanged")?,
        },
        note: row.get("note")?,
        heads_kept: row.get("heads_kept")?,
        announcement: row.get("announcement")?,
    })
}

pub(super) const UPDATE_COLUMNS: &str = "run, round, device, digest, samples, accepted_ms, blob_kept";

pub(super) fn update_row(row: &Row<'_>) -> rusqlite::Result<UpdateRow> {
    Ok(UpdateRow {
        run: column(row, "run")?,
        round: column(row, "round")?,
        device: column(row, "device")?,
        digest: column(row, "digest")?,
        samples: row.get("samples")?,
        accepted_ms: column(row, "accepted_ms")?,
        blob_kept: row.get("blob_kept")?,
    })
}

pub(super) const CONTRIBUTION_COLUMNS: &str = "device, dataset, samples, mean_square, digest";

pub(super) fn contribution_row(row: &Row<'_>) -> rusqlite::Result<ContributionRow> {
    Ok(ContributionRow {
        device: column(row, "device")?,
        contribution: Contribution {
            dataset: column(row, "dataset")?,
            samples: row.get("samples")?,
            // It was written from one of these.
            mean_square: row.get::<_, f64>("mean_square")? as f32,
        },
        digest: optional(row, "digest")?,
    })
}
