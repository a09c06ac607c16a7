//! Rounds and the updates they accepted.

use rusqlite::{Transaction, params};

use super::rows::{Bits, CONTRIBUTION_COLUMNS, ROUND_COLUMNS, UPDATE_COLUMNS};
use super::{
    Accepted, ContributionRow, CountersRow, Digest, MergedRound, NewRound, NewUpdate, RoundRow, Store, StoreError,
    TakesIn, UpdateRow,
};

impl Store {
    /// Opens a round of a known run.
    ///
    /// # Errors
    /// If the run is unknown, the round was opened before, or the ledger cannot be written.
    pub fn open_round(&mut self, round: &NewRound) -> Result<(), StoreError> {
        self.write("open a round in", |transaction| {
            transaction.execute(
                "INSERT INTO rounds (run, round, phase, task, opened_ms, expected, announcement, chosen) \
                 VALUES (?1, ?2, 'collecting', ?3, ?4, ?5, ?6, ?7)",
                params![
                    Bits(round.run),
                    round.round,
                    round.task,
                    Bits(round.opened_ms),
                    round.expected,
                    round.announcement,
                    round.chosen,
                ],
            )?;
            // A run that was done goes on, with more rounds or with news.
            transaction.execute("UPDATE runs SET finished = 0 WHERE run = ?1 AND finished", [Bits(round.run)])
        })?;
        Ok(())
    }

    /// Closes a collecting round as merged, in one transaction; its blobs must be stored already.
    ///
    /// # Errors
    /// If one of its blobs is missing or damaged, the round is not collecting updates, or the ledger cannot be written.
    pub fn commit_round(&mut self, merged: &MergedRound) -> Result<(), StoreError> {
        let named =
            [&merged.heads, &merged.side_information, &merged.server_state, &merged.inference_head, &merged.statistics];
        for digest in named.into_iter().flatten() {
            self.blobs.read(digest)?;
        }
        let CountersRow { trained, since_start, since_news, still, is_unchanged } = merged.counters;
        let changed = self.write("commit a round to", |transaction| {
            take_in(transaction, merged)?;
            transaction.execute(
                "UPDATE rounds SET phase = 'merged', closed_ms = ?3, heads = ?4, side_information = ?5, server_state = ?6, \
                 inference_head = ?7, statistics = ?8, since_start = ?9, since_news = ?10, still = ?11, is_unchanged = ?12, \
                 note = ?13, trained = ?14 WHERE run = ?1 AND round = ?2 AND phase = 'collecting'",
                params![
                    Bits(merged.run),
                    merged.round,
                    Bits(merged.closed_ms),
                    merged.heads,
                    merged.side_information,
                    merged.server_state,
                    merged.inference_head,
                    merged.statistics,
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

    /// Gives a collecting round more time once more.
    ///
    /// # Errors
    /// If the round is not collecting updates, or the ledger cannot be written.
    pub fn extend_round(&mut self, run: u64, round: u32) -> Result<(), StoreError> {
        let changed = self.write("extend a round in", |transaction| {
            transaction.execute(
                "UPDATE rounds SET extensions = extensions + 1 WHERE run = ?1 AND round = ?2 AND phase = 'collecting'",
                params![Bits(run), round],
            )
        })?;
        was_collecting(changed, run, round)
    }

    /// Closes a collecting round without a merge.
    ///
    /// # Errors
    /// If the round is not collecting updates, or the ledger cannot be written.
    pub fn abandon_round(&mut self, run: u64, round: u32, closed_ms: u64) -> Result<(), StoreError> {
        let changed = self.write("abandon a round in", |transaction| {
            transaction.execute(
                "UPDATE rounds SET phase = 'abandoned', closed_ms = ?3 \
                 WHERE run = ?1 AND round = ?2 AND phase = 'collecting'",
                params![Bits(run), round, Bits(closed_ms)],
            )
        })?;
        was_collecting(changed, run, round)
    }

    /// Every round of a run, oldest first.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn rounds(&self, run: u64) -> Result<Vec<RoundRow>, StoreError> {
        let query = format!("SELECT {ROUND_COLUMNS} FROM rounds WHERE run = ?1 ORDER BY round");
        self.rows(&query, [Bits(run)], RoundRow::read)
    }

    /// The round of a run that was opened last.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn newest_round(&self, run: u64) -> Result<Option<RoundRow>, StoreError> {
        let query = format!("SELECT {ROUND_COLUMNS} FROM rounds WHERE run = ?1 ORDER BY round DESC LIMIT 1");
        self.row(&query, [Bits(run)], RoundRow::read)
    }

    /// The newest merged round of a run: where its heads are.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn newest_merged(&self, run: u64) -> Result<Option<RoundRow>, StoreError> {
        let query = format!(
            "SELECT {ROUND_COLUMNS} FROM rounds WHERE run = ?1 AND phase = 'merged' ORDER BY round DESC LIMIT 1"
        );
        self.row(&query, [Bits(run)], RoundRow::read)
    }

    /// Writes one update to the ledger of a collecting round; when this returns, a receipt may be sent.
    ///
    /// # Errors
    /// If the round is not collecting updates, or the ledger or the blob cannot be written.
    pub fn accept_update(&mut self, update: &NewUpdate, bytes: &[u8]) -> Result<Accepted, StoreError> {
        Ok(self.accept_updates(&[(update.clone(), bytes)])?[0])
    }

    /// Like [`Store::accept_update`] for several updates: blobs first, then all rows in one transaction or none.
    ///
    /// # Errors
    /// If one of the rounds is not collecting updates, or the ledger or a blob cannot be written.
    pub fn accept_updates(&mut self, updates: &[(NewUpdate, &[u8])]) -> Result<Vec<Accepted>, StoreError> {
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
        let digests = self.blobs.put_all(new().map(|(_, bytes)| *bytes))?;
        let inserted = self.write("accept updates in", |transaction| {
            new().zip(&digests).map(|((update, _), digest)| insert_update(transaction, update, digest)).collect()
        })?;
        let inserted: Vec<Accepted> = inserted;
        let mut inserted = inserted.into_iter();
        let answer = |known| if known { None } else { inserted.next() };
        Ok(known.into_iter().map(answer).map(|accepted| accepted.unwrap_or(Accepted::Duplicate)).collect())
    }

    /// The accepted updates of one round, sorted by device.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn updates(&self, run: u64, round: u32) -> Result<Vec<UpdateRow>, StoreError> {
        let mut updates = Vec::new();
        self.each_update(run, round, &mut |update| updates.push(update))?;
        Ok(updates)
    }

    /// Like [`Store::updates`], one after the other.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn each_update(&self, run: u64, round: u32, take: &mut dyn FnMut(UpdateRow)) -> Result<(), StoreError> {
        let query = format!("SELECT {UPDATE_COLUMNS} FROM updates WHERE run = ?1 AND round = ?2 ORDER BY device");
        self.each_row(&query, params![Bits(run), round], |row| {
            take(UpdateRow::read(row)?);
            Ok(())
        })
    }

