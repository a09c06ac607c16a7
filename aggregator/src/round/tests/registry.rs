//! Who is in the registry, who is turned away, and what people hear of it.

use grapevine_protocol::limits::MAX_DEVICES;
use grapevine_protocol::{BlockSize, Refused};

use super::*;

fn came(harness: &Harness) -> usize {
    harness.events.iter().filter(|event| matches!(event, Event::DeviceCame(_))).count()
}

fn hello_of(number: u32, incarnation: u64) -> ToAggregator {
    ToAggregator::Hello(Hello { incarnation: Incarnation(incarnation), ..hello(number) })
}

#[test]
fn names_that_never_delivered_make_room_in_full_books() {
    let mut harness = Harness::new(RoundConfig { min_devices: 2, ..config(Method::FedAvg) });
    harness.greet(0..2);
    (0..2).for_each(|number| harness.offer(number, 0, &update(number)));
    harness.now += Duration::from_secs(1);
    harness.greet(2..MAX_DEVICES as u32 + 100);
    assert_eq!(harness.refused(Refusal::TooManyDevices), 0, "there is always room for one more");
    assert!(harness.forgotten.len() >= 100 && harness.forgotten.contains(&device(2)), "{}", harness.forgotten.len());
    assert!((0..2).all(|number| harness.coordinator.device(&device(number)).is_some()), "who delivered stays");
    let newest = device(MAX_DEVICES as u32 + 99);
    assert_eq!(harness.coordinator.device(&newest).unwrap().samples, 10 + MAX_DEVICES as u32 + 99);
    // One that had to make room and is there after all says hello again, and is in.
    harness.sent.clear();
    harness.offer(2, 1, &update(2));
    let reason = Refusal::UnknownDevice;
    assert_eq!(harness.sent.last().unwrap(), &(device(2), ToDevice::Refused(Refused { incarnation: None, reason })));
    harness.greet(2..3);
    assert!(harness.coordinator.device(&device(2)).is_some());
}

#[test]
fn a_device_can_be_forgotten_and_come_back_as_a_new_one() {
    let mut harness = Harness::new(RoundConfig { min_devices: 2, ..config(Method::FedAvg) });
    harness.greet(0..3);
    (0..3).for_each(|number| harness.offer(number, 0, &update(number)));
    assert_eq!(harness.coordinator.device(&device(1)).unwrap().rounds_done, 1);
    assert!(harness.coordinator.handle_forget(&device(1)));
    assert!(!harness.coordinator.handle_forget(&device(1)) && !harness.coordinator.handle_forget(&device(9)));
    harness.act();
    assert_eq!((harness.forgotten.as_slice(), harness.coordinator.present()), (&[device(1)][..], 2));
    assert!(harness.events.contains(&Event::Forgotten(device(1))));
    harness.greet(1..2);
    assert_eq!(harness.coordinator.device(&device(1)).unwrap().rounds_done, 0);
}

#[test]
fn a_device_that_is_forgotten_while_its_update_is_written_holds_no_round() {
    let mut harness = Harness::new(RoundConfig { min_devices: 2, ..config(Method::FedAvg) });
    harness.greet(0..2);
    harness.offer(0, 0, &update(0));
    let content = update(1);
    let (header, bytes) = block(&BlobRef::of(&content), &content, 0).unwrap();
    let offer = Offer { run: RunId(5), round: RoundId(0), blob: BlobRef::of(&content), crc: header.crc };
    harness.coordinator.handle_message(harness.now, &device(1), ToAggregator::Offer(offer), bytes);
    assert!(harness.coordinator.handle_forget(&device(1)), "before its update is on the disk");
    harness.act();
    assert_eq!((harness.outcomes.len(), harness.outcomes[0].accepted), (1, 2), "what it gave counts");
    assert!(harness.coordinator.device(&device(1)).is_none() && harness.coordinator.present() == 1);
}

#[test]
fn who_is_turned_away_is_known_until_it_fits() {
    let mut harness = Harness::new(config(Method::FedAvg));
    let foreign = Hello { classes: Digest([9; 32]), ..hello(4) };
    (0..3).for_each(|_| harness.say(4, ToAggregator::Hello(foreign.clone()), &[]));
    harness.coordinator.handle_garbage(harness.now, Some(&device(5)), Refusal::Version);
    harness.act();
    let told = |reason| {
        harness
            .events
            .iter()
            .filter(|event| matches!(event, Event::TurnedAway { reason: of, .. } if *of == reason))
            .count()
    };
    assert_eq!((told(Refusal::Classes), told(Refusal::Version)), (1, 1), "once for each reason");
    let known: Vec<_> =
        harness.coordinator.turned_away().map(|(device, known)| (device.clone(), known.reason)).collect();
    assert_eq!(known, [(device(4), Refusal::Classes), (device(5), Refusal::Version)]);
    harness.greet(4..5);
    assert_eq!(harness.coordinator.turned_away().count(), 1);
}

