//! The aggregator's disk in memory: what [`Ledger`] promises, and power that can fail in every write.
//!
//! The real ledger is one SQLite file with full synchronisation and files that are written anew, synced and renamed. So
//! a write that was cut is there as a whole or not at all, and what is modelled as torn is a call of several writes: its
//! blobs without its rows, or some of its blobs. A real ledger can run beside it and must give the same answers.

use core::fmt::Debug;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind};
use std::path::PathBuf;
use std::rc::Rc;

use grapevine_aggregator::round::Counters;
use grapevine_aggregator::store::{
    Accepted, Blob, Collected, ContributionRow, DeviceRow, Ledger, MergedRound, ModelDigests, NewRound, NewUpdate,
    Records, RoundPhase, RoundRow, RunRow, StoreError, TakesIn, UpdateRow,
};
use grapevine_protocol::{DeviceId, Digest, RoundId, RunId};

use super::power::{Draw, Power};

/// A round's row with the updates that it accepted.
#[derive(Clone, Debug)]
pub(super) struct Round {
    pub(super) row: RoundRow,
    pub(super) updates: BTreeMap<DeviceId, UpdateRow>,
    /// What each of them tells of its device's samples.
    pub(super) told: BTreeMap<DeviceId, ContributionRow>,
}

impl Round {
    /// Whether a later round was merged, and the rows of its updates are no longer needed.
    pub(super) fn is_let_go(&self) -> bool {
        self.row.announcement.is_empty()
    }
}

#[derive(Clone)]
struct Stored {
    bytes: Rc<[u8]>,
    /// Rows that name it.
    names: u32,
}

/// The rows of one run and all blobs.
#[derive(Clone, Default)]
struct Disk {
    run: Option<RunRow>,
    /// Ascending by number.
    rounds: Vec<Round>,
    devices: BTreeMap<DeviceId, DeviceRow>,
    contributions: BTreeMap<DeviceId, ContributionRow>,
    refusals: BTreeMap<String, u64>,
    blobs: BTreeMap<Digest, Stored>,
    merged: u64,
}

pub(super) struct MemoryLedger {
    disk: Disk,
    pub(super) power: Power,
    /// Whether there is room for another write.
    pub(super) has_room: bool,
    /// A disk that lies: with its power it loses the last write that it had acknowledged. This is that write's before.
    former: Option<Box<Disk>>,
    /// Does the same beside it.
    twin: Option<Box<dyn Ledger>>,
}

impl MemoryLedger {
    pub(super) fn new(power: Power) -> Self {
        Self { disk: Disk::default(), power, has_room: true, former: None, twin: None }
    }

    /// From now on the disk forgets what it promised when its power fails.
    pub(super) fn lie(&mut self) {
        self.former = Some(Box::default());
    }

    /// Runs another ledger beside this one, which must be as empty.
    pub(super) fn compare_with(&mut self, twin: Box<dyn Ledger>) {
        self.twin = Some(twin);
    }

    /// Power is back, and what a disk that lies had in its cache is gone.
    pub(super) fn restore_power(&mut self) {
        if let (Some(former), false) = (&self.former, self.power.is_on()) {
            self.disk = Disk::clone(former);
        }
        self.power.restore();
    }

    pub(super) fn rounds(&self) -> &[Round] {
        &self.disk.rounds
    }

    pub(super) fn round(&self, round: RoundId) -> Option<&Round> {
        self.disk.rounds.get(round.0 as usize)
    }

    pub(super) fn device(&self, device: &DeviceId) -> Option<&DeviceRow> {
        self.disk.devices.get(device)
    }

    pub(super) fn has_blob(&self, digest: &Digest) -> bool {
        self.disk.blobs.contains_key(digest)
    }

    /// Rounds that were merged.
    pub(super) fn merged(&self) -> u64 {
        self.disk.merged
    }

