//! Three of ten devices vanish in the middle of a round, each in its own way: the round closes at its deadline with the
//! rest, and the head is the one of a fleet of those seven.

use core::time::Duration;
use std::collections::BTreeSet;

use grapevine_aggregator::round::Event;
use grapevine_edge_client::session::Event as DeviceEvent;
use grapevine_tests::broker::Broker;
use grapevine_tests::federation::{Federation, Plan, Told, heads};
use grapevine_tests::programs::{PATIENCE, now};
use grapevine_tests::proxy::{Conditions, Proxy};
use grapevine_tests::restarts;

const DEVICES: u16 = 10;
/// These go: the first two without a word, the broker is told of the third.
const GONE: [u16; 3] = [7, 8, 9];
const DEADLINE: Duration = Duration::from_secs(5);
/// How much a busy machine may be late: with the news of the opening, and with closing at the deadline.
const EARLIEST: Duration = Duration::from_secs(4);
const LATEST: Duration = Duration::from_secs(8);

#[test]
fn a_round_closes_at_its_deadline_without_those_who_vanished() {
    let broker = Broker::start();
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan { quorum: 0.7, deadline: DEADLINE, ..restarts::plan(DEVICES, 1) };
    // An update of theirs takes far longer than the round.
    let slow = Conditions { up: Some(20_000), ..Conditions::default() };
    let links: Vec<Proxy> = GONE.iter().map(|_| Proxy::start(broker.port(), slow)).collect();
    let link = |number| match GONE.iter().position(|&gone| gone == number) {
        Some(position) => links[position].address(),
        None => broker.address(),
    };
    let federation = Federation::start_through(&folder.path().join("ten"), &broker.address(), &plan, link);
    let (mut opened, mut at_work, mut accepted) = (None, BTreeSet::new(), 0);
    let outcome = loop {
        match federation.told.recv_timeout(PATIENCE).unwrap() {
            Told::Event(Event::RoundOpened { expected, .. }) => {
                assert_eq!(expected, usize::from(DEVICES));
                opened = Some(now());
            }
            Told::Event(Event::UpdateAccepted { .. }) => accepted += 1,
            Told::Device(number, DeviceEvent::RoundBegan(_)) if GONE.contains(&number) => {
                at_work.insert(number);
                if at_work.len() == GONE.len() {
                    links.iter().for_each(Proxy::kill);
                    links[2].cut();
                }
            }
            Told::Merged(outcome) => break outcome,
            Told::Event(_) | Told::Device(..) => {}
        }
    };
    let took = now() - opened.unwrap();
    federation.stop();
    println!("the round closed after {took:?} with {} of {}", outcome.accepted, outcome.expected);
    assert_eq!((accepted, outcome.accepted, outcome.expected), (7, 7, 10));
    assert!((EARLIEST..LATEST).contains(&took), "{took:?}");

    let seven = Plan { devices: 7, ..plan };
    let quiet = restarts::quiet(&folder.path().join("seven"), &broker.address(), &seven);
    assert_eq!(quiet, [heads(&outcome)], "those who vanished changed the head of the others");
}
