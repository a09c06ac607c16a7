//! Links that are slow, late, and cut again and again: what is large arrives all the same.

use core::time::Duration;

use grapevine_models::Shape;
use grapevine_tests::broker::Broker;
use grapevine_tests::links::{self, Transfer};
use grapevine_tests::proxy::Conditions;

/// Headers, and what was under way when nobody needed it any more, as a share of what had to go over a good link.
const MOST_OVERHEAD: f64 = 0.1;

#[test]
fn twenty_megabytes_arrive_over_a_link_of_one_megabyte_a_second() {
    let conditions = Conditions { up: Some(1_000_000), ..Conditions::default() };
    let transfer = links::upload(&Broker::start(), links::large_update(), conditions);
    check(&transfer, 20_000_000, MOST_OVERHEAD);
    assert_eq!(transfer.connections, 1);
}

#[test]
fn three_megabytes_arrive_over_a_link_of_128_kilobytes_a_second() {
    let conditions = Conditions { down: Some(128_000), ..Conditions::default() };
    let transfer = links::download(&Broker::start(), links::large_model(), conditions);
    check(&transfer, 3_000_000, MOST_OVERHEAD);
    assert_eq!(transfer.connections, 1);
}

#[test]
fn blocks_go_on_where_a_cut_link_stopped() {
    let shape = Shape::new(60, 256).unwrap();
    let conditions =
        Conditions { cut_every: Some(1_000_000), delay: Duration::from_millis(50), ..Conditions::default() };
    let transfer = links::upload(&Broker::start(), shape, conditions);
    // A cut loses a window of blocks at most, and there are four or so.
    check(&transfer, 3_500_000, 1.0);
    assert!(transfer.connections >= 3, "{transfer:?}");
    let shape = Shape::new(300, 640).unwrap();
    let conditions = Conditions { cut_every: Some(800_000), ..conditions };
    let transfer = links::download(&Broker::start(), shape, conditions);
    check(&transfer, 1_500_000, 1.5);
    assert!(transfer.connections >= 2, "{transfer:?}");
}

fn check(transfer: &Transfer, least_bytes: u64, most_overhead: f64) {
    println!("{transfer:?}");
    assert!(transfer.carried_bytes >= least_bytes, "{transfer:?}");
    assert!(transfer.carried_bytes as f64 <= transfer.bytes as f64 * (1.0 + most_overhead), "{transfer:?}");
}
