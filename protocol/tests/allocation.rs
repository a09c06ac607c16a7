//! Small bytes that claim to be large ones allocate next to nothing, and honest bytes a known multiple of themselves.
//!
//! One test: the allocator counts for the whole program.

use grapevine_models::limits::{MAX_CLASSES, MAX_FEATURES};
use grapevine_models::{Head, Heads, Method, Shape, Sums};
use grapevine_protocol::limits::MAX_BLOB_BYTES;
use grapevine_protocol::{
    Assembler, BlobRef, DatasetId, Encoding, HeadsBody, Request, Response, SideInformationBody, Update,
    decode_to_aggregator, decode_to_device,
};
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Bytes; room for what the test harness itself does meanwhile.
const NEXT_TO_NOTHING: usize = 16 * 1024;

#[test]
fn claims_allocate_nothing() {
    let largest = Shape::new(MAX_CLASSES, MAX_FEATURES).unwrap();
    for (what, body, request) in false_claims() {
        let peak = peak_of(|| assert!(Update::decode(&body, largest, request).is_err()));
        assert!(peak < NEXT_TO_NOTHING, "{what}: {peak} bytes");
        let peak = peak_of(|| assert!(HeadsBody::decode(&body, largest).is_err()));
        assert!(peak < NEXT_TO_NOTHING, "{what} as heads: {peak} bytes");
        let peak = peak_of(|| assert!(SideInformationBody::decode(&body, largest).is_err()));
        assert!(peak < NEXT_TO_NOTHING, "{what} as side information: {peak} bytes");
    }
    for kind in 0..=4 {
        let side_information = [&[kind, 0xe8, 7, 0][..], &[0; 36]].concat();
        let peak = peak_of(|| assert!(SideInformationBody::decode(&side_information, largest).is_err()));
        assert!(peak < NEXT_TO_NOTHING, "side information of kind {kind}: {peak} bytes");
    }
    for bytes in [200_000_000, u32::MAX, MAX_BLOB_BYTES as u32 + 1] {
        let claim = BlobRef { bytes, ..BlobRef::of(b"") };
        let peak = peak_of(|| assert!(Assembler::new(claim, MAX_BLOB_BYTES).is_err()));
        assert!(peak < NEXT_TO_NOTHING, "a blob of {bytes} bytes: {peak} bytes");
    }
    // A hello with 2^32 attributes, a request for 65,535 blocks.
    let hello = [&[1, 0, 1][..], &[7; 64], &[2, 2, 5, 0xff, 0xff, 0xff, 0xff, 0x0f]].concat();
    let want = [&[1, 1][..], &[7; 32], &[1, 0xff, 0xff, 3, 0xff, 0xff, 3]].concat();
    for frame in [hello, want] {
        let peak = peak_of(|| assert!(decode_to_aggregator(&frame).is_err() && decode_to_device(&frame).is_err()));
        assert!(peak < NEXT_TO_NOTHING, "a frame: {peak} bytes");
    }
    honest_updates_cost_a_known_multiple();
}

/// Forty bytes each, that begin as an update of the largest shape does.
fn false_claims() -> Vec<(&'static str, Vec<u8>, Request)> {
    let begin = [0xe8, 7, 0x80, 16, 10, 9];
    let claim = |kind: &[u8]| {
        let mut body = [&begin[..], kind].concat();
        body.resize(40, 0);
        body
    };
    let statistics = Request::Statistics(Sums::SecondMoment);
    let heads = Method::RedGrape.training_request();
    vec![
        ("two heads and every prototype in f32", claim(&[0, 0, 1, 1, 0xe8, 7, 0]), heads),
        ("two heads and every prototype in int8", claim(&[0, 2, 1, 1, 0xe8, 7, 0]), heads),
        ("65,535 prototypes", claim(&[0, 1, 0, 1, 0xff, 0xff, 3, 0]), heads),
        ("the second moment", claim(&[1, 3]), statistics),
    ]
}

/// A number of one byte becomes one of four, and a growing vector doubles.
fn honest_updates_cost_a_known_multiple() {
    let shape = Shape::new(100, 512).expect("within the limits");
    let head = Head { weight: vec![0.5; shape.weights()], bias: vec![0.5; shape.classes()] };
    let heads = Heads { main: head.clone(), supplementary: head };
    let content = Response::Heads { heads, prototypes: Some(Default::default()), loss: None };
    let update = Update { samples: 9, dataset: DatasetId(9), response: content };
    for (encoding, multiple) in [(Encoding::F32, 2), (Encoding::F16, 3), (Encoding::Int8, 8)] {
        let body = update.encode(shape, encoding);
        let peak = peak_of(|| drop(Update::decode(&body, shape, Method::RedGrape.training_request()).expect("honest")));
        assert!(peak > body.len() / 2, "{encoding:?}: only {peak} bytes were seen");
        assert!(peak < multiple * body.len() + NEXT_TO_NOTHING, "{encoding:?}: {peak} for {} bytes", body.len());
    }
}

/// The most bytes held at one time by `work`, beyond what was held before.
fn peak_of(work: impl FnOnce()) -> usize {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    work();
    ALLOCATOR.peak_usage().saturating_sub(before)
}
