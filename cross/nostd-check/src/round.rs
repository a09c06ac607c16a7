//! A device's part of a round, from what it received to what the aggregator reads.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use grapevine_models::{
    Balance, Head, LocalObjective, LocalTraining, Method, OwnPrototypes, Params, Prototypes, Samples, Shape,
};
use grapevine_protocol::{
    Assembler, BlobRef, DatasetId, Encoding, Response, ToAggregator, Update, block, decode_to_aggregator, encode,
};

use crate::golden::{Case, Numbers};

/// Allowed, relative to each value, or to the root mean square of its tensor where a value lies next to zero.
pub const ALLOWED_ERROR: f64 = 1e-4;

/// How the round went.
pub struct Outcome {
    /// The largest error of any number the aggregator reads, relative as for [`ALLOWED_ERROR`].
    pub largest_error: f64,
    /// Size of the update.
    pub update_bytes: usize,
}

/// Trains the round, sends the update through the protocol, and compares what arrives with the golden numbers.
pub fn play(case: &Case) -> Outcome {
    let shape = Shape::new(case.classes, case.features_per_sample).expect("the case has a shape");
    let bytes = train(case, shape);
    let received = received(&bytes);
    let update =
        Update::decode(&received, shape, Method::RedGrape.training_request()).expect("what was packed is read");
    assert_eq!(update.samples as usize, case.labels.len(), "samples");
    let Response::Heads { heads, prototypes: Some(prototypes), .. } = update.response else {
        panic!("the update has no heads or no prototypes");
    };
    let wrong_heads =
        error(&heads.main, &case.expected_main).max(error(&heads.supplementary, &case.expected_supplementary));
    Outcome { largest_error: wrong_heads.max(prototype_error(&prototypes, case)), update_bytes: received.len() }
}

fn train(case: &Case, shape: Shape) -> Vec<u8> {
    let params = Params {
        learning_rate: case.learning_rate,
        momentum: case.momentum,
        lambda: case.lambda,
        rich_samples: case.rich_samples,
        clip: case.clip,
        batch: case.batches.iter().map(|batch| batch.len()).max().unwrap_or(1) as u16,
        ..Params::defaults(Method::RedGrape, case.classes)
    };
    let params = params.check().expect("the case's settings are valid");
    let samples = Samples::new(shape, case.features, case.labels).expect("the case's samples fit");
    let (heads, fleet) = (case.heads(), case.prototypes());
    let own = OwnPrototypes::new(Cow::Owned(heads.main.clone()), samples, 1);
    let local = LocalObjective { balance: Balance::Prototypes(&fleet), ..LocalObjective::PLAIN };
    let mut training = LocalTraining::new(samples, heads, local, case.balanced_samples, params.training());
    case.batches.iter().for_each(|batch| training.step(batch));
    let response = Response::Heads { heads: training.into_heads(), prototypes: Some(own), loss: None };
    Update::encode_response(&response, case.labels.len() as u32, DatasetId::default(), shape, Encoding::F32)
}

/// In frames, block by block, as over a broker.
fn received(content: &[u8]) -> Vec<u8> {
    let blob = BlobRef::of(content);
    let mut assembler = Assembler::new(blob, content.len()).expect("an update is not empty");
    for index in 0..blob.blocks() {
        let (header, bytes) = block(&blob, content, index).expect("a block within the content");
        let frame = encode(&ToAggregator::Block(header), bytes);
        let (message, bytes) = decode_to_aggregator(&frame).expect("a frame of ours");
        let ToAggregator::Block(header) = message else { panic!("another message came out of the frame") };
        assembler.accept(&header, bytes).expect("a block of this blob");
    }
    assembler.into_content().expect("all blocks are there")
}

fn prototype_error(got: &Prototypes, case: &Case) -> f64 {
    let classes = case.expected_prototypes.iter().map(|(class, _)| class);
    assert!(got.by_class.keys().eq(classes), "prototypes of other classes");
    got.by_class.values().zip(case.expected_prototypes).map(|(got, (_, wanted))| error(got, wanted)).fold(0.0, f64::max)
}

fn error(got: &Head, wanted: &Numbers) -> f64 {
    largest(&got.weight, wanted.weight).max(largest(&got.bias, wanted.bias))
}

fn largest(got: &[f32], wanted: &[f64]) -> f64 {
    assert_eq!(got.len(), wanted.len(), "length of a tensor");
    let typical = libm::sqrt(wanted.iter().map(|value| value * value).sum::<f64>() / wanted.len() as f64);
    let relative = |(got, wanted): (&f32, &f64)| (f64::from(*got) - wanted).abs() / wanted.abs().max(typical);
    // A comparison with NaN is false, and NaN must not pass for small.
    got.iter().zip(wanted).map(relative).fold(0.0, |most, error| if error <= most { most } else { error })
}
