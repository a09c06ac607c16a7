//! What is written: blobs first, then all rows of a call in one transaction.

use std::collections::{BTreeMap, BTreeSet};

use grapevine_protocol::{DeviceId, Digest, RoundId, RunId};
use rusqlite::{Transaction, params};

use super::super::{
    Accepted, Blob, Collected, DeviceRow, Ledger, MergedRound, ModelDigests, NewRound, NewUpdate, RunRow, StoreError,
    TakesIn,
};
use super::SqliteLedger;
use super::columns::{DEVICE_COLUMNS, RUN_COLUMNS, Sql};
use super::forget::count_updates;
use crate::round::Counters;

impl Ledger for SqliteLedger {
    fn open_run(&mut self, run: &RunRow) -> Result<(), StoreError> {
        self.write("open a run in", |transaction| {
            let RunRow { run, fleet, created_ms, config_json, seed, finished } = run;
            transaction.execute(
                &format!("INSERT INTO runs ({RUN_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"),
                params![Sql(*run), fleet, Sql(*created_ms), config_json, Sql(*seed), finished],
            )
        })?;
        Ok(())
    }

    fn finish_run(&mut self, run: RunId) -> Result<(), StoreError> {
        self.write("finish a run in", |transaction| {
            transaction.execute("UPDATE runs SET finished = 1 WHERE run = ?1", [Sql(run)])
        })?;
        Ok(())
    }

    fn open_round(&mut self, round: &NewRound) -> Result<(), StoreError> {
        self.write("open a round in", |transaction| {
            let NewRound { run, round, task, opened_ms, expected, chosen, announcement } = round;
            transaction.execute(
                "INSERT INTO rounds (run, round, phase, task, opened_ms, expected, chosen, announcement) \
                 VALUES (?1, ?2, 'collecting', ?3, ?4, ?5, ?6, ?7)",
                params![Sql(*run), Sql(*round), task, Sql(*opened_ms), expected, chosen, announcement],
            )?;
            // A run that was done goes on, with more rounds or with news.
            transaction.execute("UPDATE runs SET finished = 0 WHERE run = ?1 AND finished", [Sql(*run)])
        })?;
        Ok(())
    }

    fn commit_round(&mut self, merged: &MergedRound) -> Result<(), StoreError> {
        merged.model.iter().try_for_each(|digest| self.blobs.check_present(&digest))?;
        let ModelDigests { heads, side_information, server_state, inference_head, statistics } = merged.model;
        let Counters { trained, since_start, since_news, still, is_unchanged } = merged.counters;
        let changed = self.write("commit a round to", |transaction| {
            take_in(transaction, merged)?;
            transaction.execute(
                "UPDATE rounds SET phase = 'merged', closed_ms = ?3, heads = ?4, side_information = ?5, server_state = ?6, \
                 inference_head = ?7, statistics = ?8, since_start = ?9, since_news = ?10, still = ?11, is_unchanged = ?12, \
                 note = ?13, trained = ?14 WHERE run = ?1 AND round = ?2 AND phase = 'collecting'",
                params![
                    Sql(merged.run),
                    Sql(merged.round),
                    Sql(merged.closed_ms),
                    heads.map(Sql),
                    side_information.map(Sql),
                    server_state.map(Sql),
                    inference_head.map(Sql),
                    statistics.map(Sql),
                    since_start,
                    since_news,
                    still,
                    is_unchanged,
                    merged.note,
                    trained,
                ],
            )
        })?;
        was_collecting(changed, merged.run, merged.round)
    }

    fn extend_round(&mut self, run: RunId, round: RoundId) -> Result<(), StoreError> {
        let changed = self.write("extend a round in", |transaction| {
            transaction.execute(
                "UPDATE rounds SET extensions = extensions + 1 WHERE run = ?1 AND round = ?2 AND phase = 'collecting'",
                params![Sql(run), Sql(round)],
            )
        })?;
        was_collecting(changed, run, round)
    }

    fn abandon_round(&mut self, run: RunId, round: RoundId, closed_ms: u64) -> Result<(), StoreError> {
        let changed = self.write("abandon a round in", |transaction| {
            transaction.execute(
                "UPDATE rounds SET phase = 'abandoned', closed_ms = ?3 \
                 WHERE run = ?1 AND round = ?2 AND phase = 'collecting'",
                params![Sql(run), Sql(round), Sql(closed_ms)],
            )
        })?;
        was_collecting(changed, run, round)
    }

