//! A fleet as it is in the field: devices and images come when they come, and some classes are too rare to be shared. With
//! the shipped programs, the settings that `init` writes, and images that no device has seen.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use core::ops::Range;
use std::fs;

use grapevine_simulator::data::digits::{self, Digits};
use grapevine_tests::programs::{PATIENCE, Running, Workplace, extractor, now};
use serde_json::Value;

/// Images that are held back of each digit.
const UNSEEN: usize = 20;

/// A fleet as `init` writes it, with a broker of its own.
struct Fleet {
    aggregator: Workplace,
    _serving: Running,
    broker: String,
}

impl Fleet {
    fn start() -> Self {
        let aggregator = Workplace::default();
        let (extractor, classes) = (extractor(), digits::class_names().join(","));
        let init = ["init", "--fleet", "orchard", "--extractor", &extractor, "--classes", &classes];
        aggregator.succeed("aggregator", &[&init[..], &["--embedded", "--port", "0"]].concat());
        let configuration = aggregator.path("aggregator.toml");
        let text = fs::read_to_string(&configuration).unwrap();
        fs::write(&configuration, text.replace("news_after = \"60s\"", "news_after = \"0s\"")).unwrap();
        let mut serving = aggregator.start("aggregator", &["serve"]);
        let line = serving.line("serving");
        let broker = line.split_once("broker=").unwrap().1.split_whitespace().next().unwrap().to_owned();
        serving.line("connected to the broker");
        Self { aggregator, _serving: serving, broker }
    }

    /// A device with so many images of each of these digits; `number` says which.
    fn device(&self, number: usize, of_each: usize, digits: Range<u8>) -> Workplace {
        let (place, name, extractor) = (Workplace::default(), format!("camera-{number}"), extractor());
        let classes = digits::class_names().join(",");
        let init = ["init", "--fleet", "orchard", "--device", &name, "--broker", &self.broker];
        place.succeed("edge-client", &[&init[..], &["--extractor", &extractor, "--classes", &classes]].concat());
        write_images(&place, "pictures", number, of_each, digits);
        place.succeed("edge-client", &["ingest", "pictures"]);
        place
    }

    /// What `status` says once the fleet rests after at least so many merged rounds.
    fn rests(&self, least: u64) -> Value {
        let deadline = now() + PATIENCE;
        loop {
            let status = self.aggregator.status("aggregator");
            if status["phase"] == "resting" && status["rounds_merged"].as_u64().unwrap() >= least {
                return status;
            }
            assert!(now() < deadline, "{status}");
        }
    }
}

/// So many images of each of these digits; those of another number are others.
fn write_images(place: &Workplace, folder: &str, number: usize, of_each: usize, range: Range<u8>) {
    let digits = Digits::load();
    let pool = digits.split().pool;
    let of = |digit: u8| {
        let all = pool.iter().copied().filter(|&index| digits.labels[index as usize] == digit).collect::<Vec<u32>>();
        all.into_iter().skip(number * of_each).take(of_each)
    };
    let chosen: Vec<u32> = range.flat_map(of).collect();
    digits.write_folder(&place.path(folder), &chosen).unwrap();
}

/// The share of right answers about images of these digits that no device has seen, by the head that a device has once it
/// answers at all.
fn right(place: &Workplace, range: Range<u8>) -> f64 {
    let digits = Digits::load();
    let held_out = digits.split().held_out;
    let of = |digit: u8| {
        let all = held_out.iter().copied().filter(|&index| digits.labels[index as usize] == digit);
        all.take(UNSEEN).collect::<Vec<u32>>()
    };
    let chosen: Vec<u32> = range.clone().flat_map(of).collect();
    digits.write_folder(&place.path("unseen"), &chosen).unwrap();
    let said = place.succeed("edge-client", &["classify", "--top", "1", "--json", "unseen"]);
    fs::remove_dir_all(place.path("unseen")).unwrap();
    let answers: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), UNSEEN * range.len(), "{said}");
    let is_right = |answer: &&Value| {
        let class = answer["predictions"][0]["class"].as_str().unwrap();
        answer["image"].as_str().unwrap().contains(&format!("unseen/{class}/"))
    };
    answers.iter().filter(is_right).count() as f64 / answers.len() as f64
}

/// Waits until a device's newest head is right that often.
fn becomes_right(place: &Workplace, range: Range<u8>, least: f64) {
    let deadline = now() + PATIENCE;
    loop {
        let found = right(place, range.clone());
        if found >= least {
            return;
        }
        assert!(now() < deadline, "{found} of digits {range:?}");
    }
}

#[test]
fn a_device_and_images_that_come_late_count_as_if_they_had_been_there() {
    let fleet = Fleet::start();
    let early: Vec<Workplace> = (0..2).map(|number| fleet.device(number, 20, 0..7)).collect();
    let _running: Vec<Running> = early.iter().map(|place| place.start("edge-client", &["run"])).collect();
    let status = fleet.rests(2);
    assert_eq!(status["gaps"]["never_learned"], serde_json::json!(["7", "8", "9"]), "{status}");
    let rounds = status["rounds_merged"].as_u64().unwrap();

    let late = fleet.device(0, 25, 7..9);
    let configuration = late.path("edge-client.toml");
    let text = fs::read_to_string(&configuration).unwrap();
    fs::create_dir(late.path("camera")).unwrap();
    fs::write(&configuration, text.replace("# watch = \"labelled\"", "watch = \"camera\"")).unwrap();
    let renamed = fs::read_to_string(&configuration).unwrap().replace("\"camera-0\"", "\"camera-2\"");
    fs::write(&configuration, renamed).unwrap();
    let _latecomer = late.start("edge-client", &["run"]);
    let status = fleet.rests(rounds + 2);
    assert_eq!(status["gaps"]["never_learned"], serde_json::json!(["9"]), "{status}");
    becomes_right(&early[0], 0..9, 0.8);
    becomes_right(&early[0], 7..9, 0.7);

    // Images of one more class come into a watched folder.
    write_images(&late, "camera", 1, 25, 9..10);
    becomes_right(&early[1], 9..10, 0.6);
    becomes_right(&early[1], 0..10, 0.8);
}

#[test]
fn what_may_not_be_shared_is_said_everywhere_and_still_told_apart_where_it_is() {
    let fleet = Fleet::start();
    let devices: Vec<Workplace> = (0..2).map(|number| fleet.device(number, 4, 0..10)).collect();
    let _running: Vec<Running> = devices.iter().map(|place| place.start("edge-client", &["run"])).collect();
    let status = fleet.rests(1);
    assert_eq!(status["gaps"]["is_blank"], true, "{status}");
    let complaint = fleet.aggregator.fail("aggregator", &["export", "--output", "model.onnx"], 1);
    assert!(complaint.contains("nothing was learned yet: no device holds 5 samples of any class"), "{complaint}");
    assert!(!fleet.aggregator.path("model.onnx").exists());
    assert!(fleet.aggregator.succeed("aggregator", &["rounds"]).contains("nothing was learned yet"));
    // Forty images of its own are what a device has.
    becomes_right(&devices[0], 0..10, 0.6);
}
