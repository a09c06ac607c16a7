//! One client's connection, over any stream: packets from it to the router, and what the router has for it back.

use core::future::{Future, pending, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::framing::{self, write_publish_header};
use super::hub::Hub;
use super::router::{Link, Output};

/// Room made in a buffer before the stream is read; idle connections hold no more.
const READ_BYTES: usize = 4 * 1024;
/// What is written is gathered up to this size.
const WRITE_BYTES: usize = 64 * 1024;
/// A larger payload is written from where it lies, without a copy.
const COPIED_BYTES: usize = 4 * 1024;
/// Time for the last answers of a connection that ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a connection whose client does not read its answers is looked at.
const ANSWERS_PAUSE: Duration = Duration::from_millis(20);

/// Serves one client until either side hangs up. Every way a connection can end is normal, so none is reported.
pub(super) async fn serve<S: AsyncRead + AsyncWrite>(stream: S, hub: Arc<Hub>) {
    let (mut source, mut sink) = tokio::io::split(stream);
    let Some((link, wake)) = hub.open() else {
        let mut refusal = BytesMut::new();
        // Nobody waits for a client that is refused.
        let _ = Packet::ConnAck(ConnAck::new(ConnectReturnCode::ServiceUnavailable, false)).write(&mut refusal, 4);
        let _ = timeout(CLOSE_TIMEOUT, sink.write_all(&refusal)).await;
        return;
    };
    first(read_packets(link, &mut source, &hub), write_outputs(link, &mut sink, &hub, &wake)).await;
    hub.close(link);
}

/// Returns when the client hangs up, or some time after the router has ended the connection.
async fn read_packets<S: AsyncRead>(link: Link, source: &mut ReadHalf<S>, hub: &Hub) {
    let mut buffer = BytesMut::new();
    let mut missing = 0;
    loop {
        while !hub.with(|router, _| router.may_read(link)) {
            sleep(ANSWERS_PAUSE).await;
        }
        if buffer.is_empty() {
            // The room of a large packet is given back.
            buffer = BytesMut::new();
        }
        buffer.reserve(missing.max(READ_BYTES));
        let patience = hub.with(|router, now| router.deadline(link).map(|deadline| deadline.saturating_sub(now)));
        match timeout(patience.unwrap_or(Duration::MAX), source.read_buf(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return,
            Ok(Ok(_)) => {}
            Err(_) => hub.with(|router, now| router.handle_timeout(link, now)),
        }
        let is_closing = hub.with(|router, now| {
            missing = loop {
                match framing::read(&mut buffer) {
                    Ok(Ok(packet)) => router.handle_packet(link, packet, now),
                    Ok(Err(missing)) => break missing,
                    Err(trouble) => {
                        router.handle_trouble(link, trouble);
                        break 0;
                    }
                }
            };
            router.is_closing(link)
        });
        if is_closing {
            return sleep(CLOSE_TIMEOUT).await;
        }
    }
}

/// Returns when the router ends the connection, or writing fails.
async fn write_outputs<S: AsyncWrite>(link: Link, sink: &mut WriteHalf<S>, hub: &Hub, wake: &Notify) {
    loop {
        match write_waiting(link, sink, hub).await {
            Ok(true) => wake.notified().await,
            Ok(false) => return,
            // The client may have sent its last packets all the same; reading them ends at once.
            Err(_) => return pending().await,
        }
    }
}

/// Writes all that waits; false if the connection ends with that.
async fn write_waiting<S: AsyncWrite>(link: Link, sink: &mut WriteHalf<S>, hub: &Hub) -> io::Result<bool> {
    let mut bytes = BytesMut::new();
    loop {
        let output = hub.with(|router, _| router.poll_output(link));
        let goes_on = match output {
            Some(Output::Answer(answer)) => {
                let written = answer.write(&mut bytes, usize::MAX);
                written.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                None
            }
            Some(Output::Publish { message, packet_id, is_duplicate, is_retained }) => {
                write_publish_header(&message, packet_id, is_duplicate, is_retained, &mut bytes);
                if message.payload.len() <= COPIED_BYTES {
                    bytes.extend_from_slice(&message.payload);
                } else {
                    sink.write_all(&bytes).await?;
                    bytes.clear();
                    sink.write_all(&message.payload).await?;
                }
                None
            }
            Some(Output::Close) => Some(false),
            None => Some(true),
        };
        if goes_on.is_some() || bytes.len() >= WRITE_BYTES {
            sink.write_all(&bytes).await?;
            bytes.clear();
        }
        if let Some(goes_on) = goes_on {
            sink.flush().await?;
            return Ok(goes_on);
        }
    }
}

/// Waits for either future; the other one is dropped.
async fn first(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    poll_fn(|context| match one.as_mut().poll(context) {
        Poll::Ready(()) => Poll::Ready(()),
        Poll::Pending => other.as_mut().poll(context),
    })
    .await;
}
