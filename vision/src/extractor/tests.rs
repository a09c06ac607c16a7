use std::fs::{self, File};

use crate::manifest::{Input, Layout, Output};

use super::inspect::{Question, Side, inspect};
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
    assert!(matches!(error, ExtractorError::NotFinite { .. }), "{error}");
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
    File::create(&path).unwrap().set_len(MAX_EXTRACTOR_BYTES + 1).unwrap();
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

    for claimed in [vec![1 << 40, 1 << 40], vec![1 << 63, 2], vec![u64::MAX, 3], vec![4, 4], vec![1 << 25]] {
        let claimed = tensor("weights", &claimed, &WEIGHTS);
        assert!(matches!(refusal(&manifest(), &model(projection(claimed))), ExtractorError::NotOnnx { .. }));
    }
}

#[test]
fn windows_of_absurd_size_are_refused() {
    let ints = |name: &str, values: &[u64]| {
        let attribute =
            values.iter().fold(Message::default().text(1, name), |message, &value| message.number(8, value));
        attribute.number(20, 7)
    };
    let pool = |attribute: Message| {
        let pool = node("AveragePool", &["image"], "features").nest(5, attribute);
        let graph = Message::default().nest(1, pool).nest(11, value("image", &[0, 1, 2, 2]));
        model(graph.nest(12, value("features", &[0, 3])))
    };
    for (name, values) in [
        ("kernel_shape", [1 << 40, 1 << 40]),
        ("kernel_shape", [4_000, 4_000]),
        ("kernel_shape", [u64::MAX, u64::MAX]),
        ("strides", [1 << 62, 1]),
        ("pads", [1 << 33, 1 << 33]),
    ] {
        refusal(&manifest(), &pool(ints(name, &values)));
    }
}

#[test]
fn more_parts_than_any_model_has_are_not_parsed() {
    // Two bytes each in the file, two hundred in memory.
    let nodes = [0x0a, 0].repeat(600_000);
    let graph = Message(nodes).nest(12, value("features", &[0, 3]));
    let error = refusal(&manifest(), &model(graph));
    assert!(matches!(&error, ExtractorError::NotOnnx { reason, .. } if reason.contains("parts")), "{error}");

    let deep = (0..20).fold(Message::default(), |graph, _| {
        Message::default().nest(1, node("If", &["image"], "features").nest(5, Message::default().nest(6, graph)))
    });
    let error = refusal(&manifest(), &model(deep));
    assert!(matches!(&error, ExtractorError::NotOnnx { reason, .. } if reason.contains("too deep")), "{error}");
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Extractor::load(&manifest(), folder.path()), Err(ExtractorError::Read { .. })));
    #[cfg(unix)]
    assert!(matches!(Extractor::load(&manifest(), Path::new("/dev/zero")), Err(ExtractorError::Read { .. })));
}

#[test]
fn an_output_of_another_rank_is_refused() {
    let cube = Message::default()
        .nest(1, node("Relu", &["image"], "features"))
        .nest(11, value("image", &[0, 1, 2, 2]))
        .nest(12, value("features", &[0, 1, 2, 2]));
    let error = refusal(&manifest(), &model(cube));
    assert!(matches!(error, ExtractorError::Output { .. }) && error.to_string().contains("[1, d]"), "{error}");
}

#[test]
fn an_output_with_sides_of_one_is_a_row_of_features() {
    for shape in [&[1, 4, 1, 1][..], &[1, 1, 4, 1], &[1, 1, 1, 4], &[1, 1, 4], &[4]] {
        let sides: Vec<u8> = shape.iter().flat_map(|&side: &i64| side.to_le_bytes()).collect();
        let shape_of = Message::default().number(1, shape.len() as u64).number(2, 7).text(8, "shape").bytes(9, &sides);
        let graph = Message::default()
            .nest(1, node("Reshape", &["image", "shape"], "features"))
            .nest(5, shape_of)
            .nest(11, value("image", &[1, 1, 2, 2]))
            .nest(12, value("features", &shape.iter().map(|&side| side as u64).collect::<Vec<u64>>()));
        let bytes = model(graph);
        let mut manifest = manifest();
        manifest.output = Output { name: "features".into(), features: 4, mean: vec![0.0; 4], std: vec![2.0; 4] };
        let extractor = load(&manifest, &bytes).unwrap();
        assert_eq!(extractor.extract_raw(&[1.0, 2.0, 3.0, 4.0]).unwrap(), [1.0, 2.0, 3.0, 4.0], "{shape:?}");
    }
}

