//! Between the machine and the ledger: what a restart reads, and what is written before anything is told.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use grapevine_host::clock::unix_ms;
use grapevine_models::{HeldBack, Request};
use grapevine_protocol::{
    DeviceId, Digest, Refusal, RoundAnnouncement, RoundId, RunId, ToDevice, decode_to_device, encode,
};
use serde::{Deserialize, Serialize};

use super::ServeOptions;
use crate::round::{
    AcceptedUpdate, Content, Coordinator, DeviceRecord, Model, ModelError, OpenRound, Progress, Registry, RoundOutcome,
    Select,
};
use crate::store::{
    Blob, DeviceRow, Ledger, MergedRound, ModelDigests, NewRound, NewUpdate, Records, RoundPhase, RoundRow, RunRow,
    StoreError, TakesIn,
};

/// Whether to go on with the ledger's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunChoice {
    /// Go on with the newest run, or begin the first one with this id.
    Continue(RunId),
    /// Begin a new run with this id; what the fleet learned before stays in the ledger.
    New(RunId),
}

/// Why the ledger does not fit what is to be served.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The newest run is of another kind.
    #[error(
        "the newest run in the ledger is of another {0}; give `--new-run` to begin a new one, or set the configuration back"
    )]
    OtherRun(&'static str),
    /// A part of the newest model that this program did not write.
    #[error("{0} by this program, so the run cannot go on; install the release that wrote it, or give `--new-run`")]
    Model(#[from] ModelError),
    /// The ledger failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What must stay the same within a run.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct RunConfig {
    extractor: String,
    classes: String,
    shape: grapevine_models::Shape,
    params: grapevine_models::Params,
    /// Of the aggregator's own samples.
    auxiliary: Option<String>,
    seed: u64,
}

/// The machine as it stood when the ledger was last written, or a fresh one.
///
/// # Errors
/// If the ledger cannot be read or written, its newest run is of another configuration, or its model cannot be used.
pub fn restore(store: &mut (impl Ledger + ?Sized), options: &ServeOptions) -> Result<Coordinator, LedgerError> {
    // What a crash left between a file and its row.
    store.collect_garbage(&BTreeSet::new())?;
    let newest = match options.run {
        RunChoice::Continue(_) => store.current_run()?,
        RunChoice::New(_) => None,
    };
    // One by one: a large fleet must not be in memory a second time, not even for a moment.
    let mut registry = Registry::default();
    store.each_device(&mut |row| {
        let device = row.device.clone();
        registry.remember(&device, record(row, &options.round.select));
    })?;
    let (run, progress, open) = match newest {
        Some(row) => resume(store, &row, options)?,
        None => (begin(store, options)?, Progress::default(), None),
    };
    progress.model.decode(&options.round)?;
    let (round, closed) = (open.as_ref().map(|open| open.announcement.round), progress.closed);
    let mut coordinator =
        Coordinator::new(options.round.clone(), options.incarnation, run, progress, registry, open, Duration::ZERO);
    if let Some(closed) = closed {
        each_update(store, run, closed, |device, digest| {
            coordinator.handle_merged_before(&device, &digest);
            Ok(())
        })?;
    }
    store.each_contribution(run, &mut |row| coordinator.handle_contribution(&row.device, row.contribution))?;
    if let Some(round) = round {
        each_update(store, run, round, |device, digest| {
            let former = former_statistics(store, &coordinator, &device)?;
            coordinator.handle_restored(Duration::ZERO, &device, &store.blob(&digest)?, former.as_deref());
            Ok(())
        })?;
    }
    Ok(coordinator)
}

/// The update of statistics that a device's new one is put in the place of, where the open round gathers statistics and the
/// device told some before.
///
/// # Errors
/// If the ledger or the update cannot be read.
pub fn former_statistics(
    store: &(impl Records + ?Sized),
    coordinator: &Coordinator,
    device: &DeviceId,
) -> Result<Option<Vec<u8>>, StoreError> {
    if !coordinator.replaces_statistics() {
        return Ok(None);
    }
    let digest = store.contribution(coordinator.run(), device)?.and_then(|row| row.digest);
    digest.map(|digest| store.blob(&digest)).transpose()
}

/// Hands over the updates of a round, in the order of their devices, until something goes wrong.
pub(super) fn each_update(
    store: &(impl Records + ?Sized),
    run: RunId,
    round: RoundId,
    mut take: impl FnMut(DeviceId, Digest) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut outcome = Ok(());
    store.each_update(run, round, &mut |row| {
        if outcome.is_ok() {
            outcome = take(row.device, row.digest);
        }
    })?;
    outcome
}

fn begin(store: &mut (impl Ledger + ?Sized), options: &ServeOptions) -> Result<RunId, LedgerError> {
    let (RunChoice::Continue(run) | RunChoice::New(run)) = options.run;
    store.open_run(&RunRow {
        run,
        fleet: options.fleet.to_string(),
        created_ms: unix_ms(),
        config_json: serde_json::to_string(&run_config(options)).expect("plain numbers and strings serialise"),
        seed: options.round.seed,
        finished: false,
    })?;
    store.forget_updates_of_other_runs(run)?;
    Ok(run)
}

fn run_config(options: &ServeOptions) -> RunConfig {
    let round = &options.round;
    RunConfig {
        extractor: round.extractor.to_string(),
        classes: round.classes.to_string(),
        shape: round.shape,
        params: *round.params,
        auxiliary: round.auxiliary.as_ref().map(|auxiliary| auxiliary.digest().to_string()),
        seed: round.seed,
    }
}

type Restored = (RunId, Progress, Option<OpenRound>);

fn resume(store: &(impl Records + ?Sized), row: &RunRow, options: &ServeOptions) -> Result<Restored, LedgerError> {
    let stored: RunConfig =
        serde_json::from_str(&row.config_json).map_err(|_| StoreError::Unreadable { what: "run configuration" })?;
    let wanted = run_config(options);
    for (same, what) in [
        (stored.extractor == wanted.extractor, "extractor"),
        (stored.classes == wanted.classes, "class list"),
        (stored.params == wanted.params, "method or hyper-parameters"),
        (stored.auxiliary == wanted.auxiliary, "file of auxiliary samples"),
        (stored == wanted, "seed or shape"),
    ] {
        if !same {
            return Err(LedgerError::OtherRun(what));
        }
    }
    let newest = store.newest_merged(row.run)?;
    let digests = newest.as_ref().map(|round| round.model).unwrap_or_default();
    let content = |digest: Option<Digest>| -> Result<Option<Content>, StoreError> {
        digest.map(|digest| Ok(Content::new(store.blob(&digest)?))).transpose()
    };
    let model = Model {
        heads: content(digests.heads)?,
        side_information: content(digests.side_information)?,
        server_state: content(digests.server_state)?,
        inference_head: content(digests.inference_head)?,
        statistics: content(digests.statistics)?,
    };
    let last = store.newest_round(row.run)?;
    let open = match last.as_ref().filter(|round| round.phase == RoundPhase::Collecting) {
        Some(round) => Some(open_round_of(round)?),
        None => None,
    };
    let next_round = last.as_ref().map_or(0, |round| round.round.0 + u32::from(open.is_none()));
    let progress = Progress {
        next_round,
        counters: newest.as_ref().map(|round| round.counters).unwrap_or_default(),
        model,
        closed: newest.map(|round| round.round),
    };
    Ok((row.run, progress, open))
}

fn open_round_of(round: &RoundRow) -> Result<OpenRound, LedgerError> {
    let Ok((ToDevice::RoundAnnouncement(announcement), _)) = decode_to_device(&round.announcement) else {
        return Err(StoreError::Unreadable { what: "open round" }.into());
    };
    Ok(OpenRound {
        announcement,
        expected: round.expected as usize,
        chosen: round.chosen as usize,
        extensions: round.extensions,
        accepted: round.accepted as usize,
    })
}

/// Writes a round down before its announcement goes out: it waits for `expected` updates of `chosen` devices.
///
/// # Errors
/// If the ledger cannot be written.
pub fn open_round(
    store: &mut (impl Ledger + ?Sized),
    announcement: &RoundAnnouncement,
    expected: usize,
    chosen: usize,
) -> Result<(), StoreError> {
    store.open_round(&NewRound {
        run: announcement.run,
        round: announcement.round,
        task: announcement.task.request().map_or("nothing", Request::name).into(),
        opened_ms: unix_ms(),
        expected: u32::try_from(expected).unwrap_or(u32::MAX),
        chosen: u32::try_from(chosen).unwrap_or(u32::MAX),
        announcement: encode(&ToDevice::RoundAnnouncement(announcement.clone()), &[]),
    })
}

/// Makes updates durable, all of them or none. Only then may their devices get receipts.
///
/// # Errors
/// If the ledger cannot be written, or the round of an update is not collecting updates.
pub fn store_updates(store: &mut (impl Ledger + ?Sized), updates: &[AcceptedUpdate]) -> Result<(), StoreError> {
    let accepted_ms = unix_ms();
    let row = |update: &AcceptedUpdate| NewUpdate {
        run: update.run,
        round: update.round,
        device: update.device.clone(),
        contribution: update.contribution,
        accepted_ms,
    };
    let rows: Vec<(NewUpdate, Blob<'_>)> =
        updates.iter().map(|update| (row(update), Blob::known(update.digest, &update.content))).collect();
    store.accept_updates(&rows).map(drop)
}

/// Makes a merged model durable: blobs first, then the row that names them.
///
/// # Errors
/// If the ledger or a blob cannot be written, or the round is not collecting updates.
pub fn commit(store: &mut (impl Ledger + ?Sized), outcome: &RoundOutcome) -> Result<(), StoreError> {
    let mut keep = |content: &Option<Content>| -> Result<Option<Digest>, StoreError> {
        let Some(Content { blob, bytes }) = content else { return Ok(None) };
        store.put_blob(Blob::known(blob.digest, bytes))?;
        Ok(Some(blob.digest))
    };
    let Model { heads, side_information, server_state, inference_head, statistics } = &outcome.model;
    let model = ModelDigests {
        heads: keep(heads)?,
        side_information: keep(side_information)?,
        server_state: keep(server_state)?,
        inference_head: keep(inference_head)?,
        statistics: keep(statistics)?,
    };
    store.commit_round(&MergedRound {
        run: outcome.run,
        round: outcome.round,
        closed_ms: unix_ms(),
        model,
        counters: outcome.counters,
        note: note(outcome),
        takes_in: takes_in(outcome),
    })
}

/// What a round's updates are to the run, once it is merged.
fn takes_in(outcome: &RoundOutcome) -> TakesIn {
    match (outcome.takes_in, outcome.request.is_training()) {
        (false, _) => TakesIn::Nothing,
        (true, false) => TakesIn::Statistics,
        (true, true) => TakesIn::Samples,
    }
}

/// What people should know of a round beside its figures.
pub(super) fn note(outcome: &RoundOutcome) -> Option<String> {
    match outcome.held_back {
        Some(HeldBack::TooFewSamples { answered, fleet, needed_percent }) => {
            let percent = (100.0 * answered as f64 / fleet.max(1) as f64).floor();
            Some(format!(
                "unchanged: devices with {percent} % of the fleet's samples answered, {needed_percent} % are needed; start \
                 those that are missing, or begin without them by `aggregator serve --new-run`"
            ))
        }
        None if outcome.change == Some(0.0) => Some("unchanged".into()),
        None => None,
    }
}

/// Lets go of what nothing needs after a merge: its updates, what earlier rounds published beside their heads, and all
/// heads but the newest `kept_heads`.
///
/// # Errors
/// If the ledger cannot be read or written, or a blob cannot be deleted.
pub fn forget(store: &mut (impl Ledger + ?Sized), outcome: &RoundOutcome, kept_heads: u32) -> Result<(), StoreError> {
    let (run, round) = (outcome.run, outcome.round);
    store.forget_updates_before(run, RoundId(round.0 + 1))?;
    store.forget_side_information_before(run, round)?;
    store.forget_old_heads(run, kept_heads).map(drop)
}

/// Writes down what is new about devices. A stop loses what was not written yet: figures for people, and the names of
/// devices, which say hello again.
///
/// # Errors
/// If the ledger cannot be written.
pub fn remember_devices(
    store: &mut (impl Ledger + ?Sized),
    coordinator: &mut Coordinator,
    now: Duration,
) -> Result<(), StoreError> {
    let wall_clock = unix_ms();
    let mut rows =
        coordinator.news_of_devices().map(|(device, record)| row(&device, &record, wall_clock, now)).peekable();
    if rows.peek().is_some() {
        store.upsert_devices(&mut rows)?;
    }
    drop(rows);
    coordinator.handle_remembered();
    Ok(())
}

/// Writes down what is known about one device.
///
/// # Errors
/// If the ledger cannot be written.
pub fn keep_device(
    store: &mut (impl Ledger + ?Sized),
    coordinator: &Coordinator,
    device: &DeviceId,
    now: Duration,
) -> Result<(), StoreError> {
    let Some(record) = coordinator.device(device) else { return Ok(()) };
    store.upsert_devices(&mut core::iter::once(row(device, &record, unix_ms(), now)))
}

/// Adds refusals to the counts by reason.
///
/// # Errors
/// If the ledger cannot be written.
pub fn remember_refusals(
    store: &mut (impl Ledger + ?Sized),
    refusals: &BTreeMap<Refusal, u64>,
) -> Result<(), StoreError> {
    let counts: BTreeMap<String, u64> =
        refusals.iter().map(|(reason, count)| (reason.name().to_owned(), *count)).collect();
    if counts.is_empty() { Ok(()) } else { store.add_refusals(&counts) }
}

fn row(device: &DeviceId, record: &DeviceRecord, wall_clock: u64, now: Duration) -> DeviceRow {
    let ago = now.saturating_sub(record.last_seen).as_millis();
    DeviceRow {
        device: device.clone(),
        incarnation: record.incarnation,
        samples: record.samples,
        dataset: record.dataset,
        attributes: record.attributes.clone(),
        last_seen_ms: wall_clock.saturating_sub(u64::try_from(ago).unwrap_or(u64::MAX)),
        present: record.present,
        rounds_done: record.rounds_done,
        last_round: record.last_round,
        failures: record.failures.iter().map(|(reason, count)| (reason.name().to_owned(), *count)).collect(),
        strikes: record.strikes,
        quarantined: record.quarantined.map(|reason| reason.name().to_owned()),
        bytes_up: record.bytes_up,
        bytes_down: record.bytes_down,
    }
}

/// A device of the registry. It is gone until it says hello, whatever it was before the stop; but an update of it that was on
/// its way then may come first, so it is known whether rounds choose from it.
fn record(row: DeviceRow, select: &Select) -> DeviceRecord {
    let reason = |name: &str| Refusal::ALL.into_iter().find(|reason| reason.name() == name);
    let failures = row.failures.iter().filter_map(|(name, count)| Some((reason(name)?, *count)));
    DeviceRecord {
        incarnation: row.incarnation,
        samples: row.samples,
        dataset: row.dataset,
        is_eligible: select.matches(&row.attributes),
        attributes: row.attributes,
        present: false,
        last_seen: Duration::ZERO,
        rounds_done: row.rounds_done,
        last_round: row.last_round,
        failures: failures.collect(),
        strikes: row.strikes,
        // A reason of another release is still one.
        quarantined: row.quarantined.map(|name| reason(&name).unwrap_or(Refusal::Content)),
        bytes_up: row.bytes_up,
        bytes_down: row.bytes_down,
    }
}
