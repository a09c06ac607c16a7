//! Which protocol version a device speaks that is refused for it: people must know which of two programs is the older one.

use std::collections::VecDeque;

use grapevine_protocol::{DeviceId, FrameError, Refusal, VERSION};

/// Devices that are kept in mind, as many as the round names.
const MOST: usize = 64;

/// The newest version of each device that speaks another one than this program; who spoke last is last.
#[derive(Default)]
pub(super) struct Versions(VecDeque<(DeviceId, u8)>);

impl Versions {
    /// A frame of a device could not be read.
    pub(super) fn note(&mut self, device: &DeviceId, error: FrameError) {
        let FrameError::Version(Some(version)) = error else { return };
        self.0.retain(|(known, _)| known != device);
        if self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back((device.clone(), version));
    }

    /// What the owner of a refused device should do.
    pub(super) fn advice(&self, device: &DeviceId, reason: Refusal) -> String {
        let advice = reason.advice();
        match self.0.iter().find(|(known, _)| known == device && reason == Refusal::Version) {
            Some((_, version)) => {
                format!("{advice}; it speaks protocol version {version}, the aggregator speaks {VERSION}")
            }
            None => advice.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_is_named_and_only_where_it_is_the_reason() {
        let (mut versions, device) = (Versions::default(), "camera-1".parse().unwrap());
        versions.note(&device, FrameError::Garbage);
        assert_eq!(versions.advice(&device, Refusal::Version), Refusal::Version.advice());
        for version in [0, VERSION + 1] {
            versions.note(&device, FrameError::Version(Some(version)));
        }
        let advice = versions.advice(&device, Refusal::Version);
        let wanted = format!("it speaks protocol version {}, the aggregator speaks {VERSION}", VERSION + 1);
        assert!(advice.ends_with(&wanted), "{advice}");
        assert_eq!(versions.advice(&device, Refusal::Classes), Refusal::Classes.advice());
    }

    #[test]
    fn strangers_cost_no_more_memory_than_is_allowed() {
        let mut versions = Versions::default();
        for number in 0..2 * MOST {
            versions.note(&format!("camera-{number}").parse().unwrap(), FrameError::Version(Some(9)));
        }
        assert_eq!(versions.0.len(), MOST);
        let newest = format!("camera-{}", 2 * MOST - 1).parse().unwrap();
        assert!(versions.advice(&newest, Refusal::Version).contains("version 9"), "who spoke last is known");
    }
}
