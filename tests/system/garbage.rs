//! Garbage on every topic: refused with a counted, named reason; the round goes on; the heads are those of a quiet run.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly and say what it saw")]

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crossbeam_channel::unbounded;
use grapevine_aggregator::broker::EmbeddedBroker;
use grapevine_aggregator::round::Event;
use grapevine_edge_client::session::Event as DeviceEvent;
use grapevine_host::transport::{Event as Link, Options};
use grapevine_host::{BrokerAddress, Transport, memory};
use grapevine_models::{Head, Heads, Method, Params, Shape};
use grapevine_protocol::{
    BlobRef, BlockHeader, DatasetId, Digest, Encoding, Offer, Refusal, Response, RoundId, ToAggregator, Update, block,
    encode, topics,
};
use grapevine_tests::federation::{Federation, Plan, RUN, Told};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DEVICES: u16 = 3;
const ROUNDS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// What a flood of garbage may add to the resident memory of broker, aggregator and devices together.
const MOST_GROWTH_BYTES: u64 = 256 << 20;

#[test]
fn garbage_is_refused_by_name_and_changes_nothing() {
    let (quiet, _) = run(false);
    let before = memory::resident_bytes().unwrap_or(0);
    let (noisy, refusals) = run(true);
    assert_eq!(quiet, noisy, "the head of a federation under garbage differs from the one of a quiet federation");
    for reason in [
        Refusal::Garbage,
        Refusal::Version,
        Refusal::UnknownDevice,
        Refusal::Block,
        Refusal::Crc,
        Refusal::TooLarge,
        Refusal::WrongRun,
        Refusal::WrongRound,
        Refusal::Digest,
        Refusal::Content,
        Refusal::NotFinite,
        Refusal::Absurd,
        Refusal::Shape,
        Refusal::Samples,
    ] {
        assert!(refusals.contains_key(&reason), "`{reason}` was not counted: {refusals:?}");
    }
    let growth = memory::resident_bytes().unwrap_or(0).saturating_sub(before);
    assert!(growth < MOST_GROWTH_BYTES, "memory grew by {growth} bytes");
    println!("refused: {refusals:?}; memory grew by {} KiB", growth / 1024);
}

