use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use grapevine_protocol::{AttributeValue, Attributes, DatasetId, DeviceId, Digest, Incarnation, RoundId, RunId};
use tempfile::TempDir;

use super::super::*;
use super::*;
use crate::round::{Contribution, Counters};

const RUN: RunId = RunId(u64::MAX - 3);

fn name(name: &str) -> DeviceId {
    name.parse().unwrap()
}

fn run() -> RunRow {
    RunRow {
        run: RUN,
        fleet: "orchard".into(),
        created_ms: 1_000,
        config_json: "{}".into(),
        seed: u64::MAX,
        finished: false,
    }
}

fn new_round(round: u32) -> NewRound {
    NewRound {
        run: RUN,
        round: RoundId(round),
        task: "train".into(),
        opened_ms: 2_000,
        expected: 3,
        chosen: 4,
        announcement: vec![0, 255, 7],
    }
}

fn update(round: u32, device: &str) -> NewUpdate {
    let contribution = Contribution { dataset: DatasetId(7), samples: 200, mean_square: 2.5 };
    NewUpdate { run: RUN, round: RoundId(round), device: name(device), contribution, accepted_ms: 3_000 }
}

fn merged(round: u32, heads: Option<Digest>) -> MergedRound {
    MergedRound {
        run: RUN,
        round: RoundId(round),
        closed_ms: 4_000,
        model: ModelDigests { heads, ..ModelDigests::default() },
        counters: Counters::default(),
        note: None,
        takes_in: TakesIn::Nothing,
    }
}

fn accept(store: &mut SqliteLedger, update: &NewUpdate, bytes: &[u8]) -> Result<Accepted, StoreError> {
    Ok(store.accept_updates(&[(update.clone(), Blob::of(bytes))])?[0])
}

fn put(store: &mut SqliteLedger, bytes: &[u8]) -> Result<Digest, StoreError> {
    let blob = Blob::of(bytes);
    store.put_blob(blob).map(|()| blob.digest())
}

fn attributes() -> Attributes {
    let mut labels = Attributes::default();
    let text = AttributeValue::text("a \"quoted\" é").unwrap();
    for (name, value) in [("floor", AttributeValue::Number(-3)), ("mains", AttributeValue::Flag(false)), ("site", text)]
    {
        labels.insert(name, value).unwrap();
    }
    labels
}

fn collecting(state: &Path) -> SqliteLedger {
    let mut store = SqliteLedger::open(state).unwrap();
    store.open_run(&run()).unwrap();
    store.open_round(&new_round(1)).unwrap();
    store
}

fn files(state: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(state.join("blobs")).unwrap().map(|entry| entry.unwrap().path());
    folders.flat_map(|folder| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())).collect()
}

#[test]
fn everything_survives_a_reopen() {
    let state = TempDir::new().unwrap();
    let heads = {
        let mut store = collecting(state.path());
        assert_eq!(accept(&mut store, &update(1, "pi-2"), b"two").unwrap(), Accepted::New);
        assert_eq!(accept(&mut store, &update(1, "pi-1"), b"one").unwrap(), Accepted::New);
        let heads = put(&mut store, b"heads").unwrap();
        store.commit_round(&merged(1, Some(heads))).unwrap();
        store.open_round(&new_round(2)).unwrap();
        heads
    };
    let store = SqliteLedger::open(state.path()).unwrap();
    assert_eq!(store.current_run().unwrap(), Some(run()));
    let updates = store.updates(RUN, RoundId(1)).unwrap();
    assert_eq!(updates.iter().map(|update| update.device.as_str()).collect::<Vec<_>>(), ["pi-1", "pi-2"]);
    assert_eq!(store.blob(&updates[0].digest).unwrap(), b"one");
    let newest = store.newest_merged(RUN).unwrap().unwrap();
    assert_eq!((newest.round.0, newest.phase, newest.accepted), (1, RoundPhase::Merged, 2));
    assert_eq!(
        (newest.model.heads, newest.closed_ms, newest.announcement),
        (Some(heads), Some(4_000), vec![0, 255, 7])
    );
    let open = store.newest_round(RUN).unwrap().unwrap();
    assert_eq!((open.round.0, open.phase, open.accepted), (2, RoundPhase::Collecting, 0));
    assert_eq!(store.rounds(RUN).unwrap().len(), 2);
}

