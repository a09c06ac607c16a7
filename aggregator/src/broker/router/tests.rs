use proptest::prelude::*;
use rumqttc::mqttbytes::v4::{PubRel, SubscribeFilter};

use super::limits::{MAX_IN_FLIGHT, MAX_QUEUED_BYTES, MAX_RETAINED_MESSAGES};
use super::*;

const START: Duration = Duration::ZERO;

fn router() -> Router {
    Router::new(|_, _, _| true)
}

/// Each device on its own topics only, by its client id.
fn own_topics(client: &str, _: Action, topic: &str) -> bool {
    topic.rsplit('/').next() == Some(client)
}

fn connect(router: &mut Router, client: &str, is_clean: bool, will: Option<LastWill>) -> (Link, Vec<Output>) {
    let link = router.handle_open(START).unwrap();
    let connect = Connect { clean_session: is_clean, last_will: will, ..Connect::new(client) };
    router.handle_packet(link, Packet::Connect(connect), START);
    (link, outputs(router, link))
}

fn outputs(router: &mut Router, link: Link) -> Vec<Output> {
    let mut outputs = Vec::new();
    while let Some(output) = router.poll_output(link) {
        let is_last = matches!(output, Output::Close);
        outputs.push(output);
        if is_last {
            break;
        }
    }
    outputs
}

fn code(outputs: &[Output]) -> (ConnectReturnCode, bool) {
    match outputs {
        [Output::Answer(Packet::ConnAck(answer)), ..] => (answer.code, answer.session_present),
        other => panic!("no CONNACK: {other:?}"),
    }
}

/// (packet id, is duplicate, is retained, payload) of each message.
fn messages(outputs: &[Output]) -> Vec<(u16, bool, bool, Vec<u8>)> {
    let of = |output: &Output| match output {
        Output::Publish { message, packet_id, is_duplicate, is_retained } => {
            Some((*packet_id, *is_duplicate, *is_retained, message.payload.to_vec()))
        }
        Output::Answer(_) | Output::Close => None,
    };
    outputs.iter().filter_map(of).collect()
}

fn subscribe(router: &mut Router, link: Link, filter: &str, qos: QoS) -> Vec<SubscribeReasonCode> {
    let filters = vec![SubscribeFilter::new(filter.into(), qos)];
    router.handle_packet(link, Packet::Subscribe(Subscribe { pkid: 7, filters }), START);
    match router.poll_output(link) {
        Some(Output::Answer(Packet::SubAck(answer))) => answer.return_codes,
        other => panic!("no SUBACK: {other:?}"),
    }
}

fn publish(router: &mut Router, link: Link, topic: &str, payload: &[u8], qos: QoS, retain: bool, pkid: u16) {
    let publish = Publish { pkid, retain, ..Publish::new(topic, qos, payload.to_vec()) };
    router.handle_packet(link, Packet::Publish(publish), START);
}

#[test]
fn filters_match_as_mqtt_says() {
    let cases = [
        ("a/b", "a/b", true),
        ("a/+", "a/b", true),
        ("a/+", "a/b/c", false),
        ("a/#", "a", true),
        ("a/#", "a/b/c", true),
        ("a/#", "ab", false),
        ("+/+", "/a", true),
        ("+", "/a", false),
        ("#", "a/b", true),
        ("#", "$SYS/a", false),
        ("+/a", "$SYS/a", false),
        ("$SYS/#", "$SYS/a", true),
        ("é/+", "é/b", true),
    ];
    for (filter, topic, expected) in cases {
        assert_eq!(filters::matches(filter, topic), expected, "{filter} on {topic}");
        let mut tree = Filters::default();
        tree.insert(filter, 1, QoS::AtLeastOnce);
        assert_eq!(!tree.subscribers(topic).is_empty(), expected, "{filter} on {topic} in the tree");
        tree.remove(filter, 1);
        assert!(tree.is_empty(), "{filter} left something behind");
    }
    for bad in ["", "a/#/b", "a#", "a+/b", "a\0", &"a/".repeat(40), &"a".repeat(2_000)] {
        assert!(!filters::is_filter(bad), "{bad}");
    }
    assert!(filters::is_topic("a//b") && !filters::is_topic("a/+") && !filters::is_topic(""));
}

