//! The shipped digits through the shipped extractor.

use std::path::Path;
use std::sync::Arc;

use grapevine_models::Shape;
use grapevine_protocol::Digest;
use grapevine_vision::extractor::Extractor;
use grapevine_vision::image_input::ImageInput;
use grapevine_vision::manifest::Manifest;
use rayon::prelude::*;

use super::super::BenchError;
use super::super::pool::{Pool, PoolSamples, RealSamples, halve};
use crate::data::SampleSet;
use crate::data::digits::{self, Digits};

const ONNX: &[u8] = include_bytes!("../../../../models/onnx/digits.onnx");
const MANIFEST: &str = include_str!("../../../../models/onnx/digits.toml");

pub(super) fn open() -> Result<Pool, BenchError> {
    let manifest: Manifest = toml::from_str(MANIFEST).expect("the shipped manifest is one: a test reads it");
    let extractor = Extractor::from_bytes(&manifest, ONNX, Path::new(&manifest.file))?;
    let input = ImageInput::new(&manifest.input);
    let (digits, class_names) = (Digits::load(), digits::class_names());
    let shape = Shape::new(class_names.len(), manifest.output.features)?;
    let split = digits.split();
    let extract = |indices: &[u32]| {
        let one = |&index: &u32| {
            let png = digits.png(index);
            Ok((extractor.extract(&input.decode(&png)?)?, Digest::of(&png).0))
        };
        let (features, keys): (Vec<Vec<f32>>, Vec<[u8; 32]>) =
            indices.par_iter().map(one).collect::<Result<Vec<_>, BenchError>>()?.into_iter().unzip();
        let samples = SampleSet::of_rows(features.concat(), digits.labels_of(indices), shape.features());
        Ok::<_, BenchError>((samples, keys))
    };
    let (mut train, keys) = extract(&split.pool)?;
    halve(&mut train.features);
    let (test, _) = extract(&split.held_out)?;
    Ok(Pool {
        name: "handwritten digits (UCI), 8 x 8 pixels".into(),
        shape,
        class_names,
        digests: [
            ("digits.bin".to_owned(), Digest::of(digits::SHIPPED).to_string()),
            ("digits.onnx".to_owned(), manifest.sha256.clone()),
        ]
        .into(),
        notes: Vec::new(),
        samples: PoolSamples::Real(RealSamples {
            labels: train.labels.clone(),
            train,
            keys,
            rows: [].into(),
            test: Arc::new(test),
        }),
    })
}
