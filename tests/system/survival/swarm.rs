//! Hundreds of devices on one aggregator over a real broker; thousands with `faults swarm`.

use grapevine_host::memory;
use grapevine_tests::swarm::{self, Swarm};

#[test]
fn hundreds_of_devices_are_merged_to_the_last() {
    if memory::resident_bytes().is_none() {
        return println!("skipped: this system does not tell how much memory another process takes");
    }
    println!("{:?}", swarm::swarm(Swarm { devices: 300, connections: 4, rounds: 2 }));
}
