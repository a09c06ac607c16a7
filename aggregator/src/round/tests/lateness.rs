//! Who is waited for, who is asked again, and what cannot be true.

use grapevine_models::{Samples, Statistics, Sums};
use grapevine_protocol::Refused;

use super::*;

/// Twelve samples of three classes on each device.
fn statistics(number: u32) -> Vec<u8> {
    let labels: Vec<u16> = (0..12).map(|at| at % 3).collect();
    let value = |at: usize| ((at * 7 + number as usize * 5) % 11) as f32 / 5.0 - 1.0;
    let features: Vec<f32> = (0..24).map(value).collect();
    let samples = Samples::new(shape(), &features, &labels).unwrap();
    let content = Response::Statistics(Statistics::of(&samples, Sums::SecondMoment, 1));
    Update { samples: 12, dataset: DatasetId(1), response: content }.encode(shape(), Encoding::F32)
}

/// A gradient that is the same in every entry.
fn gradient(entry: f32) -> Vec<u8> {
    let main = Head { weight: vec![entry; shape().weights()], bias: vec![0.0; 3] };
    let content = Response::Gradient(main);
    Update { samples: 12, dataset: DatasetId(1), response: content }.encode(shape(), Encoding::F32)
}

#[test]
fn a_round_waits_neither_for_who_went_nor_for_who_did_not_answer_before() {
    let mut harness = Harness::new(RoundConfig { rounds: Some(9), quorum: 1.0, ..config(Method::FedAvg) });
    harness.greet(0..3);
    (0..2).for_each(|number| harness.offer(number, 0, &update(number)));
    harness.say(2, ToAggregator::Goodbye(Goodbye { incarnation: Incarnation(2) }), &[]);
    harness.wait(Duration::from_secs(29));
    assert!(harness.outcomes.is_empty(), "a connection that broke may come back");
    harness.wait(Duration::from_secs(2));
    assert_eq!(harness.outcomes.len(), 1, "long before the deadline");
    harness.greet(2..3);
    (0..2).for_each(|number| harness.offer(number, 1, &update(number)));
    assert_eq!(harness.outcomes.len(), 2, "it is there and has not answered yet");
    harness.greet(2..3);
    harness.offer(2, 2, &update(2));
    assert_eq!(harness.last_receipt().refused, None);
    (0..2).for_each(|number| harness.offer(number, 2, &update(number)));
    (0..2).for_each(|number| harness.offer(number, 3, &update(number)));
    assert_eq!(harness.outcomes.len(), 3, "it answered, so it is waited for again");
}

#[test]
fn a_device_that_says_hello_and_never_answers_costs_one_deadline() {
    let mut harness = Harness::new(RoundConfig { rounds: Some(9), ..config(Method::FedAvg) });
    harness.greet(0..3);
    (0..2).for_each(|number| harness.offer(number, 0, &update(number)));
    harness.wait(DEADLINE);
    for round in 1..4 {
        assert_eq!(harness.outcomes.len(), round as usize);
        (0..2).for_each(|number| harness.offer(number, round, &update(number)));
    }
}

#[test]
fn a_new_device_alone_is_asked_for_its_statistics_and_the_run_starts_anew() {
    let mut harness = Harness::new(RoundConfig { rounds: None, min_devices: 2, ..config(Method::Lda) });
    harness.greet(0..2);
    (0..2).for_each(|number| harness.offer(number, 0, &statistics(number)));
    assert!(harness.coordinator.is_resting() && harness.events.contains(&Event::Rested));
    let before = harness.coordinator.model().clone();
    harness.greet(2..3);
    let announcement = harness.announcement.clone().unwrap();
    let asked: Vec<u32> =
        (0..3).filter(|number| grapevine_protocol::is_selected(&announcement, &device(*number))).collect();
    assert_eq!((asked, announcement.heads), (vec![2], None));
    harness.offer(2, 1, &statistics(2));
    assert!(harness.coordinator.is_resting());
    assert_ne!(harness.coordinator.model().heads, before.heads);
    harness.greet(0..3);
    assert_eq!(harness.outcomes.len(), 2, "nobody has anything new");
}

