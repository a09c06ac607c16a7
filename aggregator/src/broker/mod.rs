//! An MQTT 3.1.1 broker inside this process: for the demo, for tests, and for a small fleet without its own broker.
//!
//! The routing (topics, retained messages, sessions, QoS 1) is rumqttd's router. The listener is ours, so that it can
//! be stopped, reports a taken port, and sends without delay. No access control, no persistence, no TLS: real fleets
//! use a real broker. For every subscription filter ever used the router keeps the newest messages up to the backlog,
//! and never gives that memory back before the process ends.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rumqttd::local::LinkBuilder;
use rumqttd::{Router, RouterConfig};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

mod connection;

/// Largest packet: one 64 KiB block with its header, and room for what later versions add.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;
/// Most connections at once.
pub const MAX_CONNECTIONS: usize = 20_000;
/// What one subscription filter keeps for subscribers that are behind; older messages are lost to them. Room for 200
/// devices that answer at once with four blocks of 64 KiB each; memory is only used for what was really sent.
pub const DEFAULT_BACKLOG_BYTES: usize = 64 * 1024 * 1024;
/// What to add to a log filter: rumqttd logs every client that hangs up as an error. Nothing there needs a person.
pub const LOG_FILTER: &str = "rumqttd=off";

/// A backlog is dropped a segment at a time, so a small segment loses little more than it must.
const SEGMENT_BYTES: usize = 1024 * 1024;
/// Messages at QoS 0 the router hands to one client before the next one has its turn.
const MESSAGES_PER_TURN: u64 = 200;
/// How long to wait when the system has no file descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running broker; dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct EmbeddedBroker {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Why the broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The port could not be opened.
    #[error("the embedded broker cannot listen on {address}; choose another port, or 0 for a free one")]
    Listen {
        /// Address and port asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system has no room for another thread.
    #[error("the embedded broker cannot start its thread; raise the limits on processes and open files and try again")]
    Thread(#[source] io::Error),
}

impl EmbeddedBroker {
    /// Starts a broker; it accepts connections when this returns. Port 0 chooses a free one.
    ///
    /// # Errors
    /// If the port cannot be listened on, or the system gives no thread.
    pub fn start(port: u16, listen: IpAddr) -> Result<Self, BrokerError> {
        Self::start_with_backlog(port, listen, DEFAULT_BACKLOG_BYTES)
    }

    /// Like [`EmbeddedBroker::start`] with `backlog_bytes` for each subscription filter: at least what all devices
    /// together may have in flight at once, or slow subscribers lose messages and must ask again.
    ///
    /// # Errors
    /// If the port cannot be listened on, or the system gives no thread.
    pub fn start_with_backlog(port: u16, listen: IpAddr, backlog_bytes: usize) -> Result<Self, BrokerError> {
        let asked = SocketAddr::new(listen, port);
        let failed = |source| BrokerError::Listen { address: asked, source };
        let listener = TcpListener::bind(asked).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(BrokerError::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("embedded-broker".into())
            .spawn(move || serve(&runtime, listener, backlog_bytes, stopped))
            .map_err(BrokerError::Thread)?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The address and port it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It fails when the thread has ended by itself, which is as good.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Accepts connections on this thread until `stopped`; connections are tasks of the same thread.
///
/// The router has its own thread and no way to end: it stays, idle and with its backlog, until the process ends.
fn serve(runtime: &Runtime, listener: TcpListener, backlog_bytes: usize, stopped: oneshot::Receiver<()>) {
    let port = listener.local_addr().map_or(0, |address| address.port());
    let router = Router::new(usize::from(port), router_config(backlog_bytes)).spawn();
    let join: connection::Join =
        Arc::new(move |client, clean| LinkBuilder::new(client, router.clone()).clean_session(clean).build().ok());
    runtime.block_on(async {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
            return;
        };
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(connection::serve(stream, Arc::clone(&join)))),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        });
        // A dropped sender is a stop too.
        let _ = stopped.await;
        accepting.abort();
    });
}

