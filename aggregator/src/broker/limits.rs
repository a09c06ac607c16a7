//! Every bound of the broker: a name, a unit, and what happens beyond it.

use core::time::Duration;

/// Connections at once; another one is told that the service is unavailable (CONNACK code 3).
pub const MAX_CONNECTIONS: usize = 20_000;
/// Bytes of one packet: a block of 64 KiB with its header, and room for later versions. A larger one ends the
/// connection before it is read.
pub const MAX_PACKET_BYTES: usize = 256 * 1024;
/// Bytes of a client id; a longer one is refused (CONNACK code 2).
pub(super) const MAX_CLIENT_ID_BYTES: usize = 256;
/// Bytes of a topic or a filter; a longer one is refused.
pub(super) const MAX_TOPIC_BYTES: usize = 1_024;
/// Levels of a topic or a filter; more are refused.
pub(super) const MAX_TOPIC_LEVELS: usize = 32;
/// Subscriptions of one client; another one is refused (SUBACK code 0x80). A program may speak for many devices.
pub(super) const MAX_SUBSCRIPTIONS: usize = 2_000;
/// Subscriptions of all clients together; another one is refused likewise.
pub(super) const MAX_ALL_SUBSCRIPTIONS: usize = 200_000;
/// Retained messages of all clients; another one reaches the subscribers of the moment only.
pub(super) const MAX_RETAINED_MESSAGES: usize = 100_000;
/// Bytes of all retained messages together, topics included.
pub(super) const MAX_RETAINED_BYTES: usize = 64 * 1024 * 1024;
/// Messages that wait for one client; newer ones are lost to it.
pub(super) const MAX_QUEUED_MESSAGES: usize = 100_000;
/// Bytes that wait for one client: 200 devices may send four blocks of 64 KiB each at once.
pub(super) const MAX_QUEUED_BYTES: usize = 64 * 1024 * 1024;
/// Places in the queues of all clients together, 32 bytes each.
pub(super) const MAX_PLACES: usize = 4_000_000;
/// Bytes of all messages that are retained or wait for anybody, each counted once.
pub(super) const MAX_HELD_BYTES: usize = 1024 * 1024 * 1024;
/// Messages at QoS 1 that a client has not acknowledged yet; more of them wait in its queue.
pub(super) const MAX_IN_FLIGHT: usize = 100;
/// Messages at QoS 2 that a client has not released yet; another one ends the connection.
pub(super) const MAX_UNRELEASED: usize = 100;
/// Acknowledgements that wait for a client; beyond them its socket is not read.
pub(super) const MAX_ANSWERS: usize = 1_000;
/// Sessions kept for clients that are away; the one that is away the longest gives way.
pub(super) const MAX_SESSIONS_AWAY: usize = 20_000;
/// How long the session of a client that is away is kept.
pub(super) const SESSION_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Time that a new connection has for its first packet.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Pairs of client and trouble that are remembered, so that each is logged once; beyond them troubles are only counted.
pub(super) const MAX_LOGGED: usize = 10_000;

const _: () = assert!(MAX_RETAINED_MESSAGES <= MAX_QUEUED_MESSAGES && MAX_RETAINED_BYTES <= MAX_QUEUED_BYTES);
const _: () = assert!(MAX_SUBSCRIPTIONS <= MAX_ALL_SUBSCRIPTIONS && 5 * MAX_CONNECTIONS <= MAX_ALL_SUBSCRIPTIONS);
const _: () = assert!(MAX_RETAINED_BYTES + MAX_QUEUED_BYTES <= MAX_HELD_BYTES);
