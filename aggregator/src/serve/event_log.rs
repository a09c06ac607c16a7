//! What happens, said to people: one line each.

use grapevine_protocol::Refusal;

use super::versions::Versions;
use crate::round::{Event, RoundStatus};

/// `before`: the open round before its deadline passed.
pub(super) fn log(event: &Event, before: Option<RoundStatus>, versions: &Versions) {
    let updates = before.map_or(0, |round| round.accepted);
    let of = before.map_or(0, |round| round.expected);
    let chosen = before.map_or(0, |round| round.chosen);
    let extensions = before.map_or(0, |round| round.extensions);
    match event {
        Event::DeviceCame(device) => tracing::info!(%device, "device came"),
        Event::DeviceLeft(device) => tracing::info!(%device, "device left"),
        Event::RoundOpened { round, expected } => tracing::debug!(round = round.0, expected, "round opened"),
        Event::UpdateAccepted { device, round } => tracing::debug!(%device, round = round.0, "update accepted"),
        Event::Refused { device: Some(device), reason } => tracing::debug!(%device, %reason, "refused"),
        Event::Refused { device: None, reason } => tracing::debug!(%reason, "refused"),
        Event::Quarantined { device, reason } => tracing::error!(
            %device, %reason, "quarantined after repeated bad updates; `aggregator release {device}` when it is well"
        ),
        Event::TurnedAway { device, reason: Refusal::SameName } => tracing::error!(
            %device, "two devices use the name {device} in turn; run `edge-client init` on one of them with another name"
        ),
        Event::TurnedAway { device, reason } => {
            tracing::info!(%device, %reason, "device refused; on the device: {}", versions.advice(device, *reason));
        }
        Event::Forgotten(device) => {
            tracing::info!(%device, "forgotten; one that still runs comes back as a new device")
        }
        Event::RoomMade(devices) => {
            tracing::warn!(devices, "too many devices: the oldest that never delivered anything are forgotten");
        }
        Event::Released(device) => tracing::info!(%device, "released from quarantine"),
        Event::RoundExtended(round) => {
            tracing::warn!(round = round.0, updates, of, chosen, extensions, "round extended: below its quorum");
        }
        Event::RoundAbandoned(round) => {
            tracing::warn!(round = round.0, updates, of, chosen, extensions, "round abandoned: below its quorum");
        }
        Event::UpdateTakenOut { device, round } => tracing::error!(
            %device, round = round.0,
            "the merged model cannot be used with this device's update; the round is merged without it, look at its images"
        ),
        Event::RoundUnusable { round, fault } => tracing::error!(
            round = round.0,
            "round discarded: {fault}; look for a device with odd images in `aggregator devices`"
        ),
        Event::NewsGathered { round, devices } => {
            tracing::info!(round = round.0, devices, "devices hold samples that the run does not know yet");
        }
        Event::Rested => tracing::info!("resting: nothing new is to be learned until devices or images come"),
        Event::Finished => {
            tracing::info!(
                "all rounds are done; more `rounds` go on with the run, `aggregator serve --new-run` begins another"
            )
        }
    }
}
