//! Memory of the machine: a round's updates are added as they come, so it does not grow with what devices send.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it saw")]

use core::time::Duration;

use grapevine_aggregator::round::{
    Action, Coordinator, Durable, Participants, Progress, Quarantine, Registry, RoundConfig, Select,
};
use grapevine_models::{Head, Heads, Method, Params, Response, Shape};
use grapevine_protocol::{
    Attributes, BlobRef, DatasetId, DeviceId, Digest, Encoding, Hello, Incarnation, Offer, RoundId, RunId,
    ToAggregator, Update, block,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

const FEW: u32 = 100;
const MANY: u32 = 10_000;
/// What a device may cost by being known: its record, its name, once, and half a digest of its update. That has 3 KiB.
const BYTES_PER_DEVICE: usize = 200;

fn shape() -> Shape {
    Shape::new(10, 76).unwrap()
}

fn device(number: u32) -> DeviceId {
    format!("device-{number}").parse().unwrap()
}

/// Most bytes above the beginning in a round of so many devices, each of which sends `noise` useless messages, too.
fn peak_of_a_round(devices: u32, noise: usize) -> usize {
    let config = RoundConfig {
        shape: shape(),
        extractor: Digest([1; 32]),
        classes: Digest([2; 32]),
        params: Params::defaults(Method::FedAvg, 10).check().unwrap(),
        rounds: Some(1),
        rest_after: 50,
        news_after: Duration::ZERO,
        max_samples: 100_000,
        min_devices: devices as usize,
        select: Select::default(),
        participants: Participants::All,
        over_select: 0.0,
        quorum: 1.0,
        deadline: Duration::from_secs(600),
        extensions: 0,
        quarantine: Quarantine::default(),
        encoding: Encoding::F32,
        seed: 1,
        upload_bytes: 1 << 20,
        auxiliary: None,
    };
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    let mut coordinator = Coordinator::new(
        config,
        Incarnation(1),
        RunId(5),
        Progress::default(),
        Registry::default(),
        None,
        Duration::ZERO,
    );
    for number in 0..devices {
        let hello = Hello {
            incarnation: Incarnation(1),
            extractor: Digest([1; 32]),
            classes: Digest([2; 32]),
            shape: shape(),
            samples: 10,
            dataset: DatasetId(1),
            attributes: Attributes::default(),
        };
        say(&mut coordinator, number, ToAggregator::Hello(hello), &[]);
    }
    for number in 0..devices {
        let heads = Heads {
            main: Head { weight: vec![number as f32; shape().weights()], bias: vec![0.0; shape().classes()] },
            supplementary: Head::zeros(shape()),
        };
        let content = Response::Heads { heads, prototypes: None, loss: None };
        let content = Update { samples: 10, dataset: DatasetId(1), response: content }.encode(shape(), Encoding::F32);
        let blob = BlobRef::of(&content);
        let (header, bytes) = block(&blob, &content, 0).unwrap();
        let offer = |round| Offer { run: RunId(5), round: RoundId(round), blob, crc: header.crc };
        for _ in 0..noise {
            say(&mut coordinator, number, ToAggregator::Offer(offer(9)), bytes);
            say(&mut coordinator, number, ToAggregator::Block(header), bytes);
        }
        say(&mut coordinator, number, ToAggregator::Offer(offer(0)), bytes);
    }
    assert!(coordinator.is_finished());
    ALLOCATOR.peak_usage() - before
}

fn say(coordinator: &mut Coordinator, number: u32, message: ToAggregator, block: &[u8]) {
    coordinator.handle_message(Duration::ZERO, &device(number), message, block);
    while let Some(action) = coordinator.poll_action() {
        match action {
            Action::Durable(Durable::StoreUpdate(update)) => {
                coordinator.handle_stored(Duration::ZERO, &update.device, update.round, None);
            }
            Action::Durable(Durable::Commit(_)) => coordinator.handle_committed(Duration::ZERO),
            Action::Durable(_) | Action::Tell(_) => {}
        }
    }
}

#[test]
fn memory_grows_with_names_and_not_with_updates_or_garbage() {
    let few = peak_of_a_round(FEW, 0);
    let many = peak_of_a_round(MANY, 0);
    let growth = many.saturating_sub(few) / (MANY - FEW) as usize;
    assert!(growth < BYTES_PER_DEVICE, "{growth} bytes per device: {few} for {FEW}, {many} for {MANY}");
    let noisy = peak_of_a_round(FEW, 50);
    println!("{few} bytes at most with {FEW} devices, {growth} per further device, {noisy} with noise");
    assert!(noisy < few + 64 * 1024, "{few} bytes in a quiet round, {noisy} in a noisy one");
}