#[test]
fn the_newest_run_is_current_whatever_its_id() {
    let state = TempDir::new().unwrap();
    let mut store = collecting(state.path());
    store.finish_run(RUN).unwrap();
    assert!(store.current_run().unwrap().unwrap().finished);
    store.open_run(&RunRow { run: RunId(5), ..run() }).unwrap();
    assert_eq!(store.current_run().unwrap().unwrap().run, RunId(5));
}

#[test]
fn a_duplicate_changes_nothing_and_costs_no_file() {
    let state = TempDir::new().unwrap();
    let mut store = collecting(state.path());
    accept(&mut store, &update(1, "pi-1"), b"first").unwrap();
    assert_eq!(accept(&mut store, &update(1, "pi-1"), b"second").unwrap(), Accepted::Duplicate);
    let both = [("pi-1", b"third"), ("pi-2", b"other"), ("pi-2", b"again")]
        .map(|(device, bytes)| (update(1, device), Blob::of(bytes)));
    let answers = store.accept_updates(&both).unwrap();
    assert_eq!(answers, [Accepted::Duplicate, Accepted::New, Accepted::Duplicate]);
    let updates = store.updates(RUN, RoundId(1)).unwrap();
    assert_eq!(store.blob(&updates[0].digest).unwrap(), b"first");
    assert_eq!(store.blob(&updates[1].digest).unwrap(), b"other");
    // "again" was stored before its row turned out to be one too many in the same batch.
    assert_eq!(store.collect_garbage(&BTreeSet::new()).unwrap().files, 1);
}

#[test]
fn a_crash_between_blob_and_row_leaves_garbage_and_no_half_state() {
    let state = TempDir::new().unwrap();
    let mut store = collecting(state.path());
    accept(&mut store, &update(1, "pi-1"), b"kept").unwrap();
    let orphan = put(&mut store, b"orphan").unwrap();
    let kept_by_caller = put(&mut store, b"about to be named").unwrap();
    drop(store);
    let folder = files(state.path())[0].parent().unwrap().to_path_buf();
    fs::write(folder.join("half.new"), b"ha").unwrap();

    let mut store = SqliteLedger::open(state.path()).unwrap();
    assert_eq!(store.updates(RUN, RoundId(1)).unwrap().len(), 1);
    let collected = store.collect_garbage(&BTreeSet::from([kept_by_caller])).unwrap();
    assert_eq!(collected, Collected { files: 2, bytes: 8 });
    assert!(matches!(store.blob(&orphan), Err(StoreError::BlobMissing { .. })));
    assert_eq!(store.blob(&kept_by_caller).unwrap(), b"about to be named");
    assert_eq!(store.blob(&store.updates(RUN, RoundId(1)).unwrap()[0].digest).unwrap(), b"kept");
}

#[test]
fn a_failed_batch_leaves_no_row() {
    let state = TempDir::new().unwrap();
    let mut store = collecting(state.path());
    let batch = [(update(1, "pi-1"), Blob::of(b"one")), (update(2, "pi-2"), Blob::of(b"no such round"))];
    assert!(matches!(store.accept_updates(&batch), Err(StoreError::NotCollecting { round: RoundId(2), .. })));
    assert!(store.updates(RUN, RoundId(1)).unwrap().is_empty());
}

#[test]
fn a_closed_round_takes_nothing_more() {
    let state = TempDir::new().unwrap();
    let mut store = collecting(state.path());
    accept(&mut store, &update(1, "pi-1"), b"one").unwrap();
    store.commit_round(&merged(1, None)).unwrap();
    assert!(matches!(accept(&mut store, &update(1, "pi-2"), b"late"), Err(StoreError::NotCollecting { .. })));
    assert_eq!(accept(&mut store, &update(1, "pi-1"), b"one").unwrap(), Accepted::Duplicate);
    assert!(matches!(store.commit_round(&merged(1, None)), Err(StoreError::NotCollecting { .. })));
    assert!(matches!(store.abandon_round(RUN, RoundId(1), 5_000), Err(StoreError::NotCollecting { .. })));
    store.open_round(&new_round(2)).unwrap();
    store.abandon_round(RUN, RoundId(2), 5_000).unwrap();
    assert_eq!(store.newest_round(RUN).unwrap().unwrap().phase, RoundPhase::Abandoned);
    assert_eq!(store.newest_merged(RUN).unwrap().unwrap().round, RoundId(1));
}

