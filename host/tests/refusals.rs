//! The transport against a broker that says no: a listener that answers with fixed bytes.

use core::time::Duration;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crossbeam_channel::Receiver;
use grapevine_host::BrokerAddress;
use grapevine_host::transport::{Backoff, Event, Options, PublishError, Transport};

const DEADLINE: Duration = Duration::from_secs(20);

const ACCEPTED: [u8; 4] = [0x20, 2, 0, 0];
const NOT_AUTHORISED: [u8; 4] = [0x20, 2, 0, 5];
const UNAVAILABLE: [u8; 4] = [0x20, 2, 0, 3];
/// For packet id 1, the first of a connection.
const SUBSCRIPTION_REFUSED: [u8; 5] = [0x90, 3, 0, 1, 0x80];

/// A transport at a broker that answers each packet of every connection with the next of `answers`, then hangs up.
fn start(answers: &'static [&'static [u8]]) -> (Transport, Receiver<Event>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port can be had");
    let port = listener.local_addr().expect("a listening socket has an address").port();
    thread::spawn(move || listener.incoming().flatten().for_each(|connection| answer(connection, answers)));
    let mut options = Options::new(BrokerAddress::new("127.0.0.1", port), "device-1");
    options.subscriptions = vec!["secret/#".to_owned()];
    options.backoff = Backoff { first: Duration::from_millis(10), max: Duration::from_millis(20), seed: 1 };
    let (sender, events) = crossbeam_channel::unbounded();
    let sink = move |event| {
        let _nobody_listens = sender.send(event);
    };
    (Transport::start(options, sink).expect("the options are valid"), events)
}

fn answer(mut connection: TcpStream, answers: &[&[u8]]) {
    let mut packet = [0; 1_024];
    for bytes in answers {
        if !matches!(connection.read(&mut packet), Ok(count) if count > 0) || connection.write_all(bytes).is_err() {
            return;
        }
    }
}

fn next(events: &Receiver<Event>) -> Event {
    events.recv_timeout(DEADLINE).expect("something happens before the deadline")
}

#[test]
fn a_refused_login_is_told_once_with_advice() {
    let (transport, events) = start(&[&NOT_AUTHORISED]);
    let Event::Refused { reason } = next(&events) else { panic!("the login was refused") };
    assert!(reason.contains("user and password"), "{reason}");
    assert!(events.recv_timeout(Duration::from_millis(200)).is_err(), "the same refusal is not told again");
    assert_eq!(transport.publish("a", Vec::new(), false), Err(PublishError::Disconnected));
}

#[test]
fn a_refused_subscription_names_client_and_topics() {
    let (_transport, events) = start(&[&ACCEPTED, &SUBSCRIPTION_REFUSED]);
    let Event::Refused { reason } = next(&events) else { panic!("the subscription was refused before `Connected`") };
    assert!(reason.contains("device-1") && reason.contains("secret/#"), "{reason}");
}

#[test]
fn a_broker_that_is_busy_or_talks_nonsense_is_tried_again() {
    let (_busy, events) = start(&[&UNAVAILABLE]);
    assert!(matches!(next(&events), Event::Disconnected { reason } if reason.contains("not available")));
    let (_mad, events) = start(&[&ACCEPTED, b"HTTP/1.1 400 Bad Request\r\n\r\n"]);
    assert!(matches!(next(&events), Event::Disconnected { .. }));
    let (_other, events) = start(&[b"HTTP/1.1 400 Bad Request\r\n\r\n"]);
    assert!(matches!(next(&events), Event::Disconnected { .. }));
}

#[test]
fn a_panic_of_the_sink_leaves_no_connection_behind() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port can be had");
    let port = listener.local_addr().expect("a listening socket has an address").port();
    drop(listener);
    let options = Options::new(BrokerAddress::new("127.0.0.1", port), "device-1");
    let (sender, ended) = crossbeam_channel::bounded::<()>(0);
    let sink = move |_| {
        let _until_the_thread_ends = &sender;
        panic!("the sink fails");
    };
    let transport = Transport::start(options, sink).expect("the options are valid");
    assert!(ended.recv_timeout(DEADLINE) == Err(crossbeam_channel::RecvTimeoutError::Disconnected));
    assert_eq!(transport.publish("a", Vec::new(), false), Err(PublishError::Disconnected));
    transport.close();
}
