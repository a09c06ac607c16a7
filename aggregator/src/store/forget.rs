//! Letting go of blobs that nothing needs any more. Rows go first: a crash in between leaves files for the next start to
//! collect, never a row without its file.

use std::collections::BTreeSet;

use rusqlite::params;

use super::rows::Bits;
use super::{Collected, Digest, Store, StoreError};

/// Every blob that a row names.
const NAMED: &str = "SELECT heads FROM rounds WHERE heads IS NOT NULL AND heads_kept = 1 \
                     UNION SELECT inference_head FROM rounds WHERE inference_head IS NOT NULL AND heads_kept = 1 \
                     UNION SELECT side_information FROM rounds WHERE side_information IS NOT NULL \
                     UNION SELECT server_state FROM rounds WHERE server_state IS NOT NULL \
                     UNION SELECT statistics FROM rounds WHERE statistics IS NOT NULL \
                     UNION SELECT digest FROM contributions WHERE digest IS NOT NULL \
                     UNION SELECT digest FROM updates WHERE blob_kept = 1";

impl Store {
    /// Deletes every file among the blobs that neither a row nor `keep` names, such as what a crash left behind.
    ///
    /// # Errors
    /// If the ledger cannot be read or was opened for reading only, or a file cannot be deleted.
    pub fn collect_garbage(&mut self, keep: &BTreeSet<Digest>) -> Result<Collected, StoreError> {
        self.check_writable()?;
        let mut keep = keep.clone();
        keep.extend(self.named_blobs()?);
        self.blobs.retain(&keep)
    }

    /// Every blob that a row names.
    pub(super) fn named_blobs(&self) -> Result<Vec<Digest>, StoreError> {
        self.rows(NAMED, [], |row| row.get(0))
    }

    /// Deletes the blobs of a run's updates before `round`, unless something else names them; the rows stay. Statistics that
    /// are part of the fleet's sum stay, too, until the device tells others.
    ///
    /// # Errors
    /// If the ledger cannot be read or written, or a blob cannot be deleted.
    pub fn forget_updates_before(&mut self, run: u64, round: u32) -> Result<Collected, StoreError> {
        self.check_writable()?;
        self.let_go(
            "forget updates in",
            "SELECT DISTINCT digest FROM updates WHERE run = ?1 AND round < ?2 AND blob_kept = 1 \
             AND NOT EXISTS (SELECT 1 FROM contributions WHERE contributions.digest = updates.digest)",
            &["UPDATE updates SET blob_kept = 0 WHERE run = ?1 AND round < ?2 AND blob_kept = 1 \
               AND NOT EXISTS (SELECT 1 FROM contributions WHERE contributions.digest = updates.digest)"],
            (run, round),
        )
    }

    /// Deletes what earlier rounds of a run gave to the devices beside the heads, and what only the aggregator knew, of
    /// which only the newest is ever read again.
    ///
    /// # Errors
    /// If the ledger cannot be read or written, or a blob cannot be deleted.
    pub fn forget_side_information_before(&mut self, run: u64, round: u32) -> Result<Collected, StoreError> {
        self.check_writable()?;
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

    /// Deletes the heads of a run's merged rounds but the newest `kept`, unless something else names them, and the rows of
    /// the updates that are in them. The digests of the heads, the number of the updates and their samples stay.
    ///
    /// # Errors
    /// If the ledger cannot be read or written, or a blob cannot be deleted.
    pub fn forget_old_heads(&mut self, run: u64, kept: u32) -> Result<Collected, StoreError> {
        self.check_writable()?;
        let oldest = self.row(
            "SELECT round FROM rounds WHERE run = ?1 AND phase = 'merged' ORDER BY round DESC LIMIT 1 OFFSET ?2",
            params![Bits(run), kept.saturating_sub(1)],
            |row| row.get::<_, u32>(0),
        )?;
        let Some(oldest) = oldest else { return Ok(Collected::default()) };
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

    /// Deletes one update of a round that is open, as if it had never come.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    pub fn drop_update(&mut self, run: u64, round: u32, device: &str) -> Result<(), StoreError> {
        let digest = "SELECT digest FROM updates WHERE run = ?1 AND round = ?2 AND device = ?3";
        let found: Option<Digest> = self.row(digest, params![Bits(run), round, device], |row| row.get(0))?;
        let Some(digest) = found else { return Ok(()) };
        self.write("drop an update in", |transaction| {
            let delete = "DELETE FROM updates WHERE run = ?1 AND round = ?2 AND device = ?3";
            transaction.execute(delete, params![Bits(run), round, device])
        })?;
        if !self.is_named(&digest)? {
            self.blobs.delete(&digest)?;
        }
        Ok(())
    }

    /// Deletes the updates and the contributions that no run will go on with: those of every run but `run`.
    ///
    /// # Errors
    /// If the ledger cannot be written, or was opened for reading only.
    pub fn forget_updates_of_other_runs(&mut self, run: u64) -> Result<(), StoreError> {
        self.write("forget updates in", |transaction| {
            transaction.execute(&count_updates("run <> ?1"), params![Bits(run)])?;
            transaction.execute("DELETE FROM contributions WHERE run <> ?1", params![Bits(run)])?;
            transaction.execute("DELETE FROM updates WHERE run <> ?1", params![Bits(run)])
        })?;
        Ok(())
    }

    /// Lets rows of a run before a round go of what `named` finds in them, by the statements of `release`, and deletes
    /// what no other row names. `what` is for messages.
    fn let_go(
        &mut self,
        what: &'static str,
        named: &str,
        release: &[&str],
        (run, before): (u64, u32),
    ) -> Result<Collected, StoreError> {
        let forgotten: Vec<Digest> = self.rows(named, params![Bits(run), before], |row| row.get(0))?;
        self.write(what, |transaction| {
            release.iter().try_for_each(|one| transaction.execute(one, params![Bits(run), before]).map(drop))
        })?;
        let mut collected = Collected::default();
        for digest in &forgotten {
            if !self.is_named(digest)? {
                let one = self.blobs.delete(digest)?;
                collected.files += one.files;
                collected.bytes += one.bytes;
            }
        }
        Ok(collected)
    }

    fn is_named(&self, digest: &Digest) -> Result<bool, StoreError> {
        let query = "SELECT 1 FROM updates WHERE blob_kept = 1 AND digest = ?1 \
                     UNION ALL SELECT 1 FROM rounds WHERE side_information = ?1 OR server_state = ?1 OR statistics = ?1 \
                     UNION ALL SELECT 1 FROM contributions WHERE digest = ?1 \
                     UNION ALL SELECT 1 FROM rounds WHERE heads_kept = 1 AND (heads = ?1 OR inference_head = ?1) LIMIT 1";
        Ok(self.row(query, [digest], |_| Ok(()))?.is_some())
    }
}

/// The statement that writes down, for the rounds that `fit`, what is to be known of their updates when those are gone.
fn count_updates(fit: &str) -> String {
    format!(
        "UPDATE rounds SET announcement = x'', \
         accepted = (SELECT count(*) FROM updates WHERE updates.run = rounds.run AND updates.round = rounds.round), \
         samples = (SELECT coalesce(sum(updates.samples), 0) FROM updates \
                    WHERE updates.run = rounds.run AND updates.round = rounds.round) \
         WHERE {fit} AND accepted IS NULL"
    )
}
