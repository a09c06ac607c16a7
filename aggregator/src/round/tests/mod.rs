mod fleet;
mod harness;
mod lateness;
mod reasons;
mod registry;
mod uploads;

use core::time::Duration;

use grapevine_models::{Head, Heads, Method, Params, Shape};
use grapevine_protocol::{
    Attributes, BlobRef, BlockRequest, DatasetId, DeviceId, Digest, Encoding, Goodbye, Hello, Incarnation, Offer,
    Receipt, Refusal, Request, Response, RoundAnnouncement, RoundId, RunId, Task, ToAggregator, ToDevice, Update,
    block,
};

use super::announcements::TELL_AGAIN;
use super::*;

use harness::Harness;

const START: Duration = Duration::from_secs(100);
const DEADLINE: Duration = Duration::from_secs(60);

fn shape() -> Shape {
    Shape::new(3, 2).unwrap()
}

fn config(method: Method) -> RoundConfig {
    RoundConfig {
        shape: shape(),
        extractor: Digest([1; 32]),
        classes: Digest([2; 32]),
        params: Params::defaults(method, 3).check().unwrap(),
        rounds: Some(2),
        rest_after: 50,
        news_after: Duration::ZERO,
        max_samples: 100_000,
        min_devices: 3,
        select: Select::default(),
        participants: Participants::All,
        over_select: 0.0,
        quorum: 0.5,
        deadline: DEADLINE,
        extensions: 1,
        quarantine: Quarantine::default(),
        encoding: Encoding::F32,
        seed: 9,
        upload_bytes: 1 << 20,
        auxiliary: None,
    }
}

fn device(number: u32) -> DeviceId {
    format!("device-{number}").parse().unwrap()
}

fn hello(number: u32) -> Hello {
    Hello {
        incarnation: Incarnation(u64::from(number)),
        extractor: Digest([1; 32]),
        classes: Digest([2; 32]),
        shape: shape(),
        samples: 10 + number,
        dataset: DatasetId(1),
        attributes: Attributes::default(),
    }
}

fn update(number: u32) -> Vec<u8> {
    let head = |value: f32| Head { weight: vec![value; 6], bias: vec![-value; 3] };
    let heads = Heads { main: head(number as f32 * 0.37), supplementary: Head::zeros(shape()) };
    let content = Response::Heads { heads, prototypes: None, loss: None };
    Update { samples: 10 + number, dataset: DatasetId(1), response: content }.encode(shape(), Encoding::F32)
}

#[test]
fn a_run_goes_from_hello_to_finished_whatever_the_order_of_updates() {
    let mut heads = Vec::new();
    for order in [[0, 1, 2], [2, 0, 1]] {
        let mut harness = Harness::new(config(Method::FedAvg));
        harness.greet(0..3);
        assert_eq!(harness.announcement.as_ref().unwrap().task, Task::Round(Request::MAIN_HEAD));
        for round in 0..2 {
            order.iter().for_each(|&number| harness.offer(number, round, &update(number)));
            assert_eq!(harness.last_receipt().refused, None);
        }
        assert!(harness.coordinator.is_finished());
        assert_eq!(harness.announcement.as_ref().unwrap().task, Task::Rest);
        assert_eq!(harness.outcomes.len(), 2);
        heads.push(harness.coordinator.model().clone());
    }
    assert_eq!(heads[0], heads[1]);
}

#[test]
fn a_round_closes_at_its_deadline_with_a_quorum_and_is_extended_then_abandoned_without() {
    let mut harness = Harness::new(config(Method::FedAvg));
    harness.greet(0..3);
    harness.offer(0, 0, &update(0));
    harness.offer(1, 0, &update(1));
    harness.wait(DEADLINE);
    assert_eq!(harness.outcomes.len(), 1);
    assert_eq!(harness.outcomes[0].accepted, 2);
    harness.offer(2, 0, &update(2));
    assert_eq!(harness.last_receipt().refused, Some(Refusal::Late));
    harness.wait(DEADLINE);
    assert!(harness.events.contains(&Event::RoundExtended(RoundId(1))));
    harness.say(2, ToAggregator::Goodbye(Goodbye { incarnation: Incarnation(2) }), &[]);
    harness.wait(DEADLINE);
    assert!(harness.events.contains(&Event::RoundAbandoned(RoundId(1))));
    let told = harness.announcement.as_ref().map(|announcement| (announcement.task, announcement.round));
    assert_eq!(told, Some((Task::Wait, RoundId(2))), "nobody works on an abandoned round");
    harness.greet(2..3);
    assert_eq!(harness.outcomes.len(), 1);
    assert_eq!(harness.open(), Some((2, 0, 3)));
}

