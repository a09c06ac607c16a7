//! Models that ask for gigabytes or hours while they are loaded: one sentence, whatever way they come in.

#![allow(clippy::unwrap_used, reason = "helpers of tests, in which a panic is a failed test")]

mod device;

use std::fs;
use std::path::{Path, PathBuf};

use device::*;
use grapevine_vision::manifest;

/// Each with a manifest beside it; the words of its refusal.
const REFUSED: [(&str, &str); 5] = [
    // 168 bytes: an axis that is taken four times, which asks for 8 GB.
    ("transpose_dup", "`perm` of its Transpose"),
    // Enlarges an image by ten million.
    ("resize1e7", "takes more than"),
    // Constants of 2^28 numbers.
    ("expandconst2_28", "takes more memory than it may"),
    ("range2_28", "takes more memory than it may"),
    // A window of a million numbers with a border of the same size, which takes minutes to plan.
    ("gridsample", "`pads` of its AveragePool"),
];

fn hostile(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name)
}

/// A device whose configuration names another extractor than the one it was made with.
fn device_with(manifest: &Path) -> Device {
    let device = Device::configured();
    let shipped = format!("{:?}", shipped("digits.toml"));
    device.edit_config(&shipped, &format!("{manifest:?}"));
    device.write_digits("pictures", 0, 3);
    device
}

#[test]
fn init_refuses_a_model_that_takes_too_much() {
    for (name, expected) in REFUSED {
        let device = Device::new();
        let manifest = hostile(&format!("{name}.toml"));
        let outcome = device.init_with(manifest.to_str().unwrap(), "a,b", &[]);
        outcome.fails(1, expected).fails(1, name);
        assert!(device.names().is_empty(), "{:?}", device.names());
    }
}

#[test]
fn images_are_not_stored_with_such_a_model() {
    for (name, expected) in REFUSED {
        let device = device_with(&hostile(&format!("{name}.toml")));
        device.call(&["ingest", "pictures"]).fails(1, expected);
        device.call(&["ingest", "--watch", "pictures"]).fails(1, expected);
        assert!(!device.path("state/extractor.json").exists());
    }
    let (name, expected) = REFUSED[1];
    let device = device_with(&hostile(&format!("{name}.toml")));
    device.edit_config("# watch = \"labelled\"", "watch = \"pictures\"");
    let outcome = device.call(&["run"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.lines().last().is_some_and(|line| line.contains(expected)), "{outcome:?}");
}

/// A window of a million numbers whose border is one number smaller: nothing about it is forbidden, and planning it takes
/// minutes.
#[test]
fn a_model_that_loads_for_ever_is_given_up() {
    let device = Device::new();
    let ints = |name: &str, value: u16, count: usize| {
        let one = [vec![0x40], varint(value.into())].concat();
        field(5, &[field(1, name.as_bytes()), one.repeat(count), vec![0xa0, 1, 7]].concat())
    };
    let pool = [
        field(1, b"image"),
        field(2, b"wide"),
        field(4, b"AveragePool"),
        ints("kernel_shape", 1_024, 2),
        ints("pads", 1_023, 4),
    ];
    let mean = [field(1, b"wide"), field(2, b"mean"), field(4, b"GlobalAveragePool")];
    let flat = [field(1, b"mean"), field(2, b"features"), field(4, b"Flatten")];
    let nodes = [field(1, &pool.concat()), field(1, &mean.concat()), field(1, &flat.concat())].concat();
    let graph = [nodes, value(11, "image", &[1, 1, 8, 8]), value(12, "features", &[1, 1])].concat();
    let opset = field(8, &[field(1, b""), vec![0x10, 13]].concat());
    let model = [vec![0x08, 8], opset, field(7, &graph)].concat();
    fs::write(device.path("wide.onnx"), model).unwrap();
    let text = fs::read_to_string(shipped("digits.toml")).unwrap().replace("digits.onnx", "wide.onnx");
    let digest = manifest::sha256_file(&device.path("wide.onnx")).unwrap();
    let old = text.lines().find(|line| line.starts_with("sha256")).unwrap();
    fs::write(device.path("wide.toml"), text.replace(old, &format!("sha256 = \"{digest}\""))).unwrap();
    device.init_with("wide.toml", "a,b", &[]).fails(1, "computed for");
}

#[test]
fn an_extractor_is_tried_once() {
    let device = Device::configured();
    device.write_digits("pictures", 0, 5);
    let tried = || fs::read(device.path("state/extractor.json"));
    assert!(tried().is_err());
    // The state folder is made with the store, after the extractor was tried; so it is remembered the next time.
    device.call(&["ingest", "pictures"]).succeeds();
    device.call(&["ingest", "pictures"]).succeeds();
    let first = tried().unwrap();
    let changed = fs::metadata(device.path("state/extractor.json")).unwrap().modified().unwrap();
    device.call(&["ingest", "pictures"]).succeeds();
    assert_eq!(fs::metadata(device.path("state/extractor.json")).unwrap().modified().unwrap(), changed);
    // What was remembered of another extractor, or cannot be read, is no proof.
    for other in [&b"{\"key\":\"0\"}"[..], b"{"] {
        fs::write(device.path("state/extractor.json"), other).unwrap();
        device.call(&["ingest", "pictures"]).succeeds();
        assert_eq!(tried().unwrap(), first);
    }
}

/// A field of bytes of a protobuf message.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(content.len()), content].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// An input or output in f32.
fn value(number: u8, name: &str, shape: &[u8]) -> Vec<u8> {
    let sides: Vec<u8> = shape.iter().flat_map(|&side| field(1, &[0x08, side])).collect();
    let tensor = [vec![0x08, 1], field(2, &sides)].concat();
    field(number, &[field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat())
}
