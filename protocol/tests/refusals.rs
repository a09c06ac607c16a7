//! Everything wrong that can arrive, and the name under which it is refused.

use grapevine_models::limits::{
    MAX_CLASS_WEIGHT, MAX_FEATURE_VALUE, MAX_GRADIENT_VALUE, MAX_LOSS, MAX_PARAMETER_VALUE, MAX_SAMPLES,
};
use grapevine_models::{Head, Heads, Method, OfMethod, Prototypes, Shape, Statistics, Sums, scaffold};
use grapevine_protocol::limits::{BLOCK_BYTES, MAX_BLOB_BYTES, MAX_FRAME_BYTES};
use grapevine_protocol::{
    Assembler, BlobRef, BlockError, BlockHeader, BodyError, DatasetId, Digest, Encoding, HeadsBody, Refusal, Request,
    Response, SideInformation, SideInformationBody, Update, block, decode_to_aggregator, decode_to_device,
    largest_side_information, largest_update,
};

// Numbers of the wire.
const F32: u8 = 0;
const F16: u8 = 1;
const INT8: u8 = 2;

/// An update of ten samples for two classes and two features: `kind` is the end of the header.
fn update(kind: &[u8], arrays: &[&[u8]]) -> Vec<u8> {
    [&[2, 2, 10, 0][..], kind, &arrays.concat()].concat()
}

fn trained(supplementary: bool, prototypes: u8, arrays: &[&[u8]]) -> Vec<u8> {
    update(&[0, F32, supplementary.into(), 1, prototypes, 0], arrays)
}

