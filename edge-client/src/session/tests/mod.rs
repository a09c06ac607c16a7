use grapevine_models::{Head, Method, Params};
use grapevine_protocol::{BlobRef, Encoding, HeadsBody, Refused, Request, Task, Welcome, block};

use super::*;

mod operating;
mod survival;

const SECOND: Duration = Duration::from_secs(1);

fn identity() -> Identity {
    Identity {
        device: "camera-1".parse().unwrap(),
        incarnation: Incarnation(7),
        extractor: Digest([1; 32]),
        classes: Digest([2; 32]),
        shape: Shape::new(2, 3).unwrap(),
        attributes: Attributes::default(),
    }
}

fn announcement(round: u32, heads: Option<BlobRef>) -> RoundAnnouncement {
    RoundAnnouncement {
        incarnation: Incarnation(70),
        run: RunId(1),
        round: RoundId(round),
        task: Task::Round(Request::MAIN_HEAD),
        shape: Shape::new(2, 3).unwrap(),
        params: Params::defaults(Method::FedAvg, 2).check().unwrap(),
        encoding: Encoding::F32,
        heads,
        side_information: None,
        seed: 5,
        selection_threshold: u64::MAX,
        only: Vec::new(),
        closes_in_ms: 1_000,
    }
}

fn actions(session: &mut Session) -> Vec<Action> {
    core::iter::from_fn(|| session.poll_action()).collect()
}

/// A session that is welcome, with its actions so far taken.
fn welcome() -> Session {
    let mut session = Session::new(identity(), 10, DatasetId(1), None);
    session.handle_connected(SECOND);
    session.handle_message(
        SECOND,
        ToDevice::Welcome(Welcome { incarnation: Incarnation(7), run: RunId(1), is_eligible: true }),
        &[],
    );
    actions(&mut session);
    session
}

fn update(round: u32) -> FinishedUpdate {
    FinishedUpdate { run: RunId(1), round: RoundId(round), blob: Blob::of(vec![round as u8; 100]) }
}

/// The blob of heads.
fn heads_of(shape: Shape, value: f32) -> Vec<u8> {
    let main = Head { weight: vec![value; shape.weights()], bias: vec![0.0; shape.classes()] };
    HeadsBody(Heads { main, supplementary: Head::zeros(shape) }).encode(shape)
}

fn receipt(update: &FinishedUpdate, refused: Option<Refusal>) -> ToDevice {
    let digest = update.blob.digest();
    ToDevice::Receipt(Receipt { run: update.run, round: update.round, digest, refused })
}

#[test]
fn a_hello_is_repeated_until_it_is_answered() {
    let mut session = Session::new(identity(), 10, DatasetId(1), None);
    assert_eq!(session.poll_timeout(), None);
    session.handle_connected(SECOND);
    assert!(matches!(actions(&mut session)[..], [Action::Send(ToAggregator::Hello(_), _)]));
    let again = session.poll_timeout().unwrap();
    session.handle_timeout(again - Duration::from_millis(1));
    assert!(actions(&mut session).is_empty());
    session.handle_timeout(again);
    assert!(matches!(actions(&mut session)[..], [Action::Send(ToAggregator::Hello(_), _)]));
    let stranger = ToDevice::Welcome(Welcome { incarnation: Incarnation(8), run: RunId(1), is_eligible: true });
    session.handle_message(again, stranger, &[]);
    assert!(actions(&mut session).is_empty());
}

#[test]
fn a_welcome_for_an_earlier_start_is_answered_with_a_hello() {
    let mut session = welcome();
    let stranger = ToDevice::Welcome(Welcome { incarnation: Incarnation(8), run: RunId(1), is_eligible: true });
    session.handle_message(SECOND, stranger.clone(), &[]);
    session.handle_message(SECOND, stranger, &[]);
    assert!(actions(&mut session).is_empty(), "not at once");
    let at = session.poll_timeout().unwrap();
    assert!(at <= SECOND + FIRST_PAUSE);
    session.handle_timeout(at);
    assert!(matches!(actions(&mut session)[..], [Action::Send(ToAggregator::Hello(_), _)]));
}

