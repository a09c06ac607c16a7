use std::fs;

use grapevine_models::manifest::{Input, Output};

use super::*;

/// A protobuf message, written by hand: the few fields of ONNX that the tests need.
#[derive(Clone, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn number(self, field: u64, value: u64) -> Self {
        self.varint(field << 3).varint(value)
    }

    fn bytes(self, field: u64, bytes: &[u8]) -> Self {
        let mut message = self.varint(field << 3 | 2).varint(bytes.len() as u64);
        message.0.extend_from_slice(bytes);
        message
    }

    fn text(self, field: u64, text: &str) -> Self {
        self.bytes(field, text.as_bytes())
    }

    fn nest(self, field: u64, message: Self) -> Self {
        self.bytes(field, &message.0)
    }
}

fn node(operation: &str, inputs: &[&str], output: &str) -> Message {
    let message = inputs.iter().fold(Message::default(), |message, input| message.text(1, input));
    message.text(2, output).text(3, output).text(4, operation)
}

fn tensor(name: &str, shape: &[u64], values: &[f32]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let message = shape.iter().fold(Message::default(), |message, &side| message.number(1, side));
    message.number(2, 1).text(8, name).bytes(9, &raw)
}

/// A side of 0 is written as a name: unknown.
fn value(name: &str, shape: &[u64]) -> Message {
    let shape = shape.iter().fold(Message::default(), |message, &side| {
        message.nest(1, if side == 0 { Message::default().text(2, "N") } else { Message::default().number(1, side) })
    });
    let tensor_type = Message::default().number(1, 1).nest(2, shape);
    Message::default().text(1, name).nest(2, Message::default().nest(1, tensor_type))
}

fn model(graph: Message) -> Vec<u8> {
    Message::default().number(1, 8).nest(8, Message::default().text(1, "").number(2, 13)).nest(7, graph.text(2, "g")).0
}

const WEIGHTS: [f32; 12] = [1., 0., 0., 0., 1., 0., 0., 0., 1., 1., 1., 1.];

/// `[N, 1, 2, 2]` to `[N, 3]`: feature `j` is pixel `j` plus the last pixel.
fn projection(weights: Message) -> Message {
    Message::default()
        .nest(1, node("Flatten", &["image"], "flat"))
        .nest(1, node("MatMul", &["flat", "weights"], "features"))
        .nest(5, weights)
        .nest(11, value("image", &[0, 1, 2, 2]))
        .nest(12, value("features", &[0, 3]))
}

fn good_model() -> Vec<u8> {
    model(projection(tensor("weights", &[4, 3], &WEIGHTS)))
}

fn manifest() -> Manifest {
    let input = Input { width: 2, height: 2, channels: 1, layout: Layout::Nchw, mean: vec![0.0], std: vec![1.0] };
    // Undoes the scale of `standardise`, so that the numbers below are easy to follow.
    let scale = (3.0_f32 / 16.0).sqrt();
    let output = Output { name: "features".into(), features: 3, mean: vec![1.0; 3], std: vec![1.0 / scale; 3] };
    Manifest {
        name: "projection".into(),
        file: "projection.onnx".into(),
        sha256: "0".repeat(64),
        license: "none".into(),
        made_by: "hand".into(),
        input,
        output,
    }
}

fn load(manifest: &Manifest, bytes: &[u8]) -> Result<Extractor, ExtractorError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, bytes).unwrap();
    Extractor::load(manifest, &path)
}

fn refusal(manifest: &Manifest, bytes: &[u8]) -> ExtractorError {
    let error = load(manifest, bytes).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("model.onnx") && !message.contains('\n') && message.len() < 800, "{message}");
    error
}

#[test]
fn features_are_standardised() {
    let extractor = load(&manifest(), &good_model()).unwrap();
    let features = extractor.extract(&[1.0, 2.0, 3.0, 10.0]).unwrap();
    let expected = [10.0, 11.0, 12.0];
    assert!(features.iter().zip(expected).all(|(a, b): (&f32, f32)| (a - b).abs() < 1e-5), "{features:?}");
    assert_eq!(extractor.features(), 3);
}

#[test]
fn a_tensor_of_another_length_is_refused() {
    let extractor = load(&manifest(), &good_model()).unwrap();
    let error = extractor.extract(&[0.0; 5]).unwrap_err();
    assert!(matches!(error, ExtractorError::ImageLength { expected: 4, received: 5 }));
}

#[test]
fn features_that_are_no_numbers_are_refused() {
    let extractor = load(&manifest(), &good_model()).unwrap();
    let error = extractor.extract(&[0.0, f32::INFINITY, 0.0, 0.0]).unwrap_err();
    assert!(matches!(error, ExtractorError::FeatureValue { .. }), "{error}");
    let error = extractor.extract(&[0.0, 1e6, 0.0, 0.0]).unwrap_err();
    assert!(matches!(error, ExtractorError::FeatureValue { feature: 1, .. }), "{error}");
}

#[test]
fn several_threads_get_the_same_features() {
    fn assert_shareable<T: Send + Sync>() {}
    assert_shareable::<Extractor>();
    let extractor = load(&manifest(), &good_model()).unwrap();
    let expected = extractor.extract(&[1.0, 2.0, 3.0, 4.0]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert_eq!(extractor.extract(&[1.0, 2.0, 3.0, 4.0]).unwrap(), expected);
                }
            });
        }
    });
}

