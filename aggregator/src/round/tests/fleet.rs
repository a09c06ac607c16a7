//! Who takes part: a share, a reserve, attributes, and quarantine.

use std::collections::BTreeSet;

use grapevine_protocol::{AttributeValue, Refused, is_selected};

use super::*;

fn with_attributes(number: u32, cores: i64) -> ToAggregator {
    let mut attributes = Attributes::default();
    attributes.insert("cores", AttributeValue::Number(cores)).unwrap();
    ToAggregator::Hello(Hello { attributes, ..hello(number) })
}

fn chosen(harness: &Harness, devices: u32) -> Vec<u32> {
    let announcement = harness.announcement.as_ref().unwrap();
    (0..devices).filter(|&number| is_selected(announcement, &device(number))).collect()
}

#[test]
fn a_round_with_a_reserve_closes_without_the_slowest() {
    let round = RoundConfig {
        participants: Participants::Share(0.2),
        over_select: 0.5,
        min_devices: 20,
        quorum: 1.0,
        ..config(Method::FedAvg)
    };
    let mut harness = Harness::new(round.clone());
    harness.greet(0..20);
    let asked = chosen(&harness, 20);
    assert_eq!(asked.len(), 6);
    let status = harness.coordinator.open_round().unwrap();
    assert_eq!((status.expected, status.chosen, status.extensions), (4, 6, 0));
    asked[..4].iter().for_each(|&number| harness.offer(number, 0, &update(number)));
    let outcome = &harness.outcomes[0];
    assert_eq!((outcome.accepted, outcome.expected, outcome.chosen), (4, 4, 6));
    harness.offer(asked[4], 0, &update(asked[4]));
    assert_eq!(harness.last_receipt().refused, Some(Refusal::Late));
    // The quorum is one of those waited for: three of four are too few, whatever the reserve.
    let mut harness = Harness::new(round);
    harness.greet(0..20);
    asked[..3].iter().for_each(|&number| harness.offer(number, 0, &update(number)));
    harness.wait(DEADLINE);
    assert_eq!((harness.outcomes.len(), harness.extended), (0, 1));
    assert_eq!(harness.coordinator.open_round().unwrap().extensions, 1);
    harness.offer(asked[5], 0, &update(asked[5]));
    assert_eq!((harness.outcomes[0].accepted, harness.outcomes[0].extensions), (4, 1));
}

#[test]
fn a_resumed_round_remembers_its_reserve_and_its_extensions() {
    let round = RoundConfig { participants: Participants::Count(2), over_select: 1.0, ..config(Method::FedAvg) };
    let mut first = Harness::new(RoundConfig { min_devices: 4, ..round.clone() });
    first.greet(0..4);
    first.offer(2, 0, &update(2));
    let announcement = first.announcement.clone().unwrap();
    let open = OpenRound { announcement, expected: 2, chosen: 4, extensions: 1, accepted: 1 };
    let mut coordinator =
        Coordinator::new(round, Incarnation(2), RunId(5), Progress::default(), Registry::default(), Some(open), START);
    coordinator.handle_restored(START, &device(2), &update(2), None);
    let mut second = Harness::with(coordinator);
    assert_eq!(second.open(), Some((0, 1, 2)));
    second.greet(0..1);
    second.offer(0, 0, &update(0));
    assert_eq!((second.outcomes[0].accepted, second.outcomes[0].chosen), (2, 4));
    // Without more answers its one extension is used up already.
    let open =
        OpenRound { announcement: first.announcement.unwrap(), expected: 4, chosen: 4, extensions: 1, accepted: 0 };
    let config = RoundConfig { quorum: 1.0, ..config(Method::FedAvg) };
    let coordinator =
        Coordinator::new(config, Incarnation(2), RunId(5), Progress::default(), Registry::default(), Some(open), START);
    let mut third = Harness::with(coordinator);
    third.wait(DEADLINE);
    assert!(third.events.contains(&Event::RoundAbandoned(RoundId(0))));
}

