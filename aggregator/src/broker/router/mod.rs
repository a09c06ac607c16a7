//! What decides in the broker: packets and the time go in, packets and closed connections come out. No socket, no clock.
//!
//! Each connection pulls what it can write with [`Router::poll_output`], so a slow client's messages wait here, bounded.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, LastWill, Packet, PubAck, PubComp, PubRec, Publish, SubAck, Subscribe,
    SubscribeReasonCode, UnsubAck, Unsubscribe,
};

use self::filters::Filters;
use self::retained::Retained;
pub(super) use self::session::Message;
use self::session::{Room, Session};
pub(super) use self::trouble::Trouble;
use super::Access;
use super::limits::{
    CONNECT_TIMEOUT, MAX_ALL_SUBSCRIPTIONS, MAX_ANSWERS, MAX_CLIENT_ID_BYTES, MAX_CONNECTIONS, MAX_LOGGED,
    MAX_SESSIONS_AWAY, MAX_SUBSCRIPTIONS, MAX_UNRELEASED, SESSION_LIFE,
};
use super::{Action, limits};

mod filters;
mod retained;
mod session;
#[cfg(test)]
mod tests;
mod trouble;

/// A connection's number, never used twice.
pub(super) type Link = u64;
/// A session's number, never used twice.
type SessionId = u64;

/// What a connection does next.
#[derive(Debug)]
pub(super) enum Output {
    /// Writes an answer.
    Answer(Packet),
    /// Writes a message.
    Publish {
        message: Arc<Message>,
        /// Zero at QoS 0.
        packet_id: u16,
        is_duplicate: bool,
        is_retained: bool,
    },
    /// Ends.
    Close,
}

/// Something to log, once for each client.
#[derive(Debug)]
pub(super) struct Notice {
    /// Its id; empty if it has not said it.
    pub(super) client: Box<str>,
    pub(super) trouble: Trouble,
}

#[derive(Debug)]
struct Connection {
    session: Option<SessionId>,
    answers: VecDeque<Packet>,
    is_closing: bool,
    /// How long the client may be silent.
    patience: Option<Duration>,
    deadline: Option<Duration>,
    will: Option<LastWill>,
}

/// All clients, sessions, subscriptions and retained messages.
#[derive(Debug)]
pub(super) struct Router {
    access: Access,
    room: Arc<Room>,
    connections: BTreeMap<Link, Connection>,
    sessions: BTreeMap<SessionId, Session>,
    by_client: BTreeMap<Box<str>, SessionId>,
    /// Sessions without a connection, by the time at which they end.
    away: BTreeSet<(Duration, SessionId)>,
    filters: Filters,
    /// How many filters there are, each counted for each client.
    subscriptions: usize,
    retained: Retained,
    /// Connections that have something to write.
    awake: BTreeSet<Link>,
    notices: Vec<Notice>,
    logged: BTreeSet<(Box<str>, Trouble)>,
    counts: BTreeMap<Trouble, u64>,
    last_number: u64,
}

impl Router {
    pub(super) fn new(access: Access) -> Self {
        Self {
            access,
            room: Arc::default(),
            connections: BTreeMap::new(),
            sessions: BTreeMap::new(),
            by_client: BTreeMap::new(),
            away: BTreeSet::new(),
            filters: Filters::default(),
            subscriptions: 0,
            retained: Retained::default(),
            awake: BTreeSet::new(),
            notices: Vec::new(),
            logged: BTreeSet::new(),
            counts: BTreeMap::new(),
            last_number: 0,
        }
    }

    /// A new connection; `None` beyond the limit.
    pub(super) fn handle_open(&mut self, now: Duration) -> Option<Link> {
        if self.connections.len() >= MAX_CONNECTIONS {
            self.note("", Trouble::Connections);
            return None;
        }
        let link = self.number();
        let connection = Connection {
            session: None,
            answers: VecDeque::new(),
            is_closing: false,
            patience: None,
            deadline: Some(now + CONNECT_TIMEOUT),
            will: None,
        };
        self.connections.insert(link, connection);
        Some(link)
    }

