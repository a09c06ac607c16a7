//! Whose samples give way, and whether the choice is fair.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::disk::{Disk, check, open_on};
use super::*;

#[test]
fn a_full_store_balances_its_classes() {
    let folder = tempfile::tempdir().unwrap();
    let store = limited(&folder, 3, 12);
    assert_eq!(
        insert(&store, &(0..20).map(|image| (0, image)).collect::<Vec<_>>()).added,
        12 + evictions_of_one_class()
    );
    assert_eq!(store.counts().unwrap(), [12, 0, 0]);
    insert(&store, &[(1, 100), (1, 101)]);
    assert_eq!(store.counts().unwrap(), [10, 2, 0], "the largest class gave way");
    insert(&store, &(200..260).map(|image| (2, image)).collect::<Vec<_>>());
    assert_eq!(store.counts().unwrap(), [5, 2, 5]);
    // A second look at images that were seen changes nothing.
    let before = store.load_all().unwrap();
    assert_eq!(insert(&store, &(200..260).map(|image| (2, image)).collect::<Vec<_>>()).added, 0);
    assert_eq!(store.load_all().unwrap(), before);
    assert!((200..260).any(|image| store.wants(2, &digest(image)).unwrap() == Wanted::Full));
}

/// How many of images 12 to 19 have a digest below the largest that is kept when they arrive.
fn evictions_of_one_class() -> u32 {
    let mut kept: Vec<Digest> = (0..12).map(digest).collect();
    let mut replaced = 0;
    for image in 12..20 {
        kept.sort_unstable();
        let last = kept.last_mut().unwrap();
        if digest(image) < *last {
            *last = digest(image);
            replaced += 1;
        }
    }
    replaced
}

#[test]
fn bytes_bound_the_store_too() {
    let folder = tempfile::tempdir().unwrap();
    let max_bytes = 10 * record::sample_bytes(FEATURES) + 1;
    let store = open(&folder, 2).with_limits(StoreLimits { max_bytes, ..StoreLimits::default() });
    assert_eq!(store.capacity(), 10);
    insert(&store, &(0..30).map(|image| (0, image)).collect::<Vec<_>>());
    assert_eq!(store.counts().unwrap(), [10, 0]);
    let none = store.with_limits(StoreLimits { max_samples: 0, ..StoreLimits::default() });
    assert_eq!(insert(&none, &[(1, 50)]).refused, 1);
}

#[test]
fn a_class_has_a_bound_of_its_own() {
    let store = open_on(&Disk::default(), &identity(3)).unwrap();
    let store = store.with_limits(StoreLimits { max_samples_per_class: 7, ..StoreLimits::default() });
    let inserted = insert(&store, &(0..20).map(|image| (0, image)).collect::<Vec<_>>());
    assert_eq!(inserted.added + inserted.refused, 20);
    insert(&store, &(20..25).map(|image| (1, image)).collect::<Vec<_>>());
    assert_eq!(store.counts().unwrap(), [7, 5, 0]);
    let mut smallest: Vec<Digest> = (0..20).map(digest).collect();
    smallest.sort_unstable();
    for (place, digest) in smallest.iter().enumerate() {
        assert_eq!(store.wants(0, digest).unwrap() == Wanted::Duplicate, place < 7, "the smallest digests stay");
    }
    assert_eq!(store.wants(0, &smallest[7]).unwrap(), Wanted::Full);
    assert_eq!(store.wants(0, &[0; 32]).unwrap(), Wanted::Yes);
}

#[test]
fn lowered_bounds_hold_from_the_next_batch_on() {
    let store = open_on(&Disk::default(), &identity(3)).unwrap();
    insert(&store, &(0..40).map(|image| ((image % 4 / 2) as u16, image)).collect::<Vec<_>>());
    assert_eq!(store.counts().unwrap(), [20, 20, 0]);
    let limits = StoreLimits { max_samples: 11, max_samples_per_class: 9, ..StoreLimits::default() };
    let store = store.with_limits(limits);
    let inserted = insert(&store, &[(2, 100)]);
    assert_eq!((inserted.added, inserted.evicted), (1, 30));
    assert_eq!(store.counts().unwrap(), [5, 5, 1]);
    check(&store);
}

/// Images of class 0 arrive among others in a full store, in 300 fixed ways. What stays must not depend on when it
/// came: chi-square over six parts of the stream, 5 degrees of freedom, 20.5 at 0.1 %.
#[test]
fn what_stays_of_a_class_is_a_uniform_sample_of_what_came() {
    const WAYS: u32 = 300;
    const CAME: u32 = 60;
    const PARTS: usize = 6;
    let mut stayed = [0_u32; PARTS];
    for way in 0..WAYS {
        let store = open_on(&Disk::default(), &identity(3)).unwrap();
        let limits = StoreLimits { max_samples: 40, max_samples_per_class: 25, ..StoreLimits::default() };
        let store = store.with_limits(limits);
        let image = |number| 1_000 * way + number;
        for number in (0..CAME).step_by(10) {
            let mut images: Vec<(u16, u32)> = (number..number + 10).map(|number| (0, image(number))).collect();
            // The other classes grow too, so that class 0 shrinks while it goes on to come.
            images.extend((number..number + 6).map(|number| ((1 + number % 2) as u16, image(500 + number))));
            insert(&store, &images);
        }
        for number in 0..CAME {
            let stays = store.wants(0, &digest(image(number))).unwrap() == Wanted::Duplicate;
            stayed[(number as usize * PARTS) / CAME as usize] += u32::from(stays);
        }
    }
    let expected = f64::from(stayed.iter().sum::<u32>()) / PARTS as f64;
    let chi_square: f64 = stayed.iter().map(|&stayed| (f64::from(stayed) - expected).powi(2) / expected).sum();
    assert!(expected > 500.0 && chi_square < 20.5, "{stayed:?}: {chi_square}");
}

