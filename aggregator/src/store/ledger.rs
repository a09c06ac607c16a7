//! What the aggregator asks of its disk, as a trait: [`Store`] keeps it in SQLite and files, a simulation in memory.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Accepted, Collected, ContributionRow, DeviceRow, Digest, MergedRound, NewRound, NewUpdate, RoundRow, RunRow, Store,
    StoreError, UpdateRow,
};

/// The ledger as the aggregator uses it.
///
/// A call that returned `Ok` is durable. A power cut during a call leaves what was there before it, with any of its
/// blobs, or all of it: a blob is on the disk before a row names it, and the rows of one call are one transaction.
/// Every method is documented at [`Store`].
#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "each method says the same as the one of `Store` that it stands for"
)]
pub trait Ledger {
    fn collect_garbage(&mut self, keep: &BTreeSet<Digest>) -> Result<Collected, StoreError>;

    fn current_run(&self) -> Result<Option<RunRow>, StoreError>;
    fn open_run(&mut self, run: &RunRow) -> Result<(), StoreError>;
    fn finish_run(&mut self, run: u64) -> Result<(), StoreError>;

    fn newest_round(&self, run: u64) -> Result<Option<RoundRow>, StoreError>;
    fn newest_merged(&self, run: u64) -> Result<Option<RoundRow>, StoreError>;
    fn open_round(&mut self, round: &NewRound) -> Result<(), StoreError>;
    fn commit_round(&mut self, merged: &MergedRound) -> Result<(), StoreError>;
    fn extend_round(&mut self, run: u64, round: u32) -> Result<(), StoreError>;
    fn abandon_round(&mut self, run: u64, round: u32, closed_ms: u64) -> Result<(), StoreError>;

    fn each_update(&self, run: u64, round: u32, take: &mut dyn FnMut(UpdateRow)) -> Result<(), StoreError>;
    fn each_contribution(&self, run: u64, take: &mut dyn FnMut(ContributionRow)) -> Result<(), StoreError>;
    fn contribution(&self, run: u64, device: &str) -> Result<Option<ContributionRow>, StoreError>;
    fn accept_updates(&mut self, updates: &[(NewUpdate, &[u8])]) -> Result<Vec<Accepted>, StoreError>;
    fn drop_update(&mut self, run: u64, round: u32, device: &str) -> Result<(), StoreError>;
    fn forget_updates_before(&mut self, run: u64, round: u32) -> Result<Collected, StoreError>;
    fn forget_side_information_before(&mut self, run: u64, round: u32) -> Result<Collected, StoreError>;
    fn forget_old_heads(&mut self, run: u64, kept: u32) -> Result<Collected, StoreError>;
    fn forget_updates_of_other_runs(&mut self, run: u64) -> Result<(), StoreError>;

    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError>;
    fn put_blob(&mut self, bytes: &[u8]) -> Result<Digest, StoreError>;

    fn each_device(&self, take: &mut dyn FnMut(DeviceRow)) -> Result<(), StoreError>;
    fn upsert_devices(&mut self, devices: &mut dyn Iterator<Item = DeviceRow>) -> Result<(), StoreError>;
    fn forget_devices(&mut self, devices: &[String]) -> Result<(), StoreError>;
    fn add_refusals(&mut self, counts: &BTreeMap<String, u64>) -> Result<(), StoreError>;
}

impl Ledger for Store {
    fn collect_garbage(&mut self, keep: &BTreeSet<Digest>) -> Result<Collected, StoreError> {
        Self::collect_garbage(self, keep)
    }

    fn current_run(&self) -> Result<Option<RunRow>, StoreError> {
        Self::current_run(self)
    }

    fn open_run(&mut self, run: &RunRow) -> Result<(), StoreError> {
        Self::open_run(self, run)
    }

    fn finish_run(&mut self, run: u64) -> Result<(), StoreError> {
        Self::finish_run(self, run)
    }

    fn newest_round(&self, run: u64) -> Result<Option<RoundRow>, StoreError> {
        Self::newest_round(self, run)
    }

    fn newest_merged(&self, run: u64) -> Result<Option<RoundRow>, StoreError> {
        Self::newest_merged(self, run)
    }

    fn open_round(&mut self, round: &NewRound) -> Result<(), StoreError> {
        Self::open_round(self, round)
    }

    fn commit_round(&mut self, merged: &MergedRound) -> Result<(), StoreError> {
        Self::commit_round(self, merged)
    }

    fn extend_round(&mut self, run: u64, round: u32) -> Result<(), StoreError> {
        Self::extend_round(self, run, round)
    }

    fn abandon_round(&mut self, run: u64, round: u32, closed_ms: u64) -> Result<(), StoreError> {
        Self::abandon_round(self, run, round, closed_ms)
    }

    fn each_update(&self, run: u64, round: u32, take: &mut dyn FnMut(UpdateRow)) -> Result<(), StoreError> {
        Self::each_update(self, run, round, take)
    }

    fn each_contribution(&self, run: u64, take: &mut dyn FnMut(ContributionRow)) -> Result<(), StoreError> {
        Self::each_contribution(self, run, take)
    }

    fn contribution(&self, run: u64, device: &str) -> Result<Option<ContributionRow>, StoreError> {
        Self::contribution(self, run, device)
    }

    fn accept_updates(&mut self, updates: &[(NewUpdate, &[u8])]) -> Result<Vec<Accepted>, StoreError> {
        Self::accept_updates(self, updates)
    }

    fn drop_update(&mut self, run: u64, round: u32, device: &str) -> Result<(), StoreError> {
        Self::drop_update(self, run, round, device)
    }

    fn forget_updates_before(&mut self, run: u64, round: u32) -> Result<Collected, StoreError> {
        Self::forget_updates_before(self, run, round)
    }

    fn forget_side_information_before(&mut self, run: u64, round: u32) -> Result<Collected, StoreError> {
        Self::forget_side_information_before(self, run, round)
    }

    fn forget_old_heads(&mut self, run: u64, kept: u32) -> Result<Collected, StoreError> {
        Self::forget_old_heads(self, run, kept)
    }

    fn forget_updates_of_other_runs(&mut self, run: u64) -> Result<(), StoreError> {
        Self::forget_updates_of_other_runs(self, run)
    }

    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        Self::blob(self, digest)
    }

    fn put_blob(&mut self, bytes: &[u8]) -> Result<Digest, StoreError> {
        Self::put_blob(self, bytes)
    }

    fn each_device(&self, take: &mut dyn FnMut(DeviceRow)) -> Result<(), StoreError> {
        Self::each_device(self, take)
    }

    fn upsert_devices(&mut self, devices: &mut dyn Iterator<Item = DeviceRow>) -> Result<(), StoreError> {
        Self::upsert_devices(self, devices)
    }

    fn forget_devices(&mut self, devices: &[String]) -> Result<(), StoreError> {
        Self::forget_devices(self, devices)
    }

    fn add_refusals(&mut self, counts: &BTreeMap<String, u64>) -> Result<(), StoreError> {
        Self::add_refusals(self, counts)
    }
}
