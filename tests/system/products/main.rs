//! The shipped programs as processes, over a real broker: a fleet from `init` to the exported model, a device killed in
//! the middle, and the same heads whatever the broker.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it saw")]

mod export;
mod predictions;
#[cfg(unix)]
mod service;

use grapevine_tests::fleet::{self, DEVICES, Fleet, IMAGES, ROUNDS};
use grapevine_tests::mosquitto::Mosquitto;
use grapevine_tests::programs::Running;
use serde_json::Value;

/// What a device may take; measured without optimisation, so far above what is shipped.
const MOST_DEVICE_BYTES: u64 = 64 << 20;

#[test]
fn a_fleet_survives_a_kill_and_its_exported_model_agrees_everywhere() {
    let mosquitto = Mosquitto::start();
    if mosquitto.is_none() {
        println!("mosquitto is not installed; the embedded broker is used instead");
    }
    let mut fleet = Fleet::start(mosquitto.as_ref());
    let first = fleet.run(0);
    let second = fleet.run(1);
    let idle = fleet.running_device(0, |running| running["state"] == "waiting");

    let mut third = fleet.run(2);
    third.line("round began");
    third.line("round began");
    let pid = third.id();
    drop(third);
    // Nothing goes on without the third device, so the first one is found where the kill left it.
    let in_round = fleet.running_device(0, |running| running["round"] == 1);
    let third = fleet.run(2);
    assert_ne!(third.id(), pid);
    check_memory(&idle, &in_round);

    let rounds = fleet.finish([first, second, third]);
    assert_eq!(rounds.len(), ROUNDS);
    for round in &rounds {
        assert_eq!((&round["task"], &round["phase"]), (&"train".into(), &"merged".into()), "{round}");
        assert_eq!((&round["updates"], &round["expected"]), (&DEVICES.into(), &DEVICES.into()), "{round}");
    }
    check_devices(&fleet);
    export::check(&fleet);
    assert_eq!(heads(&rounds), heads(&quiet(None).0), "the kill changed what the fleet learned");
}

#[test]
fn every_broker_gives_the_same_heads() {
    let Some(mosquitto) = Mosquitto::start() else {
        return println!("skipped: mosquitto is not installed");
    };
    let (rounds, model) = quiet(Some(&mosquitto));
    let (embedded_rounds, embedded_model) = quiet(None);
    assert_eq!(heads(&rounds), heads(&embedded_rounds));
    assert!(model == embedded_model, "the same heads were exported as different files");
}

/// A run in which nothing happens: its rounds and the exported model.
fn quiet(mosquitto: Option<&Mosquitto>) -> (Vec<Value>, Vec<u8>) {
    let mut fleet = Fleet::start(mosquitto);
    let devices: [Running; DEVICES] = core::array::from_fn(|number| fleet.run(number));
    let rounds = fleet.finish(devices);
    assert_eq!(rounds.len(), ROUNDS);
    (rounds, fleet.export())
}

/// The digests of the heads after each round.
fn heads(rounds: &[Value]) -> Vec<&str> {
    rounds.iter().map(|round| round["heads"].as_str().unwrap()).collect()
}

fn check_memory(idle: &Value, in_round: &Value) {
    let mebibytes = |value: &Value| value.as_f64().map(|bytes| bytes / f64::from(1 << 20));
    // Only Linux tells.
    if let (Some(waiting), Some(working)) = (mebibytes(&idle["resident_bytes"]), mebibytes(&in_round["resident_bytes"]))
    {
        let peak = in_round["peak_bytes"].as_u64().unwrap();
        let peak_mebibytes = mebibytes(&in_round["peak_bytes"]).unwrap();
        println!(
            "a device's memory: {waiting:.1} MiB idle, {working:.1} MiB in a run, {peak_mebibytes:.1} MiB at most"
        );
        assert!(peak <= MOST_DEVICE_BYTES, "{peak} bytes");
    }
}

fn check_devices(fleet: &Fleet) {
    let devices = fleet.aggregator().json("aggregator", &["devices", "--json"]);
    let devices = devices.as_array().unwrap();
    assert_eq!(devices.len(), DEVICES);
    for (number, device) in devices.iter().enumerate() {
        assert_eq!(device["device"], fleet::name(number));
        assert_eq!((&device["rounds_done"], &device["state"]), (&ROUNDS.into(), &"gone".into()), "{device}");
        assert_eq!(device["samples"], IMAGES, "{device}");
    }
    let table = fleet.aggregator().succeed("aggregator", &["devices"]);
    assert_eq!(table.lines().count(), DEVICES + 1, "{table}");
}
