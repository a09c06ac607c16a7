//! Brokers that refuse without a word.

use std::fs;

use grapevine_models::Method;
use grapevine_tests::fleet;

use super::{address, complains, mosquitto};

#[test]
fn a_packet_limit_below_an_update_makes_blocks_smaller() {
    let Some(mosquitto) = mosquitto("max_packet_size 5000") else { return };
    let address = address(&mosquitto);
    // Updates of 17 kB, and 30 kB for the devices beside their heads.
    let place = fleet::aggregator(Some(&address), 1, 2, Method::RedGrape);
    let mut serving = place.start("aggregator", &["serve", "--until-finished"]);
    let camera = fleet::device(0, &address);
    let mut running = camera.start("edge-client", &["run", "--until-finished"]);
    for running in [&mut running, &mut serving] {
        let line = running.line("going on with smaller blocks");
        assert!(line.contains("raise its packet limit") && line.contains("WARN"), "{line}");
    }
    for running in [running, serving] {
        let (code, log) = running.end();
        assert_eq!(code, Some(0), "{log}");
    }
    let rounds = fleet::rounds(&place);
    assert!(rounds.iter().all(|round| round["phase"] == "merged") && rounds.len() == 2, "{rounds:?}");
}

#[test]
fn a_broker_that_drops_what_is_published_is_noticed_at_both_ends() {
    let rules = tempfile::tempdir().unwrap();
    let file = rules.path().join("acl");
    fs::write(&file, "topic read grapevine/north/#\n").unwrap();
    let Some(mosquitto) = mosquitto(&format!("acl_file {}", file.display())) else { return };
    let address = address(&mosquitto);
    let place = fleet::aggregator(Some(&address), 1, 1, Method::FedAvg);
    let mut serving = place.start("aggregator", &["serve"]);
    let camera = fleet::device(0, &address);
    let mut running = camera.start("edge-client", &["run"]);
    let line = serving.line("the broker does not pass on");
    assert!(line.contains("`north.aggregator` to read and write grapevine/north/#"), "{line}");
    let line = running.line("nobody answers");
    assert!(line.contains("allow `north.camera-0` to write grapevine/north/up/camera-0"), "{line}");
    complains(&place, "aggregator", "the broker does not pass on");
    complains(&camera, "edge-client", "nobody answers");
}

#[test]
fn a_device_that_may_not_hear_its_answers_is_noticed_at_both_ends() {
    let rules = tempfile::tempdir().unwrap();
    let file = rules.path().join("acl");
    fs::write(&file, "topic readwrite grapevine/north/#\ntopic deny grapevine/north/down/#\n").unwrap();
    let Some(mosquitto) = mosquitto(&format!("acl_file {}", file.display())) else { return };
    let address = address(&mosquitto);
    let place = fleet::aggregator(Some(&address), 2, 1, Method::FedAvg);
    let mut serving = place.start("aggregator", &["serve"]);
    let camera = fleet::device(0, &address);
    let mut running = camera.start("edge-client", &["run"]);
    running.line("nobody answers");
    let line = serving.line("does not hear the answer");
    assert!(line.contains("`north.camera-0` to read grapevine/north/down/camera-0"), "{line}");
    complains(&place, "aggregator", "camera-0 says hello again and again");
    complains(&camera, "edge-client", "nobody answers");
}
