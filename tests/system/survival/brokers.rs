//! The broker is killed and started again, twenty times.

use core::time::Duration;
use std::thread;

use grapevine_tests::broker::Broker;
use grapevine_tests::mosquitto::Mosquitto;
use grapevine_tests::restarts::{self, Restarts};

const RESTARTS: u32 = 20;
/// From the moment the broker is back until a whole round was done again.
const HEALED_WITHIN_MS: u64 = 10_000;

#[test]
fn twenty_restarts_of_the_broker_heal_and_change_nothing() {
    let Some(mut mosquitto) = Mosquitto::start() else {
        return println!("skipped: mosquitto is not installed");
    };
    let folder = tempfile::tempdir().unwrap();
    let (undisturbed, place) = (folder.path().join("quiet"), folder.path().join("restarted"));
    // Every restart takes three rounds at most.
    let plan = restarts::plan(4, 3 * RESTARTS + 2);
    let treatment = Restarts {
        count: RESTARTS,
        longest_away: Duration::from_millis(50),
        rest: Duration::ZERO,
        to_the_end: true,
        seed: 1,
    };
    let broker = Broker::embedded();
    let (quiet, (healed, heads)) = thread::scope(|scope| {
        let quiet = scope.spawn(|| restarts::quiet(&undisturbed, &broker.address(), &plan));
        let restarted = restarts::restarted(&place, &mut mosquitto, &plan, treatment, &mut |restart| {
            println!("{restart:?}");
        });
        (quiet.join().unwrap(), restarted)
    });
    assert_eq!(healed.len(), RESTARTS as usize);
    assert!(healed.iter().all(|restart| restart.healed_ms <= HEALED_WITHIN_MS), "{healed:?}");
    assert_eq!(heads, quiet, "the restarts changed what the fleet learned");
}
