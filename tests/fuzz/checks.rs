//! What must hold for any bytes that arrive. The fuzz targets and the ordinary tests of the protocol call these.

use std::sync::OnceLock;

use grapevine_models::limits::{MAX_CLASS_WEIGHT, MAX_FEATURE_VALUE, MAX_LOSS, MAX_SAMPLES};
use grapevine_models::{Heads, Means, Method, ServerState, Shape, Sums};
use grapevine_protocol::limits::{BLOCK_BYTES, MAX_BLOCKS, MAX_FRAME_BYTES};
use grapevine_protocol::{
    Assembler, Bitmap, BlobRef, BlockError, BlockHeader, BlockSize, BodyError, DeviceStateBody, Digest, Encoding,
    HeadsBody, Refusal, Request, Response, ServerStateBody, SideInformation, SideInformationBody, ToAggregator,
    ToDevice, Update, block, decode_to_aggregator, decode_to_device, encode, largest_side_information, largest_update,
};

/// Classes and features of the fleets that the body targets know.
const SHAPES: [(usize, usize); 3] = [(2, 2), (3, 1), (5, 4)];

/// What the rounds of the update target ask for.
const REQUESTS: [Request; 11] = [
    Request::Heads { supplementary: true, prototypes: true, loss: false },
    Request::MAIN_HEAD,
    Request::Heads { supplementary: false, prototypes: true, loss: false },
    Request::Heads { supplementary: true, prototypes: false, loss: false },
    Request::Statistics(Sums::Counts),
    Request::Statistics(Sums::Means),
    Request::Statistics(Sums::SecondMoment),
    Request::Gradient,
    Request::Heads { supplementary: false, prototypes: false, loss: true },
    Request::Prototypes,
    Request::OfMethod(Method::Scaffold),
];

/// Most bytes the assembler target expects: three blocks, the last of which is short.
const ASSEMBLER_LIMIT: usize = 2 * BLOCK_BYTES + 100;

/// A frame on a device's topic.
pub fn to_aggregator(bytes: &[u8]) {
    match decode_to_aggregator(bytes) {
        Ok((message, block)) => {
            if let ToAggregator::BlockRequest(want) = &message {
                sound_bitmap(&want.missing);
            }
            let frame = encode(&message, block);
            assert!(frame.len() <= MAX_FRAME_BYTES);
            assert_eq!(decode_to_aggregator(&frame), Ok((message, block)));
        }
        Err(error) => assert!(matches!(error.refusal(), Refusal::Garbage | Refusal::Version)),
    }
}

/// A frame on any topic a device reads.
pub fn to_device(bytes: &[u8]) {
    match decode_to_device(bytes) {
        Ok((message, block)) => {
            if let ToDevice::BlockRequest(want) = &message {
                sound_bitmap(&want.missing);
            }
            let frame = encode(&message, block);
            assert!(frame.len() <= MAX_FRAME_BYTES);
            let (again, rest) = decode_to_device(&frame).expect("what was written can be read");
            assert_eq!(encode(&again, rest), frame);
        }
        Err(error) => assert!(matches!(error.refusal(), Refusal::Garbage | Refusal::Version)),
    }
}

/// The round, then a device's answer to it.
pub fn update(bytes: &[u8]) {
    let Some((&first, body)) = bytes.split_first() else { return };
    let request = REQUESTS[usize::from(first) % REQUESTS.len()];
    let shape = shape(first / REQUESTS.len() as u8);
    let update = match Update::decode(body, shape, request) {
        Ok(update) => update,
        Err(error) => return sound_error(&error),
    };
    assert!((u32::from(request.is_training())..=MAX_SAMPLES).contains(&update.samples));
    assert!(body.len() <= largest_update(shape, request));
    for encoding in [Encoding::F16, Encoding::Int8] {
        // F16 cannot hold the largest weights; it may refuse them but must not panic.
        if let Err(error) = Update::decode(&update.encode(shape, encoding), shape, request) {
            sound_error(&error);
        }
    }
    match &update.response {
        Response::Heads { heads, prototypes, loss } => {
            assert_eq!(heads.check(shape), Ok(()));
            let given = Request::Heads {
                supplementary: heads.supplementary != Heads::zeros(shape).supplementary,
                prototypes: prototypes.is_some(),
                loss: loss.is_some(),
            };
            assert!(given == request || given.with_supplementary() == request);
            assert!(prototypes.as_ref().is_none_or(|prototypes| prototypes.check(shape).is_ok()));
            assert!(loss.is_none_or(|loss| (0.0..=MAX_LOSS).contains(&loss)));
        }
        Response::Gradient(gradient) => assert_eq!(gradient.check(shape), Ok(())),
        Response::Prototypes(prototypes) => assert_eq!(prototypes.check(shape), Ok(())),
        Response::OfMethod(value) => assert_eq!(request, Request::OfMethod(value.method())),
        Response::Statistics(statistics) => {
            assert!(!request.is_training());
            assert!(statistics.samples() <= u64::from(MAX_SAMPLES));
            let floats = statistics.to_floats();
            assert!(floats.sums.iter().chain(&floats.moment).all(|value| value.is_finite()));
            return;
        }
    }
    let again = Update::decode(&update.encode(shape, Encoding::F32), shape, request);
    assert_eq!(again, Ok(update));
}

