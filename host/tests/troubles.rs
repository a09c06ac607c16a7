//! What a broker does without a word, and what the transport makes of it: against a real mosquitto.
#![allow(clippy::disallowed_methods, reason = "these tests wait for a real broker, with deadlines")]

use core::time::Duration;

use crossbeam_channel::Receiver;
use grapevine_host::BrokerAddress;
use grapevine_host::transport::{Backoff, Event, Options, Transport, Trouble};

#[allow(unreachable_pub, dead_code, reason = "shared with the system tests, where it is public")]
#[path = "../../tests/system/mosquitto.rs"]
mod mosquitto;

use mosquitto::Mosquitto;

const DEADLINE: Duration = Duration::from_secs(60);
const LARGEST: usize = 64 * 1024;

/// A broker with these lines in its configuration, or the end of the test where there is none.
fn broker(lines: &str) -> Option<Mosquitto> {
    let broker = Mosquitto::start_with(lines);
    if broker.is_none() {
        #[allow(clippy::print_stderr, reason = "a skipped test must say so")]
        {
            eprintln!("skipped: mosquitto is not installed");
        }
    }
    broker
}

/// Between two looks at something that no event tells.
const LOOK: Duration = Duration::from_millis(20);

fn start(broker: &Mosquitto, client_id: &str, subscriptions: &[&str]) -> (Transport, Receiver<Event>) {
    let mut options = Options::new(BrokerAddress::new("127.0.0.1", broker.port), client_id);
    options.backoff = Backoff { first: Duration::from_millis(20), max: Duration::from_millis(200), seed: 1 };
    options.subscriptions = subscriptions.iter().map(|filter| (*filter).to_owned()).collect();
    options.max_incoming_bytes = LARGEST;
    let (sender, events) = crossbeam_channel::unbounded();
    // Nobody listens any more when the test is over.
    (Transport::start(options, move |event| drop(sender.send(event))).expect("the options are valid"), events)
}

/// The next event of this kind.
fn next<T>(events: &Receiver<Event>, wanted: impl Fn(&Event) -> Option<T>) -> T {
    loop {
        let event = events.recv_timeout(DEADLINE).expect("it happens before the deadline");
        if let Some(found) = wanted(&event) {
            return found;
        }
    }
}

fn connected(event: &Event) -> Option<()> {
    (*event == Event::Connected).then_some(())
}

fn trouble(event: &Event) -> Option<(Trouble, String)> {
    if let Event::Trouble { trouble, reason } = event { Some((*trouble, reason.clone())) } else { None }
}

#[test]
fn a_packet_that_the_broker_does_not_take_is_named_and_smaller_ones_pass() {
    let Some(broker) = broker("max_packet_size 20000") else { return };
    let (transport, events) = start(&broker, "sender", &["in"]);
    let found = loop {
        // Until then every connection ends with the same packet.
        match events.recv_timeout(DEADLINE).expect("it happens before the deadline") {
            Event::Connected => {
                transport.publish("in", vec![1; 40_000], false).expect("a connection has just been made")
            }
            Event::Trouble { trouble, reason } => break (trouble, reason),
            Event::Disconnected { .. } => {}
            other @ (Event::Message { .. } | Event::Refused { .. } | Event::Recovered) => panic!("{other:?}"),
        }
    };
    assert!(matches!(found.0, Trouble::PacketLimit { bytes: 40_000..40_100 }), "{found:?}");
    assert!(found.1.contains("raise its packet limit"), "{found:?}");
    next(&events, connected);
    transport.publish("in", vec![1; 16_000], false).expect("a connection has just been made");
    next(&events, |event| matches!(event, Event::Message { .. }).then_some(()));
}

#[test]
fn a_client_whose_id_another_one_uses_is_told_so() {
    let Some(broker) = broker("") else { return };
    let (_one, at_one) = start(&broker, "camera", &[]);
    let (_other, _at_other) = start(&broker, "camera", &[]);
    let (trouble, reason) = next(&at_one, trouble);
    assert_eq!(trouble, Trouble::Evicted);
    assert!(reason.contains("another program uses the client id `camera`"), "{reason}");
}

#[test]
fn a_retained_message_that_is_too_large_does_not_keep_a_client_off() {
    let Some(broker) = broker("") else { return };
    let mut options = Options::new(BrokerAddress::new("127.0.0.1", broker.port), "vandal");
    options.max_packet_bytes = 4 * LARGEST;
    options.subscriptions = vec!["up/b".to_owned()];
    options.max_incoming_bytes = 4 * LARGEST;
    let (sender, at_vandal) = crossbeam_channel::unbounded();
    let vandal = Transport::start(options, move |event| drop(sender.send(event))).expect("the options are valid");
    next(&at_vandal, connected);
    vandal.publish("up/b", vec![1; 3 * LARGEST], true).expect("it is connected");
    vandal.publish("announcement", vec![7], true).expect("it is connected");
    next(&at_vandal, |event| matches!(event, Event::Message { .. }).then_some(()));

    let (_client, events) = start(&broker, "client", &["announcement", "up/+", "blob"]);
    let (trouble, reason) = next(&events, trouble);
    assert!(matches!(trouble, Trouble::LargeRetained { .. }) && reason.contains("on up/+"), "{trouble:?} {reason}");
    // It is there all the same, hears what is retained elsewhere, and what is new.
    next(&events, |event| match event {
        Event::Message { topic, payload } => (topic == "announcement" && *payload == [7]).then_some(()),
        Event::Connected
        | Event::Disconnected { .. }
        | Event::Refused { .. }
        | Event::Trouble { .. }
        | Event::Recovered => None,
    });
    // Not before all filters but the one are asked for, and the connection may end once more meanwhile: what is new then
    // passes by, and is told again.
    let heard = (0..DEADLINE.as_millis() / LOOK.as_millis()).find_map(|_| {
        vandal.publish("up/a", vec![9], false).expect("it is connected");
        match events.recv_timeout(LOOK) {
            Ok(Event::Message { topic, payload }) if topic != "announcement" => Some((topic, payload)),
            Ok(
                Event::Message { .. }
                | Event::Connected
                | Event::Disconnected { .. }
                | Event::Refused { .. }
                | Event::Trouble { .. }
                | Event::Recovered,
            )
            | Err(_) => None,
        }
    });
    assert_eq!(heard, Some(("up/a".to_owned(), vec![9])));
}
