//! The transport against a real mosquitto.
#![allow(clippy::disallowed_methods, reason = "these tests wait for a real broker, with deadlines")]

use core::time::Duration;
use std::time::Instant;

use crossbeam_channel::Receiver;
use grapevine_host::BrokerAddress;
use grapevine_host::transport::{Backoff, Event, Options, PublishError, Transport, Will};

#[allow(unreachable_pub, dead_code, reason = "shared with the system tests, where it is public")]
#[path = "../../tests/system/mosquitto.rs"]
mod mosquitto;

use mosquitto::Mosquitto;

const DEADLINE: Duration = Duration::from_secs(20);

/// A broker, or the end of the test where there is none.
fn broker() -> Option<Mosquitto> {
    let broker = Mosquitto::start();
    if broker.is_none() {
        #[allow(clippy::print_stderr, reason = "a skipped test must say so")]
        {
            eprintln!("skipped: mosquitto is not installed");
        }
    }
    broker
}

fn options(broker: &Mosquitto, client_id: &str) -> Options {
    let mut options = Options::new(BrokerAddress::new("127.0.0.1", broker.port), client_id);
    options.backoff = Backoff { first: Duration::from_millis(20), max: Duration::from_millis(200), seed: 1 };
    options.queue = 256;
    options
}

fn start(options: Options) -> (Transport, Receiver<Event>) {
    let (sender, events) = crossbeam_channel::unbounded();
    let sink = move |event| {
        let _nobody_listens = sender.send(event);
    };
    (Transport::start(options, sink).expect("the options are valid"), events)
}

fn subscriber(broker: &Mosquitto, client_id: &str, filter: &str) -> (Transport, Receiver<Event>) {
    let mut options = options(broker, client_id);
    options.subscriptions = vec![filter.to_owned()];
    let (transport, events) = start(options);
    await_connected(&events);
    (transport, events)
}

fn next(events: &Receiver<Event>) -> Event {
    events.recv_timeout(DEADLINE).expect("something happens before the deadline")
}

fn await_connected(events: &Receiver<Event>) {
    while next(events) != Event::Connected {}
}

fn next_message(events: &Receiver<Event>) -> (String, Vec<u8>) {
    match next(events) {
        Event::Message { topic, payload } => (topic, payload),
        other @ (Event::Connected
        | Event::Disconnected { .. }
        | Event::Refused { .. }
        | Event::Trouble { .. }
        | Event::Recovered) => {
            panic!("a message was expected, not {other:?}")
        }
    }
}

#[test]
fn large_messages_pass_both_ways_and_a_broken_broker_is_found_again() {
    let Some(mut broker) = broker() else { return };
    let (left, at_left) = subscriber(&broker, "left", "to/left/#");
    let (right, at_right) = subscriber(&broker, "right", "to/right/#");

    let block = |index: u8| vec![index; 64 * 1024];
    for index in 0..200 {
        left.publish("to/right/x", block(index), false).unwrap();
        right.publish("to/left/x", block(index), false).unwrap();
    }
    for index in 0..200 {
        assert_eq!(next_message(&at_right), ("to/right/x".to_owned(), block(index)));
        assert_eq!(next_message(&at_left), ("to/left/x".to_owned(), block(index)));
    }
    let traffic = left.traffic();
    assert_eq!((traffic.sent_messages, traffic.received_messages), (200, 200));
    assert_eq!(traffic.sent_bytes, 200 * (64 * 1024 + "to/right/x".len() as u64));
    assert_eq!(traffic.received_bytes, 200 * (64 * 1024 + "to/left/x".len() as u64));

    broker.kill();
    assert!(matches!(next(&at_left), Event::Disconnected { .. }));
    assert!(matches!(next(&at_right), Event::Disconnected { .. }));
    assert_eq!(left.publish("to/right/x", vec![1], false), Err(PublishError::Disconnected));
    broker.restart();
    await_connected(&at_left);
    await_connected(&at_right);
    left.publish("to/right/y", vec![7], false).unwrap();
    right.publish("to/left/y", vec![8], false).unwrap();
    assert_eq!(next_message(&at_right), ("to/right/y".to_owned(), vec![7]));
    assert_eq!(next_message(&at_left), ("to/left/y".to_owned(), vec![8]));
}

