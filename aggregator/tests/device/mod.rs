//! A device whose moves the test makes, over real MQTT, and a fleet for it.
#![allow(dead_code, reason = "every test uses some of it")]

use core::cell::RefCell;
use core::fmt;
use std::fs;

use crossbeam_channel::{Receiver, unbounded};
use grapevine_host::Transport;
use grapevine_host::transport::{Event, Options};
use grapevine_models::{Head, Heads, Shape};
use grapevine_protocol::{
    AttributeValue, Attributes, BlobRef, DatasetId, DeviceId, Digest, Encoding, FleetId, Hello, Incarnation, Offer,
    Receipt, Response, RoundAnnouncement, Task, ToAggregator, ToDevice, Update, block, class_list_digest,
    decode_to_device, encode, topics,
};
use grapevine_vision::manifest;

use crate::program::{Program, extractor};
use crate::running::{PATIENCE, Running};

pub(crate) const CLASSES: [&str; 3] = ["zero", "one", "two"];

/// A device whose moves the test makes.
pub(crate) struct Device {
    fleet: FleetId,
    name: DeviceId,
    transport: Transport,
    events: Receiver<Event>,
    /// An announcement is retained, so it may come before what is waited for.
    newest: RefCell<Option<RoundAnnouncement>>,
}

impl Device {
    /// Connects and says hello, and is welcome.
    pub(crate) fn join(name: &str, broker: &str) -> Self {
        let device = Self::connect(name, broker);
        device.say(&ToAggregator::Hello(device.hello()), &[]);
        device.hear("a welcome", |message| matches!(message, ToDevice::Welcome(_)).then_some(()));
        device
    }

    /// Connects and says nothing.
    pub(crate) fn connect(name: &str, broker: &str) -> Self {
        let fleet: FleetId = "north".parse().unwrap();
        let name: DeviceId = name.parse().unwrap();
        let (sender, events) = unbounded();
        let mut options = Options::new(broker.parse().unwrap(), format!("north.{name}"));
        options.subscriptions = vec![topics::announcement(&fleet), topics::down(&fleet, &name)];
        let transport = Transport::start(options, move |event| drop(sender.send(event))).unwrap();
        let device = Self { fleet, name, transport, events, newest: RefCell::new(None) };
        device.wait("a connection", |event| matches!(event, Event::Connected).then_some(()));
        device
    }

    pub(crate) fn hello(&self) -> Hello {
        let (manifest, _) = manifest::load(extractor().as_ref()).unwrap();
        Hello {
            incarnation: Incarnation(7),
            extractor: Digest::from_hex(&manifest.sha256).unwrap(),
            classes: class_list_digest(CLASSES),
            shape: shape(),
            samples: 40,
            dataset: DatasetId(1),
            attributes: attributes(),
        }
    }

    pub(crate) fn wait<T>(&self, what: impl fmt::Display, mut want: impl FnMut(&Event) -> Option<T>) -> T {
        loop {
            let event = self.events.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} never came"));
            if let Event::Message { payload, .. } = &event
                && let Ok((ToDevice::RoundAnnouncement(announcement), _)) = decode_to_device(payload)
            {
                self.newest.replace(Some(announcement));
            }
            if let Some(found) = want(&event) {
                return found;
            }
        }
    }

    pub(crate) fn hear<T>(&self, what: impl fmt::Display, want: impl Fn(ToDevice) -> Option<T>) -> T {
        self.wait(what, |event| {
            let Event::Message { payload, .. } = event else { return None };
            decode_to_device(payload).ok().and_then(|(message, _)| want(message))
        })
    }

    pub(crate) fn say(&self, message: &ToAggregator, block: &[u8]) {
        self.transport.publish(&topics::up(&self.fleet, &self.name), encode(message, block), false).unwrap();
    }

    /// The announcement of a round of training from `least` on, or of the end of the run.
    pub(crate) fn announcement(&self, task: Task, least: u32) -> RoundAnnouncement {
        let fits = |announcement: &RoundAnnouncement| announcement.task == task && announcement.round.0 >= least;
        let known = self.newest.borrow().clone().filter(fits);
        known.unwrap_or_else(|| {
            self.hear(format_args!("an announcement of {task:?} from round {least} on"), |message| {
                if let ToDevice::RoundAnnouncement(announcement) = message {
                    Some(announcement).filter(fits)
                } else {
                    None
                }
            })
        })
    }

    /// Sends a head of one value and waits until it is stored.
    pub(crate) fn answer(&self, announcement: &RoundAnnouncement, value: f32) -> Receipt {
        self.offer(announcement, &update(value))
    }

    /// Offers any bytes of one block as its update and waits for the receipt.
    pub(crate) fn offer(&self, announcement: &RoundAnnouncement, content: &[u8]) -> Receipt {
        self.send(announcement, content);
        self.receipt(announcement, content)
    }

    /// Offers any bytes of one block as its update.
    pub(crate) fn send(&self, announcement: &RoundAnnouncement, content: &[u8]) {
        let blob = BlobRef::of(content);
        let (header, bytes) = block(&blob, content, 0).unwrap();
        let offer = Offer { run: announcement.run, round: announcement.round, blob, crc: header.crc };
        self.say(&ToAggregator::Offer(offer), bytes);
    }

    pub(crate) fn receipt(&self, announcement: &RoundAnnouncement, content: &[u8]) -> Receipt {
        let receipt = self
            .hear("a receipt", |message| if let ToDevice::Receipt(receipt) = message { Some(receipt) } else { None });
        assert_eq!((receipt.round, receipt.digest), (announcement.round, Digest::of(content)));
        receipt
    }
}

/// Heads of one value.
pub(crate) fn update(value: f32) -> Vec<u8> {
    let head = Head { weight: vec![value; shape().weights()], bias: vec![-value; shape().classes()] };
    let heads = Heads { main: head, supplementary: Head::zeros(shape()) };
    let content = Response::Heads { heads, prototypes: None, loss: None };
    Update { samples: 40, dataset: DatasetId(1), response: content }.encode(shape(), Encoding::F32)
}

pub(crate) fn shape() -> Shape {
    Shape::new(CLASSES.len(), 64).unwrap()
}

pub(crate) fn attributes() -> Attributes {
    let mut attributes = Attributes::default();
    attributes.insert("site", AttributeValue::text("by hand").unwrap()).unwrap();
    attributes
}

/// Standard output of a success, as JSON.
pub(crate) fn json(program: &Program, arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&program.succeed(arguments)).unwrap()
}

/// A fleet of fedavg with an embedded broker on a free port.
pub(crate) fn fleet(devices: usize, rounds: u32) -> Program {
    let program = Program::new();
    let extractor = extractor();
    let classes = CLASSES.join(",");
    program.succeed(&[
        "init",
        "--fleet",
        "north",
        "--extractor",
        &extractor,
        "--classes",
        &classes,
        "--method",
        "fedavg",
        "--embedded",
        "--port",
        "0",
    ]);
    let path = program.path("aggregator.toml");
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replace("rounds = \"endless\"", &format!("rounds = {rounds}"));
    fs::write(&path, text.replace("min_devices = 2", &format!("min_devices = {devices}"))).unwrap();
    program
}

/// Where a started aggregator's broker is.
pub(crate) fn broker(aggregator: &mut Running) -> String {
    let line = aggregator.line("serving");
    let (_, rest) = line.split_once("broker=").unwrap();
    aggregator.line("connected to the broker");
    rest.split_whitespace().next().unwrap().to_owned()
}
