//! Faults around a fleet that no message announces: both programs say them in their logs, in `status`, and by its exit code.
//! With the shipped programs and a real mosquitto.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it saw")]

mod broker;
mod names;
#[cfg(unix)]
mod other_brokers;
#[cfg(unix)]
mod status;
mod versions;

use std::fs;

use grapevine_models::Method;
use grapevine_tests::fleet;
use grapevine_tests::mosquitto::Mosquitto;
use grapevine_tests::programs::{PATIENCE, Workplace, now};
use serde_json::Value;

/// A broker with these lines in its configuration; `None`, and a sentence, where mosquitto is not installed.
fn mosquitto(lines: &str) -> Option<Mosquitto> {
    let mosquitto = Mosquitto::start_with(lines);
    if mosquitto.is_none() {
        println!("skipped: mosquitto is not installed");
    }
    mosquitto
}

fn address(mosquitto: &Mosquitto) -> String {
    format!("mqtt://127.0.0.1:{}", mosquitto.port)
}

/// What `status` says, as soon as it has something to complain about that holds `part`: then its exit code is 1.
fn complains(place: &Workplace, program: &str, part: &str) -> Value {
    let deadline = now() + PATIENCE;
    loop {
        let output = place.command(program, &["status", "--json"]).output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        if complaints.contains(part) {
            assert_eq!(output.status.code(), Some(1), "{complaints}");
            return serde_json::from_slice(&output.stdout).unwrap();
        }
        assert!(now() < deadline, "`{part}` is not among: {complaints}");
    }
}

#[test]
fn connected_devices_learn_at_once_that_the_class_list_is_another_one() {
    let Some(mosquitto) = mosquitto("") else { return };
    let address = address(&mosquitto);
    let place = fleet::aggregator(Some(&address), 2, 3, Method::FedAvg);
    let serving = place.start("aggregator", &["serve"]);
    let camera = fleet::device(0, &address);
    let mut running = camera.start("edge-client", &["run"]);
    running.line("the aggregator knows this device");
    drop(serving);

    let configuration = place.path("aggregator.toml");
    let text = fs::read_to_string(&configuration).unwrap();
    let fewer = text.replace("\"8\", \"9\"]", "\"8\"]");
    assert_ne!(text, fewer, "{text}");
    fs::write(&configuration, fewer).unwrap();
    let mut serving = place.start("aggregator", &["serve", "--new-run"]);
    let line = running.line("refused by the aggregator");
    assert!(line.contains("set `classes` to the fleet's class list") && line.contains("ERROR"), "{line}");
    complains(&camera, "edge-client", "the aggregator refuses this device: classes: set `classes`");
    let line = serving.line("device refused");
    assert!(line.contains("device=camera-0 reason=classes") && line.contains("INFO"), "{line}");
    let status = complains(&place, "aggregator", "camera-0 is refused (classes)");
    assert_eq!(status["process"]["refused_devices"][0]["device"], "camera-0", "{status}");
    let devices = place.json("aggregator", &["devices", "--json"]);
    assert_eq!((&devices[0]["state"], &devices[0]["refused"]["reason"]), (&"refused".into(), &"classes".into()));
}

#[test]
fn who_is_missing_is_said_and_who_left_meanwhile_is_gone_and_can_be_forgotten() {
    let Some(mosquitto) = mosquitto("") else { return };
    let address = address(&mosquitto);
    let place = fleet::aggregator(Some(&address), 3, 3, Method::FedAvg);
    let serving = place.start("aggregator", &["serve"]);
    let cameras: Vec<Workplace> = (0..2).map(|number| fleet::device(number, &address)).collect();
    let mut running: Vec<_> = cameras.iter().map(|camera| camera.start("edge-client", &["run"])).collect();
    running.iter_mut().for_each(|running| drop(running.line("the aggregator knows this device")));
    until(|| {
        let text = place.succeed("aggregator", &["status"]);
        text.contains("2 of 3 with samples are there (camera-0, camera-1), 1 more must come")
    });

    // Everything dies at once; the aggregator and one device come back.
    drop(serving);
    drop(running);
    complains(&place, "aggregator", "nobody serves this fleet");
    complains(&cameras[0], "edge-client", "start it again");
    let _serving = place.start("aggregator", &["serve"]);
    let mut back = cameras[0].start("edge-client", &["run"]);
    back.line("the aggregator knows this device");
    let states = || {
        let devices = place.json("aggregator", &["devices", "--json"]);
        let devices = devices.as_array().unwrap().iter();
        devices.map(|device| format!("{}={}", device["device"], device["state"]).replace('"', "")).collect::<Vec<_>>()
    };
    until(|| states() == ["camera-0=present", "camera-1=gone"]);
    let said = place.succeed("aggregator", &["forget", "camera-1"]);
    assert!(said.starts_with("forgot camera-1"), "{said}");
    assert_eq!(states(), ["camera-0=present"]);
    let line = place.fail("aggregator", &["forget", "camera-1"], 1);
    assert!(line.contains("no device `camera-1` is known"), "{line}");
}

fn until(is_so: impl Fn() -> bool) {
    let deadline = now() + PATIENCE;
    while !is_so() {
        assert!(now() < deadline, "it never came to that");
    }
}
