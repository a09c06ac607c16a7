//! A few hundred short rounds of the shipped programs: a leak of a kilobyte in each of them is noticed.

use grapevine_host::memory;
use grapevine_tests::soak::{self, Soak};

const MOST_GROWTH_BYTES: i64 = 512 << 10;
/// The ledger's record of the rounds in between: everything else is let go.
const MOST_STATE_BYTES: u64 = 256 << 10;

#[test]
fn neither_memory_nor_state_grows_with_rounds() {
    if memory::resident_bytes().is_none() {
        return println!("skipped: this system does not tell how much memory another process takes");
    }
    let report = soak::soak(Soak { rounds: 300, warm_up: 150, devices: 2 }, &mut |sample| println!("{sample:?}"));
    let growth = report.aggregator_growth_bytes.max(report.device_growth_bytes);
    assert!(growth < MOST_GROWTH_BYTES, "{report:?}");
    let grown = |last: u64, warm: u64| last.saturating_sub(warm);
    let (warm, last) = (report.warm, report.last);
    assert!(grown(last.aggregator.state_bytes, warm.aggregator.state_bytes) < MOST_STATE_BYTES, "{report:?}");
    assert!(grown(last.device.state_bytes, warm.device.state_bytes) < MOST_STATE_BYTES, "{report:?}");
}