    /// One write: all of it or nothing, and whoever asked hears nothing if the power fails. `real` is the same call to
    /// the ledger beside this one.
    fn write<T: PartialEq + Debug>(
        &mut self,
        work: impl FnOnce(&mut Disk) -> Result<T, StoreError>,
        real: impl FnOnce(&mut dyn Ledger) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if !self.has_room {
            return Err(failed(ErrorKind::StorageFull));
        }
        let draw = self.power.draw();
        if draw == Draw::Nothing {
            return Err(dark());
        }
        if let Some(former) = &mut self.former {
            **former = self.disk.clone();
        }
        let done = work(&mut self.disk)?;
        if let Some(twin) = &mut self.twin {
            assert_eq!(real(&mut **twin).ok().as_ref(), Some(&done), "the real ledger does the same");
        }
        if draw == Draw::Full { Ok(done) } else { Err(dark()) }
    }

    /// What the ledger beside this one says must be the same.
    fn read<T: PartialEq + Debug>(
        &self,
        found: T,
        real: impl FnOnce(&dyn Ledger) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some(twin) = &self.twin {
            assert_eq!(real(&**twin).ok().as_ref(), Some(&found), "the real ledger says the same");
        }
        Ok(found)
    }
}

impl Disk {
    fn collecting(&mut self, run: RunId, round: RoundId) -> Result<&mut Round, StoreError> {
        let found = self.rounds.get_mut(round.0 as usize).filter(|found| found.row.phase == RoundPhase::Collecting);
        found.ok_or(StoreError::NotCollecting { run, round })
    }

    /// What the updates of a merged round tell of their devices' samples takes the place of what those told before.
    fn take_in(&mut self, takes_in: TakesIn, told: BTreeMap<DeviceId, ContributionRow>) {
        for (device, mut told) in told {
            match takes_in {
                TakesIn::Nothing => continue,
                TakesIn::Statistics => {}
                TakesIn::Samples => told.digest = None,
            }
            told.digest.iter().for_each(|digest| self.name(digest));
            if let Some(former) = self.contributions.insert(device, told).and_then(|former| former.digest) {
                self.blobs.get_mut(&former).expect("a named blob is there").names -= 1;
            }
        }
    }

    fn name(&mut self, digest: &Digest) {
        self.blobs.get_mut(digest).expect("a blob is on the disk before a row names it").names += 1;
    }

    /// Rows let go of these; a blob that no row names any more is deleted.
    fn forget(&mut self, forgotten: Vec<Digest>) -> Collected {
        for digest in &forgotten {
            self.blobs.get_mut(digest).expect("a named blob is there").names -= 1;
        }
        self.delete_unnamed(forgotten)
    }

    fn delete_unnamed(&mut self, digests: Vec<Digest>) -> Collected {
        let mut collected = Collected::default();
        for digest in digests {
            if self.blobs.get(&digest).is_some_and(|blob| blob.names == 0) {
                let bytes = self.blobs.remove(&digest).map_or(0, |blob| blob.bytes.len());
                collected.files += 1;
                collected.bytes += bytes as u64;
            }
        }
        collected
    }
}

fn dark() -> StoreError {
    failed(ErrorKind::Interrupted)
}

fn missing(digest: &Digest) -> StoreError {
    StoreError::BlobMissing { path: PathBuf::from(digest.to_string()) }
}

fn failed(kind: ErrorKind) -> StoreError {
    StoreError::Io { action: "write", path: PathBuf::from("the ledger"), source: Error::from(kind) }
}

impl Records for MemoryLedger {
    fn current_run(&self) -> Result<Option<RunRow>, StoreError> {
        self.read(self.disk.run.clone(), |twin| twin.current_run())
    }

    fn rounds(&self, run: RunId) -> Result<Vec<RoundRow>, StoreError> {
        self.read(self.disk.rounds.iter().map(|round| round.row.clone()).collect(), |twin| twin.rounds(run))
    }

    fn newest_round(&self, run: RunId) -> Result<Option<RoundRow>, StoreError> {
        self.read(self.rounds().last().map(|round| round.row.clone()), |twin| twin.newest_round(run))
    }

