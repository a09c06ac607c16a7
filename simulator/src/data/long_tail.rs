//! Long-tailed subsets of training samples, and what to say about them.
//!
//! Where all classes are about equally large, class 0 becomes the head and the last class the tail: class `c` of `C` keeps
//! `n_c = int(N_c * IR^(-c / (C - 1)))` of its `N_c` samples, at least one; `IR` is the imbalance ratio.
//!
//! Where classes differ in size, the most frequent class `h` becomes the head, and the class at position `p` by frequency
//! keeps `min(N_c, int(N_h * IR^(-p / (C - 1))))`. So the order of frequency stays, and a class that is rare already is not
//! cut twice.

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::{by_frequency, class_counts, indices_by_class, stray_label};
use crate::report::units;

/// From this ratio of the largest class to the smallest on, data are long-tailed already.
pub const LONG_TAILED_FROM: f64 = 3.0;
/// Below this ratio of the largest class to the smallest, classes are about equally large.
const ABOUT_EQUAL_BELOW: f64 = 1.25;

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

/// Samples of the largest class per sample of the smallest; 1 where there is no class.
pub fn ratio_of(counts: &[u64]) -> f64 {
    let (most, fewest) = (counts.iter().max(), counts.iter().min());
    most.zip(fewest).map_or(1.0, |(&most, &fewest)| most as f64 / fewest.max(1) as f64)
}

/// The tail of a person's own data: `asked` for, or else `usual`, unless the data are long-tailed already. `None` keeps
/// the samples as they are.
pub fn tail_for(labels: &[u16], classes: usize, asked: Option<f64>, usual: f64) -> Option<f64> {
    let is_long_tailed = ratio_of(&class_counts(labels.iter().copied(), classes)) >= LONG_TAILED_FROM;
    asked.or((!is_long_tailed).then_some(usual))
}

/// What became of the training samples, in one sentence or two: `before` and `after` are samples per class, and `ratio` is
/// the imbalance ratio they were cut to; `None` if they were kept as they are.
pub fn told(before: &[u64], after: &[u64], ratio: Option<f64>) -> String {
    let [all, used] = [before, after].map(|counts| counts.iter().sum::<u64>());
    let now = shown(ratio_of(after));
    let most = units::count(after.iter().copied().max().unwrap_or(0));
    let fewest = units::count(after.iter().copied().min().unwrap_or(0));
    let (all_shown, used_shown) = (units::count(all), units::count(used));
    match ratio {
        None if ratio_of(after) >= LONG_TAILED_FROM => format!(
            "The training data are kept as they are: already long-tailed, {now}:1 ({most} to {fewest} samples a class). \
             --imbalance RATIO cuts another tail."
        ),
        None => format!("The training data are kept as they are: {now}:1 ({most} to {fewest} samples a class)."),
        Some(asked) if used == all => format!(
            "All {all_shown} training samples are used: for an imbalance ratio of {} no class had to be cut. They are {now}:1 \
             ({most} to {fewest} samples a class).",
            shown(asked)
        ),
        Some(asked) => {
            let cut = format!(
                "The training data are cut to a long tail of {}:1: {used_shown} of {all_shown} training samples are used \
                 ({most} to {fewest} samples a class).",
                shown(asked)
            );
            let is_steeper = ratio_of(after) > 1.5 * asked;
            let more = if is_steeper { " Classes that are rarer than that were not cut." } else { "" };
            format!("{cut}{more} --imbalance 1 keeps all.")
        }
    }
}

/// A ratio with one decimal where it has one.
fn shown(ratio: f64) -> String {
    let rounded = if ratio < 10.0 { (10.0 * ratio).round() / 10.0 } else { ratio.round() };
    rounded.to_string()
}

/// How many samples of each class stay: `[class]`.
fn kept_counts(counts: &[u64], imbalance_ratio: f64) -> Vec<usize> {
    let classes = counts.len();
    let numbered = (0..classes).map(|class| kept_count(counts[class] as usize, imbalance_ratio, class, classes));
    if ratio_of(counts) < ABOUT_EQUAL_BELOW {
        return numbered.collect();
    }
    let most = counts.iter().copied().max().unwrap_or(0) as usize;
    let mut kept = vec![0; classes];
    for (position, class) in by_frequency(counts).into_iter().enumerate() {
        kept[class] = kept_count(most, imbalance_ratio, position, classes).min(counts[class] as usize);
    }
    kept
}

/// Chooses the long-tailed subset: indices into `labels`, class after class, the first `n_c` of a shuffle of each class.
///
/// # Errors
/// If the ratio is below 1, a label names no class, or a class has no sample.
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
    let sizes = kept_counts(&class_counts(labels.iter().copied(), classes), imbalance_ratio);
    let mut kept = Vec::new();
    for (class, mut indices) in indices_by_class(labels, classes).into_iter().enumerate() {
        if indices.is_empty() {
            return Err(LongTailError::EmptyClass { class });
        }
        indices.shuffle(rng);
        indices.truncate(sizes[class]);
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
    fn the_most_frequent_class_is_the_head_whatever_its_number() {
        // The classes of a data set that is numbered by the alphabet.
        assert_eq!(kept_counts(&[38, 183, 17, 400, 84, 8], 100.0), [25, 159, 10, 400, 63, 4]);
        assert_eq!(kept_counts(&[38, 183, 17, 400, 84, 8], 1.0), [38, 183, 17, 400, 84, 8]);
        // What is about equally large is numbered from head to tail, as benchmarks are.
        assert_eq!(kept_counts(&[128, 132, 127], 4.0), [128, 66, 31]);
    }

    #[test]
    fn data_that_are_long_tailed_already_are_not_cut_unasked() {
        let labels = |counts: &[usize]| -> Vec<u16> {
            counts.iter().enumerate().flat_map(|(class, &count)| vec![class as u16; count]).collect()
        };
        let (skewed, equal) = (labels(&[5, 50, 20]), labels(&[50, 50, 50]));
        assert_eq!(tail_for(&skewed, 3, None, 100.0), None);
        assert_eq!(tail_for(&skewed, 3, Some(4.0), 100.0), Some(4.0));
        assert_eq!(tail_for(&equal, 3, None, 100.0), Some(100.0));
        assert_eq!(tail_for(&labels(&[10, 29]), 2, None, 100.0), Some(100.0));
        assert_eq!(tail_for(&labels(&[10, 30]), 2, None, 100.0), None);
    }

    #[test]
    fn what_became_of_the_data_is_told() {
        for (before, after, ratio, expected) in [
            (&[5, 50][..], &[5, 50][..], None, "kept as they are: already long-tailed, 10:1 (50 to 5 samples a class)"),
            (&[20, 50], &[20, 50], None, "kept as they are: 2.5:1 (50 to 20 samples a class)."),
            (
                &[5_000, 5_000],
                &[5_000, 50],
                Some(100.0),
                "a long tail of 100:1: 5,050 of 10,000 training samples are used",
            ),
            (&[400, 8], &[400, 8], Some(10.0), "no class had to be cut. They are 50:1"),
            (&[400, 200, 8], &[400, 126, 8], Some(10.0), "Classes that are rarer than that were not cut."),
        ] {
            let text = told(before, after, ratio);
            assert!(text.contains(expected), "{text}");
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
