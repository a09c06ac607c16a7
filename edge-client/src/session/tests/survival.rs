//! Lost connections, restarts of either side, rounds that end meanwhile: in virtual time.

use grapevine_protocol::limits::BLOCK_BYTES;
use grapevine_protocol::{Bitmap, BlockRequest};

use super::*;

/// Heads of this shape take four blocks.
fn large() -> Shape {
    Shape::new(100, 512).unwrap()
}

fn large_announcement(round: u32, heads: BlobRef) -> RoundAnnouncement {
    RoundAnnouncement {
        shape: large(),
        params: Params::defaults(Method::FedAvg, 100).check().unwrap(),
        ..announcement(round, Some(heads))
    }
}

/// As [`welcome`], of a fleet with large heads.
fn welcome_to_a_large_fleet() -> Session {
    let mut session = Session::new(Identity { shape: large(), ..identity() }, 10, DatasetId(1), None);
    reconnect(&mut session, SECOND);
    actions(&mut session);
    session
}

fn reconnect(session: &mut Session, now: Duration) {
    session.handle_disconnected();
    session.handle_connected(now);
    let welcome = Welcome { incarnation: Incarnation(7), run: RunId(1), is_eligible: true };
    session.handle_message(now, ToDevice::Welcome(welcome), &[]);
}

fn content(seed: u8) -> (BlobRef, Vec<u8>) {
    let content = heads_of(large(), 0.5 + f32::from(seed));
    (BlobRef::of(&content), content)
}

fn give(session: &mut Session, (blob, content): &(BlobRef, Vec<u8>), indices: &[usize]) {
    for &index in indices {
        let (header, bytes) = block(blob, content, index).unwrap();
        session.handle_message(SECOND, ToDevice::Block(header), bytes);
    }
}

fn wanted(actions: &[Action]) -> Vec<Vec<usize>> {
    let of = |action: &Action| {
        let Action::Send(ToAggregator::BlockRequest(request), _) = action else { return None };
        Some(request.missing.iter().collect())
    };
    actions.iter().filter_map(of).collect()
}

fn is_work(action: &Action, round: u32) -> bool {
    matches!(action, Action::Work(job) if job.announcement.round == RoundId(round))
}

fn is_offer(action: &Action) -> bool {
    matches!(action, Action::Send(ToAggregator::Offer(_), _))
}

#[test]
fn a_download_goes_on_where_a_reconnect_of_either_side_cut_it() {
    let heads = content(0);
    let mut session = welcome_to_a_large_fleet();
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(large_announcement(3, heads.0)), &[]);
    assert_eq!(wanted(&actions(&mut session)), [[0, 1, 2, 3]]);
    give(&mut session, &heads, &[0, 2]);
    // This side.
    reconnect(&mut session, SECOND * 5);
    assert_eq!(wanted(&actions(&mut session)), [[1, 3]]);
    // The other side: its connection makes it say the announcement again, with the time that is left.
    let told_again = RoundAnnouncement { closes_in_ms: 700, ..large_announcement(3, heads.0) };
    session.handle_message(SECOND * 6, ToDevice::RoundAnnouncement(told_again.clone()), &[]);
    give(&mut session, &heads, &[1]);
    // Its restart: nobody is in its registry.
    session.handle_message(
        SECOND * 7,
        ToDevice::RoundAnnouncement(RoundAnnouncement { incarnation: Incarnation(71), ..told_again }),
        &[],
    );
    let welcome = Welcome { incarnation: Incarnation(7), run: RunId(1), is_eligible: true };
    session.handle_message(SECOND * 8, ToDevice::Welcome(welcome), &[]);
    let taken = actions(&mut session);
    assert_eq!(wanted(&taken), [[3]], "{taken:?}");
    assert!(!taken.iter().any(|action| matches!(action, Action::Follow(_) | Action::Unfollow(_))), "{taken:?}");
    give(&mut session, &heads, &[3]);
    assert!(actions(&mut session).iter().any(|action| is_work(action, 3)));
}

#[test]
fn a_blob_that_the_newest_notice_does_not_name_is_given_up() {
    let (old, new) = (content(0), content(1));
    let mut session = welcome_to_a_large_fleet();
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(large_announcement(3, old.0)), &[]);
    give(&mut session, &old, &[0, 1, 2]);
    actions(&mut session);
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(large_announcement(4, new.0)), &[]);
    let taken = actions(&mut session);
    assert!(matches!(taken[..], [Action::Unfollow(_), Action::Follow(_), Action::Send(..)]), "{taken:?}");
    assert_eq!(wanted(&taken), [[0, 1, 2, 3]]);
}

