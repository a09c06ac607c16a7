//! Letting go of blobs that nothing needs any more. Rows go first: a crash in between leaves files for the next start to
//! collect, never a row without its file.

use grapevine_protocol::{Digest, RoundId, RunId};
use rusqlite::params;

use super::super::{Collected, StoreError};
use super::SqliteLedger;
use super::columns::Sql;

/// Every blob that a row names.
const NAMED: &str = "SELECT heads FROM rounds WHERE heads IS NOT NULL AND heads_kept = 1 \
                     UNION SELECT inference_head FROM rounds WHERE inference_head IS NOT NULL AND heads_kept = 1 \
                     UNION SELECT side_information FROM rounds WHERE side_information IS NOT NULL \
                     UNION SELECT server_state FROM rounds WHERE server_state IS NOT NULL \
                     UNION SELECT statistics FROM rounds WHERE statistics IS NOT NULL \
                     UNION SELECT digest FROM contributions WHERE digest IS NOT NULL \
                     UNION SELECT digest FROM updates WHERE blob_kept = 1";

impl SqliteLedger {
    /// Every blob that a row names.
    pub(super) fn named_blobs(&self) -> Result<Vec<Digest>, StoreError> {
        self.rows(NAMED, [], |row| row.get(0).map(|Sql(digest)| digest))
    }

    /// Lets rows of a run before a round go of what `named` finds in them, by the statements of `release`, and deletes
    /// what no other row names. `what` is for messages.
    pub(super) fn let_go(
        &mut self,
        what: &'static str,
        named: &str,
        release: &[&str],
        (run, before): (RunId, RoundId),
    ) -> Result<Collected, StoreError> {
        self.check_writable()?;
        let forgotten = self.rows(named, params![Sql(run), Sql(before)], |row| row.get(0).map(|Sql(digest)| digest))?;
        self.write(what, |transaction| {
            release.iter().try_for_each(|one| transaction.execute(one, params![Sql(run), Sql(before)]).map(drop))
        })?;
        self.delete_unnamed(forgotten)
    }

    /// Deletes those of these blobs that no row names.
    pub(super) fn delete_unnamed(&self, digests: impl IntoIterator<Item = Digest>) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        for digest in digests {
            if !self.is_named(digest)? {
                let one = self.blobs.delete(&digest)?;
                collected.files += one.files;
                collected.bytes += one.bytes;
            }
        }
        Ok(collected)
    }

    fn is_named(&self, digest: Digest) -> Result<bool, StoreError> {
        let query = "SELECT 1 FROM updates WHERE blob_kept = 1 AND digest = ?1 \
                     UNION ALL SELECT 1 FROM rounds WHERE side_information = ?1 OR server_state = ?1 OR statistics = ?1 \
                     UNION ALL SELECT 1 FROM contributions WHERE digest = ?1 \
                     UNION ALL SELECT 1 FROM rounds WHERE heads_kept = 1 AND (heads = ?1 OR inference_head = ?1) LIMIT 1";
        Ok(self.row(query, [Sql(digest)], |_| Ok(()))?.is_some())
    }
}

/// The statement that writes down, for the rounds that `fit`, what is to be known of their updates when those are gone.
pub(super) fn count_updates(fit: &str) -> String {
    format!(
        "UPDATE rounds SET announcement = x'', \
         accepted = (SELECT count(*) FROM updates WHERE updates.run = rounds.run AND updates.round = rounds.round), \
         samples = (SELECT coalesce(sum(updates.samples), 0) FROM updates \
                    WHERE updates.run = rounds.run AND updates.round = rounds.round) \
         WHERE {fit} AND accepted IS NULL"
    )
}