fn numbers(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn whole(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn classes(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A head of two classes and two features whose first weight is given.
fn head(first: f32) -> Vec<u8> {
    numbers(&[first, 0.5, -0.5, 0.25, 1.0, -1.0])
}

fn shape() -> Shape {
    Shape::new(2, 2).expect("within the limits")
}

#[test]
fn frames() {
    let refused = |frame: &[u8]| {
        let to_aggregator = decode_to_aggregator(frame).map(|_| ()).map_err(|error| error.refusal());
        let to_device = decode_to_device(frame).map(|_| ()).map_err(|error| error.refusal());
        assert_eq!(to_aggregator, to_device);
        to_aggregator.err()
    };
    // A block request for sixteen blocks, as it must be with two bytes of bits.
    let want = |bits: &[u8]| [&[1, 1][..], &[7; 32], &[1, 4], &[16], bits].concat();
    assert!(decode_to_aggregator(&want(&[2, 0xff, 0x0f])).is_ok());
    for (what, frame, reason) in [
        ("nothing", vec![], Refusal::Garbage),
        ("another version", vec![2, 4, 1], Refusal::Version),
        ("text", b"{\"hello\": 1}".to_vec(), Refusal::Version),
        ("a version alone", vec![1], Refusal::Garbage),
        ("an unknown message", vec![1, 9, 1, 1, 1], Refusal::Garbage),
        ("longer than any frame", vec![1; MAX_FRAME_BYTES + 1], Refusal::Garbage),
        ("bytes behind a message without a block", vec![1, 1, 3, 3, 3], Refusal::Garbage),
        ("more bits than blocks", want(&[3, 0xff, 0xff, 0xff]), Refusal::Garbage),
        ("fewer bits than blocks", want(&[1, 0xff]), Refusal::Garbage),
        ("more blocks than any blob has", want_of_65_535_blocks(), Refusal::Garbage),
    ] {
        assert_eq!(refused(&frame), Some(reason), "{what}");
    }
}

fn want_of_65_535_blocks() -> Vec<u8> {
    [&[1, 1][..], &[7; 32], &[1, 4], &[0xff, 0xff, 3], &[0x80, 4], &[0; 512]].concat()
}

#[test]
fn a_block_is_where_the_message_wants_one() {
    let leaving = [1, 4, 7];
    assert!(decode_to_aggregator(&leaving).is_ok());
    let with_block = [&leaving[..], &[0]].concat();
    assert_eq!(decode_to_aggregator(&with_block).unwrap_err().refusal(), Refusal::Garbage);
    let header_alone = [&[1, 3][..], &[7; 32], &[0, 0]].concat();
    assert_eq!(decode_to_aggregator(&header_alone).unwrap_err().refusal(), Refusal::Garbage);
    let hello_of_no_shape = [&[1, 0, 1][..], &[7; 64], &[1, 2, 5, 0]].concat();
    assert_eq!(decode_to_aggregator(&hello_of_no_shape).unwrap_err().refusal(), Refusal::Garbage);
}

#[test]
fn trained_updates() {
    let good = head(1.0);
    let over = f32::from_bits(MAX_PARAMETER_VALUE.to_bits() + 1);
    let steep = f32::from_bits(MAX_GRADIENT_VALUE.to_bits() + 1);
    let biases = numbers(&[0.0, 0.0]);
    for (what, body, reason) in [
        ("nothing", vec![], Refusal::Content),
        ("a header that ends", vec![2, 2, 10, 0, 0], Refusal::Content),
        ("an unknown encoding", update(&[0, 3, 0, 1, 0, 0], &[&good]), Refusal::Content),
        ("a shape that cannot be", [&[1, 2, 10, 9, 0, 0, 0, 1, 0, 0][..], &good].concat(), Refusal::Content),
        ("another shape", [&[2, 3, 10, 9, 0, 0, 0, 1, 0, 0][..], &good].concat(), Refusal::Shape),
        ("the largest shape", [&[0xe8, 7, 0x80, 16, 10, 9, 0, 0, 0, 1, 0, 0][..], &good].concat(), Refusal::Shape),
        ("no samples", [&[2, 2, 0, 9, 0, 0, 0, 1, 0, 0][..], &good].concat(), Refusal::Samples),
        ("too many samples", [&[2, 2, 0x81, 0x80, 0x80, 8, 9, 0, 0, 0, 1, 0, 0][..], &good].concat(), Refusal::Samples),
        ("half a head", trained(false, 0, &[&good[..12]]), Refusal::Content),
        ("one byte too few", trained(false, 0, &[&good[..23]]), Refusal::Content),
        ("one byte too many", trained(false, 0, &[&good, &[0]]), Refusal::Content),
        ("a head that was not announced", trained(false, 0, &[&good, &good]), Refusal::Content),
        ("a head that does not come", trained(true, 0, &[&good]), Refusal::Content),
        ("NaN", trained(false, 0, &[&head(f32::NAN)]), Refusal::NotFinite),
        ("infinity", trained(false, 0, &[&head(f32::NEG_INFINITY)]), Refusal::NotFinite),
        ("NaN in the second head", trained(true, 0, &[&good, &head(f32::NAN)]), Refusal::NotFinite),
        ("NaN in f16", update(&[0, F16, 0, 1, 0, 0], &[&[0, 0x7e, 0, 0, 0, 0, 0, 0], &biases]), Refusal::NotFinite),
        ("a scale of NaN", update(&[0, INT8, 0, 1, 0, 0], &[&head_int8(f32::NAN)]), Refusal::NotFinite),
        ("an infinite scale", update(&[0, INT8, 0, 1, 0, 0], &[&head_int8(f32::INFINITY)]), Refusal::NotFinite),
        ("a scale that overflows", update(&[0, INT8, 0, 1, 0, 0], &[&head_int8(f32::MAX)]), Refusal::NotFinite),
        ("an absurd scale", update(&[0, INT8, 0, 1, 0, 0], &[&head_int8(1e6)]), Refusal::Absurd),
        ("an absurd weight", trained(false, 0, &[&head(over)]), Refusal::Absurd),
        ("an absurd weight below zero", trained(false, 0, &[&head(-over)]), Refusal::Absurd),
        ("an unknown class", trained(false, 1, &[&good, &classes(&[2]), &good]), Refusal::Content),
        ("a class twice", trained(false, 2, &[&good, &classes(&[1, 1]), &good, &good]), Refusal::Content),
        ("descending classes", trained(false, 2, &[&good, &classes(&[1, 0]), &good, &good]), Refusal::Content),
        ("three of two classes", trained(false, 3, &[&good, &classes(&[0, 1, 2]), &good]), Refusal::Content),
        ("a prototype that does not come", trained(false, 1, &[&good, &classes(&[1])]), Refusal::Content),
        ("NaN in a prototype", trained(false, 1, &[&good, &classes(&[1]), &head(f32::NAN)]), Refusal::NotFinite),
        ("an absurd gradient", trained(false, 1, &[&good, &classes(&[0]), &head(steep)]), Refusal::Absurd),
        ("no head", update(&[0, F32, 0, 1, 0, 0], &[]), Refusal::Content),
        ("two supplementary heads", update(&[0, F32, 2, 1, 0, 0], &[&good, &good, &good]), Refusal::Content),
        ("no prototypes", update(&[0, F32, 0, 0, 0], &[&good]), Refusal::Content),
        ("a loss", update(&[0, F32, 0, 1, 0, 1], &[&numbers(&[0.5]), &good]), Refusal::Content),
        ("a loss that does not come", update(&[0, F32, 0, 1, 0, 1], &[]), Refusal::Content),
        ("a gradient instead", update(&[2, F32], &[&good]), Refusal::Content),
        ("statistics instead", update(&[1, 1], &[&whole(&[5, 5])]), Refusal::Content),
    ] {
        let refused =
            Update::decode(&body, shape(), Method::RedGrape.training_request()).map_err(|error| error.refusal());
        assert_eq!(refused, Err(reason), "{what}");
    }
    for (what, fine) in [
        ("the largest weight", trained(false, 0, &[&head(MAX_PARAMETER_VALUE)])),
        ("the largest gradient", trained(false, 1, &[&good, &classes(&[1]), &head(-MAX_GRADIENT_VALUE)])),
        ("the most samples", [&[2, 2, 0x80, 0x80, 0x80, 8, 9, 0, 0, 0, 1, 0, 0][..], &good].concat()),
    ] {
        assert!(Update::decode(&fine, shape(), Method::RedGrape.training_request()).is_ok(), "{what}");
    }
}

fn head_int8(scale: f32) -> Vec<u8> {
    [&scale.to_le_bytes()[..], &[127, 0], &1.0_f32.to_le_bytes(), &[1, 2], &numbers(&[0.0, 0.0])].concat()
}

#[test]
fn what_the_method_does_not_ask_for() {
    let requests: Vec<Request> = Method::ALL.into_iter().map(Method::training_request).collect();
    let head = Head { weight: vec![1.0, 0.5, -0.5, 0.25], bias: vec![1.0, -1.0] };
    let prototypes = Prototypes { by_class: [(0, head.clone())].into() };
    let answer = |request: Request| match request {
        Request::Statistics(extent) => Response::Statistics(Statistics::empty(shape(), extent)),
        Request::Heads { supplementary, prototypes: with_prototypes, loss } => {
            let second = if supplementary { head.clone() } else { Head::zeros(shape()) };
            let heads = Heads { main: head.clone(), supplementary: second };
            let prototypes = with_prototypes.then(|| prototypes.clone());
            Response::Heads { heads, prototypes, loss: loss.then_some(0.5) }
        }
        Request::Gradient => Response::Gradient(head.clone()),
        Request::Prototypes => Response::Prototypes(prototypes.clone()),
        Request::OfMethod(method) => {
            let answer = scaffold::Answer { main: head.clone(), since: 0, change: head.clone() };
            Response::OfMethod(OfMethod::new(method, answer))
        }
    };
    for given in &requests {
        let update = Update { samples: 3, dataset: DatasetId(9), response: answer(*given) };
        let body = update.encode(shape(), Encoding::F32);
        for asked in &requests {
            let taken = Update::decode(&body, shape(), *asked).map_err(|error| error.refusal());
            // A supplementary head of zeros is not sent.
            let fits = given == asked || given.with_supplementary() == *asked;
            let expected = if fits { Ok(update.clone()) } else { Err(Refusal::Content) };
            assert_eq!(taken, expected, "{given:?} where {asked:?} was asked for");
        }
    }
}

#[test]
fn losses() {
    for (loss, reason) in [
        (0.5, None),
        (0.0, None),
        (MAX_LOSS, None),
        (MAX_LOSS * 1.01, Some(Refusal::Absurd)),
        (-0.5, Some(Refusal::Absurd)),
        (f32::NAN, Some(Refusal::NotFinite)),
        (f32::INFINITY, Some(Refusal::NotFinite)),
    ] {
        let body = update(&[0, F32, 0, 0, 1], &[&numbers(&[loss]), &head(1.0)]);
        let update = Update::decode(&body, shape(), Method::Climb.training_request());
        assert_eq!(update.err().map(|error| error.refusal()), reason, "{loss}");
    }
}

#[test]
fn what_the_request_does_not_ask_for() {
    let extents = [Sums::Counts, Sums::Means, Sums::SecondMoment];
    let bodies = [
        update(&[1, 1], &[&whole(&[5, 5])]),
        update(&[1, 2], &[&whole(&[5, 5]), &numbers(&[1.0; 4])]),
        update(&[1, 3], &[&whole(&[5, 5]), &numbers(&[1.0; 7])]),
        update(&[0, F32, 0, 0, 0], &[&head(1.0)]),
    ];
    let mut requests = vec![Request::Statistics(Sums::Nothing)];
    requests.extend(extents.map(Request::Statistics));
    requests.push(Request::MAIN_HEAD);
    for (asked, request) in requests.into_iter().enumerate() {
        for (sent, body) in bodies.iter().enumerate() {
            let update = Update::decode(body, shape(), request).map_err(|error| error.refusal());
            // The first request has no answer.
            assert_eq!(update.is_ok(), sent + 1 == asked, "{request:?} answered by body {sent}");
            assert!(matches!(update, Ok(_) | Err(Refusal::Content)));
        }
    }
}

#[test]
fn statistics() {
    let request = Request::Statistics(Sums::SecondMoment);
    let body = |counts: [u32; 2], sum: f32, moment: f32| {
        let arrays = numbers(&[sum, 0.0, 0.0, 0.0, moment, 0.0, 0.0]);
        update(&[1, 3], &[&whole(&counts), &arrays])
    };
    let largest = MAX_FEATURE_VALUE;
    for (what, body, reason) in [
        ("fine", body([2, 1], 1.5, 2.0), None),
        ("as large as can be", body([2, 1], 2.0 * largest, 3.0 * largest * largest), None),
        ("NaN", body([2, 1], f32::NAN, 2.0), Some(Refusal::NotFinite)),
        ("infinity", body([2, 1], 1.5, f32::INFINITY), Some(Refusal::NotFinite)),
        ("a sum of no samples", body([0, 3], 1.0, 2.0), Some(Refusal::Absurd)),
        ("a sum that is too large", body([2, 1], 3.0 * largest, 2.0), Some(Refusal::Absurd)),
        ("a moment that is too large", body([2, 1], 1.0, 4.0 * largest * largest), Some(Refusal::Absurd)),
        ("more samples than one device holds", body([MAX_SAMPLES, 1], 1.0, 1.0), Some(Refusal::Samples)),
        ("counts that wrap around", body([u32::MAX, 2], 1.0, 1.0), Some(Refusal::Samples)),
        ("counts alone", update(&[1, 3], &[&whole(&[2, 1])]), Some(Refusal::Content)),
    ] {
        let update = Update::decode(&body, shape(), request);
        assert_eq!(update.err().map(|error| error.refusal()), reason, "{what}");
    }
}

#[test]
fn heads_of_the_fleet() {
    let good = head(1.0);
    let body = |header: [u8; 3], arrays: &[&[u8]]| [&header[..], &arrays.concat()].concat();
    for (what, body, reason) in [
        ("fine", body([2, 2, 0], &[&good]), None),
        ("another shape", body([2, 3, 0], &[&good]), Some(Refusal::Shape)),
        ("a shape that cannot be", body([2, 0, 0], &[&good]), Some(Refusal::Content)),
        ("a flag that is none", body([2, 2, 2], &[&good]), Some(Refusal::Content)),
        ("one head of two", body([2, 2, 1], &[&good]), Some(Refusal::Content)),
        ("two heads for one", body([2, 2, 0], &[&good, &good]), Some(Refusal::Content)),
        ("NaN", body([2, 2, 1], &[&good, &head(f32::NAN)]), Some(Refusal::NotFinite)),
        ("absurd", body([2, 2, 0], &[&head(1e9)]), Some(Refusal::Absurd)),
    ] {
        let heads = HeadsBody::decode(&body, shape());
        assert_eq!(heads.err().map(|error| error.refusal()), reason, "{what}");
    }
}

#[test]
fn aids() {
    let body = |header: &[u8], arrays: &[&[u8]]| [header, &arrays.concat()].concat();
    let mean = numbers(&[1.0, -1.0]);
    let absurd = numbers(&[MAX_FEATURE_VALUE * 1.001, 0.0]);
    for (what, body, reason) in [
        ("no prototypes at all", body(&[0, F32, 0], &[]), None),
        ("means", body(&[1, 2], &[&classes(&[0, 1]), &mean, &mean]), None),
        ("a prior", body(&[2], &[&numbers(&[0.5, 0.5])]), None),
        ("weights", body(&[3], &[&numbers(&[0.0, MAX_CLASS_WEIGHT])]), None),
        ("a reference point", body(&[4], &[&head(1.0)]), None),
        ("unknown side information", body(&[5, 0], &[]), Some(Refusal::Content)),
        ("a weight below zero", body(&[3], &[&numbers(&[-0.5, 1.0])]), Some(Refusal::Absurd)),
        ("an absurd weight", body(&[3], &[&numbers(&[1.0, 1e6])]), Some(Refusal::Absurd)),
        ("a weight of NaN", body(&[3], &[&numbers(&[1.0, f32::NAN])]), Some(Refusal::NotFinite)),
        ("half a reference point", body(&[4], &[&mean]), Some(Refusal::Content)),
        ("an absurd reference point", body(&[4], &[&head(1e9)]), Some(Refusal::Absurd)),
        ("a reference point of NaN", body(&[4], &[&head(f32::NAN)]), Some(Refusal::NotFinite)),
        ("unknown classes", body(&[1, 1], &[&classes(&[2]), &mean]), Some(Refusal::Content)),
        ("classes twice", body(&[1, 2], &[&classes(&[0, 0]), &mean, &mean]), Some(Refusal::Content)),
        ("more classes than there are", body(&[1, 3], &[&classes(&[0, 1, 2])]), Some(Refusal::Content)),
        ("a mean too few", body(&[1, 2], &[&classes(&[0, 1]), &mean]), Some(Refusal::Content)),
        ("a mean too many", body(&[1, 1], &[&classes(&[0]), &mean, &mean]), Some(Refusal::Content)),
        ("an absurd mean", body(&[1, 1], &[&classes(&[0]), &absurd]), Some(Refusal::Absurd)),
        ("a mean of NaN", body(&[1, 1], &[&classes(&[0]), &numbers(&[f32::NAN, 0.0])]), Some(Refusal::NotFinite)),
        ("a share above one", body(&[2], &[&numbers(&[1.5, 0.5])]), Some(Refusal::Absurd)),
        ("a share below zero", body(&[2], &[&numbers(&[-0.5, 0.5])]), Some(Refusal::Absurd)),
        ("a share of NaN", body(&[2], &[&numbers(&[f32::NAN, 0.5])]), Some(Refusal::NotFinite)),
        ("three shares", body(&[2], &[&numbers(&[0.5, 0.25, 0.25])]), Some(Refusal::Content)),
        ("an absurd gradient", body(&[0, F32, 1], &[&classes(&[0]), &head(300.0)]), Some(Refusal::Absurd)),
    ] {
        let side_information = SideInformationBody::decode(&body, shape());
        assert_eq!(side_information.err().map(|error| error.refusal()), reason, "{what}");
    }
}

#[test]
fn blocks() {
    let content = vec![7; BLOCK_BYTES + 10];
    let blob = BlobRef::of(&content);
    let claim = |bytes| Assembler::new(BlobRef { bytes, ..blob }, MAX_BLOB_BYTES).err().map(BlockError::refusal);
    assert_eq!(claim(200_000_000), Some(Refusal::TooLarge));
    assert_eq!(claim(u32::MAX), Some(Refusal::TooLarge));
    assert_eq!(claim(0), Some(Refusal::Block));
    let mut assembler = Assembler::new(blob, content.len()).unwrap();
    assert!(Assembler::new(blob, content.len() - 1).is_err());
    let (header, bytes) = block(&blob, &content, 1).unwrap();
    let mut damaged = bytes.to_vec();
    damaged[0] ^= 1;
    for (what, header, bytes, reason) in [
        ("of another blob", BlockHeader { digest: Digest::of(b"other"), ..header }, bytes, Refusal::Block),
        ("beyond the end", BlockHeader { index: 2, ..header }, bytes, Refusal::Block),
        ("far beyond the end", BlockHeader { index: u16::MAX, ..header }, bytes, Refusal::Block),
        ("at another's place", BlockHeader { index: 0, ..header }, bytes, Refusal::Block),
        ("too short", header, &bytes[1..], Refusal::Block),
        ("too long", header, &content[..11], Refusal::Block),
        ("damaged", header, &damaged, Refusal::Crc),
    ] {
        assert_eq!(assembler.accept(&header, bytes).map_err(BlockError::refusal), Err(reason), "{what}");
        assert_eq!(assembler.missing().count(), 2, "{what}");
    }
    assert_eq!(assembler.clone().into_content().map_err(BlockError::refusal), Err(Refusal::Digest));
    let lie = BlobRef { bytes: 10, ..BlobRef::of(b"a lie") };
    let mut assembler = Assembler::new(lie, 10).unwrap();
    let (header, bytes) = block(&lie, &content, 0).unwrap();
    assert_eq!(assembler.accept(&header, bytes), Ok(true));
    assert_eq!(assembler.into_content().map_err(BlockError::refusal), Err(Refusal::Digest));
}

/// A device whose training broke must not slip through as a head of zeros.
#[test]
fn broken_numbers_are_refused_in_every_encoding() {
    for encoding in [Encoding::F32, Encoding::F16, Encoding::Int8] {
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..4 {
                let mut main = Head { weight: vec![1.0, 0.5, -0.5, 0.25], bias: vec![0.0; 2] };
                main.weight[at] = broken;
                let heads = Heads { main, supplementary: Head::zeros(shape()) };
                let content = Response::Heads { heads, prototypes: None, loss: None };
                let body = Update { samples: 1, dataset: DatasetId(9), response: content }.encode(shape(), encoding);
                let refused =
                    Update::decode(&body, shape(), Method::FedAvg.training_request()).map_err(|e| e.refusal());
                assert_eq!(refused, Err(Refusal::NotFinite), "{broken} at {at} in {encoding:?}");
            }
        }
    }
}

#[test]
fn no_encoding_is_longer_than_the_longest_update() {
    for (classes, features) in [(2, 1), (100, 1), (100, 2), (40, 64)] {
        let shape = Shape::new(classes, features).unwrap();
        let head = Head { weight: vec![1.0; shape.weights()], bias: vec![1.0; classes] };
        let prototypes = Prototypes { by_class: (0..classes as u16).map(|class| (class, head.clone())).collect() };
        let heads = Heads { main: head.clone(), supplementary: head };
        let content = Response::Heads { heads, prototypes: Some(prototypes.clone()), loss: None };
        let update = Update { samples: MAX_SAMPLES, dataset: DatasetId(9), response: content };
        for encoding in [Encoding::F32, Encoding::F16, Encoding::Int8] {
            let bytes = update.encode(shape, encoding).len();
            let longest = largest_update(shape, Method::RedGrape.training_request());
            assert!(bytes <= longest, "{shape:?} {encoding:?}: {bytes} bytes, expected at most {longest}");
            let side_information =
                SideInformationBody(SideInformation::Prototypes(prototypes.clone())).encode(encoding).len();
            assert!(
                side_information <= largest_side_information(shape, Method::RedGrape),
                "{shape:?} {encoding:?}: side information of {side_information} bytes"
            );
        }
    }
}

#[test]
fn every_refusal_tells_what_to_do() {
    for reason in Refusal::ALL {
        assert!(reason.advice().len() > 20, "{reason}");
    }
    assert_eq!(BodyError::Content.refusal().to_string(), "content");
}