#[test]
fn a_round_goes_from_notice_to_receipt() {
    let mut session = welcome();
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(0, None)), &[]);
    let taken = actions(&mut session);
    assert!(taken.iter().any(|action| matches!(action, Action::Work(job) if job.heads.is_none())), "{taken:?}");
    session.handle_update(SECOND, update(0));
    let taken = actions(&mut session);
    assert!(matches!(&taken[..], [Action::Send(ToAggregator::Offer(_), block)] if block.len() == 100), "{taken:?}");
    session.handle_message(SECOND, receipt(&update(0), None), &[]);
    let taken = actions(&mut session);
    assert!(matches!(&taken[..], [Action::EmptyOutbox(_), Action::Report(Event::Delivered(_))]), "{taken:?}");
    assert!(session.poll_timeout().unwrap() > 10 * LONGEST_PAUSE, "there is nothing to say again");
    // The same announcement again asks for nothing new.
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(0, None)), &[]);
    assert!(actions(&mut session).is_empty());
}

#[test]
fn an_offer_is_repeated_until_its_receipt_and_over_a_reconnect() {
    let mut session = welcome();
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(0, None)), &[]);
    session.handle_update(SECOND, update(0));
    actions(&mut session);
    let again = session.poll_timeout().unwrap();
    session.handle_timeout(again);
    assert!(matches!(actions(&mut session)[..], [Action::Send(ToAggregator::Offer(_), _)]));
    session.handle_disconnected();
    assert_eq!(session.poll_timeout(), None);
    session.handle_connected(again);
    // Before the welcome only the hello is due, however long the offer waits.
    assert!(session.poll_timeout().unwrap() > again);
    session.handle_message(
        again,
        ToDevice::Welcome(Welcome { incarnation: Incarnation(7), run: RunId(1), is_eligible: true }),
        &[],
    );
    assert!(actions(&mut session).iter().any(|a| matches!(a, Action::Send(ToAggregator::Offer(_), _))));
    // A receipt of something else empties nothing.
    session.handle_message(again, receipt(&update(9), None), &[]);
    assert!(actions(&mut session).is_empty());
}

#[test]
fn heads_are_fetched_in_blocks_that_may_come_twice_and_damaged() {
    let content = heads_of(Shape::new(2, 3).unwrap(), 0.5);
    let blob = BlobRef::of(&content);
    let mut session = welcome();
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(3, Some(blob))), &[]);
    let taken = actions(&mut session);
    assert!(matches!(&taken[..], [Action::Follow(_), Action::Send(ToAggregator::BlockRequest(_), _)]), "{taken:?}");
    let (header, bytes) = block(&blob, &content, 0).unwrap();
    session.handle_message(SECOND, ToDevice::Block(header), &bytes[1..]);
    assert!(matches!(actions(&mut session)[..], [Action::Report(Event::Ignored(Refusal::Block))]));
    session.handle_timeout(session.poll_timeout().unwrap());
    assert!(matches!(actions(&mut session)[..], [Action::Send(ToAggregator::BlockRequest(_), _)]));
    session.handle_message(SECOND, ToDevice::Block(header), bytes);
    session.handle_message(SECOND, ToDevice::Block(header), bytes);
    let taken = actions(&mut session);
    assert!(taken.iter().any(|a| matches!(a, Action::SaveHeads { .. })), "{taken:?}");
    assert!(taken.iter().any(|a| matches!(a, Action::Work(job) if job.heads.is_some())), "{taken:?}");
}

#[test]
fn heads_that_cannot_be_used_are_told_once_and_cost_their_round() {
    let blob = |content: &[u8]| (BlobRef::of(content), block(&BlobRef::of(content), content, 0).unwrap().0);
    let (garbage, heads) = (vec![7; 200], heads_of(Shape::new(2, 3).unwrap(), 0.5));
    let ((bad, bad_block), (good, good_block)) = (blob(&garbage), blob(&heads));
    let mut session = welcome();
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(3, Some(bad))), &[]);
    actions(&mut session);
    session.handle_message(SECOND, ToDevice::Block(bad_block), &garbage);
    let taken = actions(&mut session);
    assert!(matches!(taken[..], [Action::Unfollow(_), Action::Report(Event::Unusable(_))]), "{taken:?}");
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(4, Some(bad))), &[]);
    assert!(actions(&mut session).is_empty(), "they are not fetched again");
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(5, Some(good))), &[]);
    session.handle_message(SECOND, ToDevice::Block(good_block), &heads);
    let taken = actions(&mut session);
    assert!(taken.iter().any(|a| matches!(a, Action::Work(job) if job.heads.is_some())), "{taken:?}");
}