#[test]
fn what_does_not_belong_is_refused_by_name_and_without_effect() {
    let mut harness = Harness::new(config(Method::FedAvg));
    harness.say(0, ToAggregator::Goodbye(Goodbye { incarnation: Incarnation(0) }), &[]);
    assert_eq!(harness.refused(Refusal::UnknownDevice), 1);
    harness.say(0, ToAggregator::Hello(Hello { extractor: Digest([9; 32]), ..hello(0) }), &[]);
    harness.say(0, ToAggregator::Hello(Hello { classes: Digest([9; 32]), ..hello(0) }), &[]);
    harness.say(0, ToAggregator::Hello(Hello { shape: Shape::new(4, 2).unwrap(), ..hello(0) }), &[]);
    assert_eq!(harness.coordinator.present(), 0);
    harness.greet(0..3);
    harness.offer(0, 1, &update(0));
    assert_eq!(harness.last_receipt().refused, Some(Refusal::WrongRound));
    let blob = BlobRef::of(&update(0));
    let (header, bytes) = (block(&blob, &update(0), 0).unwrap().0, update(0));
    let stranger = Offer { run: RunId(6), round: RoundId(0), blob, crc: header.crc };
    harness.say(0, ToAggregator::Offer(stranger), &bytes);
    assert_eq!(harness.last_receipt().refused, Some(Refusal::WrongRun));
    let huge = Offer { run: RunId(5), round: RoundId(0), blob: BlobRef { bytes: 200_000_000, ..blob }, crc: 0 };
    harness.say(0, ToAggregator::Offer(huge), &bytes);
    assert_eq!(harness.last_receipt().refused, Some(Refusal::TooLarge));
    harness.offer(0, 0, b"no update at all");
    assert_eq!(harness.last_receipt().refused, Some(Refusal::Content));
    harness.say(0, ToAggregator::Block(header), &bytes);
    for (reason, count) in [(Refusal::Extractor, 1), (Refusal::Classes, 1), (Refusal::Shape, 1), (Refusal::Block, 1)] {
        assert_eq!(harness.refused(reason), count, "{reason}");
    }
    harness.offer(0, 0, &update(0));
    harness.offer(0, 0, &update(0));
    assert_eq!(harness.last_receipt().refused, None);
    harness.offer(0, 0, &update(1));
    assert_eq!(harness.last_receipt().refused, Some(Refusal::Duplicate));
    assert_eq!(harness.open(), Some((0, 1, 3)));
    assert_eq!(harness.stored.len(), 1);
}

#[test]
fn a_wrong_digest_behind_right_blocks_is_refused() {
    let mut harness = Harness::new(config(Method::FedAvg));
    harness.greet(0..3);
    let blob = BlobRef { digest: Digest([7; 32]), ..BlobRef::of(&update(0)) };
    let (header, bytes) = (block(&blob, &update(0), 0).unwrap().0, update(0));
    let offer = Offer { run: RunId(5), round: RoundId(0), blob, crc: header.crc };
    harness.say(0, ToAggregator::Offer(offer), &bytes);
    assert_eq!(harness.last_receipt().refused, Some(Refusal::Digest));
}