/// The shape, then the fleet's heads.
pub fn heads(bytes: &[u8]) {
    let Some((&first, body)) = bytes.split_first() else { return };
    let shape = shape(first);
    match HeadsBody::decode(body, shape) {
        Ok(heads) => {
            assert_eq!(heads.0.check(shape), Ok(()));
            assert_eq!(HeadsBody::decode(&heads.encode(shape), shape), Ok(heads));
        }
        Err(error) => sound_error(&error),
    }
}

/// The shape, then what a method adds to the heads.
pub fn side_information(bytes: &[u8]) {
    let Some((&first, body)) = bytes.split_first() else { return };
    let shape = shape(first);
    let side_information = match SideInformationBody::decode(body, shape) {
        Ok(side_information) => side_information,
        Err(error) => return sound_error(&error),
    };
    let method = match &side_information.0 {
        SideInformation::Prototypes(prototypes) => {
            assert_eq!(prototypes.check(shape), Ok(()));
            Method::RedGrape
        }
        SideInformation::Means(means) => {
            sound_means(means, shape);
            Method::RedGrapeLive
        }
        SideInformation::Prior(prior) => {
            assert_eq!(prior.len(), shape.classes());
            assert!(prior.iter().all(|share| (0.0..=1.0).contains(share)));
            Method::LogitAdjusted
        }
        SideInformation::Weights(weights) => {
            assert_eq!(weights.len(), shape.classes());
            assert!(weights.iter().all(|weight| (0.0..=MAX_CLASS_WEIGHT).contains(weight)));
            Method::RatioLoss
        }
        SideInformation::ReferencePoint(head) => {
            assert_eq!(head.check(shape), Ok(()));
            Method::RedGrapePlus
        }
        SideInformation::OfMethod(value) => value.method(),
    };
    assert!(body.len() <= largest_side_information(shape, method));
    assert_eq!(SideInformationBody::decode(&side_information.encode(Encoding::F32), shape), Ok(side_information));
}

/// The shape, then what an aggregator keeps for itself.
pub fn server_state(bytes: &[u8]) {
    let Some((&first, body)) = bytes.split_first() else { return };
    let shape = shape(first);
    let server_state = match ServerStateBody::decode(body, shape) {
        Ok(server_state) => server_state,
        Err(error) => return sound_error(&error),
    };
    let ServerState { prior, average, of_method: _ } = &server_state.0;
    assert!(prior.is_empty() || prior.len() == shape.classes());
    assert!(average.as_ref().is_none_or(|average| average.head.weight.len() == shape.weights()));
    assert!(prior.iter().all(|number| number.is_finite()));
    assert_eq!(ServerStateBody::decode(&server_state.encode(), shape), Ok(server_state));
}

/// The shape, then what a method keeps on a device.
pub fn device_state(bytes: &[u8]) {
    let Some((&first, body)) = bytes.split_first() else { return };
    let shape = shape(first);
    match DeviceStateBody::decode(body, shape) {
        Ok(state) => assert_eq!(DeviceStateBody::decode(&state.encode(), shape), Ok(state)),
        Err(error) => sound_error(&error),
    }
}