#[test]
fn a_client_without_an_id_to_keep_a_session_by_is_refused_by_code() {
    let mut router = router();
    assert_eq!(code(&connect(&mut router, "", false, None).1), (ConnectReturnCode::BadClientId, false));
    assert_eq!(code(&connect(&mut router, &"x".repeat(300), true, None).1).0, ConnectReturnCode::BadClientId);
    assert_eq!(code(&connect(&mut router, "", true, None).1), (ConnectReturnCode::Success, false));
    let link = router.handle_open(START).unwrap();
    router.handle_trouble(link, Trouble::ProtocolVersion);
    assert_eq!(code(&outputs(&mut router, link)).0, ConnectReturnCode::RefusedProtocolVersion);
}

#[test]
fn a_kept_session_gets_again_what_it_did_not_acknowledge_in_order() {
    let mut router = router();
    let (reader, _) = connect(&mut router, "reader", false, None);
    subscribe(&mut router, reader, "t", QoS::ExactlyOnce);
    let (writer, _) = connect(&mut router, "writer", true, None);
    (1..=3).for_each(|n| publish(&mut router, writer, "t", &[n], QoS::AtLeastOnce, false, u16::from(n)));
    let first = messages(&outputs(&mut router, reader));
    assert_eq!(first.iter().map(|message| message.3[0]).collect::<Vec<_>>(), [1, 2, 3]);
    router.handle_packet(reader, Packet::PubAck(PubAck::new(first[1].0)), START);
    router.handle_closed(reader, START);
    publish(&mut router, writer, "t", &[4], QoS::AtLeastOnce, false, 4);
    publish(&mut router, writer, "t", &[5], QoS::AtMostOnce, false, 0);
    let (_, again) = connect(&mut router, "reader", false, None);
    assert_eq!(code(&again), (ConnectReturnCode::Success, true));
    let again: Vec<_> = messages(&again).into_iter().map(|message| (message.1, message.3[0])).collect();
    assert_eq!(again, [(true, 1), (true, 3), (false, 4)]);
    let (_, clean) = connect(&mut router, "reader", true, None);
    assert_eq!((code(&clean).1, messages(&clean).len()), (false, 0), "a clean session forgets");
}

#[test]
fn sessions_end_when_their_time_is_over() {
    let mut router = router();
    let (reader, _) = connect(&mut router, "reader", false, None);
    subscribe(&mut router, reader, "a/+", QoS::AtLeastOnce);
    router.handle_closed(reader, START);
    router.forget_old(SESSION_LIFE - Duration::from_secs(1));
    assert_eq!(router.sessions.len(), 1);
    router.forget_old(SESSION_LIFE);
    assert!(router.sessions.is_empty() && router.by_client.is_empty() && router.filters.is_empty());
}

#[test]
fn a_message_at_qos_2_is_delivered_once_and_released() {
    let mut router = router();
    let (client, _) = connect(&mut router, "client", true, None);
    assert_eq!(subscribe(&mut router, client, "t", QoS::ExactlyOnce), [SubscribeReasonCode::Success(QoS::AtLeastOnce)]);
    publish(&mut router, client, "t", b"x", QoS::ExactlyOnce, false, 5);
    publish(&mut router, client, "t", b"x", QoS::ExactlyOnce, false, 5);
    let found = outputs(&mut router, client);
    assert_eq!(messages(&found).len(), 1);
    assert!(matches!(found[0], Output::Answer(Packet::PubRec(PubRec { pkid: 5 }))));
    router.handle_packet(client, Packet::PubRel(PubRel::new(5)), START);
    assert!(matches!(router.poll_output(client), Some(Output::Answer(Packet::PubComp(PubComp { pkid: 5 })))));
    publish(&mut router, client, "t", b"y", QoS::ExactlyOnce, false, 5);
    assert_eq!(messages(&outputs(&mut router, client)).len(), 1, "the id is free again");
    let unreleased = u16::try_from(MAX_UNRELEASED).unwrap();
    (6..6 + unreleased).for_each(|id| publish(&mut router, client, "t", b"z", QoS::ExactlyOnce, false, id));
    assert!(router.is_closing(client));
}

