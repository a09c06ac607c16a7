//! One value of every message and every body, each field other than its default, for a fleet of two classes and two
//! features. Every weight is a multiple of 1/64 whose row reaches 127/64, so that all encodings hold it exactly.

use grapevine_models::{
    Average, FloatSums, Head, Heads, Init, Means, Method, OfMethod, Params, Prototypes, Samples, ServerState, Shape,
    Statistics, Sums, climb, creff, redgrape_plus, scaffold, triangle,
};
use grapevine_protocol::{
    AttributeValue, Attributes, Bitmap, BlobRef, BlockHeader, BlockRequest, BlockSize, DatasetId, DeviceStateBody,
    Digest, Encoding, Goodbye, HeadsBody, Hello, Incarnation, Offer, Receipt, Refusal, Refused, Request, Response,
    RoundAnnouncement, RoundId, RunId, ServerStateBody, SideInformation, SideInformationBody, Task, ToAggregator,
    ToDevice, Update, Welcome, class_list_digest,
};

/// A message with the block behind it.
pub struct Framed<M> {
    /// What it is called in the corpus.
    pub name: &'static str,
    /// The message.
    pub message: M,
    /// The raw bytes behind it.
    pub block: &'static [u8],
}

/// An update with the round it answers.
pub struct Answer {
    /// What it is called in the corpus.
    pub name: &'static str,
    /// The update.
    pub update: Update,
    /// How it is written.
    pub encoding: Encoding,
    /// What the round asked for.
    pub request: Request,
}

/// Two classes, two features.
pub fn shape() -> Shape {
    Shape::new(2, 2).expect("within the limits")
}

/// One attribute of each kind; the text of the last one ends the hello.
fn attributes() -> Attributes {
    let mut labels = Attributes::default();
    let text = |text| AttributeValue::text(text).expect("short enough");
    for (name, value) in
        [("cores", AttributeValue::Number(-4)), ("mains", AttributeValue::Flag(true)), ("site", text("north"))]
    {
        labels.insert(name, value).expect("a label");
    }
    labels
}

/// Every variant of [`ToAggregator`].
pub fn to_aggregator() -> Vec<Framed<ToAggregator>> {
    let hello = Hello {
        incarnation: Incarnation(0x0102_0304_0506_0708),
        extractor: Digest::of(b"extractor"),
        classes: class_list_digest(["cat", "dog"]),
        shape: Shape::new(10, 64).expect("within the limits"),
        samples: 4_321,
        dataset: DatasetId(0x0a0b_0c0d),
        attributes: attributes(),
    };
    let offer = Offer { run: RunId(77), round: RoundId(300), blob: blob(), crc: 0xdead_beef };
    vec![
        Framed { name: "hello", message: ToAggregator::Hello(hello), block: b"" },
        Framed { name: "want", message: ToAggregator::BlockRequest(want()), block: b"" },
        Framed { name: "offer", message: ToAggregator::Offer(offer), block: b"first" },
        Framed { name: "block", message: ToAggregator::Block(block_header()), block: b"second" },
        Framed {
            name: "leaving",
            message: ToAggregator::Goodbye(Goodbye { incarnation: Incarnation(9_000) }),
            block: b"",
        },
    ]
}

/// Every variant of [`ToDevice`], with every task of an announcement and both kinds of receipts.
pub fn to_device() -> Vec<Framed<ToDevice>> {
    let framed = |name, message| Framed { name, message, block: b"" };
    let receipt = |refused| {
        ToDevice::Receipt(Receipt { run: RunId(77), round: RoundId(300), digest: Digest::of(b"update"), refused })
    };
    let statistics = Task::Round(Request::Statistics(Sums::SecondMoment));
    vec![
        framed(
            "welcome",
            ToDevice::Welcome(Welcome { incarnation: Incarnation(9_000), run: RunId(77), is_eligible: true }),
        ),
        framed(
            "refused",
            ToDevice::Refused(Refused { incarnation: Some(Incarnation(0x0102)), reason: Refusal::Storage }),
        ),
        framed(
            "announcement-train",
            ToDevice::RoundAnnouncement(announcement(Task::Round(Method::RedGrape.training_request()))),
        ),
        framed("announcement-statistics", ToDevice::RoundAnnouncement(announcement(statistics))),
        framed("announcement-rest", ToDevice::RoundAnnouncement(announcement(Task::Rest))),
        framed(
            "announcement-only",
            ToDevice::RoundAnnouncement(RoundAnnouncement { only: vec![7, u32::MAX], ..announcement(statistics) }),
        ),
        framed(
            "announcement-wait",
            ToDevice::RoundAnnouncement(RoundAnnouncement {
                heads: None,
                side_information: None,
                ..announcement(Task::Wait)
            }),
        ),
        framed("want", ToDevice::BlockRequest(want())),
        Framed { name: "block", message: ToDevice::Block(block_header()), block: b"second" },
        framed("receipt", receipt(None)),
        framed("receipt-refused", receipt(Some(Refusal::NotFinite))),
    ]
}

