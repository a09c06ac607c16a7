//! What a part of the machine works with beside its own state.

use core::time::Duration;

use grapevine_protocol::{DeviceId, Refusal, ToDevice};

use super::action::{Actions, Tell};
use super::device_index::DeviceIndex;
use super::devices::Devices;
use super::{Event, RoundConfig};

/// What all parts share.
pub(super) struct Shared {
    pub(super) config: RoundConfig,
    pub(super) devices: Devices,
    pub(super) out: Actions,
}

impl Shared {
    pub(super) fn at(&mut self, now: Duration) -> Ctx<'_> {
        Ctx { now, config: &self.config, devices: &mut self.devices, out: &mut self.out }
    }
}

/// The context of one call: the time, what is asked of the run, the devices, and the actions to come. A part gets it as an
/// argument and keeps nothing of it, and it reaches no other part.
pub(super) struct Ctx<'a> {
    pub(super) now: Duration,
    pub(super) config: &'a RoundConfig,
    pub(super) devices: &'a mut Devices,
    pub(super) out: &'a mut Actions,
}

impl Ctx<'_> {
    pub(super) fn id(&self, index: DeviceIndex) -> DeviceId {
        self.devices.id(index)
    }

    pub(super) fn send(&mut self, index: DeviceIndex, message: ToDevice) {
        self.out.tell(Tell::Device(self.devices.id(index), message));
    }

    pub(super) fn report(&mut self, event: Event) {
        self.out.report(event);
    }

    /// Counts a refusal of a known device.
    pub(super) fn count(&mut self, index: DeviceIndex, reason: Refusal) {
        self.devices.count(index, reason, self.out);
    }
}