#[test]
fn a_round_chooses_among_devices_whose_labels_fit() {
    let round = RoundConfig { select: "cores >= 4".parse().unwrap(), ..config(Method::FedAvg) };
    let mut harness = Harness::new(round);
    (0..5).for_each(|number| harness.say(number, with_attributes(number, i64::from(number) + 2), &[]));
    assert_eq!(harness.open(), Some((0, 0, 3)), "devices 2, 3 and 4 have four cores or more");
    let eligible: Vec<bool> = harness
        .sent
        .iter()
        .filter_map(
            |(_, message)| if let ToDevice::Welcome(welcome) = message { Some(welcome.is_eligible) } else { None },
        )
        .collect();
    assert_eq!(eligible, [false, false, true, true, true]);
    harness.offer(1, 0, &update(1));
    assert_eq!(harness.last_receipt().refused, Some(Refusal::NotSelected));
    // A device that comes in the middle is waited for only if it fits.
    harness.say(5, with_attributes(5, 1), &[]);
    assert_eq!(harness.open(), Some((0, 0, 3)));
    harness.say(6, with_attributes(6, 8), &[]);
    assert_eq!(harness.open(), Some((0, 0, 4)));
    [2, 3, 4, 6].into_iter().for_each(|number| harness.offer(number, 0, &update(number)));
    assert_eq!(harness.outcomes[0].accepted, 4);
}

fn strict() -> RoundConfig {
    let reasons = BTreeSet::from([Refusal::Content, Refusal::NotFinite]);
    RoundConfig { quarantine: Quarantine { after: 2, reasons }, min_devices: 2, ..config(Method::FedAvg) }
}

#[test]
fn repeated_bad_updates_send_a_device_away_until_it_is_released() {
    let mut harness = Harness::new(strict());
    harness.greet(0..2);
    harness.offer(0, 0, b"bad");
    // Another reason does not count.
    harness.offer(0, 9, &update(0));
    assert_eq!(harness.coordinator.device(&device(0)).unwrap().strikes, 1);
    harness.offer(0, 0, b"worse");
    let told = harness.sent.last().unwrap();
    let refused = ToDevice::Refused(Refused { incarnation: Some(Incarnation(0)), reason: Refusal::Quarantined });
    assert_eq!(told, &(device(0), refused));
    assert_eq!(harness.kept, [device(0)], "durable before it is told");
    assert!(harness.events.contains(&Event::Quarantined { device: device(0), reason: Refusal::Content }));
    assert_eq!(harness.coordinator.present(), 1);
    harness.offer(0, 0, &update(0));
    harness.greet(0..1);
    assert_eq!(harness.refused(Refusal::Quarantined), 2, "neither its update nor its hello is taken");
    assert_eq!(harness.open(), Some((0, 0, 2)));
    // After a restart, too.
    let mut registry = Registry::default();
    registry.remember(&device(0), harness.coordinator.device(&device(0)).unwrap());
    let restarted = Coordinator::new(strict(), Incarnation(2), RunId(5), Progress::default(), registry, None, START);
    let mut restarted = Harness::with(restarted);
    restarted.greet(0..1);
    assert_eq!((restarted.coordinator.present(), restarted.refused(Refusal::Quarantined)), (0, 1));

    assert!(harness.coordinator.handle_release(&device(0)));
    assert!(!harness.coordinator.handle_release(&device(0)));
    assert!(!harness.coordinator.handle_release(&device(9)));
    harness.act();
    assert_eq!(harness.kept, [device(0), device(0)]);
    harness.greet(0..1);
    (0..2).for_each(|number| harness.offer(number, 0, &update(number)));
    assert_eq!(harness.outcomes[0].accepted, 2);
}

#[test]
fn a_good_update_makes_up_for_bad_ones() {
    let mut harness = Harness::new(strict());
    harness.greet(0..2);
    for round in 0..2 {
        harness.offer(0, round, b"bad");
        (0..2).for_each(|number| harness.offer(number, round, &update(number)));
    }
    assert!(harness.coordinator.is_finished());
    assert_eq!(harness.coordinator.device(&device(0)).unwrap().quarantined, None);
}