#[test]
fn two_devices_of_one_name_are_told_and_a_restart_is_not() {
    let mut harness = Harness::new(config(Method::FedAvg));
    for incarnation in [1, 2, 3] {
        harness.say(0, hello_of(0, incarnation), &[]);
    }
    assert_eq!(harness.coordinator.turned_away().count(), 0);
    for incarnation in [2, 3] {
        harness.say(0, hello_of(0, incarnation), &[]);
    }
    let told = ToDevice::Refused(Refused { incarnation: None, reason: Refusal::SameName });
    assert_eq!(harness.sent.last().unwrap(), &(device(0), told), "behind its welcome");
    assert!(harness.events.contains(&Event::TurnedAway { device: device(0), reason: Refusal::SameName }));
    assert_eq!(harness.coordinator.turned_away().count(), 1);
    harness.now += Duration::from_secs(3_600);
    harness.say(0, hello_of(0, 3), &[]);
    assert_eq!(harness.coordinator.turned_away().count(), 0);
}

#[test]
fn a_device_that_is_there_comes_only_once_and_those_missing_are_counted() {
    let mut harness = Harness::new(RoundConfig { min_devices: 3, ..config(Method::FedAvg) });
    harness.greet(0..2);
    harness.greet(0..2);
    assert_eq!(came(&harness), 2, "a roll call is no news");
    harness.say(7, ToAggregator::Hello(Hello { samples: 0, ..hello(7) }), &[]);
    let waiting = harness.coordinator.waiting().unwrap();
    assert_eq!((waiting.needed, waiting.able, waiting.first), (3, 2, vec![device(0), device(1)]));
    harness.greet(3..4);
    assert_eq!(harness.coordinator.waiting(), None);
}

#[test]
fn a_broker_that_takes_small_packets_gets_small_blocks() {
    let shape = Shape::new(100, 1_000).unwrap();
    let params = Params::defaults(Method::FedAvg, 100).check().unwrap();
    let bounds = RoundConfig { shape, params, min_devices: 1, ..config(Method::FedAvg) };
    let mut harness = Harness::new(bounds);
    harness.say(0, ToAggregator::Hello(Hello { shape, ..hello(0) }), &[]);
    let head = Head::zeros(shape);
    let heads = Heads { main: head.clone(), supplementary: head };
    let content = Response::Heads { heads, prototypes: None, loss: None };
    let content = Update { samples: 10, dataset: DatasetId(1), response: content }.encode(shape, Encoding::F32);
    let blob = BlobRef::of(&content).in_blocks_of(BlockSize::Kib16);
    let mut index = 0;
    while let Some((header, bytes)) = block(&blob, &content, index) {
        if index == 0 {
            let offer = Offer { run: RunId(5), round: RoundId(0), blob, crc: header.crc };
            harness.say(0, ToAggregator::Offer(offer), bytes);
        } else {
            harness.say(0, ToAggregator::Block(header), bytes);
        }
        index += 1;
    }
    assert_eq!((index, harness.outcomes.len()), (blob.blocks(), 1), "a device's small blocks are as welcome");
    let large = harness.announcement.as_ref().unwrap().heads.unwrap();
    assert!(harness.coordinator.handle_packet_limit(harness.now, 65_700));
    harness.act();
    let small = harness.announcement.as_ref().unwrap().heads.unwrap();
    assert_eq!((small.block, small.is_content_of(&large)), (BlockSize::Kib32, true));
    let request = BlockRequest { blob: small, missing: grapevine_protocol::Bitmap::all(small.blocks()) };
    harness.coordinator.handle_message(harness.now, &device(0), ToAggregator::BlockRequest(request), &[]);
    harness.coordinator.handle_timeout(harness.now + Duration::from_secs(1));
    let sizes: Vec<usize> = core::iter::from_fn(|| harness.coordinator.poll_action())
        .filter_map(
            |action| if let Action::Tell(Tell::Followers(_, _, bytes)) = action { Some(bytes.len()) } else { None },
        )
        .collect();
    assert_eq!((sizes.len(), sizes[0]), (small.blocks(), 32 * 1024));
    assert!(!harness.coordinator.handle_packet_limit(harness.now, 4_000), "there are no smaller ones");
}

#[test]
fn after_a_lost_connection_everybody_says_hello_again() {
    let mut harness = Harness::new(config(Method::FedAvg));
    harness.coordinator.handle_connected(START);
    harness.greet(0..3);
    harness.offer(0, 0, &update(0));
    harness.coordinator.handle_disconnected(harness.now);
    assert_eq!(harness.coordinator.poll_timeout(), None);
    harness.wait(3 * DEADLINE);
    assert_eq!(harness.open(), Some((0, 1, 3)), "no time runs without the broker");
    harness.coordinator.handle_connected(harness.now);
    harness.act();
    assert_eq!(harness.coordinator.present(), 0);
    assert_eq!(harness.announcement.as_ref().unwrap().incarnation, Incarnation(2));
    harness.greet(0..3);
    (1..3).for_each(|number| harness.offer(number, 0, &update(number)));
    assert_eq!(harness.outcomes.len(), 1);
}