    /// A packet from a client.
    pub(super) fn handle_packet(&mut self, link: Link, packet: Packet, now: Duration) {
        let Some(connection) = self.connections.get_mut(&link).filter(|connection| !connection.is_closing) else {
            return;
        };
        if connection.session.is_some() {
            connection.deadline = connection.patience.map(|patience| now + patience);
        }
        let handled = match (connection.session, packet) {
            (None, Packet::Connect(connect)) => self.connect(link, connect, now),
            (Some(_), Packet::Disconnect) => {
                connection.will = None;
                self.close(link);
                Ok(())
            }
            (Some(session), packet) => self.handle_session(link, session, packet),
            (None, _) => Err(Trouble::Garbage),
        };
        if let Err(trouble) = handled {
            self.handle_trouble(link, trouble);
        }
    }

    /// What a client sent is refused as a whole: its connection ends.
    pub(super) fn handle_trouble(&mut self, link: Link, trouble: Trouble) {
        self.note(&self.client(link), trouble);
        let is_new = self.connections.get(&link).is_some_and(|connection| connection.session.is_none());
        let code = match trouble {
            Trouble::ProtocolVersion => Some(ConnectReturnCode::RefusedProtocolVersion),
            Trouble::ClientId => Some(ConnectReturnCode::BadClientId),
            Trouble::Garbage
            | Trouble::PacketSize
            | Trouble::Topic
            | Trouble::Denied
            | Trouble::Subscriptions
            | Trouble::Retained
            | Trouble::Queue
            | Trouble::Memory
            | Trouble::Unreleased
            | Trouble::Sessions
            | Trouble::Connections => None,
        };
        if let Some(code) = code.filter(|_| is_new) {
            self.answer(link, Packet::ConnAck(ConnAck::new(code, false)));
        }
        self.close(link);
    }

    /// Time has passed: a client that was silent for too long is let go.
    pub(super) fn handle_timeout(&mut self, link: Link, now: Duration) {
        let connection = self.connections.get(&link);
        if connection.and_then(|connection| connection.deadline).is_some_and(|deadline| deadline <= now) {
            self.close(link);
        }
    }

    /// The connection is gone, for whichever reason.
    pub(super) fn handle_closed(&mut self, link: Link, now: Duration) {
        let Some(connection) = self.connections.remove(&link) else {
            return;
        };
        self.awake.remove(&link);
        let Some(number) = connection.session else {
            return;
        };
        // A session that another connection took over stays with that one.
        let mut client = Box::default();
        if let Some(session) = self.sessions.get_mut(&number).filter(|session| session.link == Some(link)) {
            client = session.client.clone();
            session.link = None;
            if session.is_clean {
                self.forget(number);
            } else {
                session.ends = now + SESSION_LIFE;
                self.away.insert((session.ends, number));
            }
        }
        if let Some(will) = connection.will {
            self.publish(&client, &will.topic, &will.message, will.qos, will.retain);
        }
        self.forget_old(now);
    }

    /// Ends the sessions of clients that are away for too long, or that are too many.
    pub(super) fn forget_old(&mut self, now: Duration) {
        while let Some((ends, number)) = self.away.first().copied() {
            let are_many = self.away.len() > MAX_SESSIONS_AWAY;
            if ends > now && !are_many {
                return;
            }
            if ends > now
                && let Some(session) = self.sessions.get(&number)
            {
                self.note(&session.client.clone(), Trouble::Sessions);
            }
            self.away.pop_first();
            self.forget(number);
        }
    }

    /// What a connection writes next; `None` if it has to wait until it is named by [`Self::poll_awake`].
    pub(super) fn poll_output(&mut self, link: Link) -> Option<Output> {
        let Some(connection) = self.connections.get_mut(&link) else {
            return Some(Output::Close);
        };
        if let Some(answer) = connection.answers.pop_front() {
            return Some(Output::Answer(answer));
        }
        if connection.is_closing {
            return Some(Output::Close);
        }
        self.sessions.get_mut(&connection.session?)?.pop()
    }

    /// A connection that may have something to write.
    pub(super) fn poll_awake(&mut self) -> Option<Link> {
        self.awake.pop_first()
    }

