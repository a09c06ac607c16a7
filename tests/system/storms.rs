//! The federation in memory: a few hundred seeds, and that a seed which fails would be noticed and found again.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use core::cell::RefCell;
use std::process::Command;
use std::rc::Rc;

use grapevine_aggregator::store;
use grapevine_tests::storm::{Figures, Passed, Plan, Trace, Weather, run, run_beside};
use serde_json::Value;

/// A device costs the aggregator its name, some figures, half a digest for each of two rounds, and no update.
const MOST_BYTES_PER_DEVICE: i64 = 200;

#[test]
fn every_invariant_holds_in_a_few_hundred_storms() {
    let mut total = Passed::default();
    for seed in 0..300 {
        let passed = run(Plan::of(seed, Weather::STORM), Trace::default());
        total.add(&passed.unwrap_or_else(|failed| panic!("{failed}; run `storm --seed {seed} --trace`")));
    }
    // What never happened was not tested.
    let Figures { merged, abandoned, extended, receipts, deaths, torn, .. } = total.figures;
    let Figures { forged, quarantined, released, interrupted, reconnected, .. } = total.figures;
    for happened in [merged, abandoned, extended, receipts, deaths, torn, forged] {
        assert!(happened > 50, "{total:?}");
    }
    for happened in [quarantined, released, interrupted, reconnected] {
        assert!(happened > 5, "{total:?}");
    }
    let lost = total.carried.lost as f64 / total.carried.sent as f64;
    assert!(lost > 0.2, "{total:?}");
}

#[test]
fn a_seed_decides_everything() {
    let traced = |seed| {
        let lines = Rc::new(RefCell::new(Vec::new()));
        let sink = lines.clone();
        let trace = Trace::to(move |line| sink.borrow_mut().push(line.to_owned()));
        let passed = run(Plan::of(seed, Weather::STORM), trace).unwrap();
        (passed, lines.take())
    };
    let first = traced(7);
    assert!(first.1.len() > 50);
    assert_eq!(first, traced(7));
    assert_ne!(first, traced(8));
}

#[test]
fn a_disk_that_forgets_what_it_promised_is_found_out() {
    let lying = |seed| Plan { disk_lies: true, ..Plan::of(seed, Weather::STORM) };
    let mut found = (0..300).filter_map(|seed| run(lying(seed), Trace::default()).err());
    assert!(found.any(|failed| failed.broken.invariant == "no update is receipted and lost"));
}

#[test]
fn the_modelled_ledger_does_what_the_real_one_does() {
    for seed in 0..8 {
        let folder = tempfile::tempdir().unwrap();
        let real = store::open(folder.path()).unwrap();
        run_beside(Plan::of(seed, Weather::STORM), Trace::default(), Some(real)).unwrap();
    }
}

#[test]
fn memory_grows_neither_with_rounds_nor_much_with_devices() {
    let number = |report: &Value, name: &str| report[name].as_i64().unwrap_or_else(|| panic!("no {name} in {report}"));
    let soak = storm(&["soak", "--rounds", "400", "--json"]);
    for name in ["aggregator_growth_bytes", "devices_growth_bytes"] {
        assert!(number(&soak, name) < 16 << 10, "{soak}");
    }
    let crowd = |devices| storm(&["crowd", "--rounds", "2", "--devices", devices, "--json"]);
    let (few, many) = (crowd("100"), crowd("1000"));
    let more = number(&many, "aggregator_peak_bytes") - number(&few, "aggregator_peak_bytes");
    assert!(more < 900 * MOST_BYTES_PER_DEVICE, "{few} {many}");
}

fn storm(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_storm")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}