#[test]
fn a_silent_client_is_let_go_and_its_will_is_published() {
    let mut router = router();
    let (reader, _) = connect(&mut router, "reader", true, None);
    subscribe(&mut router, reader, "will", QoS::AtLeastOnce);
    let will = LastWill::new("will", "gone", QoS::AtLeastOnce, false);
    let (device, _) = connect(&mut router, "device", true, Some(will));
    let deadline = router.deadline(device).unwrap();
    assert_eq!(deadline, Duration::from_secs(15), "one and a half times the keep-alive of 10 s");
    router.handle_timeout(device, deadline - Duration::from_millis(1));
    assert!(!router.is_closing(device));
    router.handle_packet(device, Packet::PingReq, Duration::from_secs(1));
    router.handle_timeout(device, deadline);
    assert!(!router.is_closing(device), "a ping gives time");
    router.handle_timeout(device, deadline + Duration::from_secs(1));
    assert!(matches!(outputs(&mut router, device)[..], [Output::Answer(Packet::PingResp), Output::Close]));
    router.handle_closed(device, deadline);
    assert_eq!(messages(&outputs(&mut router, reader))[0].3, b"gone");
}

#[test]
fn a_slow_subscriber_loses_the_newest_and_delays_nobody() {
    let mut router = router();
    let (slow, _) = connect(&mut router, "slow", true, None);
    subscribe(&mut router, slow, "t", QoS::AtLeastOnce);
    let (quick, _) = connect(&mut router, "quick", true, None);
    subscribe(&mut router, quick, "t", QoS::AtLeastOnce);
    let (writer, _) = connect(&mut router, "writer", true, None);
    let block = vec![1; 64 * 1024];
    let count = MAX_QUEUED_BYTES / block.len() + 10;
    for _ in 0..count {
        publish(&mut router, writer, "t", &block, QoS::AtLeastOnce, false, 1);
        let got = messages(&outputs(&mut router, quick));
        assert_eq!(got.len(), 1);
        router.handle_packet(quick, Packet::PubAck(PubAck::new(got[0].0)), START);
    }
    assert!(router.room.bytes() <= MAX_QUEUED_BYTES, "one copy for both");
    assert_eq!(router.counts[&Trouble::Queue], 11, "the topic's byte counts, so one block less fits");
    assert_eq!(router.notices.iter().filter(|notice| notice.trouble == Trouble::Queue).count(), 1, "logged once");
    assert_eq!(messages(&outputs(&mut router, slow)).len(), MAX_IN_FLIGHT);
    router.handle_closed(slow, START);
    assert_eq!((router.room.bytes(), router.room.places()), (0, 0), "memory is given back");
}

#[test]
fn retained_messages_are_bounded_and_given_back() {
    let mut router = router();
    let (writer, _) = connect(&mut router, "writer", true, None);
    for n in 0..=MAX_RETAINED_MESSAGES {
        publish(&mut router, writer, &format!("k/{n}"), b"x", QoS::AtMostOnce, true, 0);
    }
    assert_eq!((router.retained.load().0, router.counts[&Trouble::Retained]), (MAX_RETAINED_MESSAGES, 1));
    let (reader, _) = connect(&mut router, "reader", true, None);
    subscribe(&mut router, reader, "k/#", QoS::AtLeastOnce);
    let got = messages(&outputs(&mut router, reader));
    assert!(got.len() == MAX_RETAINED_MESSAGES && got.iter().all(|message| message.2));
    for n in 0..=MAX_RETAINED_MESSAGES {
        publish(&mut router, writer, &format!("k/{n}"), b"", QoS::AtMostOnce, true, 0);
        outputs(&mut router, reader);
    }
    assert_eq!((router.retained.load(), router.room.bytes(), router.room.places()), ((0, 0), 0, 0));
}

#[test]
fn a_client_on_a_topic_that_is_not_its_own_is_refused() {
    let mut router = Router::new(own_topics);
    let (device, _) = connect(&mut router, "a", true, None);
    assert_eq!(subscribe(&mut router, device, "up/b", QoS::AtLeastOnce), [SubscribeReasonCode::Failure]);
    assert_eq!(subscribe(&mut router, device, "#", QoS::AtLeastOnce), [SubscribeReasonCode::Failure]);
    assert_ne!(subscribe(&mut router, device, "up/a", QoS::AtLeastOnce), [SubscribeReasonCode::Failure]);
    publish(&mut router, device, "up/b", b"x", QoS::AtLeastOnce, true, 1);
    assert!(matches!(outputs(&mut router, device)[..], [Output::Answer(Packet::PubAck(_))]));
    assert_eq!((router.retained.load().0, router.counts[&Trouble::Denied]), (0, 3));
}