    fn newest_merged(&self, run: RunId) -> Result<Option<RoundRow>, StoreError> {
        let merged = self.rounds().iter().rev().find(|round| round.row.phase == RoundPhase::Merged);
        self.read(merged.map(|round| round.row.clone()), |twin| twin.newest_merged(run))
    }

    fn each_update(&self, run: RunId, round: RoundId, take: &mut dyn FnMut(UpdateRow)) -> Result<(), StoreError> {
        let rows: Option<Vec<_>> = self.round(round).map(|round| round.updates.values().cloned().collect());
        let rows = self.read(rows.unwrap_or_default(), |twin| twin.updates(run, round))?;
        rows.into_iter().for_each(take);
        Ok(())
    }

    fn each_contribution(&self, run: RunId, take: &mut dyn FnMut(ContributionRow)) -> Result<(), StoreError> {
        let rows = self.read(self.disk.contributions.values().cloned().collect::<Vec<_>>(), |twin| {
            let mut rows = Vec::new();
            twin.each_contribution(run, &mut |row| rows.push(row)).map(|()| rows)
        })?;
        rows.into_iter().for_each(take);
        Ok(())
    }

    fn contribution(&self, run: RunId, device: &DeviceId) -> Result<Option<ContributionRow>, StoreError> {
        self.read(self.disk.contributions.get(device).cloned(), |twin| twin.contribution(run, device))
    }

    fn each_device(&self, take: &mut dyn FnMut(DeviceRow)) -> Result<(), StoreError> {
        let rows = self.read(self.disk.devices.values().cloned().collect::<Vec<_>>(), |twin| twin.devices())?;
        rows.into_iter().for_each(take);
        Ok(())
    }

    fn refusals(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        self.read(self.disk.refusals.clone(), |twin| twin.refusals())
    }

    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let bytes = self.disk.blobs.get(digest).map(|blob| blob.bytes.to_vec()).ok_or_else(|| missing(digest))?;
        self.read(bytes, |twin| twin.blob(digest))
    }
}

impl Ledger for MemoryLedger {
    fn collect_garbage(&mut self, keep: &BTreeSet<Digest>) -> Result<Collected, StoreError> {
        let unnamed = self.disk.blobs.keys().filter(|digest| !keep.contains(*digest)).copied().collect();
        self.write(|disk| Ok(disk.delete_unnamed(unnamed)), |twin| twin.collect_garbage(keep))
    }

    fn open_run(&mut self, run: &RunRow) -> Result<(), StoreError> {
        let open = |disk: &mut Disk| {
            disk.run = Some(run.clone());
            Ok(())
        };
        self.write(open, |twin| twin.open_run(run))
    }

    fn finish_run(&mut self, run: RunId) -> Result<(), StoreError> {
        let finish = |disk: &mut Disk| {
            disk.run.iter_mut().for_each(|run| run.finished = true);
            Ok(())
        };
        self.write(finish, |twin| twin.finish_run(run))
    }

    fn open_round(&mut self, round: &NewRound) -> Result<(), StoreError> {
        let open = |disk: &mut Disk| {
            assert_eq!(round.round.0 as usize, disk.rounds.len(), "rounds are numbered without a gap");
            disk.run.iter_mut().for_each(|run| run.finished = false);
            disk.rounds.push(Round { row: row(round.clone()), updates: BTreeMap::new(), told: BTreeMap::new() });
            Ok(())
        };
        self.write(open, |twin| twin.open_round(round))
    }

    fn commit_round(&mut self, merged: &MergedRound) -> Result<(), StoreError> {
        let MergedRound { run, round, closed_ms, model, counters, note, takes_in } = merged.clone();
        if let Some(lost) = model.iter().find(|digest| !self.has_blob(digest)) {
            return Err(missing(&lost));
        }
        let commit = |disk: &mut Disk| {
            let Round { row, told, .. } = disk.collecting(run, round)?;
            let (phase, closed_ms) = (RoundPhase::Merged, Some(closed_ms));
            *row = RoundRow { phase, closed_ms, model, counters, note, ..row.clone() };
            let told = core::mem::take(told);
            disk.take_in(takes_in, told);
            model.iter().for_each(|digest| disk.name(&digest));
            disk.merged += 1;
            Ok(())
        };
        self.write(commit, |twin| twin.commit_round(merged))
    }