#[test]
fn a_gradient_that_no_samples_have_and_samples_that_no_device_has_are_refused() {
    let mut harness = Harness::new(RoundConfig { max_samples: 500, ..config(Method::RedGrapePlus) });
    harness.say(9, ToAggregator::Hello(Hello { samples: 501, ..hello(9) }), &[]);
    assert_eq!((harness.refused(Refusal::Samples), harness.coordinator.present()), (1, 0));
    harness.greet(0..3);
    (0..3).for_each(|number| harness.offer(number, 0, &statistics(number)));
    harness.offer(0, 1, &gradient(30.0));
    assert_eq!(harness.last_receipt().refused, Some(Refusal::Absurd));
    harness.offer(0, 1, &gradient(0.1));
    assert_eq!(harness.last_receipt().refused, None);
    let many = Update::decode(&gradient(0.1), shape(), Method::RedGrapePlus.training_request()).unwrap();
    harness.offer(1, 1, &Update { samples: 400, ..many }.encode(shape(), Encoding::F32));
    assert_eq!(harness.last_receipt().refused, Some(Refusal::Samples), "it said that it holds eleven");
}

#[test]
fn server_state_that_this_program_did_not_write_is_an_error_and_not_a_guess() {
    let mut harness = Harness::new(config(Method::RedGrapePlus));
    harness.greet(0..3);
    (0..3).for_each(|number| harness.offer(number, 0, &statistics(number)));
    let config = config(Method::RedGrapePlus);
    let model = harness.coordinator.model().clone();
    assert!(model.decode(&config).is_ok());
    let server_state = model.server_state.clone().unwrap();
    for bytes in [vec![1, 2, 3], server_state.bytes[..server_state.bytes.len() - 4].to_vec()] {
        let damaged = Model { server_state: Some(Content::new(bytes)), ..model.clone() };
        assert_eq!(damaged.decode(&config), Err(ModelError::Unreadable("server state")));
    }
    let gone = Model { server_state: None, ..model };
    assert_eq!(gone.decode(&config), Err(ModelError::Unreadable("server state")), "the method cannot do without");
}

#[test]
fn samples_that_change_while_an_answer_is_on_its_way_are_asked_for_again() {
    let mut harness = Harness::new(RoundConfig { rounds: None, min_devices: 2, ..config(Method::Lda) });
    harness.greet(0..2);
    harness.offer(0, 0, &statistics(0));
    harness.say(1, ToAggregator::Hello(Hello { dataset: DatasetId(2), ..hello(1) }), &[]);
    harness.offer(1, 0, &statistics(1));
    let announcement = harness.announcement.clone().unwrap();
    assert_eq!((announcement.round, announcement.only.len()), (RoundId(1), 1));
    let before = harness.coordinator.model().clone();
    let answer = Update::decode(&statistics(1), shape(), announcement.task.request().unwrap()).unwrap();
    harness.offer(1, 1, &Update { dataset: DatasetId(2), ..answer }.encode(shape(), Encoding::F32));
    assert!(harness.coordinator.is_resting());
    assert_eq!(*harness.coordinator.model(), before, "the same statistics change nothing");
}