#[test]
fn a_round_is_not_committed_without_its_heads() {
    let state = TempDir::new().unwrap();
    let mut store = collecting(state.path());
    assert!(matches!(store.commit_round(&merged(1, Some(Digest([7; 32])))), Err(StoreError::BlobMissing { .. })));
    assert_eq!(store.newest_round(RUN).unwrap().unwrap().phase, RoundPhase::Collecting);
}

#[test]
fn a_damaged_blob_is_found_and_replaced() {
    let state = TempDir::new().unwrap();
    let mut store = collecting(state.path());
    let digest = put(&mut store, b"a head").unwrap();
    fs::write(&files(state.path())[0], b"a hexd").unwrap();
    assert!(matches!(store.blob(&digest), Err(StoreError::BlobDamaged { .. })));
    assert_eq!(put(&mut store, b"a head").unwrap(), digest);
    assert_eq!(store.blob(&digest).unwrap(), b"a head");
}

#[test]
fn forgetting_keeps_rows_and_what_others_name() {
    let state = TempDir::new().unwrap();
    let mut store = collecting(state.path());
    accept(&mut store, &update(1, "pi-1"), b"same").unwrap();
    accept(&mut store, &update(1, "pi-2"), b"only here").unwrap();
    store.commit_round(&merged(1, None)).unwrap();
    store.open_round(&new_round(2)).unwrap();
    accept(&mut store, &update(2, "pi-1"), b"same").unwrap();
    assert_eq!(store.forget_updates_before(RUN, RoundId(2)).unwrap(), Collected { files: 1, bytes: 9 });
    let rows = store.updates(RUN, RoundId(1)).unwrap();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|row| !row.blob_kept));
    assert_eq!(store.blob(&store.updates(RUN, RoundId(2)).unwrap()[0].digest).unwrap(), b"same");
}

#[test]
fn aids_of_earlier_rounds_go_and_heads_stay() {
    let state = TempDir::new().unwrap();
    let mut store = SqliteLedger::open(state.path()).unwrap();
    store.open_run(&run()).unwrap();
    let heads = put(&mut store, b"heads").unwrap();
    let (old, new) = (put(&mut store, b"old aid").unwrap(), put(&mut store, b"new aid").unwrap());
    for (round, side_information) in [(1, old), (2, new)] {
        store.open_round(&new_round(round)).unwrap();
        store
            .commit_round(&MergedRound {
                model: ModelDigests {
                    heads: Some(heads),
                    side_information: Some(side_information),
                    ..ModelDigests::default()
                },
                ..merged(round, None)
            })
            .unwrap();
    }
    assert_eq!(store.forget_side_information_before(RUN, RoundId(2)).unwrap(), Collected { files: 1, bytes: 7 });
    let rows = store.rounds(RUN).unwrap();
    assert_eq!((rows[0].model.heads, rows[0].model.side_information), (Some(heads), None));
    assert_eq!((rows[1].model.heads, rows[1].model.side_information), (Some(heads), Some(new)));
    assert_eq!(store.blob(&new).unwrap(), b"new aid");
}

#[test]
fn devices_and_refusals_are_kept() {
    let state = TempDir::new().unwrap();
    let mut store = SqliteLedger::open(state.path()).unwrap();
    let device = |name: &str, incarnation| DeviceRow {
        device: self::name(name),
        incarnation: Incarnation(incarnation),
        samples: 9,
        dataset: DatasetId(u64::MAX),
        attributes: attributes(),
        last_seen_ms: 1,
        present: true,
        rounds_done: 1,
        last_round: Some(RoundId(4)),
        failures: BTreeMap::from([("late".into(), 2)]),
        strikes: 1,
        quarantined: Some("absurd".into()),
        bytes_up: 1 << 40,
        bytes_down: 2,
    };
    store.upsert_devices(&mut [device("b", 1), device("a", u64::MAX)].into_iter()).unwrap();
    store.upsert_devices(&mut [device("b", 2)].into_iter()).unwrap();
    assert_eq!(store.devices().unwrap(), [device("a", u64::MAX), device("b", 2)]);
    store.release_device(&name("b")).unwrap();
    assert_eq!(store.devices().unwrap()[1], DeviceRow { strikes: 0, quarantined: None, ..device("b", 2) });
    store.add_refusals(&BTreeMap::from([("late".into(), 2), ("norm".into(), 1)])).unwrap();
    store.add_refusals(&BTreeMap::from([("late".into(), 3)])).unwrap();
    assert_eq!(store.refusals().unwrap(), BTreeMap::from([("late".into(), 5), ("norm".into(), 1)]));
}

