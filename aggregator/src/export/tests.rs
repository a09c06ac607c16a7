use grapevine_vision::manifest::{Input, Layout, Output as Features};
use proptest::prelude::*;

use super::wire::{last_bytes, put_varint};
use super::*;

/// `image [1, 1, 2, 2]` -> Flatten -> `features [1, 4]`, with a field no ONNX version knows in model and graph.
fn extractor(output_shape: &[Axis]) -> Vec<u8> {
    let mut graph = Vec::new();
    put_bytes(&mut graph, graph::NODE, &onnx::node("Flatten", &["image"], "features", &[("axis", 1)]));
    put_bytes(&mut graph, 2, b"tiny");
    put_bytes(&mut graph, 11, &onnx::float_output("image", &[1, 1, 2, 2].map(Axis::Size)));
    put_bytes(&mut graph, graph::OUTPUT, &onnx::float_output("features", output_shape));
    put_bytes(&mut graph, 99, b"from the future");
    let mut opset = Vec::new();
    put_bytes(&mut opset, 1, b"");
    put_varint(&mut opset, 2, 13);
    let mut model = Vec::new();
    put_varint(&mut model, model::IR_VERSION, 8);
    put_bytes(&mut model, model::GRAPH, &graph);
    put_bytes(&mut model, model::OPSET_IMPORT, &opset);
    put_bytes(&mut model, model::METADATA, &onnx::entry("author", "somebody"));
    put_bytes(&mut model, model::METADATA, &onnx::entry("grapevine.head_round", "old"));
    put_bytes(&mut model, 99, b"from the future");
    model
}

fn rank_2() -> Vec<u8> {
    extractor(&[Axis::Size(1), Axis::Size(4)])
}

fn manifest(extractor: &[u8]) -> Manifest {
    Manifest {
        name: "tiny".into(),
        file: "tiny.onnx".into(),
        sha256: Digest::of(extractor).to_string(),
        license: "CC0".into(),
        made_by: "this test".into(),
        input: Input { width: 2, height: 2, channels: 1, layout: Layout::Nchw, mean: vec![0.5], std: vec![0.25] },
        output: Features {
            name: "features".into(),
            features: 4,
            mean: vec![0.5, -1.0, 2.0, 0.0],
            std: vec![1.0, 0.5, 4.0, 0.25],
        },
    }
}

fn head() -> Head {
    Head { weight: (0..12).map(|n| n as f32 * 0.25 - 1.0).collect(), bias: vec![0.5, -0.25, 0.0] }
}

fn classes() -> Vec<String> {
    ["oak", "elm", "\"ash\""].map(String::from).to_vec()
}

fn graph_of(model: &[u8]) -> &[u8] {
    last_bytes(model, model::GRAPH).unwrap().unwrap()
}

fn outputs_of(model: &[u8]) -> Vec<Output> {
    let outputs = all_bytes(graph_of(model), graph::OUTPUT).unwrap();
    outputs.into_iter().map(|output| Output::read(output).unwrap()).collect()
}

fn operators_of(model: &[u8]) -> Vec<String> {
    let nodes = all_bytes(graph_of(model), graph::NODE).unwrap();
    let operator = |node| String::from_utf8(last_bytes(node, 4).unwrap().unwrap().to_vec()).unwrap();
    nodes.into_iter().map(operator).collect()
}

fn metadata_of(model: &[u8], key: &str) -> Vec<String> {
    let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap().to_vec()).unwrap();
    let entries = all_bytes(model, model::METADATA).unwrap().into_iter();
    let pairs = entries.map(|entry| (text(last_bytes(entry, 1).unwrap()), text(last_bytes(entry, 2).unwrap())));
    pairs.filter(|(found, _)| found == key).map(|(_, value)| value).collect()
}

#[test]
fn the_joined_model_ends_in_logits_and_keeps_what_it_does_not_know() {
    let extractor = rank_2();
    let joined = join(&extractor, &manifest(&extractor), &head(), &classes(), 17).unwrap();
    assert_eq!(operators_of(&joined), ["Flatten", "Gemm", "Softmax"]);
    let outputs = outputs_of(&joined);
    assert_eq!(outputs.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(), ["logits", "probabilities"]);
    assert!(outputs.iter().all(|output| output.shape == Some(vec![Axis::Size(1), Axis::Size(3)])));
    assert_eq!(last_bytes(&joined, 99).unwrap(), Some(b"from the future".as_slice()));
    assert_eq!(last_bytes(graph_of(&joined), 99).unwrap(), Some(b"from the future".as_slice()));
    assert_eq!(metadata_of(&joined, "author"), ["somebody"]);
    assert_eq!(metadata_of(&joined, "grapevine.head_round"), ["17"]);
    let names: Vec<String> = serde_json::from_str(&metadata_of(&joined, "grapevine.classes")[0]).unwrap();
    assert_eq!(names, classes());
    assert!(metadata_of(&joined, "grapevine.input")[0].contains("\"layout\":\"NCHW\""));
}

