//! An extractor is loaded into this process only after it was tried in another one; what was tried once is remembered.

use std::env::consts::ARCH;
use std::path::Path;

use grapevine_host::{Shutdown, files};
use grapevine_protocol::Digest;
use grapevine_vision::extractor::Extractor;
use grapevine_vision::extractor::inspect::Trial;
use grapevine_vision::extractor::trial::{Trier, slowness};
use grapevine_vision::manifest::Manifest;
use serde::{Deserialize, Serialize};

/// This program as its own child: the hidden command that `cli/mod.rs` gives to [`grapevine_vision::extractor::trial::here`].
const TRIER: Trier = Trier(&["--quiet", "trial"]);
/// In the state folder: which extractor was tried.
const TRIED_FILE: &str = "extractor.json";

/// What the state folder remembers.
#[derive(Debug, Serialize, Deserialize)]
struct Tried {
    /// Of everything that a trial depends on.
    key: String,
}

/// Tries an extractor, whoever tried it before, and logs a warning if it is slow.
pub(super) fn try_out(manifest: &Path, onnx: &Path, shutdown: &Shutdown) -> anyhow::Result<Trial> {
    let trial = TRIER.vet(manifest, onnx, shutdown)?;
    if let Some(line) = slowness(&trial) {
        tracing::warn!("{line}");
    }
    Ok(trial)
}

/// Loads an extractor whose digest was compared, and tries it before unless this version of the program did so already.
pub(super) fn load(
    state: &Path,
    (manifest_path, manifest): (&Path, &Manifest),
    onnx: &Path,
    shutdown: &Shutdown,
) -> anyhow::Result<Extractor> {
    let (path, key) = (state.join(TRIED_FILE), key(manifest));
    if files::read_json::<Tried>(&path).is_none_or(|tried| tried.key != key) {
        try_out(manifest_path, onnx, shutdown)?;
        remember(&path, key);
    }
    Ok(Extractor::load(manifest, onnx)?)
}

/// Where it cannot be written, the extractor is tried again next time.
fn remember(path: &Path, key: String) {
    let json = serde_json::to_vec(&Tried { key }).expect("a text is JSON");
    if path.parent().is_some_and(Path::is_dir)
        && let Err(error) = files::write_atomic(path, &json)
    {
        tracing::debug!("{error}");
    }
}

/// The same for the same program, kind of processor, model and use of it.
fn key(manifest: &Manifest) -> String {
    let Manifest { sha256, input, output, .. } = manifest;
    let parts = (env!("CARGO_PKG_VERSION"), ARCH, sha256, input, output);
    let parts = serde_json::to_string(&parts).expect("numbers, names and lists of them are JSON");
    Digest::of(parts.as_bytes()).to_string()
}
