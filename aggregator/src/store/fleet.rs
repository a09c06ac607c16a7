//! Runs, devices and refusals: what is known beside the rounds.

use std::collections::BTreeMap;

use rusqlite::params;

use super::attributes::AttributesText;
use super::rows::{Bits, DEVICE_COLUMNS, RUN_COLUMNS};
use super::{DeviceRow, GONE, RunRow, Store, StoreError};

impl Store {
    /// Opens a run; it is the current one from now on.
    ///
    /// # Errors
    /// If the run is in the ledger already, or the ledger cannot be written.
    pub fn open_run(&mut self, run: &RunRow) -> Result<(), StoreError> {
        self.write("open a run in", |transaction| {
            transaction.execute(
                &format!("INSERT INTO runs ({RUN_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"),
                params![Bits(run.run), run.fleet, Bits(run.created_ms), run.config_json, Bits(run.seed), run.finished],
            )
        })?;
        Ok(())
    }

    /// Marks a run as finished.
    ///
    /// # Errors
    /// If the ledger cannot be written, or was opened for reading only.
    pub fn finish_run(&mut self, run: u64) -> Result<(), StoreError> {
        self.write("finish a run in", |transaction| {
            transaction.execute("UPDATE runs SET finished = 1 WHERE run = ?1", [Bits(run)])
        })?;
        Ok(())
    }

    /// The run that was opened last, finished or not.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn current_run(&self) -> Result<Option<RunRow>, StoreError> {
        self.row(&format!("SELECT {RUN_COLUMNS} FROM runs ORDER BY number DESC LIMIT 1"), [], RunRow::read)
    }

    /// Adds a device or replaces what is known about it.
    ///
    /// # Errors
    /// If the ledger cannot be written, or was opened for reading only.
    pub fn upsert_device(&mut self, device: &DeviceRow) -> Result<(), StoreError> {
        self.upsert_devices([device.clone()])
    }

    /// Like [`Store::upsert_device`], for several devices in one transaction.
    ///
    /// # Errors
    /// If the ledger cannot be written, or was opened for reading only.
    pub fn upsert_devices(&mut self, devices: impl IntoIterator<Item = DeviceRow>) -> Result<(), StoreError> {
        self.write("write devices to", |transaction| {
            let mut statement = transaction.prepare_cached(&format!(
                "INSERT OR REPLACE INTO devices ({DEVICE_COLUMNS}) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)"
            ))?;
            let mut failed = transaction
                .prepare_cached("INSERT OR REPLACE INTO failures (device, reason, count) VALUES (?1, ?2, ?3)")?;
            for device in devices {
                statement.execute(params![
                    device.device,
                    Bits(device.incarnation),
                    device.samples,
                    AttributesText(device.attributes.clone()),
                    Bits(device.last_seen_ms),
                    device.state,
                    device.rounds_done,
                    device.last_round,
                    device.strikes,
                    device.quarantined,
                    Bits(device.bytes_up),
                    Bits(device.bytes_down),
                    Bits(device.dataset),
                ])?;
                for (reason, count) in &device.failures {
                    failed.execute(params![device.device, reason, count])?;
                }
            }
            Ok(())
        })
    }

    /// Lets a quarantined device take part again.
    ///
    /// # Errors
    /// If the ledger cannot be written, or was opened for reading only.
    pub fn release_device(&mut self, device: &str) -> Result<(), StoreError> {
        self.write("release a device in", |transaction| {
            transaction.execute("UPDATE devices SET quarantined = NULL, strikes = 0 WHERE device = ?1", [device])
        })?;
        Ok(())
    }

    /// Takes devices out, with what was refused of them. Their updates stay with the rounds that have them.
    ///
    /// # Errors
    /// If the ledger cannot be written; then nothing was changed.
    pub fn forget_devices(&mut self, devices: &[String]) -> Result<(), StoreError> {
        self.write("forget devices in", |transaction| {
            for table in ["failures", "devices"] {
                let mut statement = transaction.prepare(&format!("DELETE FROM {table} WHERE device = ?1"))?;
                devices.iter().try_for_each(|device| statement.execute([device]).map(drop))?;
            }
            Ok(())
        })
    }

    /// Notes that no device is there: the aggregator has just started and has heard none.
    ///
    /// # Errors
    /// If the ledger cannot be written; then nothing was changed.
    pub fn note_all_gone(&mut self) -> Result<(), StoreError> {
        self.write("write devices to", |transaction| {
            transaction.execute("UPDATE devices SET state = ?1 WHERE state <> ?1", [GONE])
        })?;
        Ok(())
    }

    /// Every device ever heard, sorted by id.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn devices(&self) -> Result<Vec<DeviceRow>, StoreError> {
        let mut devices = Vec::new();
        self.each_device(&mut |device| devices.push(device))?;
        Ok(devices)
    }

    /// Like [`Store::devices`], one after the other.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn each_device(&self, take: &mut dyn FnMut(DeviceRow)) -> Result<(), StoreError> {
        let query = format!(
            "SELECT {DEVICE_COLUMNS}, reason, count FROM devices LEFT JOIN failures USING (device) ORDER BY device"
        );
        let mut device: Option<DeviceRow> = None;
        self.each_row(&query, [], |row| {
            let next = DeviceRow::read(row)?;
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

    /// Adds to the count of each refusal reason.
    ///
    /// # Errors
    /// If the ledger cannot be written, or was opened for reading only.
    pub fn add_refusals(&mut self, counts: &BTreeMap<String, u64>) -> Result<(), StoreError> {
        self.write("count refusals in", |transaction| {
            for (reason, count) in counts {
                transaction.execute(
                    "INSERT INTO refusals (reason, count) VALUES (?1, ?2) \
                     ON CONFLICT (reason) DO UPDATE SET count = count + excluded.count",
                    params![reason, Bits(*count)],
                )?;
            }
            Ok(())
        })
    }

    /// How often each reason led to a refusal.
    ///
    /// # Errors
    /// If the ledger cannot be read.
    pub fn refusals(&self) -> Result<BTreeMap<String, u64>, StoreError> {
        let pairs = self.rows("SELECT reason, count FROM refusals", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Bits>(1)?.0))
        })?;
        Ok(pairs.into_iter().collect())
    }
}
