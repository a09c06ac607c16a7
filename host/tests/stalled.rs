//! The transport against a broker that answers pings and acknowledges nothing that is published.
#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use core::time::Duration;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use crossbeam_channel::Receiver;
use grapevine_host::BrokerAddress;
use grapevine_host::transport::{Backoff, Event, Options, Transport};

const DEADLINE: Duration = Duration::from_secs(60);

/// Answers every connection in turn, until the test's process ends.
fn broker() -> BrokerAddress {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || serve(connection));
        }
    });
    BrokerAddress::new("127.0.0.1", port)
}

/// CONNECT, SUBSCRIBE and PINGREQ have their answers; PUBLISH has none. `None` at the connection's end.
fn serve(mut connection: TcpStream) -> Option<()> {
    loop {
        let mut header = [0; 2];
        connection.read_exact(&mut header).ok()?;
        let [kind, length] = header;
        assert!(length < 128, "the packets of this test are small");
        let mut body = vec![0; usize::from(length)];
        connection.read_exact(&mut body).ok()?;
        match kind >> 4 {
            1 => connection.write_all(&[0x20, 2, 0, 0]).ok()?,
            8 => connection.write_all(&[0x90, 3, body[0], body[1], 1]).ok()?,
            12 => connection.write_all(&[0xd0, 0]).ok()?,
            _ => {}
        }
    }
}

fn start(patience: Duration) -> (Transport, Receiver<Event>) {
    let mut options = Options::new(broker(), "device");
    options.keep_alive = Duration::from_secs(1);
    options.patience = Some(patience);
    options.backoff = Backoff { first: Duration::from_millis(10), max: Duration::from_millis(100), seed: 1 };
    options.subscriptions = vec!["in".to_owned()];
    let (sender, events) = crossbeam_channel::unbounded();
    // Nobody listens any more when the test is over.
    (Transport::start(options, move |event| drop(sender.send(event))).unwrap(), events)
}

#[test]
fn a_connection_that_pings_and_goes_nowhere_is_made_anew() {
    let (transport, events) = start(Duration::from_secs(2));
    assert_eq!(events.recv_timeout(DEADLINE), Ok(Event::Connected));
    transport.publish("out", vec![1], false).unwrap();
    let Ok(Event::Disconnected { reason }) = events.recv_timeout(DEADLINE) else { panic!("it was not noticed") };
    assert!(reason.contains("acknowledged nothing"), "{reason}");
    assert_eq!(events.recv_timeout(DEADLINE), Ok(Event::Connected));
    assert_eq!(transport.unacknowledged(), Some(0), "nothing of before is waited for");
    assert!(transport.is_alive());
}

#[test]
fn a_new_connection_can_be_asked_for() {
    let (transport, events) = start(DEADLINE);
    assert_eq!(events.recv_timeout(DEADLINE), Ok(Event::Connected));
    transport.reconnect();
    assert!(matches!(events.recv_timeout(DEADLINE), Ok(Event::Disconnected { .. })));
    assert_eq!(events.recv_timeout(DEADLINE), Ok(Event::Connected));
}
