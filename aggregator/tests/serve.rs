//! `aggregator serve` over real MQTT, with a device driven by hand: a whole run, a kill in the middle of one, and what
//! the reading commands say about both.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

mod device;
mod program;
mod running;

use std::fs;

use device::{CLASSES, Device, broker, fleet, json, shape};
use grapevine_models::Head;
use grapevine_protocol::{Digest, Request, Task};
use grapevine_vision::manifest;
use program::{Program, extractor};
use running::Running;

#[test]
fn a_run_is_served_to_its_end_and_exported() {
    let program = fleet(1, 2);
    let mut aggregator = Running::start(&program, &["serve", "--until-finished"]);
    let device = Device::join("camera-1", &broker(&mut aggregator));
    for round in 0..2 {
        let announcement = device.announcement(Task::Round(Request::MAIN_HEAD), round);
        assert_eq!(announcement.params.min_samples_to_share, 5);
        assert_eq!(device.answer(&announcement, 0.25).refused, None);
    }
    let last = device.announcement(Task::Rest, 2);
    assert!(last.heads.is_some());
    let line = aggregator.line("round merged");
    for part in ["round=0", "updates=1", "of=1", "chosen=1", "extensions=0", "samples=40", "seconds=", "refusals=0"] {
        assert!(line.contains(part), "{part} is missing in: {line}");
    }
    assert_eq!(aggregator.exit_code(), Some(0));

    let status = json(&program, &["status", "--json"]);
    assert_eq!((&status["phase"], &status["serving"]), (&"finished".into(), &false.into()));
    assert_eq!(status["process"]["phase"], "stopped");
    assert!(status["process"]["resident_bytes"].as_u64().unwrap() > 100_000);
    assert_eq!((&status["rounds_merged"], &status["devices"]["known"]), (&2.into(), &1.into()));
    assert_eq!(status["run"]["method"], "fedavg");
    let text = program.succeed(&["status"]);
    assert!(text.contains("all rounds are done") && text.contains("0 present of 1 known"), "{text}");
    let rounds = program.succeed(&["rounds"]);
    assert_eq!(rounds.lines().count(), 3, "{rounds}");
    assert!(rounds.contains("train  merged   1 of 1       1         0       40"), "{rounds}");
    let devices = json(&program, &["devices", "--json"]);
    assert_eq!((&devices[0]["device"], &devices[0]["rounds_done"]), (&"camera-1".into(), &2.into()));
    assert!(program.succeed(&["devices"]).contains("by hand"));

    check_export(&program);
}

