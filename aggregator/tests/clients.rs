//! The embedded broker with clients that are not ours: mosquitto's.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it saw")]

use core::net::Ipv4Addr;
use std::process::{Command, Output};

use grapevine_aggregator::broker::EmbeddedBroker;

/// Runs one of the clients, which gives up after 20 s; `None` if it is not installed.
fn client(program: &str, broker: &EmbeddedBroker, arguments: &str) -> Option<Output> {
    let port = broker.port().to_string();
    let address = ["-h", "127.0.0.1", "-p", &port];
    Command::new(program).args(address).args(arguments.split(' ')).output().ok()
}

fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn clients_of_mosquitto_find_what_mqtt_promises() {
    let broker = EmbeddedBroker::start(0, Ipv4Addr::LOCALHOST.into()).unwrap();
    let publish = |arguments: &str| client("mosquitto_pub", &broker, arguments);
    let subscribe = |arguments: &str| client("mosquitto_sub", &broker, &format!("-W 20 {arguments}")).unwrap();
    let Some(retained) = publish("-r -q 1 -t a/b -m here") else {
        return println!("skipped: mosquitto-clients is not installed");
    };
    assert!(retained.status.success(), "{retained:?}");
    // Retained, QoS 2 granted as 1, and a wildcard.
    assert_eq!(lines(&subscribe("-C 1 -q 2 -t a/+ -F %r,%q,%t,%p")), ["1,1,a/b,here"]);

    assert!(subscribe("-c -i keeper -q 1 -t k/# -E").status.success());
    for (qos, text) in [(1, "one"), (2, "two"), (0, "lost"), (1, "three")] {
        assert!(publish(&format!("-q {qos} -t k/x -m {text}")).unwrap().status.success(), "QoS {qos}");
    }
    assert_eq!(lines(&subscribe("-c -i keeper -q 1 -t k/# -C 3")), ["one", "two", "three"], "a kept session, in order");

    let newer = publish("-V mqttv5 -t a -m x").unwrap();
    assert!(!newer.status.success(), "MQTT 5 is refused");
    assert!(String::from_utf8_lossy(&newer.stderr).to_lowercase().contains("protocol version"), "{newer:?}");
}
