//! A link that loses packets, in network namespaces that see nothing but each other.

use grapevine_models::Method;
use grapevine_tests::fleet::{self, DEVICES, ROUNDS};
use grapevine_tests::mosquitto::Mosquitto;
use grapevine_tests::namespaces::{self, Namespaces};
use grapevine_tests::programs::Running;
use serde_json::Value;

const LOSS_PERCENT: u8 = 10;
/// Each way, where the machine can do that.
const DELAY_MS: u32 = 40;

#[test]
fn lost_packets_cost_time_and_nothing_else() {
    let namespaces = match Namespaces::start(LOSS_PERCENT, DELAY_MS) {
        Ok(namespaces) => namespaces,
        Err(reason) => return println!("skipped: no network namespaces with a link that loses packets: {reason}"),
    };
    println!("{} loses {LOSS_PERCENT} % of the packets each way", namespaces.means());
    let starter = namespaces::starter(namespaces.fleet());
    let Some(mosquitto) = Mosquitto::start_at(namespaces::FLEET, &starter) else {
        return println!("skipped: mosquitto is not installed");
    };
    let lossy = run(&format!("mqtt://{}:{}", namespaces::FLEET, mosquitto.port), Some(&namespaces));
    let Some(mosquitto) = Mosquitto::start() else { panic!("it was installed a moment ago") };
    let quiet = run(&format!("mqtt://127.0.0.1:{}", mosquitto.port), None);
    assert_eq!(lossy, quiet, "lost packets changed what the fleet learned");
}

/// The heads after every round.
fn run(broker: &str, namespaces: Option<&Namespaces>) -> Vec<Value> {
    let mut aggregator = fleet::aggregator(Some(broker), DEVICES, ROUNDS, Method::RedGrape);
    let mut devices: Vec<_> = (0..DEVICES).map(|number| fleet::device(number, broker)).collect();
    if let Some(namespaces) = namespaces {
        aggregator = aggregator.inside(namespaces.fleet());
        devices = devices.into_iter().map(|device| device.inside(namespaces.devices())).collect();
    }
    let serving = aggregator.start("aggregator", &["serve", "--until-finished"]);
    let running: Vec<Running> =
        devices.iter().map(|device| device.start("edge-client", &["run", "--until-finished"])).collect();
    for program in running.into_iter().chain([serving]) {
        let (code, log) = program.end();
        assert_eq!(code, Some(0), "{log}");
    }
    let rounds = fleet::rounds(&aggregator);
    assert_eq!(rounds.len(), ROUNDS);
    rounds.iter().map(|round| round["heads"].clone()).collect()
}