/// Heads in each encoding, and every other response.
pub fn answers() -> Vec<Answer> {
    let answer = |name, samples, response, encoding, request| Answer {
        name,
        update: Update { samples, dataset: DatasetId(300), response },
        encoding,
        request,
    };
    let trained = |name, encoding| {
        let response = Response::Heads { heads: heads(), prototypes: Some(prototypes()), loss: None };
        answer(name, 1_000, response, encoding, Method::RedGrape.training_request())
    };
    let plain = |loss| {
        let heads = Heads { main: heads().main, supplementary: Head::zeros(shape()) };
        Response::Heads { heads, prototypes: None, loss }
    };
    let other = |name, response, method: Method| answer(name, 1, response, Encoding::F32, method.training_request());
    let summed = |name, extent| {
        answer(name, 5, Response::Statistics(statistics(extent)), Encoding::F32, Request::Statistics(extent))
    };
    vec![
        trained("trained-f32", Encoding::F32),
        trained("trained-f16", Encoding::F16),
        trained("trained-int8", Encoding::Int8),
        other("trained-plain", plain(None), Method::FedAvg),
        other("trained-with-loss", plain(Some(0.625)), Method::Climb),
        other("gradient", Response::Gradient(heads().main), Method::RedGrapePlus),
        other("gradients-alone", Response::Prototypes(prototypes()), Method::Creff),
        summed("statistics-counts", Sums::Counts),
        summed("statistics-means", Sums::Means),
        summed("statistics-second-moment", Sums::SecondMoment),
        other("scaffold", of_scaffold(answer_of_scaffold()), Method::Scaffold),
    ]
}

/// The fleet's heads with and without a supplementary one.
pub fn heads_bodies() -> Vec<(&'static str, HeadsBody)> {
    let plain = Heads { main: heads().main, supplementary: Head::zeros(shape()) };
    vec![("heads-both", HeadsBody(heads())), ("heads-plain", HeadsBody(plain))]
}

/// Every kind of side information, the prototypes in each encoding.
pub fn side_information() -> Vec<(&'static str, SideInformationBody, Encoding)> {
    let means = Means { by_class: [(0, vec![0.5, -1.25]), (1, vec![2.0, 0.125])].into() };
    vec![
        ("prototypes-f32", SideInformationBody(SideInformation::Prototypes(prototypes())), Encoding::F32),
        ("prototypes-f16", SideInformationBody(SideInformation::Prototypes(prototypes())), Encoding::F16),
        ("prototypes-int8", SideInformationBody(SideInformation::Prototypes(prototypes())), Encoding::Int8),
        ("means", SideInformationBody(SideInformation::Means(means)), Encoding::F32),
        ("prior", SideInformationBody(SideInformation::Prior(vec![0.75, 0.25])), Encoding::F32),
        ("weights", SideInformationBody(SideInformation::Weights(vec![1.5, 501.0])), Encoding::F32),
        (
            "reference-point",
            SideInformationBody(SideInformation::ReferencePoint(head([64, -32, 16, 8], [0.5, -0.5]))),
            Encoding::Int8,
        ),
        (
            "scaffold",
            SideInformationBody(SideInformation::OfMethod(OfMethod::new(
                Method::Scaffold,
                scaffold::ControlVariate { start: 0x0102_0304, variate: heads().main },
            ))),
            Encoding::Int8,
        ),
    ]
}

fn of_scaffold(answer: scaffold::Answer) -> Response {
    Response::OfMethod(OfMethod::new(Method::Scaffold, answer))
}

fn answer_of_scaffold() -> scaffold::Answer {
    scaffold::Answer { main: heads().main, since: 6, change: heads().supplementary }
}

/// What methods keep on a device.
pub fn device_states() -> Vec<(&'static str, DeviceStateBody)> {
    let Heads { main: variate, supplementary: change } = heads();
    let variate = scaffold::DeviceVariate { start: 0x0102_0304, version: 7, samples: 300, variate, change };
    vec![("scaffold", DeviceStateBody(OfMethod::new(Method::Scaffold, variate)))]
}

fn blob() -> BlobRef {
    BlobRef { bytes: 700_000, ..BlobRef::of(b"update") }
}

fn want() -> BlockRequest {
    let mut missing = Bitmap::none(blob().blocks());
    [0, 3, 10].into_iter().for_each(|index| missing.insert(index));
    BlockRequest { blob: blob(), missing }
}