/// Runs a federation, with or without a vandal on its broker; gives the final head's digest and what was refused.
fn run(with_vandal: bool) -> (Digest, BTreeMap<Refusal, u32>) {
    let broker = EmbeddedBroker::start(0, core::net::Ipv4Addr::LOCALHOST.into()).unwrap();
    let address = BrokerAddress::new("127.0.0.1", broker.port());
    let folder = tempfile::tempdir().unwrap();
    let vandal = with_vandal.then(|| Vandal::connect(&address));
    let params = Params { epochs: 2, batch: 8, ..Params::defaults(Method::RedGrape, 4) };
    let federation = Federation::start(folder.path(), &address, &Plan::new(DEVICES, params, ROUNDS));
    if let Some(vandal) = &vandal {
        vandal.vandalise(&federation);
    }
    let (mut refusals, mut ignored) = (BTreeMap::new(), BTreeSet::new());
    let mut last = None;
    let deadline = clock() + PATIENCE;
    let mut vandal_rounds = 0;
    while let Ok(told) = federation.told.recv_deadline(deadline) {
        match told {
            Told::Event(Event::Refused { reason, .. }) => *refusals.entry(reason).or_default() += 1,
            Told::Event(Event::RoundOpened { .. }) => {
                if let Some(vandal) = &vandal {
                    vandal_rounds += 1;
                    vandal.vandalise(&federation);
                }
            }
            Told::Merged(outcome) => last = outcome.model.heads.map(|content| content.blob.digest),
            Told::Event(Event::Finished | Event::Rested) => break,
            Told::Device(_, DeviceEvent::Ignored(reason)) => drop(ignored.insert(reason)),
            Told::Event(_) | Told::Device(..) => {}
        }
    }
    assert!(!with_vandal || vandal_rounds >= ROUNDS, "the run did not finish under garbage: {refusals:?}");
    // What the vandal sent last may still be on its way.
    while with_vandal && !refusals.contains_key(&Refusal::Version) {
        match federation.told.recv_deadline(deadline) {
            Ok(Told::Event(Event::Refused { reason, .. })) => *refusals.entry(reason).or_default() += 1,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    assert!(!with_vandal || ignored.contains(&Refusal::Garbage), "the devices ignored nothing: {ignored:?}");
    federation.stop();
    (last.expect("a round was merged"), refusals)
}

struct Vandal {
    transport: Transport,
}

impl Vandal {
    fn connect(broker: &BrokerAddress) -> Self {
        let (sender, events) = unbounded();
        let mut options = Options::new(broker.clone(), "vandal");
        options.queue = 4_096;
        options.max_packet_bytes = 300_000;
        let transport = Transport::start(options, move |event| drop(sender.send(event))).unwrap();
        let connected = events.recv_timeout(PATIENCE).expect("the broker answers");
        assert!(matches!(connected, Link::Connected), "{connected:?}");
        Self { transport }
    }

    fn send(&self, topic: &str, payload: Vec<u8>) {
        // A full queue only means a little less garbage.
        let _ = self.transport.publish(topic, payload, false);
    }

    /// What stays at the broker and meets everybody who comes later.
    fn leave_behind(&self, topic: &str, payload: Vec<u8>) {
        let _ = self.transport.publish(topic, payload, true);
    }

    fn vandalise(&self, federation: &Federation) {
        let fleet = &federation.fleet;
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let known = topics::up(fleet, &"device-0".parse().unwrap());
        let stranger = topics::up(fleet, &"stranger".parse().unwrap());
        let down = topics::down(fleet, &"device-1".parse().unwrap());
        let blob = topics::blob(fleet, topics::BlobKind::Heads);
        let bad_name = format!("grapevine/{fleet}/up/NOT-A-NAME");
        for topic in [&known, &stranger, &down, &blob, &topics::announcement(fleet), &bad_name] {
            for length in [0, 1, 2, 40, 1_000, 60_000, 200_000] {
                let mut noise = vec![0; length];
                rng.fill_bytes(&mut noise);
                self.send(topic, noise.clone());
                if let Some(version) = noise.first_mut() {
                    *version = 1;
                    self.send(topic, noise);
                }
            }
        }
        let mut noise = vec![1; 200_000];
        rng.fill_bytes(&mut noise[1..]);
        [&known, &down, &blob].into_iter().for_each(|topic| self.leave_behind(topic, noise.clone()));
        for message in bad_messages(federation.round.shape, &mut rng) {
            self.send(&known, message.clone());
            self.send(&stranger, message);
        }
    }
}

/// Well-formed frames with something wrong inside.
fn bad_messages(shape: Shape, rng: &mut ChaCha8Rng) -> Vec<Vec<u8>> {
    let good = Heads::zeros(shape);
    let with = |change: &dyn Fn(&mut Heads)| {
        let mut heads = good.clone();
        change(&mut heads);
        heads
    };
    let wide = Shape::new(4, 9).unwrap();
    let contents = [
        update(shape, with(&|heads| heads.main.weight[3] = f32::NAN), 10),
        update(shape, with(&|heads| heads.main.bias[0] = f32::INFINITY), 10),
        update(shape, with(&|heads| heads.main.weight[0] = 1e9), 10),
        update(shape, good.clone(), 0),
        update(shape, good.clone(), u32::MAX),
        update(wide, Heads { main: Head::zeros(wide), supplementary: Head::zeros(wide) }, 10),
        b"no update at all".to_vec(),
    ];
    let mut messages: Vec<Vec<u8>> = Vec::new();
    for round in 0..3 {
        messages.extend(contents.iter().map(|content| offer(content, round, RUN.0)));
        let claim = BlobRef { bytes: 200_000_000, ..BlobRef::of(&contents[0]) };
        messages.push(offer_of(claim, round, RUN.0, &contents[0]));
        let wrong_digest = BlobRef { digest: Digest([9; 32]), ..BlobRef::of(&contents[0]) };
        messages.push(offer_of(wrong_digest, round, RUN.0, &contents[0]));
        // A large claim whose blocks come damaged, truncated and beyond the end.
        let large = BlobRef { digest: Digest([7; 32]), bytes: 800, ..BlobRef::of(&contents[0]) };
        let bytes = vec![3; 800];
        let (header, _) = block(&large, &bytes, 0).unwrap();
        let damaged = Offer { run: RUN, round: RoundId(round), blob: large, crc: header.crc ^ 1 };
        messages.push(encode(&ToAggregator::Offer(damaged), &bytes));
        messages.push(encode(&ToAggregator::Block(header), &bytes[..100]));
        messages.push(encode(&ToAggregator::Block(BlockHeader { index: 900, ..header }), &bytes));
    }
    messages.push(offer(&contents[0], 0, 12_345));
    messages.push(offer(&contents[0], 4_000_000, RUN.0));
    let mut version = offer(&contents[0], 0, RUN.0);
    version[0] = 2;
    messages.push(version);
    let whole = offer(&contents[0], 0, RUN.0);
    for _ in 0..50 {
        messages.push(whole[..rng.random_range(0..whole.len())].to_vec());
    }
    messages
}

fn update(shape: Shape, heads: Heads, samples: u32) -> Vec<u8> {
    let content = Response::Heads { heads, prototypes: Some(Default::default()), loss: None };
    Update { samples, dataset: DatasetId(1), response: content }.encode(shape, Encoding::F32)
}

fn offer(content: &[u8], round: u32, run: u64) -> Vec<u8> {
    offer_of(BlobRef::of(content), round, run, content)
}

fn offer_of(blob: BlobRef, round: u32, run: u64, content: &[u8]) -> Vec<u8> {
    let (header, _) = block(&BlobRef::of(content), content, 0).unwrap();
    let offer = Offer { run: grapevine_protocol::RunId(run), round: RoundId(round), blob, crc: header.crc };
    encode(&ToAggregator::Offer(offer), content)
}

#[allow(clippy::disallowed_methods, reason = "a deadline for the whole test")]
fn clock() -> Instant {
    Instant::now()
}