fn router_config(backlog_bytes: usize) -> RouterConfig {
    RouterConfig {
        max_connections: MAX_CONNECTIONS,
        max_outgoing_packet_count: MESSAGES_PER_TURN,
        max_segment_size: SEGMENT_BYTES,
        max_segment_count: backlog_bytes.div_ceil(SEGMENT_BYTES).max(2),
        ..RouterConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// A CONNECT for MQTT 3.1.1 with a clean session and 60 s of keep-alive; the will goes to the topic `w`.
    fn connect(address: SocketAddr, client: u8, will: Option<u8>) -> TcpStream {
        let flags = if will.is_some() { 2 | 4 } else { 2 };
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 60, 0, 1, client];
        body.extend(will.iter().flat_map(|will| [0, 1, b'w', 0, 1, *will]));
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(&[0x10, body.len() as u8]).unwrap();
        stream.write_all(&body).unwrap();
        assert_eq!(read::<4>(&mut stream), [0x20, 2, 0, 0], "CONNACK: accepted");
        stream
    }

    fn subscribe(stream: &mut TcpStream, topic: u8) {
        stream.write_all(&[0x82, 6, 0, 1, 0, 1, topic, 1]).unwrap();
        assert_eq!(read::<5>(stream), [0x90, 3, 0, 1, 1], "SUBACK: QoS 1");
    }

    fn read<const N: usize>(stream: &mut TcpStream) -> [u8; N] {
        let mut bytes = [0; N];
        stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn is_closed(mut stream: TcpStream) -> bool {
        matches!(stream.read(&mut [0]), Ok(0) | Err(_))
    }

    #[test]
    fn two_brokers_accept_clients_and_stop() {
        let one = EmbeddedBroker::start(0, LOOPBACK).unwrap();
        let two = EmbeddedBroker::start(0, LOOPBACK).unwrap();
        assert_ne!(one.port(), two.port());
        let _first = connect(one.address(), b'a', None);
        let second = connect(two.address(), b'a', None);
        let address = two.address();
        drop(two);
        assert!(is_closed(second), "a stopped broker closes its connections");
        assert!(TcpStream::connect(address).is_err());
        let again = EmbeddedBroker::start(address.port(), LOOPBACK).unwrap();
        connect(again.address(), b'b', None);
        connect(one.address(), b'b', None);
    }

    #[test]
    fn a_message_reaches_its_subscriber_and_is_acknowledged() {
        let broker = EmbeddedBroker::start(0, LOOPBACK).unwrap();
        let mut reader = connect(broker.address(), b'r', None);
        subscribe(&mut reader, b't');
        let mut writer = connect(broker.address(), b's', None);
        writer.write_all(&[0x32, 6, 0, 1, b't', 0, 9, b'!']).unwrap();
        assert_eq!(read::<4>(&mut writer), [0x40, 2, 0, 9], "PUBACK");
        let publish = read::<8>(&mut reader);
        assert_eq!(publish, [0x32, 6, 0, 1, b't', 0, publish[6], b'!']);
        writer.write_all(&[0x31, 4, 0, 1, b'k', b'?', 0xc0, 0]).unwrap();
        assert_eq!(read::<2>(&mut writer), [0xd0, 0], "PINGRESP, after the retained message");
        subscribe(&mut writer, b'k');
        let retained = read::<8>(&mut writer);
        assert_eq!((retained[0] & 0xf0, retained[4], retained[7]), (0x30, b'k', b'?'));
    }

    #[test]
    fn a_lost_client_leaves_its_will_and_a_replaced_or_polite_one_does_not() {
        let broker = EmbeddedBroker::start(0, LOOPBACK).unwrap();
        let mut reader = connect(broker.address(), b'r', None);
        subscribe(&mut reader, b'w');
        let replaced = connect(broker.address(), b'd', Some(b'1'));
        let mut polite = connect(broker.address(), b'd', Some(b'2'));
        assert!(is_closed(replaced), "one connection per client id");
        polite.write_all(&[0xe0, 0]).unwrap();
        assert!(is_closed(polite));
        let mut garbage = connect(broker.address(), b'g', None);
        garbage.write_all(&[0xff; 64]).unwrap();
        assert!(is_closed(garbage));
        drop(connect(broker.address(), b'd', Some(b'3')));
        let will = read::<8>(&mut reader);
        assert_eq!((will[4], will[7]), (b'w', b'3'));
    }

    #[test]
    fn a_taken_port_is_an_error() {
        let taken = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = EmbeddedBroker::start(port, LOOPBACK).unwrap_err();
        assert!(matches!(error, BrokerError::Listen { .. }), "{error}");
        assert!(error.to_string().contains("choose another port"));
    }
}
