//! What the aggregator asks of its storage, as two traits: [`Records`] is read by commands and by a restart, and a
//! [`Ledger`] is written, too, by the one process that serves.

use std::collections::{BTreeMap, BTreeSet};

use grapevine_protocol::{DeviceId, Digest, RoundId, RunId};

use super::{
    Accepted, Blob, Collected, ContributionRow, DeviceRow, MergedRound, NewRound, NewUpdate, RoundRow, RunRow,
    StoreError, UpdateRow,
};

/// What was written and can be read, also beside a process that writes.
pub trait Records {
    /// The run that was opened last, finished or not.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    fn current_run(&self) -> Result<Option<RunRow>, StoreError>;

    /// Every round of a run, oldest first.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    fn rounds(&self, run: RunId) -> Result<Vec<RoundRow>, StoreError>;

    /// The round of a run that was opened last.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    fn newest_round(&self, run: RunId) -> Result<Option<RoundRow>, StoreError>;

    /// The newest merged round of a run: where its heads are.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    fn newest_merged(&self, run: RunId) -> Result<Option<RoundRow>, StoreError>;

    /// Hands over the accepted updates of one round, one after the other, sorted by device.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    fn each_update(&self, run: RunId, round: RoundId, take: &mut dyn FnMut(UpdateRow)) -> Result<(), StoreError>;

    /// Hands over what each device told a run of its samples, sorted by device.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    fn each_contribution(&self, run: RunId, take: &mut dyn FnMut(ContributionRow)) -> Result<(), StoreError>;

    /// What a device told a run of its samples.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    fn contribution(&self, run: RunId, device: &DeviceId) -> Result<Option<ContributionRow>, StoreError>;

    /// Hands over every device ever heard, one after the other, sorted by id: a large fleet need not be in memory.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    fn each_device(&self, take: &mut dyn FnMut(DeviceRow)) -> Result<(), StoreError>;

    /// How often each reason led to a refusal.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    fn refusals(&self) -> Result<BTreeMap<String, u64>, StoreError>;

    /// Reads one blob and checks it against its digest.
    ///
    /// # Errors
    /// If the blob is missing or damaged, or cannot be read.
    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError>;

    /// Every device ever heard, sorted by id.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    fn devices(&self) -> Result<Vec<DeviceRow>, StoreError> {
        let mut devices = Vec::new();
        self.each_device(&mut |device| devices.push(device))?;
        Ok(devices)
    }

    /// The accepted updates of one round, sorted by device.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    fn updates(&self, run: RunId, round: RoundId) -> Result<Vec<UpdateRow>, StoreError> {
        let mut updates = Vec::new();
        self.each_update(run, round, &mut |update| updates.push(update))?;
        Ok(updates)
    }
}

/// The ledger as the process that serves uses it.
///
/// A call that returned `Ok` is durable. A power cut during a call leaves what was there before it, with any of its
/// blobs, or all of it: a blob is on the disk before a row names it, and the rows of one call are one transaction. If the
/// disk was full ([`StoreError::is_full`]), the same call succeeds when there is room again.
pub trait Ledger: Records {
    /// Opens a run; it is the current one from now on.
    ///
    /// # Errors
    /// If the run is in the ledger already, or the ledger cannot be written.
    fn open_run(&mut self, run: &RunRow) -> Result<(), StoreError>;

    /// Marks a run as finished.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    fn finish_run(&mut self, run: RunId) -> Result<(), StoreError>;

    /// Opens a round of a known run. A run that was finished goes on with it.
    ///
    /// # Errors
    /// If the run is unknown, the round was opened before, or the ledger cannot be written.
    fn open_round(&mut self, round: &NewRound) -> Result<(), StoreError>;

    /// Closes a collecting round as merged; its blobs must be stored already.
    ///
    /// # Errors
    /// If one of its blobs is missing, the round is not collecting updates, or the ledger cannot be written.
    fn commit_round(&mut self, merged: &MergedRound) -> Result<(), StoreError>;

