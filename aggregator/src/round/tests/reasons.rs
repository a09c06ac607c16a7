//! What does not belong, one reason after the other: counted under its name and without effect.

use core::time::Duration;

use std::collections::BTreeMap;

use super::*;

/// A quiet run up to the middle of its third round: rounds 0 and 1 are merged, device 1 has answered round 2.
fn in_the_third_round() -> Harness {
    let mut harness = Harness::new(RoundConfig { rounds: Some(3), ..config(Method::FedAvg) });
    harness.greet(0..3);
    for round in 0..2 {
        (0..3).for_each(|number| harness.offer(number, round, &update(number)));
    }
    harness.offer(1, 2, &update(1));
    harness
}

fn finish(mut harness: Harness) -> Model {
    [0, 2].into_iter().for_each(|number| harness.offer(number, 2, &update(number)));
    assert!(harness.coordinator.is_finished());
    harness.coordinator.model().clone()
}

/// An update with something wrong inside.
fn bad(change: impl FnOnce(&mut Heads, &mut u32)) -> Vec<u8> {
    let mut heads = Heads::zeros(shape());
    let mut samples = 10;
    change(&mut heads, &mut samples);
    let content = Response::Heads { heads, prototypes: None, loss: None };
    Update { samples, dataset: DatasetId(1), response: content }.encode(shape(), Encoding::F32)
}

impl Harness {
    /// Offers an update under any name, run and digest.
    fn offer_as(&mut self, number: u32, run: u64, blob: BlobRef, content: &[u8]) {
        let crc = block(&BlobRef::of(content), content, 0).unwrap().0.crc;
        let offer = Offer { run: RunId(run), round: RoundId(2), blob, crc };
        self.say(number, ToAggregator::Offer(offer), content);
    }
}

#[test]
fn every_update_that_does_not_belong_is_counted_by_its_reason_and_changes_nothing() {
    let quiet = finish(in_the_third_round());
    let good = update(7);
    let wide = Shape::new(3, 3).unwrap();
    let other_shape = {
        let heads = Heads { main: Head::zeros(wide), supplementary: Head::zeros(wide) };
        let content = Response::Heads { heads, prototypes: None, loss: None };
        Update { samples: 10, dataset: DatasetId(1), response: content }.encode(wide, Encoding::F32)
    };
    let blob = BlobRef::of(&good);
    type Disturbance<'a> = Box<dyn Fn(&mut Harness) + 'a>;
    let cases: Vec<(Refusal, Disturbance<'_>)> = vec![
        (Refusal::Late, Box::new(|harness| harness.offer(0, 1, &good))),
        (Refusal::Stale, Box::new(|harness| harness.offer(0, 0, &good))),
        (Refusal::Duplicate, Box::new(|harness| harness.offer(1, 2, &good))),
        (Refusal::Replayed, Box::new(|harness| harness.offer(1, 2, &update(1)))),
        (Refusal::Replayed, Box::new(|harness| harness.offer(0, 1, &update(0)))),
        (Refusal::Stale, Box::new(|harness| harness.offer(0, 0, &update(0)))),
        (Refusal::WrongRound, Box::new(|harness| harness.offer(0, 3, &good))),
        (Refusal::WrongRun, Box::new(|harness| harness.offer_as(0, 6, blob, &good))),
        (Refusal::UnknownDevice, Box::new(|harness| harness.offer(77, 2, &good))),
        (Refusal::Digest, Box::new(|h| h.offer_as(0, 5, BlobRef { digest: Digest([7; 32]), ..blob }, &good))),
        (Refusal::TooLarge, Box::new(|h| h.offer_as(0, 5, BlobRef { bytes: 200_000_000, ..blob }, &good))),
        (Refusal::Content, Box::new(|harness| harness.offer(0, 2, b"no update"))),
        (Refusal::Shape, Box::new(|harness| harness.offer(0, 2, &other_shape))),
        (Refusal::NotFinite, Box::new(|h| h.offer(0, 2, &bad(|heads, _| heads.main.bias[0] = f32::NAN)))),
        (Refusal::Absurd, Box::new(|h| h.offer(0, 2, &bad(|heads, _| heads.main.bias[0] = 1e9)))),
        (Refusal::Samples, Box::new(|h| h.offer(0, 2, &bad(|_, samples| *samples = 0)))),
        (Refusal::Block, Box::new(|h| h.say(0, ToAggregator::Block(block(&blob, &good, 0).unwrap().0), &good))),
        (
            Refusal::Garbage,
            Box::new(|h| h.coordinator.handle_garbage(Duration::ZERO, Some(&device(0)), Refusal::Garbage)),
        ),
        (Refusal::Topic, Box::new(|h| h.coordinator.handle_garbage(Duration::ZERO, None, Refusal::Topic))),
        (
            Refusal::Version,
            Box::new(|h| h.coordinator.handle_garbage(Duration::ZERO, Some(&device(0)), Refusal::Version)),
        ),
    ];
    for (reason, disturb) in cases {
        let mut harness = in_the_third_round();
        let before = (harness.open(), harness.stored.len(), harness.refused(reason));
        disturb(&mut harness);
        harness.act();
        assert_eq!((harness.open(), harness.stored.len(), harness.refused(reason) - 1), before, "{reason}");
        let total: u64 = harness.coordinator.refusals().values().sum();
        assert_eq!(total, 1, "{reason}: {:?}", harness.coordinator.refusals());
        let told = harness.events.iter().filter(|e| matches!(e, Event::Refused { reason: r, .. } if *r == reason));
        assert_eq!(told.count(), 1, "{reason}");
        assert_eq!(finish(harness), quiet, "{reason}");
    }
}

#[test]
fn failures_are_counted_for_the_device_they_came_from() {
    let mut harness = in_the_third_round();
    harness.offer(0, 0, &update(9));
    harness.offer(0, 0, &update(9));
    harness.offer(0, 1, &update(9));
    harness.offer(2, 7, &update(9));
    let failures = |number| harness.coordinator.device(&device(number)).unwrap().failures.clone();
    assert_eq!(failures(0), BTreeMap::from([(Refusal::Stale, 2), (Refusal::Late, 1)]));
    assert_eq!(failures(2), BTreeMap::from([(Refusal::WrongRound, 1)]));
    let record = harness.coordinator.device(&device(1)).unwrap();
    assert_eq!((record.rounds_done, record.last_round), (2, Some(RoundId(1))));
}