#[test]
fn an_upload_goes_on_with_the_blocks_that_are_asked_for() {
    let (blob, content) = content(0);
    let update = FinishedUpdate { run: RunId(1), round: RoundId(3), blob: Blob::of(content.clone()) };
    let mut session = Session::new(identity(), 10, DatasetId(1), Some(update));
    reconnect(&mut session, SECOND);
    actions(&mut session);
    reconnect(&mut session, SECOND * 9);
    assert_eq!(actions(&mut session).iter().filter(|action| is_offer(action)).count(), 1);
    let mut missing = Bitmap::none(blob.blocks());
    missing.insert(2);
    session.handle_message(SECOND * 9, ToDevice::BlockRequest(BlockRequest { blob, missing }), &[]);
    let taken = actions(&mut session);
    let [Action::Send(ToAggregator::Block(header), bytes)] = &taken[..] else { panic!("{taken:?}") };
    assert_eq!((usize::from(header.index), &bytes[..]), (2, &content[2 * BLOCK_BYTES..3 * BLOCK_BYTES]));
}

#[test]
fn work_on_a_round_that_is_over_is_interrupted_and_the_next_taken_up() {
    let mut session = welcome();
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(0, None)), &[]);
    assert!(actions(&mut session).iter().any(|action| is_work(action, 0)));
    // The same round, told again or given more time, goes on.
    session.handle_message(
        SECOND,
        ToDevice::RoundAnnouncement(RoundAnnouncement { closes_in_ms: 9, ..announcement(0, None) }),
        &[],
    );
    assert!(actions(&mut session).is_empty());
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(1, None)), &[]);
    assert!(matches!(actions(&mut session)[..], [Action::Interrupt]));
    session.handle_interruption(SECOND);
    assert!(actions(&mut session).iter().any(|action| is_work(action, 1)));
    // Interrupted for another reason: the round goes on and so does this device.
    session.handle_interruption(SECOND);
    assert!(actions(&mut session).iter().any(|action| is_work(action, 1)));
}

#[test]
fn a_device_that_comes_back_mid_round_takes_part() {
    // Away while it worked: the update waits and is offered at once.
    let mut session = welcome();
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(2, None)), &[]);
    session.handle_disconnected();
    actions(&mut session);
    session.handle_update(SECOND * 50, update(2));
    assert!(actions(&mut session).is_empty() && session.poll_timeout().is_none());
    reconnect(&mut session, SECOND * 70);
    assert!(actions(&mut session).iter().any(is_offer));
    // Away when the round began: the broker has kept the announcement, which may come before the welcome.
    let mut session = welcome();
    session.handle_disconnected();
    session.handle_connected(SECOND * 70);
    session.handle_message(SECOND * 70, ToDevice::RoundAnnouncement(announcement(2, None)), &[]);
    assert!(!actions(&mut session).iter().any(|action| is_work(action, 2)));
    let welcome = Welcome { incarnation: Incarnation(7), run: RunId(1), is_eligible: true };
    session.handle_message(SECOND * 71, ToDevice::Welcome(welcome), &[]);
    assert!(actions(&mut session).iter().any(|action| is_work(action, 2)));
}

#[test]
fn a_device_that_wakes_to_a_later_round_drops_what_it_did() {
    let mut session = welcome();
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(2, None)), &[]);
    session.handle_disconnected();
    session.handle_update(SECOND * 50, update(2));
    actions(&mut session);
    session.handle_connected(SECOND * 3_600);
    session.handle_message(SECOND * 3_600, ToDevice::RoundAnnouncement(announcement(9, None)), &[]);
    let welcome = Welcome { incarnation: Incarnation(7), run: RunId(1), is_eligible: true };
    session.handle_message(SECOND * 3_600, ToDevice::Welcome(welcome), &[]);
    let taken = actions(&mut session);
    let dropped = taken.iter().filter(|action| matches!(action, Action::EmptyOutbox(_))).count();
    assert!(dropped == 1 && !taken.iter().any(is_offer), "{taken:?}");
    assert!(taken.iter().any(|action| is_work(action, 9)), "{taken:?}");
}

