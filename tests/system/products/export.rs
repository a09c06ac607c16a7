//! The exported model gives what `edge-client classify` says: in tract, and in onnxruntime where that is installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use grapevine_tests::fleet::{Fleet, unseen};
use grapevine_tests::programs::{extractor, root};
use grapevine_vision::image_input::ImageInput;
use grapevine_vision::manifest;
use serde_json::{Value, json};
use tract_onnx::prelude::*;

const TOLERANCE: f64 = 1e-4;
/// `classify` writes three digits, and 0.999 at most.
const WRITTEN: f64 = 1e-3 + TOLERANCE;
/// Of 20 images that nobody trained on.
const LEAST_RIGHT: usize = 15;
const SHAPE: [usize; 4] = [1, 1, 8, 8];

pub(crate) fn check(fleet: &Fleet) {
    let images = unseen(fleet.device(0));
    let mut arguments = vec!["classify", "--top", "10", "--json"];
    arguments.extend(images.iter().map(|(path, _)| path.to_str().unwrap()));
    let classified = fleet.device(0).succeed("edge-client", &arguments);
    let classified = classified.lines().map(|line| serde_json::from_str(line).unwrap());
    let classified: Vec<Vec<f64>> = classified.map(|image| probabilities(&image)).collect();
    assert_eq!(classified.len(), images.len());

    let onnx = fleet.export();
    let (manifest, _) = manifest::load(extractor().as_ref()).unwrap();
    let input = ImageInput::new(&manifest.input);
    let model = Exported::load(&onnx);
    let (mut cases, mut right) = (Vec::new(), 0);
    for ((path, label), classified) in images.iter().zip(&classified) {
        let image = input.load(path).unwrap();
        let (logits, probabilities) = model.run(&image);
        assert!(differs(&probabilities, classified) <= WRITTEN, "{path:?}: {probabilities:?}, {classified:?}");
        assert!(differs(&softmax(&logits), &probabilities) <= TOLERANCE, "{path:?}: {logits:?}, {probabilities:?}");
        right += usize::from((0..classified.len()).all(|other| classified[usize::from(*label)] >= classified[other]));
        cases.push(json!({"input": image, "shape": SHAPE, "logits": logits, "probabilities": probabilities}));
    }
    println!("tract: {} images agree with `classify`; {right} are classified right", cases.len());
    assert!(right >= LEAST_RIGHT, "only {right}");
    check_in_onnxruntime(&fleet.aggregator().path("model.onnx"), &json!({ "cases": cases }));
}

/// By label: `classify` lists the likeliest first.
fn probabilities(classified: &Value) -> Vec<f64> {
    let predictions = classified["predictions"].as_array().unwrap();
    let mut by_label = vec![f64::NAN; predictions.len()];
    for prediction in predictions {
        let label = prediction["label"].as_u64().unwrap() as usize;
        by_label[label] = prediction["probability"].as_f64().unwrap();
    }
    by_label
}

/// The exported model in tract.
struct Exported {
    plan: Arc<TypedRunnableModel>,
    logits: usize,
    probabilities: usize,
}

impl Exported {
    fn load(mut onnx: &[u8]) -> Self {
        let model = tract_onnx::onnx().with_ignore_value_info(true).model_for_read(&mut onnx).unwrap();
        let model = model.with_input_fact(0, f32::fact(SHAPE).into()).unwrap();
        let position = |name: &str| {
            let is_named = |outlet: &OutletId| model.outlet_label(*outlet) == Some(name);
            model.outputs.iter().position(is_named).unwrap_or_else(|| panic!("there is no output `{name}`"))
        };
        let (logits, probabilities) = (position("logits"), position("probabilities"));
        Self { plan: model.into_optimized().unwrap().into_runnable().unwrap(), logits, probabilities }
    }

    fn run(&self, image: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let outputs = self.plan.run(tvec!(Tensor::from_shape(&SHAPE, image).unwrap().into())).unwrap();
        let numbers =
            |at: usize| outputs[at].view().as_slice::<f32>().unwrap().iter().map(|&number| number.into()).collect();
        (numbers(self.logits), numbers(self.probabilities))
    }
}

/// The largest distance; NaN where there is one.
fn differs(numbers: &[f64], others: &[f64]) -> f64 {
    assert_eq!(numbers.len(), others.len());
    let distances = numbers.iter().zip(others).map(|(number, other)| (number - other).abs());
    distances.fold(0.0, |largest, distance| if distance <= largest { largest } else { distance })
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

fn check_in_onnxruntime(model: &Path, cases: &Value) {
    let is_there = Command::new("python3").args(["-c", "import numpy, onnxruntime"]).output();
    if !is_there.is_ok_and(|output| output.status.success()) {
        return println!("skipped: onnxruntime is not installed");
    }
    let file = model.with_file_name("cases.json");
    fs::write(&file, cases.to_string()).unwrap();
    let script = root().join("tests/export_check.py");
    let output = Command::new("python3").arg(script).args([model, &file]).output().unwrap();
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("onnxruntime: {}", said.trim_end());
    assert!(output.status.success(), "{said}{complaint}");
}
