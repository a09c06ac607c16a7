//! An MQTT 3.1.1 broker inside this process: for the demo, for tests, and for a small fleet without its own broker.
//!
//! [`router`] decides, without socket or clock: sessions, subscriptions, retained messages, QoS 0 and 1 (messages
//! published at QoS 2 are taken, and go out at QoS 1). Everything in it is bounded by [`limits`]. One thread serves all
//! connections, each a task. Nothing is written to disk, and there is no TLS.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use self::hub::Hub;

mod connection;
mod framing;
mod hub;
mod limits;
mod router;

pub use limits::{MAX_CONNECTIONS, MAX_PACKET_BYTES};

/// What a client wants to do with a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Publish a message to it.
    Publish,
    /// Subscribe to it; it may have wildcards.
    Subscribe,
}

/// Whether a client (by its id) may do this with a topic.
pub type Access = fn(client: &str, action: Action, topic: &str) -> bool;

/// How long to wait when the system has no file descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often sessions of clients that are away for too long are looked for.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);

/// A running broker; dropping it closes the listener and every connection, and ends its thread.
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
    /// Starts a broker; it accepts connections when this returns. Port 0 chooses a free one. Every client may use every
    /// topic.
    ///
    /// # Errors
    /// If the port cannot be listened on, or the system gives no thread.
    pub fn start(port: u16, listen: IpAddr) -> Result<Self, BrokerError> {
        let everything: Access = |_, _, _| true;
        let asked = SocketAddr::new(listen, port);
        let failed = |source| BrokerError::Listen { address: asked, source };
        let listener = TcpListener::bind(asked).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let runtime = Builder::new_current_thread().enable_all().build().map_err(BrokerError::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("embedded-broker".into())
            .spawn(move || serve(&runtime, listener, everything, stopped))
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
fn serve(runtime: &Runtime, listener: TcpListener, access: Access, stopped: oneshot::Receiver<()>) {
    let hub = Arc::new(Hub::new(access));
    runtime.block_on(async {
        let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
            return;
        };
        let tidied = Arc::clone(&hub);
        let tidying = tokio::spawn(async move {
            loop {
                tokio::time::sleep(TIDY_INTERVAL).await;
                tidied.with(router::Router::forget_old);
            }
        });
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    // Nagle's algorithm lets a receipt behind an acknowledgement wait 40 ms for the client's own.
                    Ok((stream, _)) if stream.set_nodelay(true).is_ok() => {
                        drop(tokio::spawn(connection::serve(stream, Arc::clone(&hub))));
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        });
        // A dropped sender is a stop too.
        let _ = stopped.await;
        accepting.abort();
        tidying.abort();
    });
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
        // The lower of both QoS, as MQTT-3.8.4-6 says.
        assert_eq!(read::<6>(&mut writer), [0x31, 4, 0, 1, b'k', b'?'], "retained, at the QoS of its publisher");
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
        assert_eq!(read::<6>(&mut reader), [0x30, 4, 0, 1, b'w', b'3'], "only the will of the lost one");
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
