use std::fs;

use image::{Rgb, RgbImage};

use super::*;

/// A folder of `per_class` distinct images per split and class.
fn folder(splits: &[(&str, u8)], classes: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (place, (split, per_class)) in (0_u8..).zip(splits) {
        for (class, name) in (0_u8..).zip(classes) {
            let path = folder.path().join(split).join(name);
            fs::create_dir_all(&path).unwrap();
            for number in 0..*per_class {
                let pixel = |x: u32, y: u32| Rgb([x as u8 * 8 + number, y as u8 * 8 + 20 * class, 50 * place]);
                RgbImage::from_fn(12, 10, pixel).save(path.join(format!("{number}.png"))).unwrap();
            }
        }
    }
    folder
}

fn open(path: &Path) -> ImageData {
    ImageData::open(path, &mut |_| (), &Shutdown::manual()).unwrap()
}

fn all(set: &ImageSet) -> Vec<u32> {
    (0..set.len() as u32).collect()
}

fn features(set: &ImageSet, chosen: &[u32], cache: &FeatureCache) -> Loaded {
    let extractor = FrozenExtractor::shipped().unwrap();
    set.features(chosen, &extractor, cache, &mut |_| (), &Shutdown::manual()).unwrap()
}

#[test]
fn parts_are_listed_by_class_and_digest_whatever_the_names() {
    let first = folder(&[("train", 4), ("test", 2)], &["apple", "pear"]);
    let data = open(first.path());
    assert_eq!(
        (data.class_names.as_slice(), data.held_out),
        (["apple".to_owned(), "pear".to_owned()].as_slice(), false)
    );
    assert_eq!(data.train.labels(), [0, 0, 0, 0, 1, 1, 1, 1]);
    assert_eq!(data.test.labels(), [0, 0, 1, 1]);
    let renamed = first.path().join("train/apple");
    fs::rename(renamed.join("0.png"), renamed.join("zebra.png")).unwrap();
    assert_eq!(open(first.path()).train.digests, data.train.digests);
}

#[test]
fn without_a_held_out_split_a_part_of_each_class_is_set_aside() {
    let place = folder(&[("", 10)], &["a", "b", "c"]);
    fs::create_dir(place.path().join("d")).unwrap();
    fs::copy(place.path().join("a/0.png"), place.path().join("a/copy.png")).unwrap();
    RgbImage::new(3, 3).save(place.path().join("d/only.png")).unwrap();
    let data = open(place.path());
    assert!(data.held_out);
    assert_eq!((data.train.len(), data.test.len(), data.duplicates), (25, 6, 1));
    assert_eq!(data.test.labels(), [0, 0, 1, 1, 2, 2], "the only image of a class is for training");
    let (fit, validation) = data.validation_split(0.25);
    assert_eq!((fit.len(), validation.len()), (19, 6));
}

#[test]
fn an_image_in_both_parts_is_for_testing() {
    let place = folder(&[("train", 3), ("test", 2)], &["a", "b"]);
    fs::copy(place.path().join("test/a/0.png"), place.path().join("train/b/leak.png")).unwrap();
    let data = open(place.path());
    assert_eq!((data.train.len(), data.test.len(), data.duplicates), (6, 4, 1));
}

#[test]
fn features_come_from_the_cache_the_second_time_and_are_the_same() {
    let place = folder(&[("train", 5), ("test", 1)], &["a", "b"]);
    let data = open(place.path());
    let folder = tempfile::tempdir().unwrap();
    let cache = FeatureCache::open(Some(folder.path())).unwrap();
    let some = features(&data.train, &[7, 2, 2], &cache);
    assert_eq!((some.samples.labels.as_slice(), some.cached), ([1, 0, 0].as_slice(), 0));
    assert_eq!(some.positions, [0, 1, 2]);
    let first = features(&data.train, &all(&data.train), &cache);
    assert_eq!(first.cached, 2);
    let second = features(&data.train, &all(&data.train), &cache);
    assert_eq!(second.cached, 10);
    assert_eq!(second.samples, first.samples);
    let fresh = features(&data.train, &all(&data.train), &FeatureCache::none());
    assert_eq!(some.samples.features.row(0), second.samples.features.row(7));
    assert_eq!(fresh.digests, data.train.digests);
    assert_eq!((fresh.cached, fresh.samples), (0, first.samples));
}

#[test]
fn what_cannot_be_decoded_is_left_out_and_named() {
    let place = folder(&[("train", 3), ("test", 1)], &["a", "b"]);
    fs::write(place.path().join("train/a/broken.png"), b"no image").unwrap();
    let data = open(place.path());
    assert_eq!(data.train.len(), 7);
    let loaded = features(&data.train, &all(&data.train), &FeatureCache::none());
    assert_eq!((loaded.samples.labels.len(), loaded.positions.len(), loaded.unreadable.len()), (6, 6, 1));
    assert!(loaded.unreadable[0].0.contains("broken.png"), "{:?}", loaded.unreadable);
    let broken = (0..7).find(|index| !loaded.positions.contains(index)).unwrap();
    let extractor = FrozenExtractor::shipped().unwrap();
    let nothing = data.train.features(&[broken], &extractor, &FeatureCache::none(), &mut |_| (), &Shutdown::manual());
    assert!(matches!(nothing, Err(ImagesError::NothingUsable { images: 1, .. })), "{nothing:?}");
}

#[test]
fn a_stop_keeps_what_was_extracted() {
    // Two chunks, stopped in the first.
    let place = folder(&[("train", 150), ("test", 1)], &["a", "b"]);
    let data = open(place.path());
    let folder = tempfile::tempdir().unwrap();
    let cache = FeatureCache::open(Some(folder.path())).unwrap();
    let extractor = FrozenExtractor::shipped().unwrap();
    let shutdown = Shutdown::manual();
    let mut stop = |progress| {
        if let ImageProgress::Extracting { done: 1, .. } = progress {
            shutdown.request();
        }
    };
    let stopped = data.train.features(&all(&data.train), &extractor, &cache, &mut stop, &shutdown);
    assert!(matches!(stopped, Err(ImagesError::Stopped)), "{stopped:?}");
    let again = features(&data.train, &all(&data.train), &cache);
    assert_eq!((again.samples.labels.len(), again.cached), (300, 256));
    assert!(matches!(ImageData::open(place.path(), &mut |_| (), &shutdown), Err(ImagesError::Stopped)));
}

#[test]
fn a_data_set_without_images_is_refused() {
    let place = folder(&[("train", 1)], &["a"]);
    let error = ImageData::open(place.path(), &mut |_| (), &Shutdown::manual()).unwrap_err();
    assert!(matches!(error, ImagesError::Empty { part: "testing", .. }), "{error}");
    assert!(ImageData::open(Path::new("/nonexistent"), &mut |_| (), &Shutdown::manual()).is_err());
}