    fn accept_updates(&mut self, updates: &[(NewUpdate, Blob<'_>)]) -> Result<Vec<Accepted>, StoreError> {
        self.check_writable()?;
        // Known ones are set aside before anything is written: a device that resends must not cost disk space.
        let mut known = Vec::with_capacity(updates.len());
        for (update, _) in updates {
            known.push(self.is_known(update)?);
        }
        let new = || updates.iter().zip(&known).filter(|(_, known)| !**known).map(|(update, _)| update);
        for (update, _) in new() {
            self.check_collecting(update.run, update.round)?;
        }
        self.blobs.put_all(new().map(|(_, blob)| *blob))?;
        let inserted: Vec<Accepted> = self.write("accept updates in", |transaction| {
            new().map(|(update, blob)| insert_update(transaction, update, blob.digest())).collect()
        })?;
        let mut inserted = inserted.into_iter();
        let answer = |known| if known { None } else { inserted.next() };
        Ok(known.into_iter().map(answer).map(|accepted| accepted.unwrap_or(Accepted::Duplicate)).collect())
    }

    fn drop_update(&mut self, run: RunId, round: RoundId, device: &DeviceId) -> Result<(), StoreError> {
        let digest = "SELECT digest FROM updates WHERE run = ?1 AND round = ?2 AND device = ?3";
        let found = self.row(digest, params![Sql(run), Sql(round), Sql(device)], |row| row.get(0))?;
        let Some(Sql(digest)) = found else { return Ok(()) };
        self.write("drop an update in", |transaction| {
            let delete = "DELETE FROM updates WHERE run = ?1 AND round = ?2 AND device = ?3";
            transaction.execute(delete, params![Sql(run), Sql(round), Sql(device)])
        })?;
        self.delete_unnamed([digest]).map(drop)
    }

    fn put_blob(&mut self, blob: Blob<'_>) -> Result<(), StoreError> {
        self.check_writable()?;
        self.blobs.put(blob)
    }

    fn upsert_devices(&mut self, devices: &mut dyn Iterator<Item = DeviceRow>) -> Result<(), StoreError> {
        self.write("write devices to", |transaction| {
            let mut statement = transaction.prepare_cached(&format!(
                "INSERT OR REPLACE INTO devices ({DEVICE_COLUMNS}) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
            ))?;
            let mut failed = transaction
                .prepare_cached("INSERT OR REPLACE INTO failures (device, reason, count) VALUES (?1, ?2, ?3)")?;
            for device in devices {
                statement.execute(params![
                    Sql(&device.device),
                    Sql(device.incarnation),
                    device.samples,
                    Sql(device.dataset),
                    Sql(&device.attributes),
                    Sql(device.last_seen_ms),
                    device.present,
                    device.rounds_done,
                    device.last_round.map(Sql),
                    device.strikes,
                    device.quarantined,
                    Sql(device.bytes_up),
                    Sql(device.bytes_down),
                ])?;
                for (reason, count) in &device.failures {
                    failed.execute(params![Sql(&device.device), reason, count])?;
                }
            }
            Ok(())
        })
    }

    fn forget_devices(&mut self, devices: &[DeviceId]) -> Result<(), StoreError> {
        self.write("forget devices in", |transaction| {
            for table in ["failures", "devices"] {
                let mut statement = transaction.prepare(&format!("DELETE FROM {table} WHERE device = ?1"))?;
                devices.iter().try_for_each(|device| statement.execute([Sql(device)]).map(drop))?;
            }
            Ok(())
        })
    }

    fn release_device(&mut self, device: &DeviceId) -> Result<(), StoreError> {
        self.write("release a device in", |transaction| {
            transaction.execute("UPDATE devices SET quarantined = NULL, strikes = 0 WHERE device = ?1", [Sql(device)])
        })?;
        Ok(())
    }

    fn note_all_gone(&mut self) -> Result<(), StoreError> {
        self.write("write devices to", |transaction| {
            transaction.execute("UPDATE devices SET present = 0 WHERE present <> 0", [])
        })?;
        Ok(())
    }

    fn add_refusals(&mut self, counts: &BTreeMap<String, u64>) -> Result<(), StoreError> {
        self.write("count refusals in", |transaction| {
            for (reason, count) in counts {
                transaction.execute(
                    "INSERT INTO refusals (reason, count) VALUES (?1, ?2) \
                     ON CONFLICT (reason) DO UPDATE SET count = count + excluded.count",
                    params![reason, Sql(*count)],
                )?;
            }
            Ok(())
        })
    }

    fn forget_updates_before(&mut self, run: RunId, round: RoundId) -> Result<Collected, StoreError> {
        self.let_go(
            "forget updates in",
            "SELECT DISTINCT digest FROM updates WHERE run = ?1 AND round < ?2 AND blob_kept = 1 \
             AND NOT EXISTS (SELECT 1 FROM contributions WHERE contributions.digest = updates.digest)",
            &["UPDATE updates SET blob_kept = 0 WHERE run = ?1 AND round < ?2 AND blob_kept = 1 \
               AND NOT EXISTS (SELECT 1 FROM contributions WHERE contributions.digest = updates.digest)"],
            (run, round),
        )
    }

    fn forget_side_information_before(&mut self, run: RunId, round: RoundId) -> Result<Collected, StoreError> {
        self.let_go(
            "forget side information in",
            "SELECT side_information FROM rounds WHERE run = ?1 AND round < ?2 AND side_information IS NOT NULL \
             UNION SELECT statistics FROM rounds WHERE run = ?1 AND round < ?2 AND statistics IS NOT NULL \
             UNION SELECT server_state FROM rounds WHERE run = ?1 AND round < ?2 AND server_state IS NOT NULL",
            &[
                "UPDATE rounds SET side_information = NULL WHERE run = ?1 AND round < ?2 AND side_information IS NOT NULL",
                "UPDATE rounds SET server_state = NULL WHERE run = ?1 AND round < ?2 AND server_state IS NOT NULL",
                "UPDATE rounds SET statistics = NULL WHERE run = ?1 AND round < ?2 AND statistics IS NOT NULL",
            ],
            (run, round),
        )
    }

    fn forget_old_heads(&mut self, run: RunId, kept: u32) -> Result<Collected, StoreError> {
        let oldest = self.row(
            "SELECT round FROM rounds WHERE run = ?1 AND phase = 'merged' ORDER BY round DESC LIMIT 1 OFFSET ?2",
            params![Sql(run), kept.saturating_sub(1)],
            |row| row.get(0),
        )?;
        let Some(Sql(oldest)) = oldest else { return Ok(Collected::default()) };
        self.let_go(
            "forget heads in",
            "SELECT heads FROM rounds WHERE run = ?1 AND round < ?2 AND heads_kept = 1 AND heads IS NOT NULL \
             UNION SELECT inference_head FROM rounds WHERE run = ?1 AND round < ?2 AND heads_kept = 1 AND inference_head IS NOT NULL",
            &[
                "UPDATE rounds SET heads_kept = 0 WHERE run = ?1 AND round < ?2 AND heads_kept = 1",
                &count_updates("run = ?1 AND round < ?2"),
                "DELETE FROM updates WHERE run = ?1 AND round < ?2 AND blob_kept = 0",
            ],
            (run, oldest),
        )
    }

    fn forget_updates_of_other_runs(&mut self, run: RunId) -> Result<(), StoreError> {
        self.write("forget updates in", |transaction| {
            transaction.execute(&count_updates("run <> ?1"), params![Sql(run)])?;
            transaction.execute("DELETE FROM contributions WHERE run <> ?1", params![Sql(run)])?;
            transaction.execute("DELETE FROM updates WHERE run <> ?1", params![Sql(run)])
        })?;
        Ok(())
    }

    fn collect_garbage(&mut self, keep: &BTreeSet<Digest>) -> Result<Collected, StoreError> {
        self.check_writable()?;
        let mut keep = keep.clone();
        keep.extend(self.named_blobs()?);
        self.blobs.retain(&keep)
    }
}

impl SqliteLedger {
    fn is_known(&self, update: &NewUpdate) -> Result<bool, StoreError> {
        let query = "SELECT 1 FROM updates WHERE run = ?1 AND round = ?2 AND device = ?3";
        let found = self.row(query, params![Sql(update.run), Sql(update.round), Sql(&update.device)], |_| Ok(()))?;
        Ok(found.is_some())
    }

    fn check_collecting(&self, run: RunId, round: RoundId) -> Result<(), StoreError> {
        let query = "SELECT 1 FROM rounds WHERE run = ?1 AND round = ?2 AND phase = 'collecting'";
        match self.row(query, params![Sql(run), Sql(round)], |_| Ok(()))? {
            Some(()) => Ok(()),
            None => Err(StoreError::NotCollecting { run, round }),
        }
    }
}

fn insert_update(transaction: &Transaction<'_>, update: &NewUpdate, digest: Digest) -> rusqlite::Result<Accepted> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO updates (run, round, device, digest, samples, accepted_ms, dataset, mean_square) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
    )?;
    let inserted = statement.execute(params![
        Sql(update.run),
        Sql(update.round),
        Sql(&update.device),
        Sql(digest),
        update.contribution.samples,
        Sql(update.accepted_ms),
        Sql(update.contribution.dataset),
        f64::from(update.contribution.mean_square),
    ])?;
    Ok(if inserted == 0 { Accepted::Duplicate } else { Accepted::New })
}

/// Writes down what the updates of a merged round tell of their devices' samples, in place of what they told before.
fn take_in(transaction: &Transaction<'_>, merged: &MergedRound) -> rusqlite::Result<usize> {
    let digest = match merged.takes_in {
        TakesIn::Nothing => return Ok(0),
        TakesIn::Statistics => "digest",
        TakesIn::Samples => "NULL",
    };
    let statement = format!(
        "INSERT OR REPLACE INTO contributions (run, device, dataset, samples, mean_square, digest) \
         SELECT run, device, dataset, samples, mean_square, {digest} FROM updates WHERE run = ?1 AND round = ?2"
    );
    transaction.execute(&statement, params![Sql(merged.run), Sql(merged.round)])
}

fn was_collecting(changed: usize, run: RunId, round: RoundId) -> Result<(), StoreError> {
    if changed == 0 { Err(StoreError::NotCollecting { run, round }) } else { Ok(()) }
}
