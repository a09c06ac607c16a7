//! Two hundred damaged copies of a shipped extractor: each is refused in one sentence or runs, in bounded memory and time.
//! A process of its own, so that its peak memory says something.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::fs;
use std::path::Path;

use grapevine_host::{memory, panics};
use grapevine_vision::extractor::Extractor;
use grapevine_vision::extractor::inspect::{Question, inspect};
use grapevine_vision::manifest;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const FILES: usize = 200;
/// Beyond what the test itself takes.
const MOST_BYTES: u64 = 96 << 20;

#[test]
fn damaged_models_do_no_harm() {
    panics::note();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/onnx/digits.toml");
    let (manifest, onnx) = manifest::load(&shipped).unwrap();
    let whole = fs::read(onnx).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.onnx");
    let image = vec![0.5; 64];
    Extractor::load(&manifest, &shipped.with_extension("onnx")).unwrap().extract(&image).unwrap();
    let before = memory::peak_bytes();
    let mut rng = ChaCha8Rng::seed_from_u64(2027);
    let (mut refused, mut ran) = (0, 0);
    for _ in 0..FILES {
        fs::write(&path, damaged(&whole, &mut rng)).unwrap();
        let features = Extractor::load(&manifest, &path).and_then(|extractor| extractor.extract(&image));
        match features {
            Ok(features) => {
                ran += 1;
                assert_eq!(features.len(), 64);
            }
            Err(error) => {
                refused += 1;
                let line = error.to_string();
                assert!(!line.contains('\n') && line.len() < 800, "{line}");
            }
        }
        // Without a manifest nothing says what the model should be.
        if let Ok(inspection) = inspect(&path, &Question { images: 1, ..Question::default() }) {
            assert_ne!(inspection.trial.is_some(), inspection.failure.is_some());
            assert!(inspection.failure.is_none_or(|reason| !reason.contains('\n')));
        }
    }
    assert!(refused > FILES / 4 && ran > 0, "{refused} refused, {ran} ran");
    if let (Some(before), Some(after)) = (before, memory::peak_bytes()) {
        assert!(after - before < MOST_BYTES, "{} bytes more than before", after - before);
    }
}

/// Flips bits, cuts, or splices two parts of the file.
fn damaged(whole: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    match rng.random_range(0..4) {
        0 | 1 => {
            for _ in 0..rng.random_range(1..6) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
        }
        2 => bytes.truncate(rng.random_range(0..whole.len())),
        _ => {
            let (from, to) = (rng.random_range(0..whole.len()), rng.random_range(0..whole.len()));
            let length = rng.random_range(1..64).min(whole.len() - from);
            bytes.splice(to..to, whole[from..from + length].iter().copied());
        }
    }
    bytes
}