#[test]
fn a_run_is_reported_as_finished_once_its_heads_are_kept() {
    let content = heads_of(Shape::new(2, 3).unwrap(), 0.5);
    let blob = BlobRef::of(&content);
    let finished =
        |heads| ToDevice::RoundAnnouncement(RoundAnnouncement { task: Task::Rest, ..announcement(4, heads) });
    let mut session = welcome();
    session.handle_message(SECOND, finished(Some(blob)), &[]);
    let taken = actions(&mut session);
    assert!(matches!(&taken[..], [Action::Follow(_), Action::Send(ToAggregator::BlockRequest(_), _)]), "{taken:?}");
    let (header, bytes) = block(&blob, &content, 0).unwrap();
    session.handle_message(SECOND, ToDevice::Block(header), bytes);
    let taken = actions(&mut session);
    let saved = taken.iter().position(|action| matches!(action, Action::SaveHeads { .. }));
    let told = taken.iter().position(|action| matches!(action, Action::Report(Event::Rests(RoundId(4)))));
    assert!(saved.is_some() && saved < told, "{taken:?}");
    session.handle_message(SECOND, finished(Some(blob)), &[]);
    assert!(actions(&mut session).is_empty(), "the same announcement again says nothing new");
    let mut session = welcome();
    session.handle_message(SECOND, finished(None), &[]);
    let taken = actions(&mut session);
    assert!(matches!(taken[..], [Action::Report(Event::Rests(_))]), "a run may end without heads: {taken:?}");
}

#[test]
fn what_a_former_start_left_is_offered_and_an_old_round_is_dropped() {
    let mut session = Session::new(identity(), 10, DatasetId(1), Some(update(4)));
    session.handle_connected(SECOND);
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(4, None)), &[]);
    session.handle_message(
        SECOND,
        ToDevice::Welcome(Welcome { incarnation: Incarnation(7), run: RunId(1), is_eligible: true }),
        &[],
    );
    let taken = actions(&mut session);
    assert!(taken.iter().any(|a| matches!(a, Action::Send(ToAggregator::Offer(_), _))), "{taken:?}");
    assert!(!taken.iter().any(|a| matches!(a, Action::Work(_))), "a round is not worked on twice: {taken:?}");
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(5, None)), &[]);
    let taken = actions(&mut session);
    assert!(taken.iter().any(|a| matches!(a, Action::EmptyOutbox(_))), "{taken:?}");
    assert!(taken.iter().any(|a| matches!(a, Action::Work(_))), "{taken:?}");
}

#[test]
fn an_older_notice_and_a_receipt_of_another_round_take_nothing_away() {
    let mut session = Session::new(identity(), 10, DatasetId(1), Some(update(4)));
    session.handle_connected(SECOND);
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(3, None)), &[]);
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(4, None)), &[]);
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(3, None)), &[]);
    let same_content = Receipt { run: RunId(1), round: RoundId(3), digest: update(4).blob.digest(), refused: None };
    session.handle_message(SECOND, ToDevice::Receipt(same_content), &[]);
    let taken = actions(&mut session);
    assert!(!taken.iter().any(|a| matches!(a, Action::EmptyOutbox(_))), "{taken:?}");
}

#[test]
fn a_broker_that_remembers_a_former_start_of_the_aggregator_takes_no_update_away() {
    let old =
        || ToDevice::RoundAnnouncement(RoundAnnouncement { incarnation: Incarnation(69), ..announcement(3, None) });
    let mut session = welcome();
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(4, None)), &[]);
    actions(&mut session);
    session.handle_message(SECOND, old(), &[]);
    session.handle_update(SECOND, update(4));
    let taken = actions(&mut session);
    assert!(matches!(taken[..], [Action::Send(ToAggregator::Offer(_), _)]), "the work was not in vain: {taken:?}");
    session.handle_message(SECOND, old(), &[]);
    assert!(actions(&mut session).is_empty(), "an update that waits for its receipt is not replaced");
    // An aggregator that lost its last rounds says so, and is believed then.
    session.handle_message(SECOND, receipt(&update(4), Some(Refusal::WrongRound)), &[]);
    session.handle_message(SECOND, old(), &[]);
    let greeted = actions(&mut session);
    assert!(greeted.iter().any(|a| matches!(a, Action::Send(ToAggregator::Hello(_), _))), "{greeted:?}");
    session.handle_message(
        SECOND,
        ToDevice::Welcome(Welcome { incarnation: Incarnation(7), run: RunId(1), is_eligible: true }),
        &[],
    );
    let taken = actions(&mut session);
    assert!(taken.iter().any(|a| matches!(a, Action::Work(job) if job.announcement.round == RoundId(3))), "{taken:?}");
}

