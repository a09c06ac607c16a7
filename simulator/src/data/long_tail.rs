//! Long-tailed subsets: class 0 is the head and keeps everything, the last class is the tail.
//!
//! Class `c` of `C` keeps `n_c = int(N_c * IR^(-c / (C - 1)))` of its `N_c` samples, at least one; `IR` is the imbalance
//! ratio. `N_c` is the class's own count, so that `n_0 / n_(C-1)` is `IR` where all classes start equally large.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{indices_by_class, stray_label};

/// Why labels cannot be given a long tail.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LongTailError {
    /// The imbalance ratio is below one or not finite.
    #[error("imbalance ratio {0}: give a number of at least 1 (1 keeps everything, 100 is a long tail)")]
    ImbalanceRatio(f64),
    /// A label names no class.
    #[error("sample {index} has label {label}, but there are {classes} classes: labels go from 0 to classes - 1")]
    Label {
        /// Position of the sample.
        index: usize,
        /// Its label.
        label: u16,
        /// Number of classes.
        classes: usize,
    },
    /// A class has no sample to keep.
    #[error("class {class} has no sample: every class needs at least one, remove the class or add data")]
    EmptyClass {
        /// The class.
        class: usize,
    },
}

/// How many of `available` samples class `class` of `classes` keeps.
///
/// ```
/// use grapevine_simulator::data::long_tail::kept_count;
/// assert_eq!(kept_count(5000, 100.0, 0, 10), 5000);
/// assert_eq!(kept_count(5000, 100.0, 9, 10), 50);
/// ```
pub fn kept_count(available: usize, imbalance_ratio: f64, class: usize, classes: usize) -> usize {
    let position = if classes > 1 { class as f64 / (classes - 1) as f64 } else { 0.0 };
    // Dividing, where the formula multiplies by a negative power, is exact at both ends of the tail.
    let kept = (available as f64 / imbalance_ratio.powf(position)) as usize;
    kept.clamp(1.min(available), available)
}

/// Chooses the long-tailed subset: indices into `labels`, class after class, the first `n_c` of a shuffle of each class.
pub fn long_tail(
    labels: &[u16],
    classes: usize,
    imbalance_ratio: f64,
    rng: &mut ChaCha8Rng,
) -> Result<Vec<u32>, LongTailError> {
    if !imbalance_ratio.is_finite() || imbalance_ratio < 1.0 {
        return Err(LongTailError::ImbalanceRatio(imbalance_ratio));
    }
    if let Some((index, label)) = stray_label(labels, classes) {
        return Err(LongTailError::Label { index, label, classes });
    }
    let mut kept = Vec::new();
    for (class, mut indices) in indices_by_class(labels, classes).into_iter().enumerate() {
        if indices.is_empty() {
            return Err(LongTailError::EmptyClass { class });
        }
        indices.shuffle(rng);
        indices.truncate(kept_count(indices.len(), imbalance_ratio, class, classes));
        kept.extend(indices);
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;
    use crate::data::class_counts;

    #[test]
    fn the_well_known_counts_of_cifar_10() {
        let counts: Vec<usize> = (0..10).map(|class| kept_count(5000, 100.0, class, 10)).collect();
        assert_eq!(counts, [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]);
    }

    #[test]
    fn refusals_say_what_to_do() {
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for ratio in [0.5, f64::NAN, f64::INFINITY] {
            assert!(matches!(long_tail(&[0, 1], 2, ratio, &mut rng), Err(LongTailError::ImbalanceRatio(_))));
        }
        assert_eq!(long_tail(&[0, 7], 2, 2.0, &mut rng), Err(LongTailError::Label { index: 1, label: 7, classes: 2 }));
        assert_eq!(long_tail(&[0, 2], 3, 2.0, &mut rng), Err(LongTailError::EmptyClass { class: 1 }));
    }

    fn shuffled_labels(per_class: usize, classes: usize, rng: &mut ChaCha8Rng) -> Vec<u16> {
        let mut labels: Vec<u16> = (0..classes as u16).flat_map(|class| vec![class; per_class]).collect();
        labels.shuffle(rng);
        labels
    }

    proptest! {
        #[test]
        fn counts_fall_from_head_to_tail_by_the_ratio(
            per_class in 1usize..300, classes in 2usize..20, ratio in 1.0f64..200.0, seed: u64,
        ) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let labels = shuffled_labels(per_class, classes, &mut rng);
            let kept = long_tail(&labels, classes, ratio, &mut rng).unwrap();
            let counts = class_counts(kept.iter().map(|&index| labels[index as usize]), classes);
            prop_assert!(counts.is_sorted_by(|left, right| left >= right));
            prop_assert_eq!(counts[0], per_class as u64);
            let tail = (per_class as f64 / ratio).max(1.0);
            prop_assert!((counts[classes - 1] as f64 - tail).abs() <= 1.0);
            let mut unique = kept.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), kept.len());
        }

        #[test]
        fn a_ratio_of_one_keeps_everything(per_class in 1usize..50, classes in 2usize..10, seed: u64) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let labels = shuffled_labels(per_class, classes, &mut rng);
            prop_assert_eq!(long_tail(&labels, classes, 1.0, &mut rng).unwrap().len(), labels.len());
        }
    }

    #[test]
    fn the_seed_decides() {
        let labels: Vec<u16> = (0..600).map(|index| index % 6).collect();
        let draw = |seed| long_tail(&labels, 6, 10.0, &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }
}