fn check_export(program: &Program) {
    let said = json(program, &["export", "--output", "north.onnx", "--head-json", "head.json", "--json"]);
    let joined = fs::read(program.path("north.onnx")).unwrap();
    assert_eq!((&said["round"], &said["bytes"]), (&1.into(), &joined.len().into()));
    assert_eq!(said["sha256"], Digest::of(&joined).to_string());
    let head: serde_json::Value = serde_json::from_slice(&fs::read(program.path("head.json")).unwrap()).unwrap();
    let (weight, bias) = (&head["weight"], &head["bias"]);
    assert_eq!((weight.as_array().unwrap().len(), weight[2].as_array().unwrap().len()), (3, 64));
    assert_eq!((&weight[2][63], &bias[0]), (&0.25.into(), &(-0.25).into()));
    // The extractor, the same head and the same names give the same file again.
    let (manifest, onnx) = manifest::load(extractor().as_ref()).unwrap();
    let classes = CLASSES.map(String::from);
    let expected = Head { weight: vec![0.25; shape().weights()], bias: vec![-0.25; 3] };
    let again =
        grapevine_aggregator::export::join(&fs::read(onnx).unwrap(), &manifest, &expected, &classes, 1).unwrap();
    assert_eq!(joined, again);

    assert!(program.succeed(&["export", "--output", "first.onnx", "--round", "0"]).contains("head of round 0"));
    let files = program.files();
    let line = program.fail(&["export", "--output", "no.onnx", "--round", "9"], 1);
    assert!(line.contains("round 9 has no merged heads; `aggregator rounds` lists the rounds"), "{line}");
    let line = program.fail(&["export", "--output", "no/no.onnx"], 1);
    assert!(line.contains("could not write no/no.onnx"), "{line}");
    let other = program.command(&["export", "--output", "no.onnx"]).env("GRAPEVINE_CLASSES", r#"["a", "b"]"#).output();
    let line = program::refused(&["export"], &other.unwrap(), 1);
    assert!(line.contains("another class list"), "{line}");
    assert_eq!(program.files(), files);
}

#[test]
fn a_kill_in_the_middle_of_a_run_loses_nothing() {
    let program = fleet(2, 2);
    let mut aggregator = Running::start(&program, &["serve"]);
    let address = broker(&mut aggregator);
    let devices = ["camera-1", "camera-2"].map(|name| Device::join(name, &address));
    let first = devices[0].announcement(Task::Round(Request::MAIN_HEAD), 0);
    devices.iter().for_each(|device| assert_eq!(device.answer(&first, 1.0).refused, None));
    let second = devices[0].announcement(Task::Round(Request::MAIN_HEAD), 1);
    assert_eq!(devices[0].answer(&second, 0.5).refused, None);

    let status = json(&program, &["status", "--json"]);
    assert_eq!((&status["serving"], &status["phase"]), (&true.into(), &"collecting".into()));
    assert_eq!((&status["open_round"]["round"], &status["open_round"]["updates"]), (&1.into(), &1.into()));
    let line = program.fail(&["serve"], 1);
    assert!(line.contains("another aggregator serves from this folder; stop it"), "{line}");
    drop(aggregator);
    let text = program.complain(&["status"], "nobody serves this fleet");
    assert!(
        text.contains("round 1 (train) is open with 1 of 2 updates") && text.contains("no, killed, last seen"),
        "{text}"
    );
    drop(devices);

    let mut aggregator = Running::start(&program, &["serve"]);
    let device = Device::join("camera-2", &broker(&mut aggregator));
    let resumed = device.announcement(Task::Round(Request::MAIN_HEAD), 1);
    assert_eq!((resumed.run, resumed.round), (second.run, second.round));
    assert_eq!(device.answer(&resumed, 1.5).refused, None);
    let line = aggregator.line("round merged");
    assert!(line.contains("round=1") && line.contains("updates=2"), "{line}");
    device.announcement(Task::Rest, 2);
    aggregator.terminate();
    assert_eq!(aggregator.exit_code(), Some(0));

    program.succeed(&["export", "--output", "north.onnx", "--head-json", "head.json"]);
    let head: serde_json::Value = serde_json::from_slice(&fs::read(program.path("head.json")).unwrap()).unwrap();
    assert_eq!(head["weight"][0][0], 1.0, "the mean of the update before the kill and the one after it");
}

#[test]
fn a_signal_before_the_end_is_told_apart_and_another_method_needs_a_new_run() {
    let program = fleet(1, 1);
    let mut aggregator = Running::start(&program, &["serve", "--until-finished"]);
    broker(&mut aggregator);
    aggregator.terminate();
    assert_eq!(aggregator.exit_code(), Some(130));
    let rounds = program.succeed(&["rounds"]);
    assert!(rounds.contains("no round was opened yet"), "{rounds}");
    assert_eq!(json(&program, &["rounds", "--json"]), serde_json::json!([]));
    assert!(program.succeed(&["devices"]).contains("no device has come yet"));
    let line = program.fail(&["export", "--output", "a.onnx"], 1);
    assert!(line.contains("no round has merged heads yet"), "{line}");

    let path = program.path("aggregator.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("name = \"fedavg\"", "name = \"ncm\"")).unwrap();
    let line = program.fail(&["serve", "-q"], 1);
    assert!(line.contains("another method or hyper-parameters") && line.contains("--new-run"), "{line}");
    let mut aggregator = Running::start(&program, &["serve", "--new-run"]);
    broker(&mut aggregator);
    aggregator.terminate();
    assert_eq!(aggregator.exit_code(), Some(0));
    let status = program.complain(&["status", "--json"], "nobody serves this fleet");
    assert!(status.contains("\"method\": \"ncm\""), "{status}");
}