#[test]
fn only_the_chosen_take_part_and_their_number_is_exact() {
    let mut harness =
        Harness::new(RoundConfig { participants: Participants::Count(4), min_devices: 20, ..config(Method::FedAvg) });
    harness.greet(0..20);
    let announcement = harness.announcement.clone().unwrap();
    let chosen: Vec<u32> =
        (0..20).filter(|&number| grapevine_protocol::is_selected(&announcement, &device(number))).collect();
    assert_eq!(chosen.len(), 4);
    let other = (0..20).find(|number| !chosen.contains(number)).unwrap();
    harness.offer(other, 0, &update(other));
    assert_eq!(harness.last_receipt().refused, Some(Refusal::NotSelected));
    chosen.iter().for_each(|&number| harness.offer(number, 0, &update(number)));
    assert_eq!(harness.outcomes.len(), 1);
}

#[test]
fn a_stop_in_the_middle_of_a_round_goes_on_to_the_same_bytes() {
    let mut whole = Harness::new(config(Method::FedAvg));
    whole.greet(0..3);
    (0..3).for_each(|number| whole.offer(number, 0, &update(number)));
    let mut first = Harness::new(config(Method::FedAvg));
    first.greet(0..3);
    first.offer(1, 0, &update(1));
    let open = OpenRound {
        announcement: first.announcement.clone().unwrap(),
        expected: 3,
        chosen: 3,
        extensions: 0,
        accepted: first.stored.len(),
    };
    let config = config(Method::FedAvg);
    let resume = |open| {
        let progress = Progress::default();
        let mut registry = Registry::default();
        (0..3).map(device).for_each(|id| registry.remember(&id, first.coordinator.device(&id).unwrap()));
        let mut coordinator =
            Coordinator::new(config.clone(), Incarnation(2), RunId(5), progress, registry, Some(open), START);
        first.stored.iter().for_each(|(device, content)| coordinator.handle_restored(START, device, content, None));
        coordinator
    };
    let (resumed, resumed_again, resumed_once_more) = (resume(open.clone()), resume(open.clone()), resume(open));
    let mut second = Harness::with(resumed);
    second.greet(0..3);
    second.offer(1, 0, &update(1));
    assert_eq!(second.last_receipt().refused, None);
    second.offer(0, 0, &update(0));
    assert!(second.outcomes.is_empty());
    // One answer of three is no quorum, even if only this one device is known again.
    let mut alone = Harness::with(resumed_again);
    alone.wait(DEADLINE);
    assert!(alone.events.contains(&Event::RoundExtended(RoundId(0))));
    second.offer(2, 0, &update(2));
    assert_eq!(second.outcomes[0].model, whole.outcomes[0].model);
    // What was on its way when the aggregator stopped may come before any hello, and is as good.
    let mut early = Harness::with(resumed_once_more);
    early.offer(0, 0, &update(0));
    assert_eq!(early.last_receipt().refused, None);
    early.offer(2, 0, &update(2));
    assert_eq!(early.outcomes[0].model, whole.outcomes[0].model);
}

#[test]
fn large_updates_are_fetched_in_windows_and_within_the_memory_given() {
    let shape = Shape::new(100, 512).unwrap();
    let round = RoundConfig { shape, upload_bytes: 500_000, ..config(Method::FedAvg) };
    let mut harness = Harness::new(round);
    (0..3).for_each(|number| harness.say(number, ToAggregator::Hello(Hello { shape, ..hello(number) }), &[]));
    let content = |number: u32| {
        let main = Head { weight: vec![1.0; shape.weights()], bias: vec![0.0; shape.classes()] };
        let heads = Heads { main, supplementary: Head::zeros(shape) };
        let content = Response::Heads { heads, prototypes: None, loss: None };
        Update { samples: 10 + number, dataset: DatasetId(1), response: content }.encode(shape, Encoding::F32)
    };
    (0..3).for_each(|number| harness.offer(number, 0, &content(number)));
    let wants = |harness: &mut Harness| -> Vec<(DeviceId, BlockRequest)> {
        let sent = core::mem::take(&mut harness.sent).into_iter();
        let request = |(device, message)| {
            if let ToDevice::BlockRequest(request) = message { Some((device, request)) } else { None }
        };
        sent.filter_map(request).collect()
    };
    let mut asked = wants(&mut harness);
    assert_eq!(asked.len(), 2, "two of 205 kB fit into 500 kB");
    while !asked.is_empty() {
        for (name, request) in asked {
            let number = (0..3).find(|&number| device(number) == name).unwrap();
            let content = content(number);
            for index in request.missing.iter() {
                let (header, bytes) = block(&request.blob, &content, index).unwrap();
                harness.say(number, ToAggregator::Block(header), bytes);
            }
        }
        asked = wants(&mut harness);
    }
    assert_eq!(harness.outcomes.len(), 1);
    assert_eq!(harness.outcomes[0].accepted, 3);
}