#[test]
fn what_a_device_told_is_taken_off_when_it_has_nothing_any_more() {
    let mut harness = Harness::new(RoundConfig { rounds: None, min_devices: 2, ..config(Method::Lda) });
    harness.greet(0..2);
    (0..2).for_each(|number| harness.offer(number, 0, &statistics(number)));
    let of_two = harness.coordinator.model().clone();
    harness.greet(2..3);
    harness.offer(2, 1, &statistics(2));
    assert_ne!(*harness.coordinator.model(), of_two);
    harness.say(2, ToAggregator::Hello(Hello { samples: 0, dataset: DatasetId(0), ..hello(2) }), &[]);
    let announcement = harness.announcement.clone().unwrap();
    assert!(grapevine_protocol::is_selected(&announcement, &device(2)) && announcement.only.len() == 1);
    let content = Response::Statistics(Statistics::empty(shape(), Sums::SecondMoment));
    let nothing = Update { samples: 0, dataset: DatasetId(0), response: content };
    harness.offer(2, 2, &nothing.encode(shape(), Encoding::F32));
    assert!(harness.coordinator.is_resting());
    assert_eq!(*harness.coordinator.model(), of_two, "to the bit as if it had never been there");
    assert_eq!(harness.coordinator.untaken(harness.now), None);
}

#[test]
fn news_that_are_not_taken_in_are_said() {
    let mut harness = Harness::new(RoundConfig { rounds: Some(1), min_devices: 2, ..config(Method::RedGrapePlus) });
    harness.greet(0..2);
    (0..2).for_each(|number| harness.offer(number, 0, &statistics(number)));
    (0..2).for_each(|number| harness.offer(number, 1, &gradient(0.1)));
    assert!(harness.coordinator.is_finished());
    harness.greet(2..3);
    assert_eq!(harness.coordinator.untaken(harness.now), Some(Untaken::RoundsDone { devices: 1 }));
}

#[test]
fn a_device_that_did_not_answer_is_asked_again_and_meanwhile_it_is_said() {
    let mut harness = Harness::new(RoundConfig { rounds: None, min_devices: 2, extensions: 0, ..config(Method::Lda) });
    harness.greet(0..2);
    (0..2).for_each(|number| harness.offer(number, 0, &statistics(number)));
    harness.greet(2..3);
    harness.wait(DEADLINE);
    assert!(harness.events.contains(&Event::RoundAbandoned(RoundId(1))) && harness.coordinator.is_resting());
    assert_eq!(harness.coordinator.untaken(harness.now), Some(Untaken::NoAnswer { devices: 1 }));
    harness.wait(TELL_AGAIN);
    assert_eq!(harness.open(), Some((2, 0, 1)));
    harness.offer(2, 2, &statistics(2));
    assert!(harness.coordinator.is_resting() && harness.coordinator.untaken(harness.now).is_none());
}

#[test]
fn a_goodbye_that_comes_late_costs_no_device_its_place() {
    let mut harness = Harness::new(config(Method::FedAvg));
    harness.greet(0..3);
    harness.say(2, ToAggregator::Goodbye(Goodbye { incarnation: Incarnation(2) }), &[]);
    assert_eq!(harness.coordinator.present(), 2);
    let again = Refused { incarnation: None, reason: Refusal::UnknownDevice };
    assert_eq!(harness.sent.last(), Some(&(device(2), ToDevice::Refused(again))), "one that runs says hello again");
    harness.offer(2, 0, &update(2));
    assert_eq!(harness.coordinator.present(), 3, "who answers is there");
    assert!(harness.events.iter().filter(|event| **event == Event::DeviceCame(device(2))).count() == 2);
}

#[test]
fn answers_of_samples_that_the_run_does_not_know_do_not_keep_it_awake() {
    let mut harness = Harness::new(RoundConfig { rounds: None, min_devices: 2, ..config(Method::RedGrapePlus) });
    harness.greet(0..2);
    (0..2).for_each(|number| harness.offer(number, 0, &statistics(number)));
    harness.offer(0, 1, &gradient(0.1));
    let known = Update::decode(&gradient(0.1), shape(), Method::RedGrapePlus.training_request()).unwrap();
    harness.offer(1, 1, &Update { dataset: DatasetId(2), ..known }.encode(shape(), Encoding::F32));
    assert_eq!(harness.outcomes[1].counters.since_news, 1, "a round of training takes no samples in");
}