#[test]
fn files_that_are_no_models_are_refused() {
    let cases =
        [Vec::new(), b"name = \"digits\"\n".to_vec(), vec![0; 4096], vec![0xff; 100], vec![8, 8], vec![0x3a, 0]];
    for bytes in cases {
        let error = refusal(&manifest(), &bytes);
        assert!(matches!(error, ExtractorError::NotOnnx { .. }), "{error}");
    }
    let missing = Extractor::load(&manifest(), Path::new("/nonexistent/model.onnx")).unwrap_err();
    assert!(matches!(missing, ExtractorError::Read { .. }));
}

#[test]
fn a_model_over_the_limit_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    File::create(&path).unwrap().set_len(MAX_MODEL_BYTES + 1).unwrap();
    assert!(matches!(Extractor::load(&manifest(), &path), Err(ExtractorError::TooLarge { .. })));
}

#[test]
fn a_model_cut_short_anywhere_is_refused() {
    let whole = good_model();
    for length in 0..whole.len() {
        load(&manifest(), &whole[..length]).expect_err("a part of a model");
    }
}

#[test]
fn a_flipped_bit_never_brings_the_process_down() {
    let whole = good_model();
    for byte in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[byte] ^= 1 << (byte * 5 % 8);
        if let Ok(extractor) = load(&manifest(), &bytes) {
            let _ = extractor.extract(&[1.0, 2.0, 3.0, 4.0]);
        }
    }
}

#[test]
fn a_manifest_that_contradicts_the_model_is_refused() {
    let mut wrong = manifest();
    wrong.output.name = "logits".into();
    let error = refusal(&wrong, &good_model());
    assert!(matches!(error, ExtractorError::Output { .. }) && error.to_string().contains("features"), "{error}");

    let mut wrong = manifest();
    wrong.output.features = 2;
    wrong.output.mean.pop();
    wrong.output.std.pop();
    assert!(matches!(refusal(&wrong, &good_model()), ExtractorError::Output { .. }));

    let mut wrong = manifest();
    wrong.input.width = 3;
    assert!(matches!(refusal(&wrong, &good_model()), ExtractorError::Input { .. }));
}

#[test]
fn models_that_cannot_run_are_refused() {
    let weights = || tensor("weights", &[4, 3], &WEIGHTS);
    let image = || value("image", &[0, 1, 2, 2]);
    let features = || value("features", &[0, 3]);
    let unknown = Message::default().nest(1, node("Nonesuch", &["image"], "features")).nest(11, image());
    let error = refusal(&manifest(), &model(unknown.nest(12, features())));
    assert!(matches!(error, ExtractorError::Unsupported { .. }) && error.to_string().contains("Nonesuch"), "{error}");

    let dynamic = Message::default().nest(1, node("NonZero", &["image"], "features")).nest(11, image());
    refusal(&manifest(), &model(dynamic.nest(12, value("features", &[0, 0]))));

    let two_inputs = projection(weights()).nest(11, value("more", &[1]));
    assert!(matches!(refusal(&manifest(), &model(two_inputs)), ExtractorError::Input { .. }));

    let unmade = projection(weights()).nest(12, value("nowhere", &[1]));
    assert!(matches!(refusal(&manifest(), &model(unmade)), ExtractorError::NotOnnx { .. }));

    let claimed = tensor("weights", &[1 << 40, 1 << 40], &WEIGHTS);
    assert!(matches!(refusal(&manifest(), &model(projection(claimed))), ExtractorError::Unsupported { .. }));
}

#[test]
fn weights_in_another_file_are_refused() {
    let entry = Message::default().text(1, "location").text(2, "weights.bin");
    let weights = Message::default().number(1, 4).number(1, 3).number(2, 1).text(8, "weights");
    let external = weights.nest(13, entry).number(14, 1);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("weights.bin"), [0; 48]).unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, model(projection(external))).unwrap();
    assert!(matches!(Extractor::load(&manifest(), &path), Err(ExtractorError::Unsupported { .. })));
}

/// The shipped extractor gives what onnxruntime 1.32 gives for the same pixels.
#[test]
fn the_digits_extractor_agrees_with_onnxruntime() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/onnx");
    let manifest: Manifest = toml::from_str(&fs::read_to_string(folder.join("digits.toml")).unwrap()).unwrap();
    manifest.check().unwrap();
    let extractor = Extractor::load(&manifest, &folder.join(&manifest.file)).unwrap();
    let pixel = |row: u32, column: u32| ((row * 37 + column * 11) % 256) as f32 / 255.0;
    let normalise = |value: f32| (value - manifest.input.mean[0]) / manifest.input.std[0];
    let image: Vec<f32> = (0..64).map(|index| normalise(pixel(index / 8, index % 8))).collect();
    let features = extractor.extract(&image).unwrap();
    assert_eq!(features.len(), 64);
    let ends = features[..8].iter().chain(&features[60..]);
    for (feature, expected) in ends.zip(ONNXRUNTIME_FEATURES) {
        assert!((feature - expected).abs() < 1e-4, "{feature} instead of {expected}");
    }
}

/// The first eight and the last four standardised features.
const ONNXRUNTIME_FEATURES: [f32; 12] = [
    -2.091037, -0.341121, -1.102486, -0.006511, -0.665346, -0.656464, -0.301087, 1.538444, -0.885903, -0.588613,
    -0.287503, 0.441879,
];
