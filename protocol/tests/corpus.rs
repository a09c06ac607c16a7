//! The checks of the fuzz targets with a stable compiler: on every committed seed and on many mutations of them.

use core::panic::AssertUnwindSafe;
use std::collections::BTreeMap;
use std::fs;
use std::panic::catch_unwind;
use std::path::PathBuf;

use grapevine_models::{Method, Sums};
use grapevine_protocol::{
    DeviceStateBody, HeadsBody, Refusal, Request, ServerStateBody, SideInformationBody, Update, decode_to_aggregator,
    decode_to_device,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

#[path = "../../tests/fuzz/checks.rs"]
pub mod checks;
pub mod examples;
#[path = "corpus/seeds.rs"]
pub mod seeds;

const MUTATIONS: usize = 20_000;

type Check = fn(&[u8]);

const TARGETS: [(&str, Check); 8] = [
    ("side_information", checks::side_information),
    ("assembler", checks::assembler),
    ("heads", checks::heads),
    ("server_state", checks::server_state),
    ("device_state", checks::device_state),
    ("to_aggregator", checks::to_aggregator),
    ("to_device", checks::to_device),
    ("update", checks::update),
];

#[test]
fn the_committed_seeds_are_those_of_this_version() {
    for (target, seeds) in seeds::all() {
        let folder = folder(target);
        if std::env::var_os("GRAPEVINE_WRITE_SEEDS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            seeds.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
        }
        let committed = committed(target);
        assert!(committed.keys().eq(seeds.keys()), "{target}: seeds.rs and the folder do not name the same seeds");
        for (name, bytes) in &seeds {
            assert!(committed[name] == *bytes, "{target}/{name} differs; see tests/fuzz/README.md");
        }
    }
}

#[test]
fn every_committed_seed_holds() {
    for (target, check) in TARGETS {
        let seeds = committed(target);
        assert!(seeds.len() >= 5, "few seeds for {target}");
        seeds.iter().for_each(|(name, bytes)| hold(target, name, check, bytes));
    }
}

#[test]
fn mutations_of_seeds_hold() {
    for (number, (target, check)) in (0..).zip(TARGETS) {
        let seeds: Vec<_> = committed(target).into_iter().collect();
        let mut random = ChaCha8Rng::seed_from_u64(number);
        for _ in 0..MUTATIONS {
            let (name, bytes) = &seeds[below(&mut random, seeds.len())];
            let mutated = mutate(bytes, &seeds[below(&mut random, seeds.len())].1, &mut random);
            hold(target, name, check, &mutated);
        }
    }
}

/// A seed that no decoder understands any more would test nothing.
#[test]
fn seeds_of_updates_are_refused_as_their_names_say() {
    let seeds = committed("update");
    let (means, counts) = (Request::Statistics(Sums::Means), Request::Statistics(Sums::Counts));
    let train = Method::RedGrape.training_request();
    for answer in examples::answers() {
        let update = Update::decode(&seeds[answer.name][1..], examples::shape(), answer.request);
        assert_eq!(update, Ok(answer.update), "{}", answer.name);
    }
    for (name, request, reason) in [
        ("trained-f32-nan", train, Refusal::NotFinite),
        ("trained-f32-absurd", train, Refusal::Absurd),
        ("trained-f32-truncated", train, Refusal::Content),
        ("trained-f32-one-byte-more", train, Refusal::Content),
        ("trained-f32-wrong-shape", train, Refusal::Shape),
        ("trained-f32-wrong-method", Request::MAIN_HEAD, Refusal::Content),
        ("trained-f32-wrong-task", Request::Gradient, Refusal::Content),
        ("trained-f32-classes-descending", train, Refusal::Content),
        ("trained-int8-infinite-scale", train, Refusal::NotFinite),
        ("trained-plain-no-samples", train, Refusal::Samples),
        ("trained-with-loss-nan-loss", Method::Climb.training_request(), Refusal::NotFinite),
        ("gradients-alone-without-any", Request::Prototypes, Refusal::Content),
        ("statistics-means-sum-too-large", means, Refusal::Absurd),
        ("statistics-counts-too-many", counts, Refusal::Samples),
        ("scaffold-format-2", Method::Scaffold.training_request(), Refusal::Content),
        ("scaffold-truncated", Method::Scaffold.training_request(), Refusal::Content),
        ("scaffold-nan", Method::Scaffold.training_request(), Refusal::NotFinite),
    ] {
        let update = Update::decode(&seeds[name][1..], examples::shape(), request);
        assert_eq!(update.map_err(|error| error.refusal()), Err(reason), "{name}");
    }
}

#[test]
fn other_seeds_are_taken_if_nothing_is_wrong_with_them() {
    let shape = examples::shape();
    let mut heads: Vec<_> = examples::heads_bodies().iter().map(|(name, _)| *name).collect();
    // Wrong for the shape that its first byte picks.
    heads.push("heads-plain-wrong-shape");
    taken("heads", &heads, |seed| HeadsBody::decode(&seed[1..], shape).is_ok());
    let aids: Vec<_> = examples::side_information().iter().map(|(name, ..)| *name).collect();
    taken("side_information", &aids, |seed| SideInformationBody::decode(&seed[1..], shape).is_ok());
    let memories: Vec<_> = examples::server_states().into_iter().map(|(name, _)| name).collect();
    taken("server_state", &memories, |seed| ServerStateBody::decode(&seed[1..], shape).is_ok());
    let states: Vec<_> = examples::device_states().into_iter().map(|(name, _)| name).collect();
    taken("device_state", &states, |seed| DeviceStateBody::decode(&seed[1..], shape).is_ok());
    let mut messages: Vec<_> = examples::to_aggregator().iter().map(|framed| framed.name).collect();
    // Whoever assembles refuses a claim, not whoever reads the message.
    messages.push("offer-200mb-claim");
    taken("to_aggregator", &messages, |seed| decode_to_aggregator(seed).is_ok());
    let messages: Vec<_> = examples::to_device().iter().map(|framed| framed.name).collect();
    taken("to_device", &messages, |seed| decode_to_device(seed).is_ok());
}

fn taken(target: &str, expected: &[&str], decodes: impl Fn(&[u8]) -> bool) {
    for (name, seed) in committed(target) {
        assert_eq!(decodes(&seed), expected.contains(&name.as_str()), "{target}/{name}");
    }
}

/// Runs a check and names the bytes that broke it.
fn hold(target: &str, name: &str, check: Check, bytes: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| check(bytes))).is_err() {
        panic!("{target} does not hold for bytes made from `{name}`: {}", hex(bytes));
    }
}

