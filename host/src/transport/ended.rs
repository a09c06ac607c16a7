//! How a connection ended, in words for a person.

use std::io::ErrorKind;

use rumqttc::mqttbytes::Error as PacketError;
use rumqttc::{ConnectReturnCode, ConnectionError, StateError};

use super::Options;

/// Why a connection, or the attempt to make one, is over.
pub(super) enum Ended {
    /// This side wanted it.
    ByUs,
    Lost(String),
    /// The broker hung up.
    Closed(String),
    Refused(String),
    /// The broker sent a packet larger than is read, most likely one that it retains.
    Oversize {
        bytes: usize,
        reason: String,
    },
    /// The broker sent something that cannot be read, and would send it again to a kept session.
    Poisoned(String),
}

/// Whether the other side ended a connection that stood: by closing it, or by resetting it with data on their way.
pub(super) fn is_hang_up(error: &ConnectionError) -> bool {
    let ConnectionError::MqttState(error) = error else { return false };
    if let StateError::Io(error) = error {
        return matches!(
            error.kind(),
            ErrorKind::ConnectionReset
                | ErrorKind::BrokenPipe
                | ErrorKind::ConnectionAborted
                | ErrorKind::UnexpectedEof
        );
    }
    matches!(error, StateError::ConnectionAborted)
}

pub(super) fn explain_refusal(code: ConnectReturnCode, options: &Options) -> Ended {
    let Options { broker, client_id, .. } = options;
    match code {
        ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized => {
            Ended::Refused(format!("{broker} refuses the login; check user and password in the broker address"))
        }
        ConnectReturnCode::BadClientId => {
            Ended::Refused(format!("{broker} refuses the client id `{client_id}`; choose another"))
        }
        ConnectReturnCode::RefusedProtocolVersion => {
            Ended::Refused(format!("{broker} does not speak MQTT 3.1.1; allow that version at the broker"))
        }
        ConnectReturnCode::ServiceUnavailable | ConnectReturnCode::Success => {
            Ended::Lost(format!("{broker} is not available at the moment"))
        }
    }
}

pub(super) fn explain_packet(error: &PacketError, options: &Options) -> Ended {
    let broker = &options.broker;
    if let PacketError::Io(error) = error {
        return Ended::Closed(format!("the connection to {broker} broke: {error}"));
    }
    if let PacketError::PayloadSizeLimitExceeded(bytes) = error {
        let most = options.max_incoming_bytes.max(options.max_packet_bytes);
        let limit = format!("{bytes} bytes, more than the limit of {most}");
        let reason = format!("{broker} sent a packet of {limit}; it is skipped");
        return Ended::Oversize { bytes: *bytes, reason };
    }
    Ended::Poisoned(format!("{broker} sent a packet that cannot be read: {error}"))
}
