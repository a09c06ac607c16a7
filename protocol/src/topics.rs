//! Every topic, built and parsed here and nowhere else.
//!
//! ```text
//! grapevine/v1/<fleet>/notice                retained: what the fleet is doing          aggregator -> all
//! grapevine/v1/<fleet>/up/<device>           what a device says                         device -> aggregator
//! grapevine/v1/<fleet>/up/aggregator         whether the aggregator hears `up`          aggregator -> itself
//! grapevine/v1/<fleet>/down/<device>         what one device is told                    aggregator -> device
//! grapevine/v1/<fleet>/blob/<kind>           blocks of a model, once for all who asked  aggregator -> all
//! grapevine/v1/<fleet>/predictions/<device>  what a device sees, as JSON                device -> anybody
//! ```

use alloc::format;
use alloc::string::String;

use crate::ids::{AGGREGATOR, DeviceId, FleetId};

const ROOT: &str = "grapevine/v1";

/// What all topics of a fleet begin with.
pub fn root(fleet: &FleetId) -> String {
    format!("{ROOT}/{fleet}")
}

/// Where the aggregator says a word to itself, to learn whether the broker lets it hear devices.
pub fn echo(fleet: &FleetId) -> String {
    format!("{ROOT}/{fleet}/up/{AGGREGATOR}")
}

/// Where the retained notice is.
pub fn notice(fleet: &FleetId) -> String {
    format!("{ROOT}/{fleet}/notice")
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
    Aid,
}

/// Where the blocks of a model blob are published.
pub fn blob(fleet: &FleetId, kind: BlobKind) -> String {
    let kind = match kind {
        BlobKind::Heads => "heads",
        BlobKind::Aid => "aid",
    };
    format!("{ROOT}/{fleet}/blob/{kind}")
}

/// Where a device publishes what the newest head sees, unless its configuration names another topic.
pub fn predictions(fleet: &FleetId, device: &DeviceId) -> String {
    format!("{ROOT}/{fleet}/predictions/{device}")
}

/// Whether a topic is this protocol's, of any version: nothing else may be published there.
pub fn is_reserved(topic: &str) -> bool {
    topic.split('/').next() == ROOT.split('/').next()
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
        assert_eq!(up(&fleet, &device), "grapevine/v1/north/up/camera-7");
        assert_eq!(speaker(&fleet, &up(&fleet, &device)), Some(device.clone()));
        for other in [
            "grapevine/v1/northern/up/camera-7",
            "grapevine/v1/north/up/",
            "grapevine/v1/north/up/a/b",
            "grapevine/v1/north/up/+",
            &echo(&fleet),
            "grapevine/v2/north/up/camera-7",
            &down(&fleet, &device),
            &predictions(&fleet, &device),
            "",
        ] {
            assert_eq!(speaker(&fleet, other), None, "{other}");
        }
        assert_eq!(blob(&fleet, BlobKind::Heads), "grapevine/v1/north/blob/heads");
        assert_eq!(blob(&fleet, BlobKind::Aid), "grapevine/v1/north/blob/aid");
        assert_eq!(predictions(&fleet, &device), "grapevine/v1/north/predictions/camera-7");
    }

    #[test]
    fn the_protocol_keeps_its_topics_to_itself() {
        let fleet: FleetId = "north".parse().unwrap();
        for topic in [notice(&fleet).as_str(), "grapevine/v2/x", "grapevine"] {
            assert!(is_reserved(topic), "{topic}");
        }
        for topic in ["plant/grapevine", "grapevines/v1", "", "/grapevine"] {
            assert!(!is_reserved(topic), "{topic}");
        }
    }
}
