//! The tables, and how an older ledger becomes a newer one.

use std::path::Path;

use rusqlite::Connection;

use super::super::StoreError;
use super::failed;

/// Marks the file as a Grapevine ledger ("GRPV"), so that a foreign database is never migrated.
const APPLICATION_ID: i64 = 0x4752_5056;

/// Step `n` brings a ledger from schema version `n` to `n + 1`. Steps are only ever appended.
const MIGRATIONS: [&str; 1] = [VERSION_1];

/// The schema version this program writes.
pub(super) const VERSION: usize = MIGRATIONS.len();

// Unsigned 64-bit values are stored bit for bit in SQLite's signed integers, so `run` and `seed` are not ordered. A round
// outlives the rows of its updates by their number and their samples. The indices hold what can still be deleted, so that
// finding it takes no longer after many rounds.
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
    device       TEXT PRIMARY KEY,
    incarnation  INTEGER NOT NULL,
    samples      INTEGER NOT NULL,
    dataset      INTEGER NOT NULL,
    attributes   TEXT NOT NULL,
    last_seen_ms INTEGER NOT NULL,
    present      INTEGER NOT NULL,
    rounds_done  INTEGER NOT NULL,
    last_round   INTEGER,
    strikes      INTEGER NOT NULL,
    quarantined  TEXT,
    bytes_up     INTEGER NOT NULL,
    bytes_down   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE failures (
    device TEXT NOT NULL,
    reason TEXT NOT NULL,
    count  INTEGER NOT NULL,
    PRIMARY KEY (device, reason)
) STRICT, WITHOUT ROWID;
CREATE TABLE rounds (
    run              INTEGER NOT NULL REFERENCES runs (run),
    round            INTEGER NOT NULL,
    phase            TEXT NOT NULL CHECK (phase IN ('collecting', 'merged', 'abandoned')),
    task             TEXT NOT NULL,
    opened_ms        INTEGER NOT NULL,
    closed_ms        INTEGER,
    expected         INTEGER NOT NULL,
    chosen           INTEGER NOT NULL,
    extensions       INTEGER NOT NULL DEFAULT 0,
    announcement     BLOB NOT NULL,
    accepted         INTEGER,
    samples          INTEGER,
    heads            BLOB CHECK (length(heads) = 32),
    heads_kept       INTEGER NOT NULL DEFAULT 1,
    side_information BLOB CHECK (length(side_information) = 32),
    server_state     BLOB CHECK (length(server_state) = 32),
    inference_head   BLOB CHECK (length(inference_head) = 32),
    statistics       BLOB CHECK (length(statistics) = 32),
    trained          INTEGER NOT NULL DEFAULT 0,
    since_start      INTEGER NOT NULL DEFAULT 0,
    since_news       INTEGER NOT NULL DEFAULT 0,
    still            INTEGER NOT NULL DEFAULT 0,
    is_unchanged     INTEGER NOT NULL DEFAULT 0,
    note             TEXT,
    PRIMARY KEY (run, round)
) STRICT, WITHOUT ROWID;
CREATE INDEX rounds_heads ON rounds (heads);
CREATE INDEX rounds_side_information ON rounds (side_information);
CREATE INDEX rounds_server_state ON rounds (server_state);
CREATE INDEX rounds_inference_head ON rounds (inference_head);
CREATE INDEX rounds_statistics ON rounds (statistics);
CREATE INDEX rounds_with_updates ON rounds (run, round) WHERE accepted IS NULL;
CREATE INDEX rounds_with_heads ON rounds (run, round) WHERE heads_kept = 1;
CREATE INDEX rounds_with_side_information ON rounds (run, round) WHERE side_information IS NOT NULL;
CREATE INDEX rounds_with_server_state ON rounds (run, round) WHERE server_state IS NOT NULL;
CREATE INDEX rounds_with_statistics ON rounds (run, round) WHERE statistics IS NOT NULL;
CREATE TABLE updates (
    run         INTEGER NOT NULL,
    round       INTEGER NOT NULL,
    device      TEXT NOT NULL,
    digest      BLOB NOT NULL CHECK (length(digest) = 32),
    samples     INTEGER NOT NULL,
    dataset     INTEGER NOT NULL,
    mean_square REAL NOT NULL,
    accepted_ms INTEGER NOT NULL,
    blob_kept   INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (run, round, device),
    FOREIGN KEY (run, round) REFERENCES rounds (run, round)
) STRICT, WITHOUT ROWID;
CREATE INDEX updates_with_blob ON updates (digest) WHERE blob_kept = 1;
CREATE INDEX updates_kept ON updates (run, round) WHERE blob_kept = 1;
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
CREATE TABLE refusals (
    reason TEXT PRIMARY KEY,
    count  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Brings the ledger at `path` to [`VERSION`], each step in one transaction.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |source| failed("migrate", path, source);
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
        connection.pragma_query_value(None, name, |row| row.get(0)).map_err(|source| failed("open", path, source))
    };
    let tables = || -> Result<i64, StoreError> {
        connection
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(|source| failed("open", path, source))
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
