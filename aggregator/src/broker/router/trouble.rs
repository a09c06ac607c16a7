//! Every bound that a client may meet, in a sentence for the log.

/// Why the broker did not do what a client wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Trouble {
    /// Bytes that are no packet of MQTT 3.1.1, or a packet that does not belong here.
    #[error("sent bytes that are not MQTT 3.1.1, or a packet out of order; the connection ends")]
    Garbage,
    /// `MAX_PACKET_BYTES`
    #[error("sent a packet of more than 256 KiB; the connection ends")]
    PacketSize,
    /// Another version of MQTT.
    #[error("speaks another version of MQTT than 3.1.1; the connection is refused")]
    ProtocolVersion,
    /// No client id for a session to keep, or one that is too long.
    #[error("has no client id, or one of more than 256 bytes; the connection is refused")]
    ClientId,
    /// A topic with wildcards, or a topic or filter that is too long.
    #[error("uses a topic that is not valid, or has more than 1,024 bytes or 32 levels; it is refused")]
    Topic,
    /// Access control.
    #[error("may not use a topic; its message or subscription there is refused")]
    Denied,
    /// `MAX_SUBSCRIPTIONS`, `MAX_ALL_SUBSCRIPTIONS`
    #[error("asks for a subscription beyond 2,000 of its own or 200,000 of all clients; it is refused")]
    Subscriptions,
    /// `MAX_RETAINED_MESSAGES`, `MAX_RETAINED_BYTES`
    #[error("retains a message beyond 100,000 messages or 64 MiB of all clients; it is not retained")]
    Retained,
    /// `MAX_QUEUED_MESSAGES`, `MAX_QUEUED_BYTES`, `MAX_PLACES`
    #[error("is too slow: 100,000 messages or 64 MiB wait for it, and newer messages are lost to it")]
    Queue,
    /// `MAX_HELD_BYTES`
    #[error("published a message while 1 GiB of messages waits for slow clients; the message is lost")]
    Memory,
    /// `MAX_UNRELEASED`
    #[error("has 100 messages at QoS 2 that it did not release; the connection ends")]
    Unreleased,
    /// `MAX_SESSIONS_AWAY`
    #[error("was away while 20,000 other clients were; its session is forgotten")]
    Sessions,
    /// `MAX_CONNECTIONS`
    #[error("is one more than 20,000 connections; it is refused")]
    Connections,
}