    /// Something to log.
    pub(super) fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop()
    }

    /// When [`Self::handle_timeout`] is due; `None` means never.
    pub(super) fn deadline(&self, link: Link) -> Option<Duration> {
        self.connections.get(&link)?.deadline
    }

    /// Whether a connection ends as soon as its answers are written.
    pub(super) fn is_closing(&self, link: Link) -> bool {
        self.connections.get(&link).is_none_or(|connection| connection.is_closing)
    }

    /// Whether more may be read from a client: not while it leaves its answers unread.
    pub(super) fn may_read(&self, link: Link) -> bool {
        self.connections.get(&link).is_none_or(|connection| connection.answers.len() < MAX_ANSWERS)
    }

    fn connect(&mut self, link: Link, connect: Connect, now: Duration) -> Result<(), Trouble> {
        let is_clean = connect.clean_session;
        let client = match connect.client_id.as_str() {
            "" if is_clean => format!("anonymous-{link}"),
            "" => return Err(Trouble::ClientId),
            id if id.len() > MAX_CLIENT_ID_BYTES => return Err(Trouble::ClientId),
            id => id.to_owned(),
        };
        if connect.last_will.as_ref().is_some_and(|will| !filters::is_topic(&will.topic)) {
            return Err(Trouble::Topic);
        }
        let mut known = self.by_client.get(client.as_str()).copied();
        if let Some(number) = known {
            let before = self.sessions.get_mut(&number).and_then(|session| session.link.take());
            // The same client connects again before its old connection broke: it is not lost, so there is no last will.
            if let Some(before) = before {
                if let Some(old) = self.connections.get_mut(&before) {
                    old.will = None;
                }
                self.close(before);
            }
            let session = self.sessions.get(&number);
            let (ends, was_clean) = session.map_or((now, false), |session| (session.ends, session.is_clean));
            self.away.remove(&(ends, number));
            if is_clean || was_clean {
                self.forget(number);
                known = None;
            }
        }
        let number = known.unwrap_or_else(|| self.number());
        self.sessions.entry(number).or_insert_with(|| Session::new(&client, link, is_clean)).resume(link);
        self.by_client.insert(client.into(), number);
        let patience = (connect.keep_alive > 0).then(|| Duration::from_millis(u64::from(connect.keep_alive) * 1_500));
        if let Some(connection) = self.connections.get_mut(&link) {
            connection.session = Some(number);
            connection.will = connect.last_will;
            connection.patience = patience;
            connection.deadline = patience.map(|patience| now + patience);
        }
        self.answer(link, Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, known.is_some())));
        Ok(())
    }

    fn handle_session(&mut self, link: Link, number: SessionId, packet: Packet) -> Result<(), Trouble> {
        match packet {
            Packet::Publish(publish) => self.handle_publish(link, number, &publish)?,
            Packet::PubAck(PubAck { pkid }) => {
                if let Some(session) = self.sessions.get_mut(&number) {
                    session.acknowledge(pkid);
                }
                self.awake.insert(link);
            }
            Packet::PubRel(release) => {
                if let Some(session) = self.sessions.get_mut(&number) {
                    session.unreleased.remove(&release.pkid);
                }
                self.answer(link, Packet::PubComp(PubComp::new(release.pkid)));
            }
            Packet::Subscribe(subscribe) => self.subscribe(link, number, subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(link, number, &unsubscribe),
            Packet::PingReq => self.answer(link, Packet::PingResp),
            // A second CONNECT, or what only a server sends. Nobody is granted QoS 2, so nobody receives at it.
            Packet::Connect(_)
            | Packet::ConnAck(_)
            | Packet::PubRec(_)
            | Packet::PubComp(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_)
            | Packet::PingResp
            | Packet::Disconnect => return Err(Trouble::Garbage),
        }
        Ok(())
    }

    fn handle_publish(&mut self, link: Link, number: SessionId, publish: &Publish) -> Result<(), Trouble> {
        if !filters::is_topic(&publish.topic) {
            return Err(Trouble::Topic);
        }
        let is_again = match (publish.qos, self.sessions.get_mut(&number)) {
            (QoS::ExactlyOnce, Some(session)) => {
                let is_new = session.unreleased.insert(publish.pkid);
                if session.unreleased.len() > MAX_UNRELEASED {
                    session.unreleased.remove(&publish.pkid);
                    return Err(Trouble::Unreleased);
                }
                !is_new
            }
            (QoS::AtMostOnce | QoS::AtLeastOnce | QoS::ExactlyOnce, _) => false,
        };
        if !is_again {
            let client = self.client(link);
            self.publish(&client, &publish.topic, &publish.payload, publish.qos, publish.retain);
        }
        match publish.qos {
            QoS::AtMostOnce => {}
            QoS::AtLeastOnce => self.answer(link, Packet::PubAck(PubAck::new(publish.pkid))),
            QoS::ExactlyOnce => self.answer(link, Packet::PubRec(PubRec::new(publish.pkid))),
        }
        Ok(())
    }

    fn publish(&mut self, client: &str, topic: &str, payload: &[u8], qos: QoS, is_retained: bool) {
        if !(self.access)(client, Action::Publish, topic) {
            return self.note(client, Trouble::Denied);
        }
        let Some(message) = Message::new(topic, payload, qos, &self.room) else {
            return self.note(client, Trouble::Memory);
        };
        if is_retained && !self.retained.set(&message) {
            self.note(client, Trouble::Retained);
        }
        for (number, granted) in self.filters.subscribers(topic) {
            self.deliver(number, &message, granted, false);
        }
    }

    fn deliver(&mut self, number: SessionId, message: &Arc<Message>, granted: QoS, is_retained: bool) {
        let Some(session) = self.sessions.get_mut(&number) else {
            return;
        };
        self.awake.extend(session.link);
        if !session.push(message, granted, is_retained) {
            let client = session.client.clone();
            self.note(&client, Trouble::Queue);
        }
    }

    fn subscribe(&mut self, link: Link, number: SessionId, subscribe: Subscribe) {
        let client = self.client(link);
        let mut granted = Vec::new();
        let mut codes = Vec::new();
        for filter in subscribe.filters {
            // QoS 2 is granted as QoS 1, as MQTT lets a server do.
            let qos = if filter.qos == QoS::AtMostOnce { filter.qos } else { QoS::AtLeastOnce };
            let code = match self.add(&client, number, &filter.path, qos) {
                Ok(()) => {
                    granted.push((filter.path, qos));
                    SubscribeReasonCode::Success(qos)
                }
                Err(trouble) => {
                    self.note(&client, trouble);
                    SubscribeReasonCode::Failure
                }
            };
            codes.push(code);
        }
        self.answer(link, Packet::SubAck(SubAck::new(subscribe.pkid, codes)));
        for (filter, qos) in granted {
            for message in self.retained.matching(&filter) {
                self.deliver(number, &message, qos, true);
            }
        }
    }

    fn add(&mut self, client: &str, number: SessionId, filter: &str, qos: QoS) -> Result<(), Trouble> {
        if !filters::is_filter(filter) {
            return Err(Trouble::Topic);
        }
        if !(self.access)(client, Action::Subscribe, filter) {
            return Err(Trouble::Denied);
        }
        let Some(session) = self.sessions.get_mut(&number) else {
            return Ok(());
        };
        let is_full = session.filters.len() >= MAX_SUBSCRIPTIONS || self.subscriptions >= MAX_ALL_SUBSCRIPTIONS;
        let is_new = !session.filters.contains_key(filter);
        if is_new && is_full {
            return Err(Trouble::Subscriptions);
        }
        self.subscriptions += usize::from(is_new);
        session.filters.insert(filter.into(), qos);
        self.filters.insert(filter, number, qos);
        Ok(())
    }

    fn unsubscribe(&mut self, link: Link, number: SessionId, unsubscribe: &Unsubscribe) {
        for filter in &unsubscribe.topics {
            let session = self.sessions.get_mut(&number);
            if session.is_some_and(|session| session.filters.remove(filter.as_str()).is_some()) {
                self.filters.remove(filter, number);
                self.subscriptions -= 1;
            }
        }
        self.answer(link, Packet::UnsubAck(UnsubAck::new(unsubscribe.pkid)));
    }

    fn forget(&mut self, number: SessionId) {
        if let Some(session) = self.sessions.remove(&number) {
            self.subscriptions -= session.filters.len();
            session.filters.keys().for_each(|filter| self.filters.remove(filter, number));
            self.by_client.remove(&session.client);
        }
    }

    fn answer(&mut self, link: Link, packet: Packet) {
        if let Some(connection) = self.connections.get_mut(&link) {
            connection.answers.push_back(packet);
            self.awake.insert(link);
        }
    }

    fn close(&mut self, link: Link) {
        if let Some(connection) = self.connections.get_mut(&link) {
            connection.is_closing = true;
            self.awake.insert(link);
        }
    }

    fn client(&self, link: Link) -> Box<str> {
        let session = self.connections.get(&link).and_then(|connection| self.sessions.get(&connection.session?));
        session.map_or_else(Box::default, |session| session.client.clone())
    }

    /// Counts a trouble, and has it logged if it is the client's first of its kind.
    fn note(&mut self, client: &str, trouble: Trouble) {
        *self.counts.entry(trouble).or_default() += 1;
        if self.logged.len() < MAX_LOGGED && self.logged.insert((client.into(), trouble)) {
            self.notices.push(Notice { client: client.into(), trouble });
        }
    }

    fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}