#[test]
fn nothing_but_its_receipt_empties_the_outbox_while_its_round_lasts() {
    let pending = update(4);
    let blob = BlobRef::of(pending.blob.content());
    let other = Receipt { run: RunId(1), round: RoundId(4), digest: Digest([3; 32]), refused: None };
    let refused = |reason, incarnation| ToDevice::Refused(Refused { incarnation, reason });
    let messages = [
        ToDevice::RoundAnnouncement(announcement(4, None)),
        ToDevice::RoundAnnouncement(RoundAnnouncement { incarnation: Incarnation(71), ..announcement(4, None) }),
        ToDevice::RoundAnnouncement(announcement(3, None)),
        ToDevice::BlockRequest(BlockRequest { blob, missing: Bitmap::all(1) }),
        ToDevice::Receipt(other),
        receipt(&update(3), None),
        refused(Refusal::UnknownDevice, None),
        refused(Refusal::Version, None),
        refused(Refusal::Classes, Some(Incarnation(7))),
    ];
    let mut session = Session::new(identity(), 10, DatasetId(1), Some(pending.clone()));
    for (seconds, message) in (1..).zip(messages) {
        reconnect(&mut session, SECOND * seconds);
        session.handle_message(SECOND * seconds, message.clone(), &[]);
        session.handle_timeout(SECOND * seconds + LONGEST_PAUSE);
        let taken = actions(&mut session);
        assert!(!taken.iter().any(|action| matches!(action, Action::EmptyOutbox(_))), "{message:?}: {taken:?}");
        assert!(taken.iter().any(is_offer), "{message:?}: {taken:?}");
    }
    session.handle_message(SECOND * 100, receipt(&pending, None), &[]);
    let taken = actions(&mut session);
    assert!(taken.iter().any(|action| matches!(action, Action::EmptyOutbox(digest) if *digest == blob.digest)));
}

/// What passes between one hello and the next while nobody answers.
fn hello_pauses(incarnation: u64, count: usize) -> Vec<Duration> {
    let mut session =
        Session::new(Identity { incarnation: Incarnation(incarnation), ..identity() }, 10, DatasetId(1), None);
    session.handle_connected(Duration::ZERO);
    actions(&mut session);
    let mut now = Duration::ZERO;
    let pause = |_| {
        let next = loop {
            let next = session.poll_timeout().unwrap();
            session.handle_timeout(next);
            match &actions(&mut session)[..] {
                [Action::Send(ToAggregator::Hello(_), _)] => break next,
                [Action::Report(Event::Unanswered)] => {}
                taken => panic!("{taken:?}"),
            }
        };
        next - core::mem::replace(&mut now, next)
    };
    (0..count).map(pause).collect()
}

#[test]
fn pauses_double_to_a_minute_with_jitter() {
    let pauses = hello_pauses(1, 10);
    for (pause, seconds) in pauses.iter().zip([2, 4, 8, 16, 32, 60, 60, 60, 60, 60]) {
        let longest = SECOND * seconds;
        assert!(*pause <= longest && *pause * 2 >= longest, "{pause:?} against {longest:?}");
    }
    assert_ne!(pauses, hello_pauses(2, 10), "a fleet does not come back in step");
}

#[test]
fn a_lost_connection_makes_an_offer_urgent_again() {
    let mut session = Session::new(identity(), 10, DatasetId(1), Some(update(4)));
    reconnect(&mut session, SECOND);
    let mut now = SECOND;
    for _ in 0..6 {
        now = session.poll_timeout().unwrap();
        session.handle_timeout(now);
    }
    assert!(session.poll_timeout().unwrap() - now >= LONGEST_PAUSE / 2);
    reconnect(&mut session, now);
    assert!(session.poll_timeout().unwrap() - now <= FIRST_PAUSE);
}

#[test]
fn long_silence_asks_for_a_new_connection() {
    let minute = SECOND * 60;
    let until_reconnect = |session: &mut Session| {
        loop {
            let now = session.poll_timeout().unwrap();
            session.handle_timeout(now);
            if actions(session).iter().any(|action| matches!(action, Action::Reconnect)) {
                return now;
            }
            assert!(now < minute * 1_000);
        }
    };
    let mut session = Session::new(identity(), 10, DatasetId(1), Some(update(4)));
    session.handle_connected(SECOND);
    assert_eq!(until_reconnect(&mut session), SECOND + minute * 15);
    // Who has nothing to say notices it, too.
    let mut idle = Session::new(identity(), 10, DatasetId(1), None);
    reconnect(&mut idle, SECOND);
    assert_eq!(until_reconnect(&mut idle), SECOND + minute * 15);
    // Any word of the aggregator shows that the connection is good.
    reconnect(&mut session, minute * 20);
    session.handle_timeout(minute * 30);
    session.handle_message(minute * 30, ToDevice::RoundAnnouncement(announcement(4, None)), &[]);
    assert!(until_reconnect(&mut session) >= minute * 45);
}