/// One to four of: a byte changed, a bit flipped, bytes cut out, bytes doubled, the end of another seed, a telling number.
fn mutate(bytes: &[u8], other: &[u8], random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=below(random, 4) {
        let at = below(random, bytes.len() + 1);
        let end = (at + below(random, 8)).min(bytes.len());
        match below(random, 7) {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.next_u32() as u8),
            1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (random.next_u32() % 8)),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => {
                bytes.truncate(at);
                bytes.extend_from_slice(&other[at.min(other.len())..]);
            }
            _ => {
                let numbers = [f32::NAN, f32::INFINITY, -0.0, f32::MAX, f32::MIN_POSITIVE, 65_536.0, 256.0, -65_519.0];
                let number = numbers[below(random, numbers.len())].to_le_bytes();
                bytes.iter_mut().skip(at).zip(number).for_each(|(byte, new)| *byte = new);
            }
        }
    }
    bytes
}

fn below(random: &mut ChaCha8Rng, end: usize) -> usize {
    random.next_u32() as usize % end
}

fn committed(target: &str) -> BTreeMap<String, Vec<u8>> {
    let seed = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        (name, fs::read(entry.path()).expect("a readable seed"))
    };
    let entries = fs::read_dir(folder(target)).expect("a folder of seeds");
    entries.map(|entry| seed(entry.expect("a readable folder"))).collect()
}

fn folder(target: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../tests/fuzz/corpus", target].iter().collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
