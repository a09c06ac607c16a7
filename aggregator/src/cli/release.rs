//! `aggregator release`: a quarantined device is heard again.

use core::time::Duration;
use std::path::Path;

use anyhow::bail;
use clap::Args;
use grapevine_aggregator::serve::requests::{self, Request};
use grapevine_aggregator::store::{self, DeviceRow, Records};
use grapevine_protocol::DeviceId;

use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  aggregator devices --sort state        # quarantined devices stand together, with the reason
  aggregator release camera-7

Works beside `aggregator serve` and without it. The device is welcome with its next hello, within a minute or so.";

/// How long the serving process may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// Let a quarantined device take part again.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The device.
    #[arg(value_name = "DEVICE")]
    device: DeviceId,
}

pub(super) fn release(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let state = common.configuration()?.state;
    let device = &arguments.device;
    let records = store::open_read_only(&state)?;
    match find(&*records, device)? {
        None => bail!("no device `{device}` ever said a fitting hello; `aggregator devices` lists those that did"),
        Some(DeviceRow { quarantined: None, .. }) => bail!("`{device}` is not quarantined; nothing was changed"),
        Some(_) => {}
    }
    if !store::is_in_use(&state) {
        drop(records);
        store::open(&state)?.release_device(device)?;
        return Ok(Answer::text(format!("released {device}\n")));
    }
    let is_released = || Ok(find(&*records, device)?.is_some_and(|row| row.quarantined.is_none()));
    if !ask_and_wait(&state, Request::Release, device, is_released)? {
        bail!("asked for the release of `{device}`, but the serving aggregator has not done it yet; see its log");
    }
    Ok(Answer::text(format!("released {device}\n")))
}

/// Asks the serving process, and waits until it has done so; `false` when it takes too long.
pub(super) fn ask_and_wait(
    state: &Path,
    request: Request,
    device: &DeviceId,
    is_done: impl Fn() -> anyhow::Result<bool>,
) -> anyhow::Result<bool> {
    requests::ask(state, request, device)?;
    let never = crossbeam_channel::never::<()>();
    for _ in 0..PATIENCE.as_millis() / LOOK.as_millis() {
        if is_done()? {
            return Ok(true);
        }
        // Nothing ever comes: this is the pause between two looks.
        let _ = never.recv_timeout(LOOK);
    }
    Ok(false)
}

pub(super) fn find(records: &dyn Records, device: &DeviceId) -> anyhow::Result<Option<DeviceRow>> {
    Ok(records.devices()?.into_iter().find(|row| row.device == *device))
}
