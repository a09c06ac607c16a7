//! `aggregator devices`: every device that ever said a fitting hello.

use clap::Args;
use grapevine_aggregator::store::{DeviceRow, Store};
use grapevine_host::clock::unix_ms;
use serde::Serialize;

use super::show::{Column, ago, bytes, table};
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  aggregator devices
  aggregator devices --json | jq -r '.[] | select(.present) | .device'

Reads only, also beside `aggregator serve`, which writes this once per round.";

/// List the devices of the fleet.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Print an array as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Device {
    device: String,
    present: bool,
    samples: u32,
    rounds_done: u32,
    updates_refused: u32,
    bytes_received: u64,
    last_seen_ms: u64,
    hardware: String,
}

pub(super) fn devices(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let state = common.configuration()?.state;
    let store = Store::open_read_only(&state)?;
    let is_served = Store::is_in_use(&state);
    let devices: Vec<Device> = store.devices()?.into_iter().map(|row| Device::new(row, is_served)).collect();
    Ok(Answer::of(&devices, arguments.json, |devices| render(devices, unix_ms()))?)
}

/// Whether the aggregator last saw the device there. Nobody is there for an aggregator that does not run.
pub(super) fn is_present(row: &DeviceRow, is_served: bool) -> bool {
    is_served && row.state == "present"
}

impl Device {
    fn new(row: DeviceRow, is_served: bool) -> Self {
        Self {
            present: is_present(&row, is_served),
            device: row.device,
            samples: row.samples,
            rounds_done: row.rounds_done,
            updates_refused: row.updates_refused,
            bytes_received: row.bytes_up,
            last_seen_ms: row.last_seen_ms,
            hardware: row.hardware,
        }
    }
}

fn render(devices: &[Device], now_ms: u64) -> String {
    if devices.is_empty() {
        return "no device has come yet; start `edge-client run` on one\n".into();
    }
    let columns = [
        Column::Left("device"),
        Column::Left("state"),
        Column::Right("samples"),
        Column::Right("rounds"),
        Column::Right("refused"),
        Column::Right("received"),
        Column::Right("seen"),
        Column::Left("hardware"),
    ];
    let cells = |device: &Device| {
        vec![
            device.device.clone(),
            if device.present { "present" } else { "away" }.into(),
            device.samples.to_string(),
            device.rounds_done.to_string(),
            device.updates_refused.to_string(),
            bytes(device.bytes_received),
            ago(now_ms, device.last_seen_ms),
            // The device wrote it: nothing in it may steer the terminal.
            device.hardware.escape_debug().to_string(),
        ]
    };
    table(&columns, &devices.iter().map(cells).collect::<Vec<_>>())
}