#[test]
fn a_changed_subscription_is_in_order_and_remembered() {
    let Some(mut broker) = broker() else { return };
    let mut options = options(&broker, "changing");
    // A name, so that resolving one is tried as well.
    options.broker = BrokerAddress::new("localhost", broker.port);
    options.subscriptions = vec!["first".to_owned()];
    let (transport, events) = start(options);
    await_connected(&events);
    transport.subscribe("second/+").unwrap();
    transport.publish("second/a", vec![1], false).unwrap();
    assert_eq!(next_message(&events), ("second/a".to_owned(), vec![1]), "published after the subscription");
    transport.unsubscribe("first");
    transport.publish("first", vec![2], false).unwrap();
    transport.publish("second/b", vec![3], false).unwrap();
    assert_eq!(next_message(&events).0, "second/b", "`first` is no longer heard");

    broker.restart();
    assert!(matches!(next(&events), Event::Disconnected { .. }));
    await_connected(&events);
    transport.publish("first", vec![4], false).unwrap();
    transport.publish("second/c", vec![5], false).unwrap();
    assert_eq!(next_message(&events).0, "second/c");
    assert!(transport.subscribe("a/#/b").is_err());
}

#[test]
fn closing_delivers_everything_without_the_will_and_dropping_fires_it() {
    let Some(broker) = broker() else { return };
    let (_watcher, events) = subscriber(&broker, "watcher", "#");
    let with_will = |client_id: &str| {
        let mut options = options(&broker, client_id);
        options.will = Some(Will { topic: format!("gone/{client_id}"), payload: vec![0], retain: false });
        let (transport, connected) = start(options);
        await_connected(&connected);
        transport
    };
    let (polite, rude) = (with_will("polite"), with_will("rude"));
    for index in 0..100u8 {
        polite.publish("last/words", vec![index; 30_000], false).unwrap();
    }
    let began = Instant::now();
    polite.close();
    assert!(began.elapsed() < Duration::from_secs(2));
    for index in 0..100u8 {
        assert_eq!(next_message(&events), ("last/words".to_owned(), vec![index; 30_000]));
    }
    drop(rude);
    assert_eq!(next_message(&events).0, "gone/rude", "the polite client's will was not published");
}

#[test]
fn a_full_queue_is_told_and_too_large_a_message_refused() {
    let Some(broker) = broker() else { return };
    let mut options = options(&broker, "flood");
    options.queue = 2;
    let (flood, events) = start(options);
    assert_eq!(next(&events), Event::Connected);
    let began = Instant::now();
    let mut full = false;
    while !full && began.elapsed() < DEADLINE {
        full = flood.publish("x", vec![0; 60_000], false) == Err(PublishError::Full);
    }
    assert!(full, "a queue of two holds two");
    let large = flood.publish("x", vec![0; 128 * 1024], false);
    assert!(matches!(large, Err(PublishError::TooLarge { .. })), "{large:?}");
    assert!(matches!(flood.publish("x/#", Vec::new(), false), Err(PublishError::Topic { .. })));
}

#[test]
fn an_oversized_message_in_a_kept_session_is_shed() {
    let Some(broker) = broker() else { return };
    let mut small = options(&broker, "small");
    small.clean_session = false;
    small.max_packet_bytes = 4_096;
    small.subscriptions = vec!["in".to_owned()];
    let (_small, events) = start(small);
    assert_eq!(next(&events), Event::Connected);
    let (sender, connected) = start(options(&broker, "sender"));
    await_connected(&connected);
    sender.publish("in", vec![0; 10_000], false).unwrap();
    let Event::Disconnected { reason } = next(&events) else { panic!("a packet beyond the limit ends the connection") };
    assert!(reason.contains("limit of 4096"), "{reason}");
    assert_eq!(next(&events), Event::Connected);
    sender.publish("in", vec![1], false).unwrap();
    assert_eq!(next_message(&events).1, vec![1], "the large one is not sent again");
}

#[test]
fn small_messages_wait_for_no_timer() {
    let Some(broker) = broker() else { return };
    let (transport, events) = subscriber(&broker, "echo", "echo");
    let mut times: Vec<Duration> = (0..101u8)
        .map(|index| {
            let began = Instant::now();
            transport.publish("echo", vec![index], false).unwrap();
            assert_eq!(next_message(&events).1, vec![index]);
            began.elapsed()
        })
        .collect();
    times.sort();
    // Nagle's algorithm with delayed acknowledgements would make it 40 ms.
    assert!(times[50] < Duration::from_millis(20), "median {:?}", times[50]);
}

#[test]
fn no_broker_is_told_once_and_closing_does_not_wait_for_one() {
    let Some(mut broker) = broker() else { return };
    broker.kill();
    let (transport, events) = start(options(&broker, "lonely"));
    let Event::Disconnected { reason } = next(&events) else { panic!("nobody listens there") };
    assert!(reason.contains("check the address"), "{reason}");
    assert!(events.recv_timeout(Duration::from_millis(300)).is_err(), "the same reason is not told again");
    let began = Instant::now();
    transport.close();
    assert!(began.elapsed() < Duration::from_secs(1));
    assert!(events.recv().is_err(), "the sink is dropped with the thread");
}
