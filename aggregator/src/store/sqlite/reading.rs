//! What is read.

use std::collections::BTreeMap;

use grapevine_protocol::{DeviceId, Digest, RoundId, RunId};
use rusqlite::params;

use super::super::{ContributionRow, DeviceRow, Records, RoundRow, RunRow, StoreError, UpdateRow};
use super::SqliteLedger;
use super::columns::{
    CONTRIBUTION_COLUMNS, DEVICE_COLUMNS, ROUND_COLUMNS, RUN_COLUMNS, Sql, UPDATE_COLUMNS, column, contribution_row,
    device_row, round_row, run_row, update_row,
};

impl Records for SqliteLedger {
    fn current_run(&self) -> Result<Option<RunRow>, StoreError> {
        self.row(&format!("SELECT {RUN_COLUMNS} FROM runs ORDER BY number DESC LIMIT 1"), [], run_row)
    }

    fn rounds(&self, run: RunId) -> Result<Vec<RoundRow>, StoreError> {
        let query = format!("SELECT {ROUND_COLUMNS} FROM rounds WHERE run = ?1 ORDER BY round");
        self.rows(&query, [Sql(run)], round_row)
    }

    fn newest_round(&self, run: RunId) -> Result<Option<RoundRow>, StoreError> {
        let query = format!("SELECT {ROUND_COLUMNS} FROM rounds WHERE run = ?1 ORDER BY round DESC LIMIT 1");
        self.row(&query, [Sql(run)], round_row)
    }

    fn newest_merged(&self, run: RunId) -> Result<Option<RoundRow>, StoreError> {
        let query = format!(
            "SELECT {ROUND_COLUMNS} FROM rounds WHERE run = ?1 AND phase = 'merged' ORDER BY round DESC LIMIT 1"
        );
        self.row(&query, [Sql(run)], round_row)
    }

    fn each_update(&self, run: RunId, round: RoundId, take: &mut dyn FnMut(UpdateRow)) -> Result<(), StoreError> {
        let query = format!("SELECT {UPDATE_COLUMNS} FROM updates WHERE run = ?1 AND round = ?2 ORDER BY device");
        self.each_row(&query, params![Sql(run), Sql(round)], |row| update_row(row).map(&mut *take))
    }

    fn each_contribution(&self, run: RunId, take: &mut dyn FnMut(ContributionRow)) -> Result<(), StoreError> {
        let query = format!("SELECT {CONTRIBUTION_COLUMNS} FROM contributions WHERE run = ?1 ORDER BY device");
        self.each_row(&query, [Sql(run)], |row| contribution_row(row).map(&mut *take))
    }

    fn contribution(&self, run: RunId, device: &DeviceId) -> Result<Option<ContributionRow>, StoreError> {
        let query = format!("SELECT {CONTRIBUTION_COLUMNS} FROM contributions WHERE run = ?1 AND device = ?2");
        self.row(&query, params![Sql(run), Sql(device)], contribution_row)
    }

    fn each_device(&self, take: &mut dyn FnMut(DeviceRow)) -> Result<(), StoreError> {
        let query = format!(
            "SELECT {DEVICE_COLUMNS}, reason, count FROM devices LEFT JOIN failures USING (device) ORDER BY device"
        );
        let mut device: Option<DeviceRow> = None;
        self.each_row(&query, [], |row| {
            let next = device_row(row)?;
            // A device comes once for each reason.
            if device.as_ref().is_none_or(|device| device.device != next.device) {
                device.replace(next).into_iter().for_each(&mut *take);
            }
            if let (Some(device), Some(reason)) = (&mut device, row.get::<_, Option<String>>("reason")?) {
                device.failures.insert(reason, row.get("count")?);
            }
            Ok(())
        })?;
        device.into_iter().for_each(take);
        Ok(())
    }

    fn refusals(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let pairs =
            self.rows("SELECT reason, count FROM refusals", [], |row| Ok((row.get("reason")?, column(row, "count")?)))?;
        Ok(pairs.into_iter().collect())
    }

    fn blob(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        self.blobs.read(digest)
    }
}