#[test]
fn connections_and_subscriptions_are_bounded() {
    let mut router = router();
    let (client, _) = connect(&mut router, "client", true, None);
    for n in 0..MAX_SUBSCRIPTIONS {
        subscribe(&mut router, client, &n.to_string(), QoS::AtMostOnce);
    }
    assert_eq!(subscribe(&mut router, client, "more", QoS::AtMostOnce), [SubscribeReasonCode::Failure]);
    // As many as there may be of all clients, each with its share.
    let mut others = 0;
    while router.subscriptions < MAX_ALL_SUBSCRIPTIONS {
        others += 1;
        let (other, _) = connect(&mut router, &format!("other-{others}"), true, None);
        for n in 0..MAX_SUBSCRIPTIONS {
            subscribe(&mut router, other, &n.to_string(), QoS::AtMostOnce);
        }
    }
    let (late, _) = connect(&mut router, "late", true, None);
    assert_eq!(subscribe(&mut router, late, "0", QoS::AtMostOnce), [SubscribeReasonCode::Failure]);
    let open: Vec<Link> = router.connections.keys().copied().filter(|link| *link != client).collect();
    open.into_iter().for_each(|link| router.handle_closed(link, START));
    assert_eq!(router.subscriptions, MAX_SUBSCRIPTIONS, "those of clients that left are free again");
    while router.connections.len() < MAX_CONNECTIONS {
        router.handle_open(START).unwrap();
    }
    assert!(router.handle_open(START).is_none());
    router.handle_closed(client, START);
    assert!(router.handle_open(START).is_some() && router.filters.is_empty());
}

/// One step of a hostile client: which of the connections, which packet.
fn step() -> impl Strategy<Value = (usize, u8, u16, String)> {
    (0..4_usize, any::<u8>(), 0..6_u16, "[ab+#/$é]{0,4}")
}

proptest! {
    #[test]
    fn packets_in_any_order_break_no_bound(steps in prop::collection::vec(step(), 1..200)) {
        let mut router = router();
        let mut links: Vec<Link> = (0..4).map(|_| router.handle_open(START).unwrap()).collect();
        for (index, kind, id, text) in steps {
            let link = links[index];
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(id) % 3];
            let filters = vec![SubscribeFilter::new(text.clone(), qos)];
            let client = format!("{}", id % 2);
            let packet = match kind % 10 {
                0 | 1 => Packet::Connect(Connect { clean_session: kind > 128, ..Connect::new(client) }),
                2 | 3 => Packet::Publish(Publish { pkid: id, retain: kind > 128, ..Publish::new(text, qos, vec![kind]) }),
                4 | 5 => Packet::Subscribe(Subscribe { pkid: id, filters }),
                6 => Packet::Unsubscribe(Unsubscribe { pkid: id, topics: vec![text] }),
                7 => Packet::PubAck(PubAck::new(id)),
                8 => Packet::PubRel(PubRel::new(id)),
                _ => Packet::Disconnect,
            };
            router.handle_packet(link, packet, START);
            if kind % 3 == 0 && outputs(&mut router, link).iter().any(|output| matches!(output, Output::Close)) {
                router.handle_closed(link, START);
                links[index] = router.handle_open(START).unwrap();
            }
            prop_assert!(router.connections.len() <= 4);
            let linked = router.sessions.values().filter(|session| session.link.is_some()).count();
            prop_assert_eq!(linked + router.away.len(), router.sessions.len());
            prop_assert_eq!(router.by_client.len(), router.sessions.len());
        }
        links.iter().for_each(|link| router.handle_closed(*link, START));
        router.forget_old(SESSION_LIFE);
        prop_assert!(router.sessions.is_empty() && router.filters.is_empty() && router.subscriptions == 0);
        prop_assert_eq!((router.room.places(), router.room.bytes()), (0, router.retained.load().1));
    }
}