fn block_header() -> BlockHeader {
    BlockHeader { digest: Digest::of(b"update"), index: 10, crc: 0x0123_4567 }
}

fn announcement(task: Task) -> RoundAnnouncement {
    RoundAnnouncement {
        incarnation: Incarnation(0x5151),
        run: RunId(0xfedc_ba98_7654_3210),
        round: RoundId(17),
        task,
        shape: Shape::new(1_000, 2_048).expect("within the limits"),
        params: Params {
            method: Method::RedGrapePlus,
            learning_rate: 0.125,
            momentum: 0.5,
            lambda: 0.75,
            rich_samples: 8,
            clip: 1.5,
            batch: 32,
            epochs: 3,
            min_samples_to_share: 5,
            init: Init::Lda,
            init_scale: 0.375,
            averaged: true,
            tau: -0.25,
            method_params: [0.5, 0.0, 0.0, 0.0, 0.0, 0.0],
        }
        .check()
        .expect("within the ranges"),
        encoding: Encoding::Int8,
        heads: Some(BlobRef { bytes: 16_392_005, ..BlobRef::of(b"heads") }),
        side_information: Some(BlobRef { bytes: 5_002, ..BlobRef::of(b"aid").in_blocks_of(BlockSize::Kib16) }),
        seed: 42,
        selection_threshold: u64::MAX / 3,
        only: Vec::new(),
        closes_in_ms: 60_000,
    }
}

/// What an aggregator keeps for itself: everything, nothing, and the value of every method that has one.
pub fn server_states() -> Vec<(&'static str, ServerStateBody)> {
    let multipliers = climb::State { multipliers: [("camera-1".into(), 0.5), ("north-2".into(), 5.0)].into() };
    let full = ServerState {
        prior: vec![0.75, 0.25],
        average: Some(Average { head: head([1, 2, 3, 127], [0.5, -1.0]), heads: 3 }),
        of_method: Some(OfMethod::new(Method::Climb, multipliers)),
    };
    let alone = |value| ServerStateBody(ServerState { of_method: Some(value), ..ServerState::default() });
    let features = creff::State { features: vec![0.25, -0.5, 1.0, 2.0] };
    let descent = redgrape_plus::State {
        samples: 300.0,
        variance: 0.5,
        moment: vec![1.0, 0.25, 1.0, 0.5, -0.5, 1.0],
        first: vec![0.5, -0.25, 0.125, -0.5, 0.25, -0.125],
        course: vec![0.75; 12],
    };
    let variate = scaffold::State {
        start: 0x0102_0304,
        variate: heads().main,
        devices: [("camera-1".into(), scaffold::Held { version: 7, samples: 300 })].into(),
    };
    vec![
        ("server-state-full", ServerStateBody(full)),
        ("server-state-empty", ServerStateBody(ServerState::default())),
        ("creff", alone(OfMethod::new(Method::Creff, features))),
        ("redgrape-plus", alone(OfMethod::new(Method::RedGrapePlus, descent))),
        ("scaffold", alone(OfMethod::new(Method::Scaffold, variate))),
    ]
}

fn heads() -> Heads {
    Heads { main: head([127, -32, 16, -127], [1.5, -1.5]), supplementary: head([-127, 8, 127, 64], [0.25, -0.5]) }
}

fn prototypes() -> Prototypes {
    let by_class = [(0, head([127, 1, -127, -1], [0.5, -0.5])), (1, head([2, -127, -2, 127], [-0.75, 0.75]))].into();
    Prototypes { by_class }
}

fn head(sixty_fourths: [i8; 4], bias: [f32; 2]) -> Head {
    Head { weight: sixty_fourths.iter().map(|&value| f32::from(value) / 64.0).collect(), bias: bias.into() }
}

/// The sums of three samples, checked against the slow way of writing them down.
fn statistics(extent: Sums) -> Statistics {
    let features = [1.0, 0.5, -0.25, 2.0, 0.75, 1.0];
    let shape = shape();
    let statistics = Statistics::of(&Samples::new(shape, &features, &[0, 1, 0]).expect("three samples"), extent, 1);
    let moment = vec![1.625, 0.75, 5.25];
    let expected = FloatSums {
        counts: vec![2, 1],
        sums: if extent >= Sums::Means { vec![1.75, 1.5, -0.25, 2.0] } else { Vec::new() },
        moment: if extent >= Sums::SecondMoment { moment } else { Vec::new() },
    };
    assert_eq!(statistics.to_floats(), expected);
    assert_eq!(triangle(shape.features()), 3);
    statistics
}