/// The estimate of what samples take on a disk is one: full and turned over, the file's blocks stay within it.
#[test]
fn the_bound_in_bytes_is_one_on_the_disk() {
    const MAX_BYTES: u64 = 8 << 20;
    /// For 64 newcomers and as many that give way, one commit replaces that many pages before it frees them.
    const BESIDE_BYTES: u64 = 1 << 20;
    for features in [16, 128, 512, 1_024, 1_280] {
        let disk = Disk::default();
        let identity = StoreIdentity { shape: Shape::new(4, features).unwrap(), ..identity(4) };
        let limits = StoreLimits { max_bytes: MAX_BYTES, ..StoreLimits::default() };
        let store = open_on(&disk, &identity).unwrap().with_limits(limits);
        let capacity = store.capacity();
        let row = vec![0.5; features];
        for number in (0..capacity * 3 / 2).step_by(64) {
            let sample = |image| Sample { label: (image % 4) as u16, digest: digest(image), features: &row };
            store.insert_batch(&(number..number + 64).map(sample).collect::<Vec<_>>()).unwrap();
        }
        assert_eq!(store.counts().unwrap().iter().sum::<u32>(), capacity);
        let used = disk.used_bytes();
        assert!(used <= MAX_BYTES + BESIDE_BYTES, "{features} features: {capacity} samples take {used} bytes");
        assert!(used >= MAX_BYTES / 4, "{features} features: {capacity} samples take only {used} bytes");
    }
}

proptest! {
    // Each case is a database with dozens of commits.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_class_never_loses_samples_while_another_has_more(
        images in prop::collection::vec((0_u16..4, 0_u32..300), 1..90),
        capacity in 1_u32..25,
    ) {
        let limits = StoreLimits { max_samples: capacity, ..StoreLimits::default() };
        let store = open_on(&Disk::default(), &identity(4)).unwrap().with_limits(limits);
        let mut counts = vec![0; 4];
        for (label, image) in images {
            // Each image is of one class for ever.
            let inserted = insert(&store, &[(label, 4 * image + u32::from(label))]);
            let now = store.counts().unwrap();
            let largest = *counts.iter().max().unwrap();
            for (before, after) in counts.iter().zip(&now) {
                prop_assert!(after >= before || *before == largest, "{counts:?} became {now:?}");
            }
            prop_assert!(now.iter().sum::<u32>() <= capacity);
            prop_assert_eq!(inserted.added + inserted.duplicates + inserted.refused, 1);
            counts = now;
        }
        let dataset = store.load_all().unwrap();
        for (label, &count) in (0..4).zip(&counts) {
            prop_assert_eq!(dataset.labels.iter().filter(|&&stored| stored == label).count() as u32, count);
        }
    }
    /// What makes the choice inside a class uniform, whatever the digests, the order and the bounds: of all that came,
    /// the smallest digests are there, with at most one exception while classes of equal size take turns.
    #[test]
    fn the_smallest_digests_of_a_class_stay(
        labels in prop::collection::vec(0_u16..4, 1..120),
        first in 0_u32..1_000_000,
        capacity in 1_u32..40,
        per_class in 1_u32..30,
        batch in 1_usize..20,
    ) {
        let store = open_on(&Disk::default(), &identity(4)).unwrap();
        let limits = StoreLimits { max_samples: capacity, max_samples_per_class: per_class, ..StoreLimits::default() };
        let store = store.with_limits(limits);
        let images: Vec<(u16, u32)> = labels.iter().copied().zip(first..).collect();
        for images in images.chunks(batch) {
            insert(&store, images);
        }
        let mut came: BTreeMap<u16, Vec<Digest>> = BTreeMap::new();
        for (label, image) in images {
            came.entry(label).or_default().push(digest(image));
        }
        let counts = store.counts().unwrap();
        for (label, mut digests) in came {
            digests.sort_unstable();
            let kept = counts[usize::from(label)] as usize;
            prop_assert!(kept <= per_class as usize);
            let certain = if kept == digests.len() { kept } else { kept.saturating_sub(1) };
            for digest in &digests[..certain] {
                prop_assert_eq!(store.wants(label, digest).unwrap(), Wanted::Duplicate);
            }
        }
        check(&store);
    }
}
