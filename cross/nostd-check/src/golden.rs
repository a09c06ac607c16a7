//! The golden case, as `build.rs` found it among the tests of `models`.

use alloc::collections::BTreeMap;

use grapevine_models::{Head, Heads, Prototypes};

/// A head as the reference writes it.
#[derive(Clone, Copy)]
pub struct Numbers {
    /// `[C][d]`.
    pub weight: &'static [f64],
    /// `[C]`.
    pub bias: &'static [f64],
}

/// What goes into a round, and what the reference got out of it.
pub struct Case {
    /// Its file.
    pub name: &'static str,
    /// C.
    pub classes: usize,
    /// d.
    pub features_per_sample: usize,
    pub(crate) learning_rate: f32,
    pub(crate) momentum: f32,
    pub(crate) lambda: f32,
    pub(crate) rich_samples: u16,
    pub(crate) clip: f32,
    pub(crate) features: &'static [f32],
    /// One per sample.
    pub labels: &'static [u16],
    pub(crate) balanced_samples: &'static [u32],
    /// Samples of each mini-batch.
    pub batches: &'static [&'static [u32]],
    pub(crate) main: Numbers,
    pub(crate) supplementary: Numbers,
    pub(crate) fleet_prototypes: &'static [(u16, Numbers)],
    pub(crate) expected_main: Numbers,
    pub(crate) expected_supplementary: Numbers,
    pub(crate) expected_prototypes: &'static [(u16, Numbers)],
}

include!(concat!(env!("OUT_DIR"), "/case.rs"));

impl Case {
    /// The heads a device receives.
    pub(crate) fn heads(&self) -> Heads {
        Heads { main: self.main.head(), supplementary: self.supplementary.head() }
    }

    /// The prototypes a device receives.
    pub(crate) fn prototypes(&self) -> Prototypes {
        let by_class: BTreeMap<u16, Head> =
            self.fleet_prototypes.iter().map(|(class, numbers)| (*class, numbers.head())).collect();
        Prototypes { by_class }
    }
}

impl Numbers {
    fn head(self) -> Head {
        let single = |values: &[f64]| values.iter().map(|value| *value as f32).collect();
        Head { weight: single(self.weight), bias: single(self.bias) }
    }
}