#[test]
fn blocks_are_published_once_for_all_who_ask_within_a_moment() {
    let mut harness = Harness::new(config(Method::FedAvg));
    harness.greet(0..3);
    (0..3).for_each(|number| harness.offer(number, 0, &update(number)));
    let blob = harness.announcement.as_ref().unwrap().heads.unwrap();
    for number in 0..3 {
        let request = BlockRequest { blob, missing: grapevine_protocol::Bitmap::all(1) };
        harness.coordinator.handle_message(harness.now, &device(number), ToAggregator::BlockRequest(request), &[]);
    }
    let at = harness.coordinator.poll_timeout().unwrap();
    harness.coordinator.handle_timeout(at);
    let blocks = core::iter::from_fn(|| harness.coordinator.poll_action())
        .filter(|action| matches!(action, Action::Tell(Tell::Followers(..))))
        .count();
    assert_eq!(blocks, 1);
    let record = harness.coordinator.device(&device(2)).unwrap();
    assert_eq!((record.bytes_up, record.bytes_down), (update(2).len() as u64, u64::from(blob.bytes)));
}

#[test]
fn a_broker_that_comes_and_goes_gives_a_round_its_time_again_once_and_no_more() {
    let mut harness = Harness::new(RoundConfig { extensions: 0, quorum: 1.0, ..config(Method::FedAvg) });
    harness.coordinator.handle_connected(START);
    harness.greet(0..3);
    let (mut spent, step) = (Duration::ZERO, DEADLINE / 2);
    while harness.open().is_some_and(|(round, ..)| round == 0) {
        assert!(spent <= 2 * DEADLINE, "the round is open for ever");
        harness.wait(step);
        spent += step;
        harness.coordinator.handle_disconnected(harness.now);
        // However long the broker is away.
        harness.wait(3 * DEADLINE);
        harness.coordinator.handle_connected(harness.now);
        harness.act();
    }
    assert_eq!(spent, 2 * DEADLINE, "one restart of the broker costs a round nothing");
    assert!(harness.events.contains(&Event::RoundAbandoned(RoundId(0))));
}

#[test]
fn a_will_of_an_earlier_start_does_not_send_a_device_away() {
    let mut harness = Harness::new(RoundConfig { min_devices: 9, ..config(Method::FedAvg) });
    harness.greet(0..2);
    harness.say(1, ToAggregator::Goodbye(Goodbye { incarnation: Incarnation(77) }), &[]);
    assert_eq!(harness.coordinator.present(), 2);
    harness.say(1, ToAggregator::Goodbye(Goodbye { incarnation: Incarnation(1) }), &[]);
    assert_eq!(harness.coordinator.present(), 1);
}

#[test]
fn who_asks_for_what_is_over_missed_the_notice_and_is_told_it() {
    let told = |harness: &mut Harness| {
        let sent = core::mem::take(&mut harness.sent).into_iter();
        let round = |(device, message)| {
            if let ToDevice::RoundAnnouncement(announcement) = message {
                Some((device, announcement.round))
            } else {
                None
            }
        };
        sent.filter_map(round).collect::<Vec<_>>()
    };
    let mut harness = Harness::new(config(Method::FedAvg));
    harness.greet(0..3);
    let missing = grapevine_protocol::Bitmap::all(1);
    let stale = BlockRequest { blob: BlobRef::of(b"heads of long ago"), missing };
    harness.say(1, ToAggregator::BlockRequest(stale), &[]);
    assert_eq!(told(&mut harness), [(device(1), RoundId(0))]);
    (0..3).for_each(|number| harness.offer(number, 0, &update(number)));
    assert_eq!(told(&mut harness), [], "who is in time has the announcement");
    harness.offer(2, 0, &update(1));
    assert_eq!(harness.last_receipt().refused, Some(Refusal::Late));
    assert_eq!(told(&mut harness), [(device(2), RoundId(1))]);
}

