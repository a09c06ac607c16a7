//! Properties of the wire on random messages and bodies: what is written is read back, and nothing else is.

use std::collections::BTreeMap;

use grapevine_models::hyper_parameters::Kind;
use grapevine_models::limits::{
    MAX_CLASS_WEIGHT, MAX_FEATURE_VALUE, MAX_GRADIENT_VALUE, MAX_LOSS, MAX_PARAMETER_VALUE, MAX_SAMPLES,
};
use grapevine_models::scaffold::{Answer, ControlVariate};
use grapevine_models::{
    Head, Heads, Means, Method, OfMethod, Params, Prototypes, Samples, Shape, Statistics, Sums, ValidParams,
};
use grapevine_protocol::limits::{MAX_ATTRIBUTES, MAX_BLOCKS, MAX_HEADER_BYTES};
use grapevine_protocol::{
    AttributeValue, Attributes, Bitmap, BlobRef, BlockHeader, BlockRequest, BlockSize, BodyError, DatasetId, Digest,
    Encoding, Goodbye, HeadsBody, Hello, Incarnation, Offer, Receipt, Refusal, Refused, Request, Response,
    RoundAnnouncement, RoundId, RunId, SideInformation, SideInformationBody, Task, ToAggregator, ToDevice, Update,
    Welcome, decode_to_aggregator, decode_to_device, encode, is_attribute_name, largest_side_information,
    largest_update,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;

pub mod examples;

const ENCODINGS: [Encoding; 3] = [Encoding::F32, Encoding::F16, Encoding::Int8];

fn config() -> ProptestConfig {
    ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn messages_to_the_aggregator_come_back(message in to_aggregator(), block in vec(any::<u8>(), 1..50)) {
        let has_block = matches!(message, ToAggregator::Offer(_) | ToAggregator::Block(_));
        let block = if has_block { &block[..] } else { &[] };
        let frame = encode(&message, block);
        prop_assert!(frame.len() - block.len() <= MAX_HEADER_BYTES);
        prop_assert_eq!(decode_to_aggregator(&frame), Ok((message.clone(), block)));
        for end in 0..frame.len() {
            if let Ok((shorter, rest)) = decode_to_aggregator(&frame[..end]) {
                prop_assert!(shorter == message && rest.len() < block.len(), "cut at {end}");
            }
        }
    }

    #[test]
    fn messages_to_devices_come_back(message in to_device(), block in vec(any::<u8>(), 1..50)) {
        let block = if matches!(message, ToDevice::Block(_)) { &block[..] } else { &[] };
        let frame = encode(&message, block);
        prop_assert!(frame.len() - block.len() <= MAX_HEADER_BYTES);
        prop_assert_eq!(decode_to_device(&frame), Ok((message.clone(), block)));
        for end in 0..frame.len() {
            if let Ok((shorter, rest)) = decode_to_device(&frame[..end]) {
                prop_assert!(shorter == message && rest.len() < block.len(), "cut at {end}");
            }
        }
    }

    #[test]
    fn trained_updates_come_back_within_their_precision((shape, heads, prototypes) in trained(), samples in samples()) {
        let content = Response::Heads { heads: heads.clone(), prototypes: Some(prototypes), loss: None };
        let update = Update { samples, dataset: DatasetId(9), response: content };
        for encoding in ENCODINGS {
            let bytes = update.encode(shape, encoding);
            prop_assert!(bytes.len() <= largest_update(shape, Method::RedGrape.training_request()));
            let back = Update::decode(&bytes, shape, Method::RedGrape.training_request());
            if encoding == Encoding::F16 && !fits_f16(&heads) {
                prop_assert_eq!(back.map_err(|error| error.refusal()), Err(Refusal::NotFinite));
                continue;
            }
            let back = back.unwrap();
            prop_assert_eq!(back.samples, samples);
            assert_near(&update.response, &back.response, encoding);
            every_cut_and_every_extra_byte_is_refused(&bytes, |bytes| {
                Update::decode(bytes, shape, Method::RedGrape.training_request()).err()
            });
        }
    }

    #[test]
    fn statistics_come_back((shape, extent, statistics) in statistics(), samples in samples()) {
        let samples = samples.max(statistics.samples() as u32);
        let update = Update { samples, dataset: DatasetId(9), response: Response::Statistics(statistics.clone()) };
        let bytes = update.encode(shape, Encoding::Int8);
        let request = Request::Statistics(extent);
        prop_assert!(bytes.len() <= largest_update(shape, request));
        let back = Update::decode(&bytes, shape, request).unwrap();
        let Response::Statistics(back) = back.response else { panic!("statistics were asked for") };
        prop_assert_eq!(back.counts(), statistics.counts());
        let (sent, received) = (statistics.to_floats(), back.to_floats());
        let pairs = sent.sums.iter().zip(&received.sums).chain(sent.moment.iter().zip(&received.moment));
        for (a, b) in pairs {
            prop_assert!((a - b).abs() <= a.abs() * 1.2e-7 + 1e-6, "{a} became {b}");
        }
        every_cut_and_every_extra_byte_is_refused(&bytes, |bytes| {
            Update::decode(bytes, shape, request).err()
        });
    }

    #[test]
    fn heads_come_back_exactly((shape, heads, _) in trained()) {
        let bytes = HeadsBody(heads.clone()).encode(shape);
        prop_assert_eq!(HeadsBody::decode(&bytes, shape), Ok(HeadsBody(heads)));
        every_cut_and_every_extra_byte_is_refused(&bytes, |bytes| HeadsBody::decode(bytes, shape).err());
    }

    #[test]
    fn aids_come_back((shape, side_information) in side_information()) {
        for encoding in ENCODINGS {
            let bytes = SideInformationBody(side_information.clone()).encode(encoding);
            prop_assert!(bytes.len() <= largest_side_information(shape, method_of(&side_information)));
            match (&side_information, SideInformationBody::decode(&bytes, shape).unwrap().0) {
                (SideInformation::Prototypes(sent), SideInformation::Prototypes(received)) => prototypes_near(sent, &received, encoding),
                (sent, received) => prop_assert_eq!(sent, &received),
            }
            every_cut_and_every_extra_byte_is_refused(&bytes, |bytes| SideInformationBody::decode(bytes, shape).err());
        }
    }

    /// The prefix is a valid header, so that the arrays behind it are reached.
    #[test]
    fn random_bytes_never_become_numbers_that_are_none(
        which in 0..examples::answers().len(), kept in 0_usize..12, noise in vec(any::<u8>(), 0..120)
    ) {
        let answer = &examples::answers()[which];
        let mut bytes = answer.update.encode(examples::shape(), answer.encoding);
        let length = bytes.len();
        bytes.iter_mut().skip(kept).zip(noise).for_each(|(byte, noise)| *byte = noise);
        prop_assert_eq!(bytes.len(), length);
        assert_refused_or_sound(&bytes, answer);
    }
}

#[test]
fn one_flipped_byte_is_refused_or_leaves_sound_numbers() {
    for answer in examples::answers() {
        let bytes = answer.update.encode(examples::shape(), answer.encoding);
        each_flip(&bytes, |bytes| assert_refused_or_sound(bytes, &answer));
    }
    for (name, body) in examples::heads_bodies() {
        each_flip(&body.encode(examples::shape()), |bytes| {
            if let Ok(HeadsBody(heads)) = HeadsBody::decode(bytes, examples::shape()) {
                assert_eq!(heads.check(examples::shape()), Ok(()), "{name}");
            }
        });
    }
    for (name, side_information, encoding) in examples::side_information() {
        each_flip(&side_information.encode(encoding), |bytes| {
            match SideInformationBody::decode(bytes, examples::shape()).map(|body| body.0) {
                Ok(SideInformation::Prototypes(prototypes)) => {
                    assert_eq!(prototypes.check(examples::shape()), Ok(()), "{name}")
                }
                Ok(SideInformation::Means(means)) => {
                    assert!(means.by_class.values().flatten().all(|value| value.is_finite()))
                }
                Ok(SideInformation::Prior(prior)) => assert!(prior.iter().all(|share| (0.0..=1.0).contains(share))),
                Ok(SideInformation::Weights(weights)) => {
                    assert!(weights.iter().all(|weight| (0.0..=MAX_CLASS_WEIGHT).contains(weight)));
                }
                Ok(SideInformation::ReferencePoint(head)) => {
                    assert_eq!(head.check(examples::shape()), Ok(()), "{name}")
                }
                Ok(SideInformation::OfMethod(value)) => assert!(value.get::<ControlVariate>().is_some(), "{name}"),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        });
    }
}

#[test]
fn one_flipped_byte_of_a_frame_never_panics() {
    for framed in examples::to_aggregator() {
        each_flip(&encode(&framed.message, framed.block), |bytes| drop(decode_to_aggregator(bytes)));
    }
    for framed in examples::to_device() {
        each_flip(&encode(&framed.message, framed.block), |bytes| drop(decode_to_device(bytes)));
    }
}

/// Every byte in turn, as each of the other 255 values.
fn each_flip(bytes: &[u8], mut check: impl FnMut(&[u8])) {
    for at in 0..bytes.len() {
        for mask in 1..=u8::MAX {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= mask;
            check(&flipped);
        }
    }
}

fn assert_refused_or_sound(bytes: &[u8], answer: &examples::Answer) {
    let update = match Update::decode(bytes, examples::shape(), answer.request) {
        Ok(update) => update,
        Err(error) => return assert!(Refusal::ALL.contains(&error.refusal())),
    };
    assert!((u32::from(answer.request.is_training())..=MAX_SAMPLES).contains(&update.samples));
    match update.response {
        Response::Heads { heads, prototypes, loss } => {
            assert_eq!(heads.check(examples::shape()), Ok(()));
            assert!(loss.is_none_or(|loss| (0.0..=MAX_LOSS).contains(&loss)));
            assert!(prototypes.is_none_or(|prototypes| prototypes.check(examples::shape()).is_ok()));
        }
        Response::Gradient(gradient) => assert_eq!(gradient.check(examples::shape()), Ok(())),
        Response::Prototypes(prototypes) => assert_eq!(prototypes.check(examples::shape()), Ok(())),
        Response::OfMethod(value) => {
            let Answer { main, change, .. } = value.get().expect("an answer of scaffold");
            assert_eq!((main.check(examples::shape()), change.check(examples::shape())), (Ok(()), Ok(())));
        }
        Response::Statistics(statistics) => {
            assert!(statistics.samples() <= u64::from(MAX_SAMPLES));
            let floats = statistics.to_floats();
            assert!(floats.sums.iter().chain(&floats.moment).all(|value| value.is_finite()));
        }
    }
}

fn every_cut_and_every_extra_byte_is_refused(bytes: &[u8], refused: impl Fn(&[u8]) -> Option<BodyError>) {
    for end in 0..bytes.len() {
        let error = refused(&bytes[..end]).unwrap_or_else(|| panic!("{end} of {} bytes were taken", bytes.len()));
        assert_eq!(error.refusal(), Refusal::Content, "cut at {end}");
    }
    for extra in [0, 0xff] {
        let longer = [bytes, &[extra]].concat();
        assert_eq!(refused(&longer), Some(BodyError::Content), "a byte {extra} behind the end");
    }
}

fn assert_near(sent: &Response, received: &Response, encoding: Encoding) {
    match (sent, received) {
        (
            Response::Heads { heads: a, prototypes: Some(p), .. },
            Response::Heads { heads: b, prototypes: Some(q), .. },
        ) => {
            head_near(&a.main, &b.main, encoding);
            head_near(&a.supplementary, &b.supplementary, encoding);
            prototypes_near(p, q, encoding);
        }
        (sent, received) => panic!("{sent:?} became {received:?}"),
    }
}

fn prototypes_near(sent: &Prototypes, received: &Prototypes, encoding: Encoding) {
    assert!(sent.by_class.keys().eq(received.by_class.keys()));
    sent.by_class.values().zip(received.by_class.values()).for_each(|(a, b)| head_near(a, b, encoding));
}

/// f16 keeps 11 bits down to 2^-24; int8 keeps half a step of the row's largest value over 127.
fn head_near(sent: &Head, received: &Head, encoding: Encoding) {
    assert_eq!(sent.bias, received.bias, "biases travel as f32");
    let features = sent.weight.len() / sent.bias.len();
    for (a, b) in sent.weight.chunks(features).zip(received.weight.chunks(features)) {
        let largest = a.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        for (a, b) in a.iter().zip(b) {
            let allowed = match encoding {
                Encoding::F32 => 0.0,
                Encoding::F16 => a.abs() / 2_047.0 + 6e-8,
                Encoding::Int8 => largest / 253.9 + 1e-36,
            };
            assert!((a - b).abs() <= allowed, "{a} became {b} in {encoding:?}");
        }
    }
}

/// From there on f16 rounds to infinity.
fn fits_f16(heads: &Heads) -> bool {
    heads.main.weight.iter().chain(&heads.supplementary.weight).all(|value| value.abs() < 65_520.0)
}

fn method_of(side_information: &SideInformation) -> Method {
    match side_information {
        SideInformation::Prototypes(_) => Method::RedGrape,
        SideInformation::Means(_) => Method::RedGrapeLive,
        SideInformation::Prior(_) => Method::LogitAdjusted,
        SideInformation::Weights(_) => Method::RatioLoss,
        SideInformation::ReferencePoint(_) => Method::RedGrapePlus,
        SideInformation::OfMethod(value) => value.method(),
    }
}

fn shape() -> impl Strategy<Value = Shape> {
    (2_usize..12, 1_usize..7).prop_map(|(classes, features)| Shape::new(classes, features).expect("in range"))
}

fn samples() -> impl Strategy<Value = u32> {
    prop_oneof![1..=MAX_SAMPLES, Just(1), Just(MAX_SAMPLES)]
}

/// Ordinary numbers, very small ones, and the largest allowed.
fn value(most: f32) -> impl Strategy<Value = f32> + Clone {
    prop_oneof![6 => -4.0_f32..4.0, 1 => -1e-38_f32..1e-38, 1 => -most..=most, 1 => select(vec![0.0, most, -most])]
}

fn head(shape: Shape, most: f32) -> impl Strategy<Value = Head> {
    (vec(value(most), shape.weights()), vec(value(most), shape.classes()))
        .prop_map(|(weight, bias)| Head { weight, bias })
}

fn trained() -> impl Strategy<Value = (Shape, Heads, Prototypes)> {
    shape().prop_flat_map(|shape| {
        let second = option::of(head(shape, MAX_PARAMETER_VALUE));
        let heads = (head(shape, MAX_PARAMETER_VALUE), second).prop_map(move |(main, supplementary)| Heads {
            main,
            supplementary: supplementary.unwrap_or_else(|| Head::zeros(shape)),
        });
        (Just(shape), heads, prototypes(shape))
    })
}

fn prototypes(shape: Shape) -> impl Strategy<Value = Prototypes> {
    by_class(shape, head(shape, MAX_GRADIENT_VALUE)).prop_map(|by_class| Prototypes { by_class })
}

fn by_class<S: Strategy>(shape: Shape, of: S) -> impl Strategy<Value = BTreeMap<u16, S::Value>> {
    btree_map(0..shape.classes() as u16, of, 0..=shape.classes())
}

fn statistics() -> impl Strategy<Value = (Shape, Sums, Statistics)> {
    let extent = select(vec![Sums::Counts, Sums::Means, Sums::SecondMoment]);
    (shape(), extent, 0_usize..30).prop_flat_map(|(shape, extent, samples)| {
        let features = vec(value(MAX_FEATURE_VALUE), samples * shape.features());
        let labels = vec(0..shape.classes() as u16, samples);
        (features, labels, 1_u16..3).prop_map(move |(features, labels, least)| {
            let samples = Samples::new(shape, &features, &labels).expect("within the limits");
            (shape, extent, Statistics::of(&samples, extent, least))
        })
    })
}

fn side_information() -> impl Strategy<Value = (Shape, SideInformation)> {
    shape().prop_flat_map(|shape| {
        let mean = vec(value(MAX_FEATURE_VALUE), shape.features());
        let means = by_class(shape, mean).prop_map(|by_class| SideInformation::Means(Means { by_class }));
        let prior = vec(0.0_f32..=1.0, shape.classes()).prop_map(SideInformation::Prior);
        let weights = vec(0.0..=MAX_CLASS_WEIGHT, shape.classes()).prop_map(SideInformation::Weights);
        let reference_point = head(shape, MAX_PARAMETER_VALUE).prop_map(SideInformation::ReferencePoint);
        let prototypes = prototypes(shape).prop_map(SideInformation::Prototypes);
        let variate = (any::<u32>(), head(shape, MAX_PARAMETER_VALUE)).prop_map(|(start, variate)| {
            let variate = ControlVariate { start, variate };
            SideInformation::OfMethod(OfMethod::new(Method::Scaffold, variate))
        });
        (Just(shape), prop_oneof![prototypes, means, prior, weights, reference_point, variate])
    })
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn blob() -> impl Strategy<Value = BlobRef> {
    (digest(), any::<u32>(), 0..BlockSize::ALL.len()).prop_map(|(digest, bytes, size)| BlobRef {
        digest,
        bytes,
        block: BlockSize::ALL[size],
    })
}

fn want() -> impl Strategy<Value = BlockRequest> {
    let missing = (0..=MAX_BLOCKS, vec(0..MAX_BLOCKS, 0..40)).prop_map(|(blocks, indices)| {
        let mut missing = Bitmap::none(blocks);
        indices.into_iter().for_each(|index| missing.insert(index));
        missing
    });
    (blob(), prop_oneof![3 => missing, 1 => (0..=MAX_BLOCKS).prop_map(Bitmap::all)])
        .prop_map(|(blob, missing)| BlockRequest { blob, missing })
}

fn block_header() -> impl Strategy<Value = BlockHeader> {
    (digest(), any::<u16>(), any::<u32>()).prop_map(|(digest, index, crc)| BlockHeader { digest, index, crc })
}

fn labels() -> impl Strategy<Value = Attributes> {
    let value = prop_oneof![
        any::<bool>().prop_map(AttributeValue::Flag),
        any::<i64>().prop_map(AttributeValue::Number),
        "[a-zA-Z0-9 ,é]{0,16}".prop_map(|text| AttributeValue::text(&text).expect("short enough")),
    ];
    btree_map("[a-m][a-z0-9_]{0,19}", value, 0..=MAX_ATTRIBUTES).prop_map(|values| {
        let mut labels = Attributes::default();
        values.into_iter().filter(|(name, _)| is_attribute_name(name)).for_each(|(name, value)| {
            labels.insert(&name, value).expect("a label");
        });
        labels
    })
}

fn to_aggregator() -> impl Strategy<Value = ToAggregator> {
    let hello = (any::<u64>(), digest(), digest(), shape(), any::<u32>(), labels());
    let offer = (any::<u64>(), any::<u32>(), blob(), any::<u32>());
    prop_oneof![
        hello.prop_map(|(incarnation, extractor, classes, shape, samples, labels)| {
            ToAggregator::Hello(Hello {
                incarnation: Incarnation(incarnation),
                extractor,
                classes,
                shape,
                samples,
                dataset: DatasetId(incarnation),
                attributes: labels,
            })
        }),
        want().prop_map(ToAggregator::BlockRequest),
        offer.prop_map(|(run, round, blob, crc)| {
            ToAggregator::Offer(Offer { run: RunId(run), round: RoundId(round), blob, crc })
        }),
        block_header().prop_map(ToAggregator::Block),
        any::<u64>().prop_map(|incarnation| ToAggregator::Goodbye(Goodbye { incarnation: Incarnation(incarnation) })),
    ]
}

fn to_device() -> impl Strategy<Value = ToDevice> {
    let refusal = || select(Refusal::ALL.to_vec());
    let receipt = (any::<u64>(), any::<u32>(), digest(), option::of(refusal()));
    Union::new([
        (any::<u64>(), any::<u64>(), any::<bool>())
            .prop_map(|(incarnation, run, is_eligible)| {
                ToDevice::Welcome(Welcome { incarnation: Incarnation(incarnation), run: RunId(run), is_eligible })
            })
            .boxed(),
        (option::of(any::<u64>().prop_map(Incarnation)), refusal())
            .prop_map(|(incarnation, reason)| ToDevice::Refused(Refused { incarnation, reason }))
            .boxed(),
        announcement().prop_map(ToDevice::RoundAnnouncement).boxed(),
        want().prop_map(ToDevice::BlockRequest).boxed(),
        block_header().prop_map(ToDevice::Block).boxed(),
        receipt
            .prop_map(|(run, round, digest, refused)| {
                ToDevice::Receipt(Receipt { run: RunId(run), round: RoundId(round), digest, refused })
            })
            .boxed(),
    ])
}

fn announcement() -> impl Strategy<Value = RoundAnnouncement> {
    let extents = [Sums::Nothing, Sums::Counts, Sums::Means, Sums::SecondMoment];
    let mut tasks = vec![Task::Wait, Task::Round(Request::MAIN_HEAD), Task::Rest];
    tasks.extend(extents.map(|extent| Task::Round(Request::Statistics(extent))));
    let settings = (select(tasks), shape(), params(), select(ENCODINGS.to_vec()));
    (any::<(u64, u64, u32, u64, u64, u32)>(), settings, option::of(blob()), option::of(blob())).prop_map(
        |(
            (incarnation, run, round, seed, selection_threshold, closes_in_ms),
            (task, shape, params, encoding),
            heads,
            side_information,
        )| {
            RoundAnnouncement {
                incarnation: Incarnation(incarnation),
                run: RunId(run),
                round: RoundId(round),
                task,
                shape,
                params,
                encoding,
                heads,
                side_information,
                seed,
                selection_threshold,
                only: Vec::new(),
                closes_in_ms,
            }
        },
    )
}

/// Any values within the ranges: others are not decoded.
fn params() -> impl Strategy<Value = ValidParams> {
    let shares = proptest::array::uniform18(0.0_f32..1.0);
    (select(Method::ALL.to_vec()), shares).prop_map(|(method, shares)| {
        let start = Params::defaults(method, 10);
        let params = start.all().zip(shares).fold(start, |params, (parameter, share)| {
            let value = match parameter.kind {
                Kind::Number(range) => range.least + share * (range.most - range.least).min(1e6),
                Kind::Count(range) => (range.least + share * (range.most - range.least)).trunc(),
                Kind::Choice(names) => (share * names.len() as f32).trunc(),
                Kind::Flag => share.round(),
            };
            params.with(parameter, value.into()).unwrap_or(params)
        });
        params.check().expect("each value was allowed")
    })
}
