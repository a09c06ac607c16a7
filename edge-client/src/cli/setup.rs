//! What most commands begin with: the configuration, the extractor's manifest, and the store they belong to.

use core::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::Context;
use grapevine_edge_client::config::{self, ValidConfig};
use grapevine_edge_client::store::{Replacement, Store, StoreError, StoreIdentity};
use grapevine_host::{Shutdown, files};
use grapevine_models::Shape;
use grapevine_protocol::Digest;
use grapevine_vision::extractor::Extractor;
use grapevine_vision::extractor::inspect::Trial;
use grapevine_vision::manifest;
use grapevine_vision::manifest::Manifest;

use super::{Common, model};

/// The run of a head that this device trained by itself (`train --save`); an aggregator draws its runs at random.
pub(super) const LOCAL_RUN: u64 = 0;

const STORE_FILE: &str = "store.redb";
/// What the names in a state folder begin with.
const STATE_NAMES: [&str; 6] = [STORE_FILE, "status.json", "intake.json", "extractor.json", "run.lock", ".new-"];

/// A configuration whose extractor is the one its manifest describes.
pub(super) struct Setup {
    pub(super) config: ValidConfig,
    pub(super) manifest: Manifest,
    /// SHA-256 of the extractor's ONNX file.
    pub(super) extractor: Digest,
    pub(super) shape: Shape,
    onnx: PathBuf,
    loaded: OnceCell<Extractor>,
}

impl Setup {
    /// Reads and checks everything but the ONNX file's content, of which only the digest is compared.
    pub(super) fn load(config: ValidConfig) -> anyhow::Result<Self> {
        let (manifest, onnx) = manifest::load(&config.extractor)?;
        let extractor = Digest::from_hex(&manifest.sha256).context("the manifest's `sha256` is no digest")?;
        let shape = Shape::new(config.classes.len(), manifest.output.features)?;
        Ok(Self { config, manifest, extractor, shape, onnx, loaded: OnceCell::new() })
    }

    /// The extractor, tried in a process of its own and not loaded.
    pub(super) fn try_extractor(&self) -> anyhow::Result<Trial> {
        model::try_out(&self.config.extractor, &self.onnx, &Shutdown::manual())
    }

    /// The extractor itself, loaded once, after it was tried in a process of its own.
    pub(super) fn extractor(&self, shutdown: &Shutdown) -> anyhow::Result<Extractor> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded.clone());
        }
        let config = &self.config;
        let extractor = model::load(&config.state, (&config.extractor, &self.manifest), &self.onnx, shutdown)?;
        Ok(self.loaded.get_or_init(|| extractor).clone())
    }

    pub(super) fn store_identity(&self) -> StoreIdentity {
        StoreIdentity { extractor: self.extractor.0, classes: self.config.classes.clone(), shape: self.shape }
    }

    /// For writing; makes a store where there is none.
    pub(super) fn open_store(&self) -> Result<Store, StoreError> {
        self.keep_private()?;
        let store = Store::open(&store_path(&self.config.state), &self.store_identity())?;
        Ok(store.with_limits(self.config.limits))
    }

    /// An empty store that can take the place of the one that is there.
    pub(super) fn replacement(&self) -> Result<Replacement, StoreError> {
        self.keep_private()?;
        Store::replacement(&store_path(&self.config.state), &self.store_identity(), self.config.limits)
    }

    fn keep_private(&self) -> Result<(), StoreError> {
        files::private_by_default();
        let state = &self.config.state;
        let kept = files::keep_state_private(state, &STATE_NAMES);
        kept.map_err(|source| StoreError::File { path: state.clone(), source })
    }

    /// For writing; refuses where there is none.
    pub(super) fn open_filled_store(&self) -> Result<Store, StoreError> {
        let path = store_path(&self.config.state);
        if path.exists() { self.open_store() } else { Err(StoreError::Missing { path }) }
    }

    /// For reading, also beside `run`.
    pub(super) fn read_store(&self) -> Result<Store, StoreError> {
        let path = store_path(&self.config.state);
        let (store, identity) = Store::open_read_only(&path)?;
        identity.expect(&path, &self.store_identity())?;
        Ok(store.with_limits(self.config.limits))
    }
}

impl Common {
    /// The configuration with the environment and the flags over it.
    pub(super) fn configuration(&self) -> anyhow::Result<ValidConfig> {
        let mut config = config::load(&self.config, grapevine_host::config::environment())?;
        if let Some(state) = &self.state {
            config.state.clone_from(state);
        }
        Ok(config)
    }
}

/// Where the store is.
pub(super) fn store_path(state: &Path) -> PathBuf {
    state.join(STORE_FILE)
}