    /// What each device told a run of its samples, sorted by device.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn each_contribution(&self, run: u64, take: &mut dyn FnMut(ContributionRow)) -> Result<(), StoreError> {
        let query = format!("SELECT {CONTRIBUTION_COLUMNS} FROM contributions WHERE run = ?1 ORDER BY device");
        self.each_row(&query, [Bits(run)], |row| {
            take(ContributionRow::read(row)?);
            Ok(())
        })
    }

    /// What a device told a run of its samples.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn contribution(&self, run: u64, device: &str) -> Result<Option<ContributionRow>, StoreError> {
        let query = format!("SELECT {CONTRIBUTION_COLUMNS} FROM contributions WHERE run = ?1 AND device = ?2");
        self.row(&query, params![Bits(run), device], ContributionRow::read)
    }

    fn is_known(&self, update: &NewUpdate) -> Result<bool, StoreError> {
        let query = "SELECT 1 FROM updates WHERE run = ?1 AND round = ?2 AND device = ?3";
        let found = self.row(query, params![Bits(update.run), update.round, update.device], |_| Ok(()))?;
        Ok(found.is_some())
    }

    fn check_collecting(&self, run: u64, round: u32) -> Result<(), StoreError> {
        let query = "SELECT 1 FROM rounds WHERE run = ?1 AND round = ?2 AND phase = 'collecting'";
        match self.row(query, params![Bits(run), round], |_| Ok(()))? {
            Some(()) => Ok(()),
            None => Err(StoreError::NotCollecting { run, round }),
        }
    }
}

fn insert_update(transaction: &Transaction<'_>, update: &NewUpdate, digest: &Digest) -> rusqlite::Result<Accepted> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO updates (run, round, device, digest, samples, accepted_ms, dataset, mean_square) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
    )?;
    let inserted = statement.execute(params![
        Bits(update.run),
        update.round,
        update.device,
        digest,
        update.samples,
        Bits(update.accepted_ms),
        Bits(update.dataset),
        update.mean_square,
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
    transaction.execute(&statement, params![Bits(merged.run), merged.round])
}

fn was_collecting(changed: usize, run: u64, round: u32) -> Result<(), StoreError> {
    if changed == 0 { Err(StoreError::NotCollecting { run, round }) } else { Ok(()) }
}
