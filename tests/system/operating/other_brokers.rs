//! Brokers other than mosquitto.

use grapevine_tests::fleet::Fleet;
use grapevine_tests::other_brokers::OtherBroker;

#[test]
fn a_federation_over_rabbitmq_learns_the_same_bytes() {
    learns_the_same_bytes("rabbitmq-server", OtherBroker::rabbitmq());
}

#[test]
fn a_federation_over_nats_learns_the_same_bytes() {
    learns_the_same_bytes("nats-server", OtherBroker::nats());
}

/// Against a federation over the aggregator's own broker.
fn learns_the_same_bytes(package: &str, broker: Option<OtherBroker>) {
    let Some(broker) = broker else {
        return println!("skipped: Debian's package {package} is not installed");
    };
    let models = [Some(broker.address.as_str()), None].map(|address| {
        let mut fleet = Fleet::start_on(address);
        let devices = [0, 1, 2].map(|number| fleet.run(number));
        let rounds = fleet.finish(devices);
        assert!(rounds.iter().all(|round| round["phase"] == "merged" && round["updates"] == 3), "{rounds:?}");
        fleet.export()
    });
    assert!(models[0] == models[1], "{} and the embedded broker give different models", broker.address);
}
