//! Every topic, built and parsed here and nowhere else.
//!
//! ```text
//! grapevine/<fleet>/announcement          retained: what the fleet is doing          aggregator -> all
//! grapevine/<fleet>/up/<device>           messages of a device                       device -> aggregator
//! grapevine/<fleet>/up/aggregator         a test whether `up` can be read            aggregator -> itself
//! grapevine/<fleet>/down/<device>         messages to one device                     aggregator -> device
//! grapevine/<fleet>/blob/<kind>           blocks of a model, once for all devices    aggregator -> all
//! grapevine/<fleet>/predictions/<device>  predictions, as JSON                       device -> anybody
//! ```
//!
//! No topic names a version. Only frames do ([`crate::VERSION`]): so a program of another version is heard, gets an answer
//! that names the versions, and does not become invisible.

use alloc::format;
use alloc::string::String;

use crate::ids::{AGGREGATOR, DeviceId, FleetId};

const ROOT: &str = "grapevine";

/// What all topics of a fleet begin with.
pub fn root(fleet: &FleetId) -> String {
    format!("{ROOT}/{fleet}")
}

/// Where the aggregator says a word to itself, to learn whether the broker lets it hear devices.
pub fn echo(fleet: &FleetId) -> String {
    format!("{ROOT}/{fleet}/up/{AGGREGATOR}")
}

/// Where the retained announcement is.
pub fn announcement(fleet: &FleetId) -> String {
    format!("{ROOT}/{fleet}/announcement")
}

/// Where a device speaks.
pub fn up(fleet: &FleetId, device: &DeviceId) -> String {
    format!("{ROOT}/{fleet}/up/{device}")
}

/// The filter of everything devices say.
pub fn up_filter(fleet: &FleetId) -> String {
    format!("{ROOT}/{fleet}/up/+")
}

/// Where a device is spoken to.
pub fn down(fleet: &FleetId, device: &DeviceId) -> String {
    format!("{ROOT}/{fleet}/down/{device}")
}

/// The two blobs of a fleet's model. Their topics stay the same from round to round: some brokers keep memory for every
/// topic they ever saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BlobKind {
    /// The heads.
    Heads,
    /// Prototypes, means or prior.
    SideInformation,
}

/// Where the blocks of a model blob are published.
pub fn blob(fleet: &FleetId, kind: BlobKind) -> String {
    let kind = match kind {
        BlobKind::Heads => "heads",
        BlobKind::SideInformation => "side-information",
    };
    format!("{ROOT}/{fleet}/blob/{kind}")
}

/// Where a device publishes what the newest head sees, unless its configuration names another topic.
pub fn predictions(fleet: &FleetId, device: &DeviceId) -> String {
    format!("{ROOT}/{fleet}/predictions/{device}")
}

/// Whether a topic is this protocol's: nothing else may be published there.
pub fn is_reserved(topic: &str) -> bool {
    topic.split('/').next() == Some(ROOT)
}

/// Which device spoke, or `None` for a topic that is not one of this fleet's devices.
pub fn speaker(fleet: &FleetId, topic: &str) -> Option<DeviceId> {
    let rest = topic.strip_prefix(ROOT)?.strip_prefix('/')?.strip_prefix(fleet.as_str())?;
    rest.strip_prefix("/up/")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_parsed_as_they_are_built() {
        let fleet: FleetId = "north".parse().unwrap();
        let device: DeviceId = "camera-7".parse().unwrap();
        assert_eq!(up(&fleet, &device), "grapevine/north/up/camera-7");
        assert_eq!(speaker(&fleet, &up(&fleet, &device)), Some(device.clone()));
        for other in [
            "grapevine/northern/up/camera-7",
            "grapevine/north/up/",
            "grapevine/north/up/a/b",
            "grapevine/north/up/+",
            &echo(&fleet),
            "vines/north/up/camera-7",
            &down(&fleet, &device),
            &predictions(&fleet, &device),
            "",
        ] {
            assert_eq!(speaker(&fleet, other), None, "{other}");
        }
        assert_eq!(blob(&fleet, BlobKind::Heads), "grapevine/north/blob/heads");
        assert_eq!(blob(&fleet, BlobKind::SideInformation), "grapevine/north/blob/side-information");
        assert_eq!(predictions(&fleet, &device), "grapevine/north/predictions/camera-7");
    }

    #[test]
    fn the_protocol_keeps_its_topics_to_itself() {
        let fleet: FleetId = "north".parse().unwrap();
        for topic in [announcement(&fleet).as_str(), "grapevine/x", "grapevine"] {
            assert!(is_reserved(topic), "{topic}");
        }
        for topic in ["plant/grapevine", "grapevines/x", "", "/grapevine"] {
            assert!(!is_reserved(topic), "{topic}");
        }
    }
}