#[test]
fn a_second_writer_is_refused_until_the_first_is_gone() {
    let state = TempDir::new().unwrap();
    let first = SqliteLedger::open(state.path()).unwrap();
    assert!(matches!(SqliteLedger::open(state.path()), Err(StoreError::InUse { .. })));
    drop(first);
    SqliteLedger::open(state.path()).unwrap();
}

#[test]
fn a_reader_sees_what_a_writer_commits_and_writes_nothing() {
    let state = TempDir::new().unwrap();
    assert!(matches!(SqliteLedger::open_read_only(state.path()), Err(StoreError::NoLedger { .. })));
    let mut writer = collecting(state.path());
    let mut reader = SqliteLedger::open_read_only(state.path()).unwrap();
    accept(&mut writer, &update(1, "pi-1"), b"one").unwrap();
    let updates = reader.updates(RUN, RoundId(1)).unwrap();
    assert_eq!(reader.blob(&updates[0].digest).unwrap(), b"one");
    assert!(matches!(reader.open_run(&run()), Err(StoreError::ReadOnly { .. })));
    assert!(matches!(put(&mut reader, b"x"), Err(StoreError::ReadOnly { .. })));
    drop(writer);
    drop(reader);
    assert_eq!(SqliteLedger::open_read_only(state.path()).unwrap().rounds(RUN).unwrap().len(), 1);
}

#[test]
fn other_databases_are_left_alone() {
    let state = TempDir::new().unwrap();
    let path = state.path().join("ledger.sqlite");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE notes (text TEXT)").unwrap();
    assert!(matches!(SqliteLedger::open(state.path()), Err(StoreError::NotALedger { .. })));
    fs::write(&path, b"this is no database at all, whatever its name says").unwrap();
    assert!(matches!(SqliteLedger::open(state.path()), Err(StoreError::Database { .. })));
    fs::remove_file(&path).unwrap();
    drop(SqliteLedger::open(state.path()).unwrap());
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(SqliteLedger::open(state.path()), Err(StoreError::NewerSchema { found: 99, .. })));
    assert!(matches!(SqliteLedger::open_read_only(state.path()), Err(StoreError::NewerSchema { .. })));
}

#[test]
fn old_heads_go_and_their_digests_stay() {
    let state = TempDir::new().unwrap();
    let mut store = SqliteLedger::open(state.path()).unwrap();
    store.open_run(&run()).unwrap();
    let heads = [b"one", b"two", b"one", b"six"].map(|bytes| put(&mut store, bytes).unwrap());
    for (round, digest) in (1..).zip(heads) {
        store.open_round(&new_round(round)).unwrap();
        accept(&mut store, &update(round, "pi-1"), b"an update").unwrap();
        store.commit_round(&merged(round, Some(digest))).unwrap();
        store.forget_updates_before(RUN, RoundId(round + 1)).unwrap();
    }
    let before = store.rounds(RUN).unwrap();
    assert_eq!(store.forget_old_heads(RUN, 9).unwrap(), Collected::default());
    // The first round's heads are the third's, too.
    assert_eq!(store.forget_old_heads(RUN, 2).unwrap(), Collected { files: 1, bytes: 3 });
    let rows = store.rounds(RUN).unwrap();
    assert_eq!(rows.iter().map(|row| row.heads_kept).collect::<Vec<_>>(), [false, false, true, true]);
    assert!(rows.iter().zip(heads).all(|(row, digest)| row.model.heads == Some(digest)));
    assert_eq!((1..5).map(|round| store.updates(RUN, RoundId(round)).unwrap().len()).collect::<Vec<_>>(), [0, 0, 1, 1]);
    let counts = |row: &RoundRow| (row.accepted, row.samples);
    assert!(rows.iter().zip(&before).all(|(row, before)| counts(row) == counts(before) && row.samples > 0));
    assert_eq!(store.blob(&heads[2]).unwrap(), b"one");
    assert_eq!(store.forget_old_heads(RUN, 2).unwrap(), Collected::default());
    assert_eq!(store.collect_garbage(&BTreeSet::new()).unwrap(), Collected::default());
    assert_eq!(store.forget_old_heads(RUN, 1).unwrap(), Collected { files: 1, bytes: 3 });
}

