//! Two where there must be one.

use grapevine_models::Method;
use grapevine_tests::fleet;
use grapevine_tests::programs::{Workplace, extractor};

use super::{address, complains, mosquitto};

#[test]
fn two_aggregators_of_one_fleet_are_said_by_both() {
    let Some(mosquitto) = mosquitto("") else { return };
    let address = address(&mosquitto);
    let places = [0, 1].map(|_| fleet::aggregator(Some(&address), 2, 1, Method::FedAvg));
    let mut first = places[0].start("aggregator", &["serve"]);
    first.line("connected to the broker");
    let _second = places[1].start("aggregator", &["serve"]);
    for place in &places {
        let status = complains(place, "aggregator", "another aggregator serves the fleet north");
        assert_eq!(status["serving"], true);
    }
}

#[test]
fn two_devices_of_one_name_are_said_by_both_and_by_the_aggregator() {
    let Some(mosquitto) = mosquitto("") else { return };
    let address = address(&mosquitto);
    let place = fleet::aggregator(Some(&address), 2, 1, Method::FedAvg);
    let mut serving = place.start("aggregator", &["serve"]);
    let cameras = [0, 1].map(|_| fleet::device(0, &address));
    let _running = cameras.each_ref().map(|camera| camera.start("edge-client", &["run"]));
    let line = serving.line("two devices use the name camera-0");
    assert!(line.contains("ERROR"), "{line}");
    complains(&place, "aggregator", "camera-0 is refused (same-name)");
    for camera in &cameras {
        complains(camera, "edge-client", "another");
    }
}

#[test]
fn names_that_some_part_would_take_for_something_else_are_refused() {
    let place = Workplace::default();
    let extractor = extractor();
    for (name, part) in [
        ("aggregator", "the aggregator itself has that name"),
        (".", "begin with a letter or a digit"),
        ("..", "begin with a letter or a digit"),
        ("-rf", "begin with a letter or a digit"),
        ("cam.north.1", "write `cam-north-1`"),
    ] {
        let device = format!("--device={name}");
        let rest = ["--broker", "mqtt://127.0.0.1", "--extractor", &extractor, "--classes", "a,b"];
        let init = [&["init", "--fleet", "north", &device][..], &rest].concat();
        let line = place.fail("edge-client", &init, 2);
        assert!(line.contains(part), "{line}");
    }
    let init = ["init", "--fleet", "orchard.north", "--extractor", &extractor, "--classes", "a,b", "--embedded"];
    let line = place.fail("aggregator", &init, 2);
    assert!(line.contains("write `orchard-north`"), "{line}");
    assert_eq!(place.names(), [""; 0]);
}