#[test]
fn folding_gives_the_logits_of_standardised_features() {
    let (extractor, head) = (rank_2(), head());
    let manifest = manifest(&extractor);
    let raw = [0.25_f32, -3.0, 1.5, 0.125];
    let mut standardised = raw;
    manifest.standardise(&mut standardised);
    let mut expected = [0.0; 3];
    head.logits(&standardised, &mut expected);
    let folded = fold(&head, &manifest).unwrap();
    assert!(folded.mean.is_none());
    let mut logits = [0.0; 3];
    Head { weight: folded.weight, bias: folded.bias }.logits(&raw, &mut logits);
    for (logit, expected) in logits.iter().zip(expected) {
        assert!((logit - expected).abs() < 1e-5, "{logits:?} {expected:?}");
    }
}

#[test]
fn a_mean_far_from_zero_is_subtracted_first() {
    let extractor = rank_2();
    let mut manifest = manifest(&extractor);
    manifest.output.mean[0] = 1e4;
    let joined = join(&extractor, &manifest, &head(), &classes(), 1).unwrap();
    assert_eq!(operators_of(&joined), ["Flatten", "Sub", "Gemm", "Softmax"]);
    manifest.output.std[0] = 1e-45;
    let outcome = join(&extractor, &manifest, &head(), &classes(), 1);
    assert!(matches!(outcome, Err(ExportError::NotFinite)), "{outcome:?}");
}

#[test]
fn features_of_another_rank_are_reshaped() {
    for shape in [&[1, 4, 1, 1].map(Axis::Size)[..], &[Axis::Size(4)], &[Axis::Name("N".into()), Axis::Unknown]] {
        let extractor = extractor(shape);
        let joined = join(&extractor, &manifest(&extractor), &head(), &classes(), 1).unwrap();
        assert_eq!(operators_of(&joined), ["Flatten", "Reshape", "Gemm", "Softmax"]);
        let batch = if shape.len() > 1 { shape[0].clone() } else { Axis::Size(1) };
        assert_eq!(outputs_of(&joined)[0].shape, Some(vec![batch, Axis::Size(3)]));
    }
    let extractor = extractor(&[1, 5].map(Axis::Size));
    let outcome = join(&extractor, &manifest(&extractor), &head(), &classes(), 1);
    assert!(matches!(outcome, Err(ExportError::OutputShape { expected: 4 })));
}

#[test]
fn names_the_extractor_uses_are_passed_over() {
    let mut extractor = rank_2();
    put_bytes(&mut extractor, 6, b"logits");
    put_bytes(&mut extractor, 6, b"logits_1");
    let joined = join(&extractor, &manifest(&extractor), &head(), &classes(), 1).unwrap();
    assert_eq!(outputs_of(&joined)[0].name, "logits_2");
    assert_eq!(metadata_of(&joined, "grapevine.outputs"), ["[\"logits_2\",\"probabilities\"]"]);
}

#[test]
fn what_does_not_fit_is_refused_with_a_reason() {
    let extractor = rank_2();
    let good = manifest(&extractor);
    let attempt = |extractor: &[u8], manifest: &Manifest, head: &Head, classes: &[String]| {
        join(extractor, manifest, head, classes, 1).unwrap_err()
    };
    let mut other = good.clone();
    other.output.name = "pool".into();
    let error = attempt(&extractor, &other, &head(), &classes());
    assert!(error.to_string().contains("no output `pool`, only [\"features\"]"), "{error}");
    assert!(matches!(attempt(&extractor, &good, &head(), &classes()[..2]), ExportError::Head(_)));
    assert!(matches!(attempt(&extractor, &good, &head(), &classes()[..1]), ExportError::Shape(_)));
    let mut changed = extractor.clone();
    changed.push(0);
    assert!(matches!(attempt(&changed, &good, &head(), &classes()), ExportError::Digest { .. }));
    for bytes in [&b""[..], b"\x08\x08", b"PK\x03\x04 not a model", b"{}"] {
        let error = attempt(bytes, &manifest(bytes), &head(), &classes());
        assert!(matches!(error, ExportError::NotOnnx), "{bytes:?} {error}");
    }
    let old = [b"\x08\x03".as_slice(), &extractor[2..]].concat();
    assert!(matches!(attempt(&old, &manifest(&old), &head(), &classes()), ExportError::TooOld { ir_version: 3, .. }));
}

#[test]
fn weights_in_other_files_are_refused() {
    let mut tensor = onnx::float_tensor("w", &[1], &[1.0]);
    put_varint(&mut tensor, 14, 1);
    let mut graph = graph_of(&rank_2()).to_vec();
    put_bytes(&mut graph, graph::INITIALIZER, &tensor);
    let mut extractor = vec![8, 8];
    put_bytes(&mut extractor, model::GRAPH, &graph);
    put_bytes(&mut extractor, model::OPSET_IMPORT, &[0x10, 13]);
    let outcome = join(&extractor, &manifest(&extractor), &head(), &classes(), 1);
    assert!(matches!(outcome, Err(ExportError::ExternalData)), "{outcome:?}");
}

proptest! {
    #[test]
    fn a_changed_extractor_never_panics(position in 0_usize..400, byte: u8, keep in 0_usize..400) {
        let mut extractor = rank_2();
        let position = position % extractor.len();
        extractor[position] = byte;
        extractor.truncate(keep.max(1));
        let _ = join(&extractor, &manifest(&extractor), &head(), &classes(), 1);
    }
}
