//! One aggregator and its devices, each a process in a folder of its own.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use grapevine_simulator::data::digits::{self, Digits};
use grapevine_tests::mosquitto::Mosquitto;
use grapevine_tests::programs::{PATIENCE, Running, Workplace, extractor};
use serde_json::Value;

pub(crate) const DEVICES: usize = 3;
pub(crate) const ROUNDS: usize = 3;
/// Images of digit 0 on every device, and by how many fewer there are of each next digit.
const OF_ZERO: usize = 40;
const STEP: usize = 4;
/// Images on every device.
pub(crate) const IMAGES: usize = OF_ZERO * digits::CLASSES - STEP * digits::CLASSES * (digits::CLASSES - 1) / 2;

pub(crate) struct Fleet {
    aggregator: Workplace,
    serving: Option<Running>,
    devices: Vec<Workplace>,
    /// Where the broker is.
    pub(crate) broker: String,
}

impl Fleet {
    /// An aggregator that serves to the end of its run, on mosquitto or with a broker of its own, and devices that have
    /// their images.
    pub(crate) fn start(mosquitto: Option<&Mosquitto>) -> Self {
        Self::of(DEVICES, mosquitto, &["serve", "--until-finished"])
    }

    /// One device, and an aggregator whose broker stays there when the run is over.
    pub(crate) fn of_one() -> Self {
        Self::of(1, None, &["serve"])
    }

    fn of(devices: usize, mosquitto: Option<&Mosquitto>, serve: &[&str]) -> Self {
        let aggregator = Workplace::default();
        let (extractor, classes) = (extractor(), digits::class_names().join(","));
        let address = mosquitto.map(|mosquitto| format!("mqtt://127.0.0.1:{}", mosquitto.port));
        let mut init = vec!["init", "--fleet", "north", "--extractor", &extractor, "--classes", &classes];
        init.extend(address.as_ref().map_or(vec!["--embedded", "--port", "0"], |address| vec!["--broker", address]));
        aggregator.succeed("aggregator", &init);
        configure(&aggregator, devices);
        let mut serving = aggregator.start("aggregator", serve);
        let line = serving.line("serving");
        let (_, broker) = line.split_once("broker=").expect("the log names the broker");
        let broker = broker.split_whitespace().next().expect("the log names the broker").to_owned();
        serving.line("connected to the broker");
        let devices = (0..devices).map(|number| device(number, &broker, &extractor, &classes)).collect();
        Self { aggregator, serving: Some(serving), devices, broker }
    }

    pub(crate) fn aggregator(&self) -> &Workplace {
        &self.aggregator
    }

    pub(crate) fn device(&self, number: usize) -> &Workplace {
        &self.devices[number]
    }

    /// Starts a device that runs to the end of the fleet's run.
    pub(crate) fn run(&self, number: usize) -> Running {
        self.devices[number].start("edge-client", &["run", "--until-finished"])
    }

    /// What `status` says about a device's process, as soon as it is what is wanted.
    pub(crate) fn running_device(&self, number: usize, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = now() + PATIENCE;
        loop {
            let mut status = self.devices[number].json("edge-client", &["status", "--json"]);
            if is_wanted(&status["running"]) {
                return status["running"].take();
            }
            assert!(now() < deadline, "{status}");
        }
    }

    /// Waits until everybody has ended by themselves and well; gives the rounds.
    pub(crate) fn finish(&mut self, devices: [Running; DEVICES]) -> Vec<Value> {
        for running in devices.into_iter().chain(self.serving.take()) {
            let (code, log) = running.end();
            assert_eq!(code, Some(0), "{log}");
        }
        let rounds = self.aggregator.json("aggregator", &["rounds", "--json"]);
        rounds.as_array().expect("`rounds --json` is an array").clone()
    }

    /// The exported model.
    pub(crate) fn export(&self) -> Vec<u8> {
        let said = self.aggregator.json("aggregator", &["export", "--output", "model.onnx", "--json"]);
        assert_eq!(said["round"], ROUNDS - 1, "{said}");
        fs::read(self.aggregator.path("model.onnx")).expect("`export` wrote it")
    }
}

pub(crate) fn name(number: usize) -> String {
    format!("camera-{number}")
}

/// Sets what differs from a new configuration; every line has its default before.
fn configure(aggregator: &Workplace, devices: usize) {
    let path = aggregator.path("aggregator.toml");
    let mut text = fs::read_to_string(&path).expect("`init` wrote it");
    let settings = [
        ("rounds", ROUNDS.to_string()),
        ("min_devices", devices.to_string()),
        ("quorum", "1.0".into()),
        ("seed", "7".into()),
        ("min_samples_to_share", "1".into()),
        ("longest_pause", "\"2s\"".into()),
    ];
    for (key, value) in settings {
        let old = text.lines().find(|line| line.split(" = ").next() == Some(key)).expect("`init` writes every setting");
        text = text.replace(&format!("\n{old}\n"), &format!("\n{key} = {value}\n"));
    }
    fs::write(&path, text).expect("our own folder is writable");
}

fn device(number: usize, broker: &str, extractor: &str, classes: &str) -> Workplace {
    let device = Workplace::default();
    let name = name(number);
    let init = ["init", "--fleet", "north", "--device", &name, "--broker", broker, "--extractor", extractor];
    device.succeed("edge-client", &[&init[..], &["--classes", classes]].concat());
    let digits = Digits::load();
    digits.write_folder(&device.path("pictures"), &share(&digits, number)).expect("our own folder is writable");
    let ingested = device.json("edge-client", &["ingest", "pictures", "--json"]);
    assert_eq!((&ingested["images"], &ingested["added"]), (&IMAGES.into(), &IMAGES.into()), "{ingested}");
    device
}

/// A device's images: ever fewer of the higher digits.
fn share(digits: &Digits, number: usize) -> Vec<u32> {
    let pool = digits.split().pool;
    let of_class = |class: usize| {
        let all = pool.iter().copied().filter(move |&index| usize::from(digits.labels[index as usize]) == class);
        all.skip(number * OF_ZERO).take(OF_ZERO - STEP * class)
    };
    (0..digits::CLASSES).flat_map(of_class).collect()
}

/// Two images of every digit that no device has seen, with what they show.
pub(crate) fn unseen(place: &Workplace) -> Vec<(PathBuf, u8)> {
    let digits = Digits::load();
    let held_out = digits.split().held_out;
    let chosen: Vec<u32> = held_out.into_iter().step_by(digits::TEST_PER_CLASS / 2).collect();
    digits.write_folder(&place.path("unseen"), &chosen).expect("our own folder is writable");
    let image = |&index: &u32| {
        let label = digits.labels[index as usize];
        (place.path("unseen").join(label.to_string()).join(format!("{index:04}.png")), label)
    };
    chosen.iter().map(image).collect()
}

#[allow(clippy::disallowed_methods, reason = "a deadline for a program that never gets there")]
fn now() -> Instant {
    Instant::now()
}
