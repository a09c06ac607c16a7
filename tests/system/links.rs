//! One device behind a bad link: how long a large update takes to the aggregator, and a large model to the device.

use core::time::Duration;
use std::time::Instant;

use grapevine_aggregator::round::Event;
use grapevine_edge_client::session::Event as DeviceEvent;
use grapevine_models::{Method, Params, Shape};
use grapevine_protocol::{RoundId, largest_heads, largest_update};
use serde::Serialize;

use crate::broker::Broker;
use crate::federation::{Federation, Plan, Told};
use crate::programs::{PATIENCE, now};
use crate::proxy::{Conditions, Proxy};

/// RedGrape's update of this shape has 20.9 MB: both heads and a prototype of every class.
pub fn large_update() -> Shape {
    Shape::new(100, 512).expect("within limits")
}

/// Both heads of this shape have 3.1 MB.
pub fn large_model() -> Shape {
    Shape::new(300, 1_280).expect("within limits")
}

/// What went over a link.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Transfer {
    /// Bytes of the update or the model, at most.
    pub bytes: u64,
    /// Bytes that the link carried in its direction, headers and repetitions included.
    pub carried_bytes: u64,
    /// Connections that were made.
    pub connections: u64,
    /// From the first moment it could go out to the moment it was there.
    pub seconds: f64,
}

/// An update of RedGrape for this shape, prototypes included, from the end of training to its receipt.
pub fn upload(broker: &Broker, shape: Shape, conditions: Conditions) -> Transfer {
    let (proxy, federation, _folder) = federation(broker, shape, Method::RedGrape, 1, conditions);
    // Training is short beside the transfer, and part of it here.
    let begun = reach(&federation, |told| matches!(told, Told::Device(_, DeviceEvent::RoundBegan(_))));
    let before = proxy.carried();
    let delivered = reach(&federation, |told| matches!(told, Told::Device(_, DeviceEvent::Delivered(_))));
    let carried = proxy.carried();
    federation.stop();
    Transfer {
        bytes: largest_update(shape, Method::RedGrape.training_request()) as u64,
        carried_bytes: carried.up - before.up,
        connections: carried.connections,
        seconds: delivered.duration_since(begun).as_secs_f64(),
    }
}

/// Both heads of this shape, from the opening of the second round to the moment the device begins it.
pub fn download(broker: &Broker, shape: Shape, conditions: Conditions) -> Transfer {
    let (proxy, federation, _folder) = federation(broker, shape, Method::RedGrapeNoPrototypes, 2, conditions);
    let second = RoundId(1);
    let opened =
        reach(&federation, |told| matches!(told, Told::Event(Event::RoundOpened { round, .. }) if *round == second));
    let before = proxy.carried();
    let begun =
        reach(&federation, |told| matches!(told, Told::Device(_, DeviceEvent::RoundBegan(round)) if *round == second));
    let carried = proxy.carried();
    federation.stop();
    Transfer {
        bytes: largest_heads(shape) as u64,
        carried_bytes: carried.down - before.down,
        connections: carried.connections,
        seconds: begun.duration_since(opened).as_secs_f64(),
    }
}

/// The aggregator at its broker, one device behind the link, and their folder.
fn federation(
    broker: &Broker,
    shape: Shape,
    method: Method,
    rounds: u32,
    conditions: Conditions,
) -> (Proxy, Federation, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let proxy = Proxy::start(broker.port(), conditions);
    let params = Params { epochs: 1, ..Params::defaults(method, shape.classes()) };
    let samples = 2 * shape.classes() as u16;
    let plan = Plan { shape, samples, keep_alive: Duration::from_secs(60), ..Plan::new(1, params, rounds) };
    let federation = Federation::start_through(folder.path(), &broker.address(), &plan, |_| proxy.address());
    (proxy, federation, folder)
}

/// Waits until this is told; gives the moment.
fn reach(federation: &Federation, is_it: impl Fn(&Told) -> bool) -> Instant {
    let deadline = now() + PATIENCE;
    loop {
        let told = federation.told.recv_deadline(deadline).expect("the transfer ends in time");
        if is_it(&told) {
            return now();
        }
    }
}
