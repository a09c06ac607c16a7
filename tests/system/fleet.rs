//! One aggregator and its devices, each a process in a folder of its own.

use std::fs;
use std::path::PathBuf;

use grapevine_models::Method;
use grapevine_simulator::data::digits::{self, Digits};
use serde_json::Value;

use crate::mosquitto::Mosquitto;
use crate::programs::{PATIENCE, Running, Workplace, extractor, now};

/// The name of every fleet here.
pub const FLEET: &str = "north";
/// Devices of a [`Fleet`].
pub const DEVICES: usize = 3;
/// Rounds of a [`Fleet`]'s run.
pub const ROUNDS: usize = 3;
/// Images of digit 0 on every device, and by how many fewer there are of each next digit.
const OF_ZERO: usize = 40;
const STEP: usize = 4;
/// Images on every device.
pub const IMAGES: usize = OF_ZERO * digits::CLASSES - STEP * digits::CLASSES * (digits::CLASSES - 1) / 2;

/// One aggregator and its devices.
pub struct Fleet {
    aggregator: Workplace,
    serving: Option<Running>,
    devices: Vec<Workplace>,
    /// Where the broker is.
    pub broker: String,
}

impl Fleet {
    /// An aggregator that serves to the end of its run, on mosquitto or with a broker of its own, and devices that have
    /// their images.
    pub fn start(mosquitto: Option<&Mosquitto>) -> Self {
        Self::start_on(mosquitto.map(|mosquitto| format!("mqtt://127.0.0.1:{}", mosquitto.port)).as_deref())
    }

    /// The same on the broker at this address.
    pub fn start_on(broker: Option<&str>) -> Self {
        Self::of(DEVICES, broker, &["serve", "--until-finished"])
    }

    /// One device, and an aggregator whose broker stays there when the run is over.
    pub fn of_one() -> Self {
        Self::of(1, None, &["serve"])
    }

    fn of(devices: usize, broker: Option<&str>, serve: &[&str]) -> Self {
        let aggregator = aggregator(broker, devices, ROUNDS, Method::RedGrape);
        let mut serving = aggregator.start("aggregator", serve);
        let line = serving.line("serving");
        let (_, told) = line.split_once("broker=").expect("the log names the broker");
        let told = told.split_whitespace().next().expect("the log names the broker");
        // The log shows no password.
        let broker = broker.unwrap_or(told).to_owned();
        serving.line("connected to the broker");
        let devices = (0..devices).map(|number| device(number, &broker)).collect();
        Self { aggregator, serving: Some(serving), devices, broker }
    }

    /// The aggregator's folder.
    pub fn aggregator(&self) -> &Workplace {
        &self.aggregator
    }

    /// A device's folder.
    pub fn device(&self, number: usize) -> &Workplace {
        &self.devices[number]
    }

    /// Starts a device that runs to the end of the fleet's run.
    pub fn run(&self, number: usize) -> Running {
        self.devices[number].start("edge-client", &["run", "--until-finished"])
    }

    /// What `status` says about a device's process, as soon as it is what is wanted.
    pub fn running_device(&self, number: usize, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = now() + PATIENCE;
        loop {
            let mut status = self.devices[number].status("edge-client");
            if is_wanted(&status["running"]) {
                return status["running"].take();
            }
            assert!(now() < deadline, "{status}");
        }
    }

    /// Waits until everybody has ended by themselves and well; gives the rounds.
    pub fn finish(&mut self, devices: [Running; DEVICES]) -> Vec<Value> {
        for running in devices.into_iter().chain(self.serving.take()) {
            let (code, log) = running.end();
            assert_eq!(code, Some(0), "{log}");
        }
        rounds(&self.aggregator)
    }

    /// The exported model.
    pub fn export(&self) -> Vec<u8> {
        let said = self.aggregator.json("aggregator", &["export", "--output", "model.onnx", "--json"]);
        assert_eq!(said["round"], ROUNDS - 1, "{said}");
        fs::read(self.aggregator.path("model.onnx")).expect("`export` wrote it")
    }
}

/// A device's name in its fleet.
pub fn name(number: usize) -> String {
    format!("camera-{number}")
}

/// The rounds in an aggregator's ledger.
pub fn rounds(aggregator: &Workplace) -> Vec<Value> {
    let rounds = aggregator.json("aggregator", &["rounds", "--json"]);
    rounds.as_array().expect("`rounds --json` is an array").clone()
}

/// An aggregator's folder: all of its devices must answer in every round. Without a broker it brings its own.
pub fn aggregator(broker: Option<&str>, devices: usize, rounds: usize, method: Method) -> Workplace {
    let aggregator = Workplace::default();
    let (extractor, classes) = (extractor(), digits::class_names().join(","));
    let mut init = vec!["init", "--fleet", FLEET, "--extractor", &extractor, "--classes", &classes];
    init.extend(["--method", method.name()]);
    init.extend(broker.map_or(vec!["--embedded", "--port", "0"], |address| vec!["--broker", address]));
    aggregator.succeed("aggregator", &init);
    configure(&aggregator, devices, rounds);
    aggregator
}

/// Sets what differs from a new configuration; every line has its default before.
fn configure(aggregator: &Workplace, devices: usize, rounds: usize) {
    let path = aggregator.path("aggregator.toml");
    let mut text = fs::read_to_string(&path).expect("`init` wrote it");
    let settings = [
        ("rounds", rounds.to_string()),
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

/// The folder of a device of such a fleet, which has its images.
pub fn device(number: usize, broker: &str) -> Workplace {
    device_in(Workplace::default(), number, broker)
}

/// The same in a folder that is there already.
pub fn device_in(device: Workplace, number: usize, broker: &str) -> Workplace {
    let (name, extractor, classes) = (name(number), extractor(), digits::class_names().join(","));
    let init = ["init", "--fleet", FLEET, "--device", &name, "--broker", broker, "--extractor", &extractor];
    device.succeed("edge-client", &[&init[..], &["--classes", &classes]].concat());
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
pub fn unseen(place: &Workplace) -> Vec<(PathBuf, u8)> {
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