    /// Gives a collecting round more time once more.
    ///
    /// # Errors
    /// If the round is not collecting updates, or the ledger cannot be written.
    fn extend_round(&mut self, run: RunId, round: RoundId) -> Result<(), StoreError>;

    /// Closes a collecting round without a merge.
    ///
    /// # Errors
    /// If the round is not collecting updates, or the ledger cannot be written.
    fn abandon_round(&mut self, run: RunId, round: RoundId, closed_ms: u64) -> Result<(), StoreError>;

    /// Writes updates of collecting rounds: blobs first, then all rows or none. Then their receipts may be sent.
    ///
    /// # Errors
    /// If one of the rounds is not collecting updates, or the ledger or a blob cannot be written.
    fn accept_updates(&mut self, updates: &[(NewUpdate, Blob<'_>)]) -> Result<Vec<Accepted>, StoreError>;

    /// Deletes one update of a round that is open, as if it had never come.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    fn drop_update(&mut self, run: RunId, round: RoundId, device: &DeviceId) -> Result<(), StoreError>;

    /// Stores one blob under its digest.
    ///
    /// # Errors
    /// If the blob cannot be written.
    fn put_blob(&mut self, blob: Blob<'_>) -> Result<(), StoreError>;

    /// Adds devices or replaces what is known about them.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    fn upsert_devices(&mut self, devices: &mut dyn Iterator<Item = DeviceRow>) -> Result<(), StoreError>;

    /// Takes devices out, with what was refused of them. Their updates stay with the rounds that have them.
    ///
    /// # Errors
    /// If the ledger cannot be written; then nothing was changed.
    fn forget_devices(&mut self, devices: &[DeviceId]) -> Result<(), StoreError>;

    /// Lets a quarantined device take part again.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    fn release_device(&mut self, device: &DeviceId) -> Result<(), StoreError>;

    /// Notes that no device is there: the aggregator has just started and has heard none.
    ///
    /// # Errors
    /// If the ledger cannot be written; then nothing was changed.
    fn note_all_gone(&mut self) -> Result<(), StoreError>;

    /// Adds to the count of each refusal reason.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    fn add_refusals(&mut self, counts: &BTreeMap<String, u64>) -> Result<(), StoreError>;

    /// Deletes the blobs of a run's updates before `round`, unless something else names them; the rows stay. Statistics that
    /// are part of the fleet's sum stay, too, until the device tells others.
    ///
    /// # Errors
    /// If the ledger cannot be read or written, or a blob cannot be deleted.
    fn forget_updates_before(&mut self, run: RunId, round: RoundId) -> Result<Collected, StoreError>;

    /// Deletes what earlier rounds of a run gave to the devices beside the heads, and what only the aggregator knew, of
    /// which only the newest is ever read again.
    ///
    /// # Errors
    /// If the ledger cannot be read or written, or a blob cannot be deleted.
    fn forget_side_information_before(&mut self, run: RunId, round: RoundId) -> Result<Collected, StoreError>;

    /// Deletes the heads of a run's merged rounds but the newest `kept`, unless something else names them, and the rows of
    /// the updates that are in them. The digests of the heads, the number of the updates and their samples stay.
    ///
    /// # Errors
    /// If the ledger cannot be read or written, or a blob cannot be deleted.
    fn forget_old_heads(&mut self, run: RunId, kept: u32) -> Result<Collected, StoreError>;

    /// Deletes the updates and the contributions that no run will go on with: those of every run but `run`.
    ///
    /// # Errors
    /// If the ledger cannot be written.
    fn forget_updates_of_other_runs(&mut self, run: RunId) -> Result<(), StoreError>;

    /// Deletes every blob that neither a row nor `keep` names, such as what a crash left behind.
    ///
    /// # Errors
    /// If the ledger cannot be read or written, or a blob cannot be deleted.
    fn collect_garbage(&mut self, keep: &BTreeSet<Digest>) -> Result<Collected, StoreError>;
}
