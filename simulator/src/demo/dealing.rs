//! Samples of a person's own, dealt to the devices of a demo, and what people should know about them.

use std::path::Path;
use std::sync::Arc;

use grapevine_edge_client::store::{Store, StoreIdentity};
use grapevine_host::Shutdown;
use rand_chacha::ChaCha8Rng;

use super::dataset::{DataError, counts_of, device_folder, filled};
use super::{DemoOptions, Progress};
use crate::data::SampleSet;
use crate::data::class_counts;
use crate::data::partition::partition;

/// With fewer test samples of a class than this, one of them moves its accuracy by more than 5 points.
const FEW_TEST_SAMPLES: u64 = 20;

/// Training samples, and per sample the digest of what it came from.
pub(super) struct Train<'a> {
    pub(super) samples: &'a SampleSet,
    pub(super) digests: &'a [[u8; 32]],
}

/// One store per device, and the samples of each class in it: `[device][class]`.
pub(super) struct Dealt {
    pub(super) stores: Vec<Arc<Store>>,
    pub(super) counts: Vec<Vec<u64>>,
}

impl Train<'_> {
    /// Fills a store for each device; fewer where `shutdown` says so.
    pub(super) fn deal(
        &self,
        options: &DemoOptions,
        identity: &StoreIdentity,
        folder: &Path,
        rng: &mut ChaCha8Rng,
        (shutdown, progress): (&Shutdown, &mut dyn FnMut(&Progress)),
    ) -> Result<Dealt, DataError> {
        let (labels, classes) = (&self.samples.labels, identity.shape.classes());
        let dealt = partition(labels, classes, options.devices, options.alpha, options.partition, rng)?;
        let mut stores = Vec::new();
        for (number, mine) in dealt.iter().enumerate() {
            if shutdown.is_requested() {
                break;
            }
            let device = device_folder(folder, number)?;
            let samples = self.samples.select(mine);
            let digests: Vec<[u8; 32]> = mine.iter().map(|&at| self.digests[at as usize]).collect();
            stores.push(Arc::new(filled(&device, identity, &samples, &digests)?));
            progress(&Progress::Preparing { done: number + 1, devices: options.devices });
        }
        Ok(Dealt { stores, counts: counts_of(&dealt, labels, classes) })
    }
}

/// Refuses classes that nobody can learn or be tested on.
pub(super) fn check_classes(train: &[u16], test: &[u16], names: &[String]) -> Result<(), DataError> {
    for (part, labels) in [("training", train), ("test", test)] {
        let counts = class_counts(labels.iter().copied(), names.len());
        if let Some(class) = counts.iter().position(|&count| count == 0) {
            return Err(DataError::EmptyClass { class: names[class].clone(), part });
        }
    }
    Ok(())
}

/// What to say where some class has few test samples.
pub(super) fn few_tests(counts: &[u64]) -> Option<String> {
    let fewest = counts.iter().copied().min().filter(|fewest| (1..FEW_TEST_SAMPLES).contains(fewest))?;
    let points = 100.0 / fewest as f64;
    Some(format!(
        "Some class has {fewest} test samples and no more: each of them moves the accuracy of its class by {points:.0} points."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_test_samples_are_told() {
        assert!(few_tests(&[400, 2, 30]).unwrap().contains("has 2 test samples and no more: each of them moves"));
        assert_eq!(few_tests(&[20, 50]), None);
        assert_eq!(few_tests(&[]), None);
    }

    #[test]
    fn a_class_without_samples_is_named() {
        let names = ["cat".to_owned(), "dog".to_owned()];
        check_classes(&[0, 1], &[1, 0], &names).unwrap();
        let refused = check_classes(&[0, 1], &[1, 1], &names).unwrap_err().to_string();
        assert_eq!(refused, "class `cat` has no test sample that can be used; add some, or remove the class");
    }
}
