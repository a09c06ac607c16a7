//! Programs of the version before and of the version after: each side says that the other one is of another version, which
//! one that is, and what to do. They meet over a real broker, as bytes that no program of this version can write.

use core::time::Duration;

use crossbeam_channel::{Receiver, unbounded};
use grapevine_host::Transport;
use grapevine_host::transport::{Event, Options};
use grapevine_models::Method;
use grapevine_protocol::{FrameError, VERSION, decode_to_device};
use grapevine_tests::fleet::{self, FLEET};
use grapevine_tests::programs::{PATIENCE, now};

use super::{address, complains, mosquitto};

const NEIGHBOURS: [u8; 2] = [VERSION - 1, VERSION + 1];
/// What stands behind the first byte of a refusal for its version, in every version.
const REFUSED_FOR_ITS_VERSION: [u8; 3] = [1, 0, 1];

/// A program of another version. It knows what is the same in all of them: the topics, and how a refusal is written.
struct Neighbour {
    transport: Transport,
    events: Receiver<Event>,
    version: u8,
}

impl Neighbour {
    fn connect(broker: &str, client: &str, version: u8, listens_to: &str) -> Self {
        let (sender, events) = unbounded();
        let mut options = Options::new(broker.parse().unwrap(), format!("{FLEET}.{client}"));
        options.subscriptions = vec![listens_to.to_owned()];
        let transport = Transport::start(options, move |event| drop(sender.send(event))).unwrap();
        let neighbour = Self { transport, events, version };
        neighbour.wait("a connection", |event| matches!(event, Event::Connected).then_some(()));
        neighbour
    }

    /// Publishes a frame of its version: nobody else can read what stands behind the first byte.
    fn say(&self, topic: &str, message: &[u8], retained: bool) {
        self.transport.publish(topic, [&[self.version], message].concat(), retained).unwrap();
    }

    fn wait<T>(&self, what: &str, mut want: impl FnMut(Event) -> Option<T>) -> T {
        let deadline = now() + PATIENCE;
        loop {
            let event = self.events.recv_deadline(deadline).unwrap_or_else(|_| panic!("{what} never came"));
            if let Some(found) = want(event) {
                return found;
            }
        }
    }

    fn hear(&self) -> Vec<u8> {
        self.wait("an answer", |event| {
            let Event::Message { payload, .. } = event else { return None };
            Some(payload.to_vec())
        })
    }
}

#[test]
fn a_device_of_another_version_is_answered_and_named_with_its_version() {
    let Some(mosquitto) = mosquitto("") else { return };
    let address = address(&mosquitto);
    let place = fleet::aggregator(Some(&address), 2, 1, Method::FedAvg);
    let mut serving = place.start("aggregator", &["serve"]);
    serving.line("connected to the broker");
    for version in NEIGHBOURS {
        let name = format!("camera-{version}");
        let device = Neighbour::connect(&address, &name, version, &format!("grapevine/{FLEET}/down/{name}"));
        let up = format!("grapevine/{FLEET}/up/{name}");
        // A hello is said again until it is answered, and this device cannot read what a welcome would be.
        for _ in 0..3 {
            device.say(&up, b"hello of another version", false);
            let answer = device.hear();
            assert_eq!(answer, [&[VERSION][..], &REFUSED_FOR_ITS_VERSION].concat(), "every version can read this");
        }
        let advice = format!(
            "install the release of edge-client that fits the aggregator; it speaks protocol version {version}, the \
             aggregator speaks {VERSION}"
        );
        let line = serving.line(&format!("device={name} reason=version"));
        assert!(line.contains("INFO") && line.contains(&advice), "{line}");
        let status = complains(&place, "aggregator", &format!("{name} is refused (version); on the device: {advice}"));
        let refused = status["process"]["refused_devices"].as_array().unwrap();
        assert!(refused.iter().any(|refused| refused["device"] == *name && refused["advice"] == *advice), "{status}");
        assert!(status["refusals"]["version"].as_u64().is_some_and(|count| count >= 3), "each is counted: {status}");
        // All three hellos are counted, so what the log says of them is written.
        let again = serving.line_until("reason=version", now() + Duration::from_millis(300));
        assert_eq!(again, None, "the log says it once");
    }
}

#[test]
fn a_device_says_that_the_aggregator_is_of_another_version() {
    for version in NEIGHBOURS {
        let Some(mosquitto) = mosquitto("") else { return };
        let address = address(&mosquitto);
        let aggregator = Neighbour::connect(&address, "aggregator", version, &format!("grapevine/{FLEET}/up/+"));
        // Retained, as announcements are: the first thing that a device hears.
        aggregator.say(&format!("grapevine/{FLEET}/announcement"), b"announcement of another version", true);
        let camera = fleet::device(0, &address);
        let mut running = camera.start("edge-client", &["run"]);
        let hello = aggregator.hear();
        assert_eq!(hello[0], VERSION);
        aggregator.say(&format!("grapevine/{FLEET}/down/camera-0"), &REFUSED_FOR_ITS_VERSION, false);
        let line = running.line("refused by the aggregator");
        let advice = "install the release of edge-client that fits the aggregator";
        assert!(line.contains("ERROR") && line.contains("reason=version") && line.contains(advice), "{line}");
        let status = complains(&camera, "edge-client", &format!("refuses this device: version: {advice}"));
        assert_eq!(status["running"]["refused"], format!("version: {advice}"), "{status}");
    }
}

/// The first byte is all that a program reads of another version's frame.
#[test]
fn nothing_behind_the_first_byte_is_looked_at() {
    for version in NEIGHBOURS {
        for rest in [&[][..], &REFUSED_FOR_ITS_VERSION, &[0xff; 300]] {
            let frame = [&[version], rest].concat();
            assert_eq!(decode_to_device(&frame).err(), Some(FrameError::Version(Some(version))));
        }
    }
}
