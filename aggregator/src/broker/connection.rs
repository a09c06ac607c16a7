//! One client's connection: packets from its socket to the router, and notifications from the router to its socket.

use core::future::{Future, poll_fn};
use core::pin::pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Poll;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use rumqttd::Notification;
use rumqttd::local::{LinkRx, LinkTx};
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::{
    Connect, Disconnect, DisconnectReasonCode, Error as PacketError, LastWill, Packet, Protocol, Publish,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::MAX_PAYLOAD_BYTES;

/// Registers a client (id, clean session) with the router, which may refuse.
pub(super) type Join = Arc<dyn Fn(&str, bool) -> Option<(LinkTx, LinkRx, Notification)> + Send + Sync>;

/// A client must send its first packet within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Room made in a buffer before the socket is read; idle connections hold no more.
const READ_BYTES: usize = 8 * 1024;
/// Notifications are gathered up to this size before they go out in one write.
const WRITE_BYTES: usize = 128 * 1024;

/// Serves one client until either side hangs up. Every way a connection can end is normal, so none is reported.
pub(super) async fn serve(stream: TcpStream, join: Join) {
    // rumqttd's own listener leaves Nagle's algorithm on: a receipt behind an acknowledgement then waits 40 ms for the
    // client's delayed TCP acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let (socket, mut sink) = stream.into_split();
    let mut source = Source { socket, buffer: BytesMut::with_capacity(READ_BYTES) };
    let Ok(Ok(Packet::Connect(connect, _, will, _, _))) = timeout(CONNECT_TIMEOUT, source.packet()).await else {
        return;
    };
    let Some(client) = client_id(&connect) else {
        return;
    };
    let Some((mut outbound, mut inbound, accepted)) = join(&client, connect.clean_session) else {
        return;
    };
    if write(&mut sink, vec![accepted]).await.is_err() {
        end(&mut outbound, will).await;
        return;
    }
    let patience = patience(connect.keep_alive);
    let ending = {
        let mut reading = pin!(read_packets(&mut source, &mut outbound, patience));
        let mut writing = pin!(write_notifications(&mut inbound, &mut sink));
        poll_fn(|context| match reading.as_mut().poll(context) {
            Poll::Ready(ending) => Poll::Ready(ending),
            Poll::Pending => writing.as_mut().poll(context),
        })
        .await
    };
    match ending {
        Ending::Said => {}
        Ending::Lost => end(&mut outbound, will).await,
    }
}

/// How a connection ended.
enum Ending {
    /// The client said so: no last will.
    Said,
    /// It broke, went silent, or sent garbage; or the router let it go, and then the rest reaches nobody.
    Lost,
}

struct Source {
    socket: OwnedReadHalf,
    buffer: BytesMut,
}

impl Source {
    /// Waits for the next packet; cancelling loses nothing.
    async fn packet(&mut self) -> io::Result<Packet> {
        loop {
            match self.buffered()? {
                Ok(packet) => return Ok(packet),
                Err(missing) => {
                    self.buffer.reserve(missing.max(READ_BYTES));
                    if self.socket.read_buf(&mut self.buffer).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
            }
        }
    }

    /// The next packet, or how many bytes it still needs at least.
    fn buffered(&mut self) -> io::Result<Result<Packet, usize>> {
        match V4.read_mut(&mut self.buffer, MAX_PAYLOAD_BYTES) {
            Ok(packet) => Ok(Ok(packet)),
            Err(PacketError::InsufficientBytes(missing)) => Ok(Err(missing)),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }
}

async fn read_packets(source: &mut Source, outbound: &mut LinkTx, patience: Duration) -> Ending {
    loop {
        let Ok(Ok(first)) = timeout(patience, source.packet()).await else {
            return Ending::Lost;
        };
        let mut packet = first;
        // All but the last one wait in the link's buffer: the router is woken once for all that came in one read.
        loop {
            let said = matches!(packet, Packet::Disconnect(..));
            let next = if said { Ok(Err(0)) } else { source.buffered() };
            match next {
                Ok(Ok(next)) => {
                    outbound.buffer().push_back(packet);
                    packet = next;
                }
                Ok(Err(_)) => {
                    if outbound.send(packet).await.is_err() {
                        return Ending::Lost;
                    }
                    if said {
                        return Ending::Said;
                    }
                    break;
                }
                Err(_) => return Ending::Lost,
            }
        }
    }
}

async fn write_notifications(inbound: &mut LinkRx, sink: &mut OwnedWriteHalf) -> Ending {
    loop {
        let Ok(first) = inbound.next().await else {
            return Ending::Lost;
        };
        let mut batch: Vec<Notification> = first.into_iter().collect();
        while let Some(more) = at_once(inbound.next()).await {
            match more {
                Ok(notification) => batch.extend(notification),
                Err(_) => return Ending::Lost,
            }
        }
        // The router stops after a number of notifications until it hears that they are out.
        let paused = batch.iter().any(|notification| matches!(notification, Notification::Unschedule));
        if write(sink, batch).await.is_err() || (paused && inbound.wake().await.is_err()) {
            return Ending::Lost;
        }
    }
}

async fn write(sink: &mut OwnedWriteHalf, batch: Vec<Notification>) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    for notification in batch {
        let Some(packet) = Option::<Packet>::from(notification) else {
            continue;
        };
        V4.write(packet, &mut bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if bytes.len() >= WRITE_BYTES {
            sink.write_all(&bytes).await?;
            bytes.clear();
        }
    }
    sink.write_all(&bytes).await
}

/// Tells the router that the client is gone and publishes its last will.
///
/// A packet goes by way of this link's own buffer, so it cannot hit a newer connection that was given the same number.
async fn end(outbound: &mut LinkTx, will: Option<LastWill>) {
    if let Some(LastWill { topic, message, qos: _, retain }) = will {
        // At QoS 0 towards the router, because nobody is left to acknowledge to; subscribers get the QoS they request.
        outbound.buffer().push_back(Packet::Publish(Publish::new(topic, message, retain), None));
    }
    let reason_code = DisconnectReasonCode::NormalDisconnection;
    // It fails when the router is gone, and then there is nobody to tell.
    let _ = outbound.send(Packet::Disconnect(Disconnect { reason_code }, None)).await;
}

/// The client's id; one without gets one, unless it asks for a session that must be found again.
fn client_id(connect: &Connect) -> Option<String> {
    static ANONYMOUS: AtomicU64 = AtomicU64::new(1);
    match connect.client_id.as_str() {
        "" if !connect.clean_session => None,
        "" => Some(format!("anonymous-{}", ANONYMOUS.fetch_add(1, Ordering::Relaxed))),
        id => Some(id.to_owned()),
    }
}

/// One and a half keep-alive intervals, as MQTT says; zero means for ever.
fn patience(keep_alive_s: u16) -> Duration {
    match keep_alive_s {
        0 => Duration::MAX,
        seconds => Duration::from_millis(u64::from(seconds) * 1_500),
    }
}

/// The future's output if it has one without waiting.
async fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
