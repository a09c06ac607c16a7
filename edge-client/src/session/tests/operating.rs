//! What a device learns at once, and what it says when it learns nothing.

use grapevine_protocol::BlockSize;

use super::*;

fn reports(session: &mut Session) -> Vec<Event> {
    let report = |action| if let Action::Report(event) = action { Some(event) } else { None };
    actions(session).into_iter().filter_map(report).collect()
}

fn hellos(session: &mut Session) -> usize {
    actions(session).iter().filter(|action| matches!(action, Action::Send(ToAggregator::Hello(_), _))).count()
}

#[test]
fn a_fleet_of_another_shape_is_asked_at_once_why() {
    let mut session = welcome();
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(0, None)), &[]);
    assert!(actions(&mut session).iter().any(|action| matches!(action, Action::Work(_))));
    let foreign =
        RoundAnnouncement { incarnation: Incarnation(71), shape: Shape::new(3, 3).unwrap(), ..announcement(0, None) };
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(foreign.clone()), &[]);
    let said = actions(&mut session);
    assert!(said.iter().any(|action| matches!(action, Action::Interrupt)), "{said:?}");
    assert!(said.iter().any(|action| matches!(action, Action::Send(ToAggregator::Hello(_), _))), "{said:?}");
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(foreign), &[]);
    assert_eq!(hellos(&mut session), 0, "one start is asked once");
    let refused = Refused { incarnation: Some(Incarnation(7)), reason: Refusal::Extractor };
    session.handle_message(SECOND, ToDevice::Refused(refused), &[]);
    assert_eq!(reports(&mut session), [Event::Refused(Refusal::Extractor)]);
}

#[test]
fn an_aggregator_of_another_version_is_told_from_garbage() {
    let mut session = welcome();
    session.handle_foreign_version(SECOND);
    assert_eq!(hellos(&mut session), 1, "is it the aggregator, or anybody?");
    session.handle_message(
        SECOND,
        ToDevice::Welcome(Welcome { incarnation: Incarnation(7), run: RunId(1), is_eligible: true }),
        &[],
    );
    actions(&mut session);
    session.handle_foreign_version(SECOND * 2);
    assert_eq!(hellos(&mut session), 0, "garbage makes nobody say hello again and again");
    session.handle_foreign_version(SECOND * 100);
    session.handle_foreign_version(SECOND * 101);
    assert!(reports(&mut session).contains(&Event::Refused(Refusal::Version)));
}

#[test]
fn silence_after_a_hello_is_said_once() {
    let mut session = Session::new(identity(), 10, DatasetId(1), None);
    session.handle_connected(SECOND);
    let mut said = Vec::new();
    while let Some(at) = session.poll_timeout().filter(|at| *at < SECOND * 300) {
        session.handle_timeout(at);
        said.extend(reports(&mut session).into_iter().map(|event| (at, event)));
    }
    assert_eq!(said, [(SECOND * 31, Event::Unanswered)]);
    session.handle_message(
        SECOND * 300,
        ToDevice::Welcome(Welcome { incarnation: Incarnation(7), run: RunId(1), is_eligible: true }),
        &[],
    );
    assert_eq!(reports(&mut session), [Event::Welcome]);
}

#[test]
fn another_device_of_the_same_name_is_said_and_changes_nothing() {
    let mut session = welcome();
    session.handle_message(SECOND, ToDevice::Refused(Refused { incarnation: None, reason: Refusal::SameName }), &[]);
    assert_eq!(reports(&mut session), [Event::Refused(Refusal::SameName)]);
    session.handle_message(SECOND, ToDevice::RoundAnnouncement(announcement(0, None)), &[]);
    assert!(actions(&mut session).iter().any(|action| matches!(action, Action::Work(_))));
}

#[test]
fn blocks_become_smaller_where_the_broker_takes_no_larger_ones() {
    let content: Vec<u8> = (0..135_000_u32).map(|at| at as u8).collect();
    let pending = FinishedUpdate { run: RunId(1), round: RoundId(0), blob: Blob::of(content.clone()) };
    let mut session = Session::new(identity(), 10, DatasetId(1), Some(pending));
    let offered = |session: &mut Session| {
        session.handle_disconnected();
        session.handle_connected(SECOND);
        session.handle_message(
            SECOND,
            ToDevice::Welcome(Welcome { incarnation: Incarnation(7), run: RunId(1), is_eligible: true }),
            &[],
        );
        let offer = |action| match action {
            Action::Send(ToAggregator::Offer(offer), block) => Some((offer.blob, block.len())),
            Action::Send(..)
            | Action::Follow(_)
            | Action::Unfollow(_)
            | Action::Work(_)
            | Action::Interrupt
            | Action::Reconnect
            | Action::SaveHeads { .. }
            | Action::EmptyOutbox(_)
            | Action::Report(_) => None,
        };
        actions(session).into_iter().find_map(offer).unwrap()
    };
    assert_eq!(offered(&mut session), (BlobRef::of(&content), 65_536));
    assert!(session.handle_packet_limit(65_700) && session.handle_packet_limit(32_900));
    let (blob, first) = offered(&mut session);
    assert_eq!((blob.block, blob.blocks(), first), (BlockSize::Kib16, 9, 16_384));
    assert!(session.handle_packet_limit(16_500) && session.handle_packet_limit(8_300));
    assert!(!session.handle_packet_limit(4_200), "there are no smaller ones");
}

#[test]
fn a_run_that_was_over_goes_on() {
    let mut session = welcome();
    session.handle_message(
        SECOND,
        ToDevice::RoundAnnouncement(RoundAnnouncement { task: Task::Rest, ..announcement(3, None) }),
        &[],
    );
    assert_eq!(reports(&mut session), [Event::Rests(RoundId(3))]);
    session.handle_message(
        SECOND,
        ToDevice::RoundAnnouncement(RoundAnnouncement {
            task: Task::Wait,
            incarnation: Incarnation(80),
            ..announcement(3, None)
        }),
        &[],
    );
    assert_eq!(reports(&mut session), [Event::GoesOn]);
}