    fn extend_round(&mut self, run: RunId, round: RoundId) -> Result<(), StoreError> {
        let extend = |disk: &mut Disk| {
            disk.collecting(run, round)?.row.extensions += 1;
            Ok(())
        };
        self.write(extend, |twin| twin.extend_round(run, round))
    }

    fn abandon_round(&mut self, run: RunId, round: RoundId, closed_ms: u64) -> Result<(), StoreError> {
        let abandon = |disk: &mut Disk| {
            let row = &mut disk.collecting(run, round)?.row;
            (row.phase, row.closed_ms) = (RoundPhase::Abandoned, Some(closed_ms));
            Ok(())
        };
        self.write(abandon, |twin| twin.abandon_round(run, round, closed_ms))
    }

    fn accept_updates(&mut self, updates: &[(NewUpdate, Blob<'_>)]) -> Result<Vec<Accepted>, StoreError> {
        let mut new = Vec::new();
        let mut accepted = Vec::new();
        for (update, blob) in updates {
            let is_known = self.round(update.round).is_some_and(|round| round.updates.contains_key(&update.device));
            accepted.push(if is_known { Accepted::Duplicate } else { Accepted::New });
            if !is_known {
                self.disk.collecting(update.run, update.round)?;
                self.put_blob(*blob)?;
                new.push((update, blob.digest()));
            }
        }
        let accept = |disk: &mut Disk| {
            for (update, digest) in new {
                let NewUpdate { run, round, device, contribution, accepted_ms } = update.clone();
                let samples = contribution.samples;
                let told = ContributionRow { device: device.clone(), contribution, digest: Some(digest) };
                let row =
                    UpdateRow { run, round, device: device.clone(), digest, samples, accepted_ms, blob_kept: true };
                let round = disk.collecting(run, round)?;
                round.told.insert(device.clone(), told);
                round.updates.insert(device, row);
                round.row.samples += u64::from(samples);
                round.row.accepted = round.updates.len() as u32;
                disk.name(&digest);
            }
            Ok(accepted)
        };
        self.write(accept, |twin| twin.accept_updates(updates))
    }

    fn drop_update(&mut self, run: RunId, round: RoundId, device: &DeviceId) -> Result<(), StoreError> {
        let drop = |disk: &mut Disk| {
            let open = disk.collecting(run, round)?;
            open.told.remove(device);
            let dropped = open.updates.remove(device);
            open.row.accepted = open.updates.len() as u32;
            open.row.samples -= dropped.as_ref().map_or(0, |row| u64::from(row.samples));
            disk.forget(dropped.into_iter().map(|row| row.digest).collect());
            Ok(())
        };
        self.write(drop, |twin| twin.drop_update(run, round, device))
    }

    fn forget_updates_before(&mut self, run: RunId, round: RoundId) -> Result<Collected, StoreError> {
        let forget = |disk: &mut Disk| {
            let mut forgotten = Vec::new();
            // Statistics that are part of the fleet's sum stay.
            let needed: BTreeSet<Digest> = disk.contributions.values().filter_map(|told| told.digest).collect();
            for old in disk.rounds.iter_mut().filter(|old| old.row.round < round) {
                let kept = old.updates.values_mut().filter(|update| update.blob_kept);
                for update in kept.filter(|update| !needed.contains(&update.digest)) {
                    update.blob_kept = false;
                    forgotten.push(update.digest);
                }
            }
            Ok(disk.forget(forgotten))
        };
        self.write(forget, |twin| twin.forget_updates_before(run, round))
    }

    fn forget_side_information_before(&mut self, run: RunId, round: RoundId) -> Result<Collected, StoreError> {
        let forget = |disk: &mut Disk| {
            let mut forgotten = Vec::new();
            for Round { row, .. } in disk.rounds.iter_mut().rev().skip_while(|old| old.row.round >= round) {
                forgotten.extend(
                    [&mut row.model.side_information, &mut row.model.server_state, &mut row.model.statistics]
                        .into_iter()
                        .filter_map(Option::take),
                );
            }
            Ok(disk.forget(forgotten))
        };
        self.write(forget, |twin| twin.forget_side_information_before(run, round))
    }

    fn forget_old_heads(&mut self, run: RunId, kept: u32) -> Result<Collected, StoreError> {
        let forget = |disk: &mut Disk| {
            let merged = disk.rounds.iter().rev().filter(|round| round.row.phase == RoundPhase::Merged);
            let mut forgotten = Vec::new();
            let Some(oldest) = merged.map(|round| round.row.round).nth(kept.max(1) as usize - 1) else {
                return Ok(Collected::default());
            };
            for Round { row, updates, .. } in &mut disk.rounds[..oldest.0 as usize] {
                if core::mem::take(&mut row.heads_kept) {
                    forgotten.extend([row.model.heads, row.model.inference_head].into_iter().flatten());
                }
                row.announcement.clear();
                updates.retain(|_, update| update.blob_kept);
            }
            Ok(disk.forget(forgotten))
        };
        self.write(forget, |twin| twin.forget_old_heads(run, kept))
    }

    fn forget_updates_of_other_runs(&mut self, run: RunId) -> Result<(), StoreError> {
        self.write(|_| Ok(()), |twin| twin.forget_updates_of_other_runs(run))
    }

    fn put_blob(&mut self, blob: Blob<'_>) -> Result<(), StoreError> {
        let put = |disk: &mut Disk| {
            disk.blobs.entry(blob.digest()).or_insert_with(|| Stored { bytes: blob.bytes().into(), names: 0 });
            Ok(())
        };
        self.write(put, |twin| twin.put_blob(blob))
    }

    fn upsert_devices(&mut self, devices: &mut dyn Iterator<Item = DeviceRow>) -> Result<(), StoreError> {
        let devices: Vec<DeviceRow> = devices.collect();
        let upsert = |disk: &mut Disk| {
            disk.devices.extend(devices.iter().map(|row| (row.device.clone(), row.clone())));
            Ok(())
        };
        self.write(upsert, |twin| twin.upsert_devices(&mut devices.iter().cloned()))
    }

    fn forget_devices(&mut self, devices: &[DeviceId]) -> Result<(), StoreError> {
        let forget = |disk: &mut Disk| {
            devices.iter().for_each(|device| drop(disk.devices.remove(device)));
            Ok(())
        };
        self.write(forget, |twin| twin.forget_devices(devices))
    }

    fn add_refusals(&mut self, counts: &BTreeMap<String, u64>) -> Result<(), StoreError> {
        let add = |disk: &mut Disk| {
            counts.iter().for_each(|(reason, count)| *disk.refusals.entry(reason.clone()).or_default() += count);
            Ok(())
        };
        self.write(add, |twin| twin.add_refusals(counts))
    }

    fn release_device(&mut self, device: &DeviceId) -> Result<(), StoreError> {
        let release = |disk: &mut Disk| {
            disk.devices.get_mut(device).into_iter().for_each(|row| (row.quarantined, row.strikes) = (None, 0));
            Ok(())
        };
        self.write(release, |twin| twin.release_device(device))
    }

    fn note_all_gone(&mut self) -> Result<(), StoreError> {
        let note = |disk: &mut Disk| {
            disk.devices.values_mut().for_each(|row| row.present = false);
            Ok(())
        };
        self.write(note, |twin| twin.note_all_gone())
    }
}

/// A round that was just opened.
fn row(new: NewRound) -> RoundRow {
    let NewRound { run, round, task, opened_ms, expected, chosen, announcement } = new;
    RoundRow {
        run,
        round,
        phase: RoundPhase::Collecting,
        task,
        opened_ms,
        closed_ms: None,
        expected,
        chosen,
        extensions: 0,
        accepted: 0,
        samples: 0,
        model: ModelDigests::default(),
        counters: Counters::default(),
        note: None,
        heads_kept: true,
        announcement,
    }
}
