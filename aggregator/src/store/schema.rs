//! The tables, and how an older ledger becomes a newer one.

use std::path::Path;

use rusqlite::Connection;

use super::StoreError;

/// Marks the file as a Grapevine ledger ("GRPV"), so that a foreign database is never migrated.
const APPLICATION_ID: i64 = 0x4752_5056;

/// Step `n` brings a ledger from schema version `n` to `n + 1`. Steps are only ever appended.
const MIGRATIONS: [&str; 5] = [VERSION_1, VERSION_2, VERSION_3, VERSION_4, VERSION_5];

/// The schema version this program writes.
pub(super) const VERSION: usize = MIGRATIONS.len();

// Unsigned 64-bit values are stored bit for bit in SQLite's signed integers, so `run` and `seed` are not ordered.
const VERSION_1: &str = "
CREATE TABLE runs (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    run          INTEGER NOT NULL UNIQUE,
    fleet        TEXT NOT NULL,
    created_ms   INTEGER NOT NULL,
    config_json  TEXT NOT NULL,
    seed         INTEGER NOT NULL,
    finished     INTEGER NOT NULL
) STRICT;
CREATE TABLE devices (
    device          TEXT PRIMARY KEY,
    boot            INTEGER NOT NULL,
    samples         INTEGER NOT NULL,
    hardware        TEXT NOT NULL,
    last_seen_ms    INTEGER NOT NULL,
    state           TEXT NOT NULL,
    rounds_done     INTEGER NOT NULL,
    updates_refused INTEGER NOT NULL,
    bytes_up        INTEGER NOT NULL,
    bytes_down      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE rounds (
    run          INTEGER NOT NULL REFERENCES runs (run),
    round        INTEGER NOT NULL,
    phase        TEXT NOT NULL CHECK (phase IN ('collecting', 'merged', 'abandoned')),
    task         TEXT NOT NULL,
    opened_ms    INTEGER NOT NULL,
    closed_ms    INTEGER,
    expected     INTEGER NOT NULL,
    heads        BLOB CHECK (length(heads) = 32),
    aid          BLOB CHECK (length(aid) = 32),
    notice       BLOB NOT NULL,
    PRIMARY KEY (run, round)
) STRICT, WITHOUT ROWID;
CREATE INDEX rounds_heads ON rounds (heads);
CREATE INDEX rounds_aid ON rounds (aid);
CREATE TABLE updates (
    run         INTEGER NOT NULL,
    round       INTEGER NOT NULL,
    device      TEXT NOT NULL,
    digest      BLOB NOT NULL CHECK (length(digest) = 32),
    samples     INTEGER NOT NULL,
    accepted_ms INTEGER NOT NULL,
    blob_kept   INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (run, round, device),
    FOREIGN KEY (run, round) REFERENCES rounds (run, round)
) STRICT, WITHOUT ROWID;
CREATE INDEX updates_with_blob ON updates (digest) WHERE blob_kept = 1;
CREATE TABLE refusals (
    reason TEXT PRIMARY KEY,
    count  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

// What only the aggregator remembers, and the head in use where it is not the main one of `heads`.
const VERSION_2: &str = "
ALTER TABLE rounds ADD COLUMN memory BLOB CHECK (length(memory) = 32);
ALTER TABLE rounds ADD COLUMN in_use BLOB CHECK (length(in_use) = 32);
CREATE INDEX rounds_memory ON rounds (memory);
CREATE INDEX rounds_in_use ON rounds (in_use);
";

// Labels in place of a text about the hardware; failures by reason and quarantine; how a round went; heads that went.
const VERSION_3: &str = "
ALTER TABLE devices DROP COLUMN hardware;
ALTER TABLE devices DROP COLUMN updates_refused;
ALTER TABLE devices ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
ALTER TABLE devices ADD COLUMN last_round INTEGER;
ALTER TABLE devices ADD COLUMN strikes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN quarantined TEXT;
CREATE TABLE failures (
    device TEXT NOT NULL,
    reason TEXT NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (device, reason)
) STRICT, WITHOUT ROWID;
ALTER TABLE rounds ADD COLUMN chosen INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rounds ADD COLUMN extensions INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rounds ADD COLUMN heads_kept INTEGER NOT NULL DEFAULT 1;
UPDATE rounds SET chosen = expected;
";

// A round outlives the rows of its updates by their number and their samples. The indices hold what is still to be let
// go, so that finding it takes no longer after many rounds.
const VERSION_4: &str = "
ALTER TABLE rounds ADD COLUMN accepted INTEGER;
ALTER TABLE rounds ADD COLUMN samples INTEGER;
CREATE INDEX rounds_with_updates ON rounds (run, round) WHERE accepted IS NULL;
CREATE INDEX rounds_with_heads ON rounds (run, round) WHERE heads_kept = 1;
CREATE INDEX rounds_with_aid ON rounds (run, round) WHERE aid IS NOT NULL;
CREATE INDEX rounds_with_memory ON rounds (run, round) WHERE memory IS NOT NULL;
CREATE INDEX updates_kept ON updates (run, round) WHERE blob_kept = 1;
";

// Which samples a device holds and what it told of them; the exact sum of that; how far a run is.
const VERSION_5: &str = "
ALTER TABLE devices ADD COLUMN dataset INTEGER NOT NULL DEFAULT 0;
ALTER TABLE updates ADD COLUMN dataset INTEGER NOT NULL DEFAULT 0;
ALTER TABLE updates ADD COLUMN mean_square REAL NOT NULL DEFAULT 0;
ALTER TABLE rounds ADD COLUMN statistics BLOB CHECK (length(statistics) = 32);
ALTER TABLE rounds ADD COLUMN since_start INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rounds ADD COLUMN since_news INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rounds ADD COLUMN still INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rounds ADD COLUMN is_unchanged INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rounds ADD COLUMN note TEXT;
CREATE INDEX rounds_with_statistics ON rounds (run, round) WHERE statistics IS NOT NULL;
CREATE INDEX rounds_statistics ON rounds (statistics);
CREATE TABLE contributions (
    run         INTEGER NOT NULL,
    device      TEXT NOT NULL,
    dataset     INTEGER NOT NULL,
    samples     INTEGER NOT NULL,
    mean_square REAL NOT NULL,
    digest      BLOB CHECK (length(digest) = 32),
    PRIMARY KEY (run, device)
) STRICT, WITHOUT ROWID;
CREATE INDEX contributions_digest ON contributions (digest) WHERE digest IS NOT NULL;
";

/// Brings the ledger at `path` to [`VERSION`], each step in one transaction.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source| StoreError::database("migrate", path, source);
    let found = check_version(connection, path)?;
    for (step, statements) in MIGRATIONS.iter().enumerate().skip(found) {
        let transaction = connection.transaction().map_err(failed)?;
        transaction.execute_batch(statements).map_err(failed)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
        transaction.pragma_update(None, "user_version", step as i64 + 1).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

/// The schema version found; refuses a foreign database and a ledger of a newer program.
pub(super) fn check_version(connection: &Connection, path: &Path) -> Result<usize, StoreError> {
    let number = |name: &str| -> Result<i64, StoreError> {
        connection
            .pragma_query_value(None, name, |row| row.get(0))
            .map_err(|source| StoreError::database("open", path, source))
    };
    let tables = || -> Result<i64, StoreError> {
        connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(|source| StoreError::database("open", path, source))
    };
    let found = number("user_version")?;
    let ours = match number("application_id")? {
        APPLICATION_ID => true,
        0 => found == 0 && tables()? == 0,
        _foreign => false,
    };
    if !ours {
        return Err(StoreError::NotALedger { path: path.to_path_buf() });
    }
    match usize::try_from(found) {
        Ok(version) if version <= VERSION => Ok(version),
        Ok(_) | Err(_) => Err(StoreError::NewerSchema { path: path.to_path_buf(), found, supported: VERSION }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A ledger as the second release wrote it, with a device and a round.
    pub(in crate::store) fn write_version_2(path: &Path) {
        let connection = Connection::open(path).unwrap();
        connection.execute_batch(VERSION_1).unwrap();
        connection.execute_batch(VERSION_2).unwrap();
        connection
            .execute_batch(
                "INSERT INTO runs VALUES (1, 5, 'north', 0, '{}', 0, 0);
                 INSERT INTO devices VALUES ('pi-1', 1, 9, 'aarch64, 4 cores', 1, 'away', 2, 1, 3, 4);
                 INSERT INTO rounds (run, round, phase, task, opened_ms, expected, notice)
                 VALUES (5, 0, 'collecting', 'train', 0, 3, x'00');",
            )
            .unwrap();
        connection.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        connection.pragma_update(None, "user_version", 2).unwrap();
    }
}