#[test]
fn a_notice_during_work_waits_for_its_end() {
    let mut session = welcome();
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(0, None)), &[]);
    actions(&mut session);
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(1, None)), &[]);
    assert!(matches!(actions(&mut session)[..], [Action::Interrupt]));
    // Its end came first.
    session.handle_update(SECOND, update(0));
    let taken = actions(&mut session);
    assert!(taken.iter().any(|a| matches!(a, Action::EmptyOutbox(_))), "{taken:?}");
    assert!(taken.iter().any(|a| matches!(a, Action::Work(job) if job.announcement.round == RoundId(1))), "{taken:?}");
}

#[test]
fn an_unknown_device_says_hello_again_and_a_refused_one_waits() {
    let mut session = welcome();
    session.handle_message(
        SECOND,
        ToDevice::Refused(Refused { incarnation: None, reason: Refusal::UnknownDevice }),
        &[],
    );
    assert!(actions(&mut session).iter().any(|a| matches!(a, Action::Send(ToAggregator::Hello(_), _))));
    let of_another_start = Refused { incarnation: Some(Incarnation(8)), reason: Refusal::Classes };
    session.handle_message(SECOND, ToDevice::Refused(of_another_start), &[]);
    assert!(actions(&mut session).is_empty());
    let refused = Refused { incarnation: Some(Incarnation(7)), reason: Refusal::Classes };
    session.handle_message(SECOND, ToDevice::Refused(refused), &[]);
    let taken = actions(&mut session);
    assert!(matches!(taken[..], [Action::Report(Event::Refused(Refusal::Classes))]), "{taken:?}");
    assert!(session.poll_timeout().unwrap() > SECOND + LONGEST_PAUSE / 3);
}

#[test]
fn a_restarted_aggregator_hears_hello_again() {
    let mut session = welcome();
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(0, None)), &[]);
    actions(&mut session);
    let restarted = RoundAnnouncement { incarnation: Incarnation(71), ..announcement(0, None) };
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(restarted), &[]);
    let taken = actions(&mut session);
    assert!(matches!(taken[..], [Action::Send(ToAggregator::Hello(_), _)]), "{taken:?}");
}

#[test]
fn devices_without_samples_or_without_the_draw_do_not_work() {
    let mut session = Session::new(identity(), 0, DatasetId(1), None);
    session.handle_connected(SECOND);
    session.handle_message(
        SECOND,
        ToDevice::Welcome(Welcome { incarnation: Incarnation(7), run: RunId(1), is_eligible: true }),
        &[],
    );
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(0, None)), &[]);
    assert!(!actions(&mut session).iter().any(|a| matches!(a, Action::Work(_))));
    let mut session = welcome();
    let unlucky = RoundAnnouncement { selection_threshold: 0, ..announcement(0, None) };
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(unlucky), &[]);
    assert!(!actions(&mut session).iter().any(|a| matches!(a, Action::Work(_))));
}

#[test]
fn a_notice_of_another_shape_is_doubted_and_an_impossible_blob_is_ignored() {
    let mut session = welcome();
    let foreign = RoundAnnouncement { shape: Shape::new(3, 3).unwrap(), ..announcement(0, None) };
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(foreign), &[]);
    assert!(matches!(
        actions(&mut session)[..],
        [Action::Report(Event::Ignored(Refusal::Shape)), Action::Send(ToAggregator::Hello(_), _)]
    ));
    let mut session = welcome();
    let huge = BlobRef { bytes: 200_000_000, ..BlobRef::of(b"huge") };
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(0, Some(huge))), &[]);
    assert!(matches!(actions(&mut session)[..], [Action::Report(Event::Ignored(Refusal::TooLarge))]));
}

#[test]
fn a_device_that_rounds_do_not_choose_from_works_on_none_and_has_the_final_heads() {
    let mut session = Session::new(identity(), 10, DatasetId(1), None);
    session.handle_connected(SECOND);
    let welcome = Welcome { incarnation: Incarnation(7), run: RunId(1), is_eligible: false };
    session.handle_message(SECOND, ToDevice::Welcome(welcome), &[]);
    actions(&mut session);
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(0, None)), &[]);
    assert!(actions(&mut session).is_empty());
    let heads = BlobRef::of(b"final heads");
    let last = RoundAnnouncement { task: Task::Rest, ..announcement(1, Some(heads)) };
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(last), &[]);
    assert!(matches!(
        &actions(&mut session)[..],
        [Action::Follow(BlobKind::Heads), Action::Send(ToAggregator::BlockRequest(_), _)]
    ));
}