#[test]
fn a_notice_is_repeated_to_those_who_are_missing_and_calls_the_roll_while_nobody_is_there() {
    let mut harness = Harness::new(RoundConfig { deadline: 2 * TELL_AGAIN, ..config(Method::FedAvg) });
    harness.coordinator.handle_connected(START);
    harness.act();
    let incarnation = harness.announcement.take().unwrap().incarnation;
    harness.wait(TELL_AGAIN);
    let called = harness.announcement.take().unwrap();
    assert_eq!(called.task, Task::Wait);
    assert_ne!(called.incarnation, incarnation, "a new start is greeted");
    harness.greet(0..3);
    let opened = harness.announcement.take().unwrap();
    harness.wait(TELL_AGAIN - Duration::from_secs(1));
    assert_eq!(harness.announcement, None);
    harness.wait(Duration::from_secs(1));
    assert_eq!(harness.announcement.take().as_ref(), Some(&opened), "nobody has to say hello again in a round");
    harness.wait(TELL_AGAIN);
    assert!(harness.events.contains(&Event::RoundExtended(RoundId(0))));
    assert_eq!(harness.announcement.take(), Some(opened), "who has not answered may not know of the round");
    harness.coordinator.handle_disconnected(harness.now);
    assert_eq!(harness.coordinator.poll_timeout(), None);
}

#[test]
fn a_receipt_that_was_lost_with_the_aggregator_is_given_again_after_a_restart() {
    let progress = Progress {
        next_round: 1,
        counters: Counters { trained: 1, ..Counters::default() },
        closed: Some(RoundId(0)),
        ..Progress::default()
    };
    let (config, registry) = (config(Method::FedAvg), Registry::default());
    let mut coordinator = Coordinator::new(config, Incarnation(2), RunId(5), progress, registry, None, START);
    coordinator.handle_merged_before(&device(1), &Digest::of(&update(1)));
    let mut harness = Harness::with(coordinator);
    harness.greet(0..3);
    harness.offer(1, 0, &update(1));
    assert_eq!(harness.last_receipt().refused, None, "it is in the heads");
    harness.offer(2, 0, &update(2));
    assert_eq!(harness.last_receipt().refused, Some(Refusal::Late));
}

#[test]
fn in_the_middle_of_a_merge_nothing_is_told_and_then_all() {
    let mut harness = Harness::new(config(Method::FedAvg));
    harness.greet(0..3);
    (0..2).for_each(|number| harness.offer(number, 0, &update(number)));
    let content = update(2);
    let (blob, coordinator) = (BlobRef::of(&content), &mut harness.coordinator);
    let (header, bytes) = block(&blob, &content, 0).unwrap();
    let offer = Offer { run: RunId(5), round: RoundId(0), blob, crc: header.crc };
    coordinator.handle_message(START, &device(2), ToAggregator::Offer(offer), bytes);
    coordinator.handle_stored(START, &device(2), RoundId(0), None);
    coordinator.handle_connected(START);
    let taken: Vec<_> = core::iter::from_fn(|| coordinator.poll_action()).collect();
    assert!(taken.iter().any(|action| matches!(action, Action::Durable(Durable::Commit(_)))), "{taken:?}");
    assert!(
        !taken.iter().any(|action| matches!(action, Action::Tell(Tell::Everybody(_)))),
        "heads on their way out: {taken:?}"
    );
    coordinator.handle_committed(START);
    harness.announcement = None;
    harness.act();
    assert_eq!(harness.announcement.map(|announcement| announcement.round), Some(RoundId(1)));
}