/// `[N, 1, 2, 2]` to `[N, 3]` as [`projection`], computed in f16 between two casts.
fn half_precision() -> Vec<u8> {
    let cast = |from: &str, to: &str, kind: u64| {
        let attribute = Message::default().text(1, "to").number(3, kind).number(20, 2);
        node("Cast", &[from], to).nest(5, attribute)
    };
    let raw: Vec<u8> = WEIGHTS.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect();
    let weights = Message::default().number(1, 4).number(1, 3).number(2, 10).text(8, "weights").bytes(9, &raw);
    let graph = Message::default()
        .nest(1, cast("image", "narrow", 10))
        .nest(1, node("Flatten", &["narrow"], "flat"))
        .nest(1, node("MatMul", &["flat", "weights"], "product"))
        .nest(1, cast("product", "features", 1))
        .nest(5, weights)
        .nest(11, value("image", &[0, 1, 2, 2]))
        .nest(12, value("features", &[0, 3]));
    model(graph)
}

#[test]
fn what_computes_in_f16_is_computed_in_f32() {
    let path = Path::new("half.onnx");
    let manifest = manifest();
    let typed = graph::typed(file::parse(&half_precision(), path).unwrap(), &Wanted::of(&manifest), path).unwrap();
    let kinds = typed.nodes().iter().flat_map(|node| &node.outputs).map(|output| output.fact.datum_type);
    assert!(kinds.clone().all(|kind| kind != f16::datum_type()), "{:?}", kinds.collect::<Vec<_>>());
    let extractor = load(&manifest, &half_precision()).unwrap();
    // More digits than f16 has.
    assert_eq!(
        extractor.extract_raw(&[1.0, 2.0, 3.0, 1.0 / 4_096.0]).unwrap(),
        [1.0, 2.0, 3.0].map(|pixel| pixel + 1.0 / 4_096.0)
    );
}

#[test]
fn without_a_manifest_none_is_spoken_of() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let cube = Message::default()
        .nest(1, node("Relu", &["image"], "features"))
        .nest(11, value("image", &[0, 1, 2, 2]))
        .nest(12, value("features", &[0, 1, 2, 2]));
    let nan = projection(tensor("weights", &[4, 3], &[f32::NAN; 12]));
    let two_inputs = projection(tensor("weights", &[4, 3], &WEIGHTS)).nest(11, value("more", &[1]));
    let flat_input = projection(tensor("weights", &[4, 3], &WEIGHTS));
    for (bytes, output) in [
        (model(cube), None),
        (model(nan), None),
        (model(two_inputs), None),
        (model(flat_input), Some("logits")),
        (b"no model".to_vec(), None),
    ] {
        fs::write(&path, bytes).unwrap();
        let line = match inspect(&path, &Question { output, ..Question::default() }) {
            Ok(inspection) => inspection.failure.unwrap(),
            Err(error) => error.to_string(),
        };
        assert!(!line.contains("manifest") && line.contains("; "), "{line}");
    }
}

#[test]
fn what_the_format_forbids_is_refused_before_it_is_computed() {
    let ints = |name: &str, values: &[u64]| {
        let attribute = values.iter().fold(Message::default().text(1, name), |all, &value| all.number(8, value));
        attribute.number(20, 7)
    };
    let one = |node: Message| {
        let graph = Message::default().nest(1, node).nest(11, value("image", &[0, 1, 2, 2]));
        model(graph.nest(12, value("features", &[0, 3])))
    };
    let pool = node("MaxPool", &["image"], "features").nest(5, ints("kernel_shape", &[3, 3]));
    let border = pool.nest(5, ints("pads", &[0, 0, 3, 0]));
    let twice = node("Transpose", &["image"], "features").nest(5, ints("perm", &[0, 1, 2, 2]));
    for (node, expected) in [(border, "`pads` of its MaxPool"), (twice, "`perm` of its Transpose")] {
        let error = refusal(&manifest(), &one(node)).to_string();
        assert!(error.contains(expected), "{error}");
    }
    let row = (0..20_000).fold(Message::default(), |graph, _| graph.nest(1, node("Relu", &["image"], "features")));
    let row = row.nest(11, value("image", &[0, 1, 2, 2])).nest(12, value("features", &[0, 3]));
    let error = refusal(&manifest(), &model(row)).to_string();
    assert!(error.contains("20000 operations, the limit is 16384"), "{error}");
}