fn sound_means(means: &Means, shape: Shape) {
    assert!(means.by_class.keys().all(|class| usize::from(*class) < shape.classes()));
    assert!(means.by_class.values().all(|mean| mean.len() == shape.features()));
    assert!(means.by_class.values().flatten().all(|value| value.abs() <= MAX_FEATURE_VALUE));
}

/// A script: whether the announced digest is right, the claimed length, then blocks in any order and state.
pub fn assembler(bytes: &[u8]) {
    let Some((&[lie, a, b, c, d], script)) = bytes.split_first_chunk() else { return };
    let claimed = u32::from_le_bytes([a, b, c, d]);
    let content = &pattern()[..(claimed as usize).min(ASSEMBLER_LIMIT)];
    let honest = lie.is_multiple_of(2);
    let digest = if honest { Digest::of(content) } else { Digest([lie; 32]) };
    let blob = BlobRef { digest, bytes: claimed, block: BlockSize::default() };
    let mut assembler = match Assembler::new(blob, ASSEMBLER_LIMIT) {
        Ok(assembler) => assembler,
        Err(BlockError::Empty) => return assert_eq!(claimed, 0),
        Err(error) => {
            assert!(claimed as usize > ASSEMBLER_LIMIT);
            return assert_eq!(error.refusal(), Refusal::TooLarge);
        }
    };
    assert!(claimed as usize <= ASSEMBLER_LIMIT);
    // The limit is three blocks, so a handful of steps says as much as many.
    for step in script.as_chunks::<4>().0.iter().take(64) {
        take_one_block(&mut assembler, content, *step);
    }
    let complete = assembler.is_complete();
    match assembler.into_content() {
        Ok(assembled) => assert!(complete && honest && assembled == content),
        Err(error) => assert!(error == BlockError::Digest && !(complete && honest)),
    }
}

fn take_one_block(assembler: &mut Assembler, content: &[u8], [what, low, high, detail]: [u8; 4]) {
    let blob = assembler.blob();
    let index = u16::from_le_bytes([low, high]);
    let within = usize::from(index) % blob.blocks();
    let (header, bytes) = block(&blob, content, within).expect("an index below the number of blocks");
    let mut damaged = bytes.to_vec();
    damaged[usize::from(detail) % bytes.len()] ^= detail | 1;
    let missing = assembler.missing().clone();
    let (taken, expected) = match what % 6 {
        0 | 1 => (assembler.accept(&header, bytes), Ok(missing.contains(within))),
        2 => (assembler.accept(&header, &damaged), Err(Refusal::Crc)),
        3 => (assembler.accept(&header, &bytes[1..]), Err(Refusal::Block)),
        4 => {
            let other = BlockHeader { digest: Digest([detail; 32]), ..header };
            (
                assembler.accept(&other, bytes),
                if other == header { Ok(missing.contains(within)) } else { Err(Refusal::Block) },
            )
        }
        _ => {
            let index = u16::try_from(blob.blocks()).expect("few blocks").saturating_add(index);
            (assembler.accept(&BlockHeader { index, ..header }, bytes), Err(Refusal::Block))
        }
    };
    assert_eq!(taken.map_err(BlockError::refusal), expected);
    assert_eq!(assembler.missing().count() + usize::from(taken == Ok(true)), missing.count());
    assert_eq!(assembler.is_complete(), assembler.missing().is_empty());
}

fn shape(choice: u8) -> Shape {
    let (classes, features) = SHAPES[usize::from(choice) % SHAPES.len()];
    Shape::new(classes, features).expect("within the limits")
}

fn sound_bitmap(bitmap: &Bitmap) {
    assert!(bitmap.blocks() <= MAX_BLOCKS);
    assert_eq!(bitmap.iter().count(), bitmap.count());
}

fn sound_error(error: &BodyError) {
    let reasons = [Refusal::Content, Refusal::Shape, Refusal::NotFinite, Refusal::Absurd, Refusal::Samples];
    assert!(reasons.contains(&error.refusal()), "{error}");
    assert!(!error.to_string().is_empty());
}

/// Bytes in which no two blocks are alike.
fn pattern() -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    PATTERN.get_or_init(|| (0..ASSEMBLER_LIMIT).map(|at| (at * 31 + at / 257) as u8).collect())
}