#[test]
fn a_round_that_is_given_more_time_remembers_how_often() {
    let state = TempDir::new().unwrap();
    let mut store = collecting(state.path());
    store.extend_round(RUN, RoundId(1)).unwrap();
    store.extend_round(RUN, RoundId(1)).unwrap();
    assert!(matches!(store.extend_round(RUN, RoundId(2)), Err(StoreError::NotCollecting { round: RoundId(2), .. })));
    let row = store.newest_round(RUN).unwrap().unwrap();
    assert_eq!((row.expected, row.chosen, row.extensions), (3, 4, 2));
}

#[test]
fn updates_of_a_run_that_was_left_are_garbage() {
    let state = TempDir::new().unwrap();
    let mut store = collecting(state.path());
    accept(&mut store, &update(1, "pi-1"), b"left").unwrap();
    store.open_run(&RunRow { run: RunId(5), ..run() }).unwrap();
    store.forget_updates_of_other_runs(RunId(5)).unwrap();
    assert_eq!(store.collect_garbage(&BTreeSet::new()).unwrap(), Collected { files: 1, bytes: 4 });
}

#[test]
fn a_backup_is_one_moment_and_opens_as_a_state_folder() {
    let state = TempDir::new().unwrap();
    let mut store = collecting(state.path());
    accept(&mut store, &update(1, "pi-1"), b"first").unwrap();
    put(&mut store, b"named by nobody").unwrap();
    let reader = SqliteLedger::open_read_only(state.path()).unwrap();
    let file = state.path().join("backup.tar");
    let backed_up = reader.back_up(&file).unwrap();
    assert_eq!((backed_up.blobs, backed_up.bytes), (1, fs::metadata(&file).unwrap().len()));
    accept(&mut store, &update(1, "pi-2"), b"later").unwrap();
    let restored = TempDir::new().unwrap();
    tar::Archive::new(File::open(&file).unwrap()).unpack(restored.path()).unwrap();
    let mut restored = SqliteLedger::open(restored.path()).unwrap();
    let updates = restored.updates(RUN, RoundId(1)).unwrap();
    assert_eq!(updates.iter().map(|update| update.device.as_str()).collect::<Vec<_>>(), ["pi-1"]);
    assert_eq!(restored.blob(&updates[0].digest).unwrap(), b"first");
    assert_eq!(restored.collect_garbage(&BTreeSet::new()).unwrap(), Collected::default());
    let names = |folder: &Path| fs::read_dir(folder).unwrap().count();
    assert_eq!(names(state.path()), 6, "ledger, its two logs, lock, blobs and the backup: no file is left behind");
    assert!(matches!(reader.back_up(Path::new("/nowhere/backup.tar")), Err(StoreError::Io { .. })));
}

#[test]
fn a_full_disk_is_told_apart_and_takes_nothing_along() {
    let state = TempDir::new().unwrap();
    let mut store = collecting(state.path());
    accept(&mut store, &update(1, "pi-1"), b"kept").unwrap();
    let pages: i64 = store.connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    store.connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())).unwrap();
    let error = (0..10_000)
        .find_map(|number| accept(&mut store, &update(1, &format!("camera-{number}")), b"one more").err())
        .expect("the ledger cannot grow any more");
    assert!(error.is_full(), "{error:?}");
    let before = store.updates(RUN, RoundId(1)).unwrap().len();
    store.connection.pragma_update_and_check(None, "max_page_count", pages + 1_000, |_| Ok(())).unwrap();
    assert_eq!(accept(&mut store, &update(1, "when-there-is-room"), b"one more").unwrap(), Accepted::New);
    assert_eq!(store.updates(RUN, RoundId(1)).unwrap().len(), before + 1);
    assert!(!StoreError::ReadOnly { path: state.path().into() }.is_full());
}
