//! The aggregator and its devices are killed at random moments.

use std::collections::BTreeMap;

use grapevine_tests::kills::{self, Kills};

#[test]
fn killed_programs_go_on_and_end_with_the_same_heads() {
    let kills = Kills { aggregator: 12, devices: 12, rounds: 12, seed: 1 };
    let report = kills::kill(kills, &mut |kill| println!("{kill:?}"));
    println!("{report:?}");
    let done = |moments: &BTreeMap<String, u32>| moments.values().sum::<u32>();
    assert_eq!((done(&report.aggregator_moments), done(&report.device_moments)), (kills.aggregator, kills.devices));
}
