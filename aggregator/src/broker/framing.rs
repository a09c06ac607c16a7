//! Packets from and to bytes.

use bytes::{BufMut, BytesMut};
use rumqttc::mqttbytes::v4::Packet;
use rumqttc::mqttbytes::{Error, PacketType, check};

use super::limits::MAX_PACKET_BYTES;
use super::router::{Message, Trouble};

/// The first byte of a PUBLISH, without its flags.
const PUBLISH: u8 = 0x30;

/// The next packet of a client, or how many bytes it still needs at least.
pub(super) fn read(buffer: &mut BytesMut) -> Result<Result<Packet, usize>, Trouble> {
    let header = match check(buffer.iter(), MAX_PACKET_BYTES) {
        Ok(header) => header,
        Err(Error::InsufficientBytes(missing)) => return Ok(Err(missing)),
        Err(Error::PayloadSizeLimitExceeded(_)) => return Err(Trouble::PacketSize),
        Err(_) => return Err(Trouble::Garbage),
    };
    let kind = header.packet_type().map_err(|_| Trouble::Garbage)?;
    // The codec does not look at the flags that MQTT reserves.
    let flags = buffer[0] & 0x0f;
    let are_reserved = match kind {
        PacketType::Publish => flags,
        PacketType::Subscribe | PacketType::Unsubscribe | PacketType::PubRel => 2,
        PacketType::Connect
        | PacketType::ConnAck
        | PacketType::PubAck
        | PacketType::PubRec
        | PacketType::PubComp
        | PacketType::SubAck
        | PacketType::UnsubAck
        | PacketType::PingReq
        | PacketType::PingResp
        | PacketType::Disconnect => 0,
    };
    if flags != are_reserved {
        return Err(Trouble::Garbage);
    }
    if kind == PacketType::Connect {
        check_version(&buffer[..header.frame_length()])?;
    }
    Packet::read(buffer, MAX_PACKET_BYTES).map(Ok).map_err(|_| Trouble::Garbage)
}

/// Refuses other versions of MQTT by name before the codec takes them for garbage.
fn check_version(connect: &[u8]) -> Result<(), Trouble> {
    let length_bytes = connect[1..].iter().take_while(|byte| **byte & 0x80 != 0).count() + 1;
    let body = connect.get(1 + length_bytes..).unwrap_or_default();
    match body {
        // Name, level, and the flag that is reserved.
        [0, 4, b'M', b'Q', b'T', b'T', 4, flags, ..] if flags & 1 == 0 => Ok(()),
        [0, 4, b'M', b'Q', b'T', b'T', 4, ..] => Err(Trouble::Garbage),
        [0, 4, b'M', b'Q', b'T', b'T', ..] | [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', ..] => {
            Err(Trouble::ProtocolVersion)
        }
        _ => Err(Trouble::Garbage),
    }
}

/// Writes a PUBLISH up to its payload, which is shared and not copied. A packet id of zero means QoS 0.
pub(super) fn write_publish_header(
    message: &Message,
    packet_id: u16,
    is_duplicate: bool,
    is_retained: bool,
    bytes: &mut BytesMut,
) {
    let qos = u8::from(packet_id != 0);
    bytes.put_u8(PUBLISH | u8::from(is_duplicate) << 3 | qos << 1 | u8::from(is_retained));
    let mut rest = 2 + message.topic.len() + 2 * usize::from(qos) + message.payload.len();
    loop {
        let low = u8::try_from(rest % 128).expect("below 128");
        rest /= 128;
        bytes.put_u8(if rest > 0 { low | 0x80 } else { low });
        if rest == 0 {
            break;
        }
    }
    bytes.put_u16(u16::try_from(message.topic.len()).expect("topics are bounded"));
    bytes.put_slice(message.topic.as_bytes());
    if packet_id != 0 {
        bytes.put_u16(packet_id);
    }
}
