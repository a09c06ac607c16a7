//! `aggregator forget`: a device that will not come back is taken out of the registry.

use anyhow::bail;
use clap::Args;
use grapevine_aggregator::serve::requests::{self, Request};
use grapevine_aggregator::store::{self, DeviceRow};
use grapevine_protocol::DeviceId;

use super::release::{ask_and_wait, find};
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  aggregator devices --sort seen         # who was silent longest comes last
  aggregator forget camera-7

Works beside `aggregator serve` and without it. What the device contributed to the heads and to
the sums of statistics stays in them. One that still runs comes back as a new device; stop it first.";

/// Remove a device from the registry and from the ledger's list of devices.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// The device.
    #[arg(value_name = "DEVICE")]
    device: DeviceId,
}

pub(super) fn forget(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let state = common.configuration()?.state;
    let device = &arguments.device;
    let records = store::open_read_only(&state)?;
    let Some(DeviceRow { quarantined, .. }) = find(&*records, device)? else {
        bail!("no device `{device}` is known; `aggregator devices` lists those that are");
    };
    if store::is_in_use(&state) {
        // One that still runs is back in the list at once, and the request is gone all the same.
        let is_forgotten = || {
            let is_asked = || requests::asked(&state).contains(&(Request::Forget, device.clone()));
            Ok(find(&*records, device)?.is_none() || !is_asked())
        };
        if !ask_and_wait(&state, Request::Forget, device, is_forgotten)? {
            bail!("asked to forget `{device}`, but the serving aggregator has not done it yet; see its log");
        }
    } else {
        drop(records);
        store::open(&state)?.forget_devices(core::slice::from_ref(device))?;
    }
    let pardon = if quarantined.is_some() { ", and its quarantine with it" } else { "" };
    Ok(Answer::text(format!("forgot {device}{pardon}; one that still runs comes back as a new device\n")))
}