#[test]
fn a_model_that_gives_no_numbers_is_found_out_on_the_first_image() {
    let weights = [f32::NAN; 12];
    let extractor = load(&manifest(), &model(projection(tensor("weights", &[4, 3], &weights)))).unwrap();
    for features in [extractor.extract(&[0.0; 4]), extractor.extract_raw(&[0.0; 4])] {
        assert!(matches!(features, Err(ExtractorError::NotFinite { feature: 0, .. })), "{features:?}");
    }
}

#[test]
fn sides_that_are_not_fixed_are_fixed_by_the_manifest() {
    let model_of = |shape: &[u64]| {
        let graph = Message::default()
            .nest(1, node("Flatten", &["image"], "flat"))
            .nest(1, node("MatMul", &["flat", "weights"], "features"))
            .nest(5, tensor("weights", &[4, 3], &WEIGHTS));
        model(graph.nest(11, value("image", shape)).nest(12, value("features", &[0, 3])))
    };
    load(&manifest(), &model_of(&[0, 0, 0, 0])).unwrap();
    load(&manifest(), &model_of(&[1, 1, 2, 2])).unwrap();
    for fixed in [[8, 1, 2, 2], [0, 3, 2, 2], [0, 1, 4, 2]] {
        let error = refusal(&manifest(), &model_of(&fixed));
        assert!(matches!(error, ExtractorError::Input { .. }), "{error}");
    }
    // Fixed to a size that the model cannot take.
    let mut large = manifest();
    (large.input.width, large.input.height) = (3, 3);
    assert!(matches!(refusal(&large, &model_of(&[0, 0, 0, 0])), ExtractorError::Unsupported { .. }));
}

#[test]
fn a_file_is_described_and_tried() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    fs::write(&path, good_model()).unwrap();
    let inspection = inspect(&path, &Question { manifest: Some(&manifest()), ..Question::default() }).unwrap();
    assert_eq!((inspection.opset, inspection.parameters, inspection.bytes), (Some(13), 12, good_model().len() as u64));
    assert_eq!(
        inspection.operations.iter().map(|(name, count)| (name.as_str(), *count)).collect::<Vec<_>>(),
        [("Flatten", 1), ("MatMul", 1)]
    );
    let [input] = inspection.inputs.as_slice() else { panic!("{:?}", inspection.inputs) };
    assert_eq!((input.name.as_str(), input.kind.as_str()), ("image", "f32"));
    assert_eq!(input.shape.as_deref().map(|shape| shape[0].clone()), Some(Side::Any("N".into())));
    let trial = inspection.trial.unwrap();
    assert_eq!((trial.input_shape, trial.features, trial.multiply_adds), ([1, 1, 2, 2], 3, Some(12)));
    assert!(trial.image_ms > 0.0 && trial.images > 0, "{trial:?}");

    let alone = inspect(&path, &Question::default()).unwrap();
    assert_eq!(alone.trial.unwrap().input_shape, [1, 1, 2, 2]);
    let unknown = Message::default().nest(1, node("Nonesuch", &["image"], "features"));
    let unknown = unknown.nest(11, value("image", &[0, 1, 2, 2])).nest(12, value("features", &[0, 3]));
    fs::write(&path, model(unknown)).unwrap();
    let inspection = inspect(&path, &Question::default()).unwrap();
    assert_eq!(inspection.unknown_operations, ["Nonesuch"]);
    assert!(inspection.failure.unwrap().contains("does not know Nonesuch"));
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
    let error = Extractor::load(&manifest(), &path).unwrap_err();
    assert!(matches!(&error, ExtractorError::ExternalData { file, .. } if file == "weights.bin"), "{error}");
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
