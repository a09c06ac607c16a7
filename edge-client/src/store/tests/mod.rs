mod crash;
pub(crate) mod disk;
mod fairness;
mod full_disk;
mod kept;

use grapevine_models::Head;
use redb::ReadableTable;
use tempfile::TempDir;

use super::record::sample_key;
use super::*;

const FEATURES: usize = 5;

fn identity(classes: usize) -> StoreIdentity {
    StoreIdentity {
        extractor: [0xab; 32],
        classes: (0..classes).map(|class| format!("class {class}")).collect(),
        shape: Shape::new(classes, FEATURES).unwrap(),
    }
}

/// An empty store in the place of whatever is there.
fn replaced(path: &Path, identity: &StoreIdentity) -> Store {
    Store::replacement(path, identity, StoreLimits::default()).unwrap().take_place().unwrap()
}

fn open(folder: &TempDir, classes: usize) -> Store {
    Store::open(&folder.path().join("edge.redb"), &identity(classes)).unwrap()
}

fn limited(folder: &TempDir, classes: usize, max_samples: u32) -> Store {
    open(folder, classes).with_limits(StoreLimits { max_samples, ..StoreLimits::default() })
}

/// A digest that looks random and belongs to one image number.
fn digest(image: u32) -> Digest {
    use sha2::Digest as _;
    sha2::Sha256::digest(image.to_le_bytes()).into()
}

fn features(image: u32) -> Vec<f32> {
    (0..FEATURES).map(|feature| (image * 7 + feature as u32) as f32 / 16.0 % 4.0).collect()
}

fn insert(store: &Store, images: &[(u16, u32)]) -> Inserted {
    let rows: Vec<Vec<f32>> = images.iter().map(|&(_, image)| features(image)).collect();
    let samples: Vec<Sample<'_>> = images
        .iter()
        .zip(&rows)
        .map(|(&(label, image), features)| Sample { label, digest: digest(image), features })
        .collect();
    store.insert_batch(&samples).unwrap()
}

fn head() -> NewestHead {
    let weight: Vec<f32> = (0..2 * FEATURES).map(|i| 0.1 + i as f32 * 1e-7).collect();
    NewestHead { run: u64::MAX, round: 7, main: Head { weight, bias: vec![-0.5, f32::MIN_POSITIVE] }, digest: [3; 32] }
}

#[test]
fn a_store_can_be_shared_between_threads() {
    fn assert_shareable<T: Send + Sync>() {}
    assert_shareable::<Store>();
    assert_shareable::<StoreError>();
}

#[test]
fn the_same_content_is_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    let first = insert(&store, &[(0, 1), (0, 2), (0, 1)]);
    assert_eq!(first, Inserted { added: 2, duplicates: 1, ..Inserted::default() });
    assert_eq!(insert(&store, &[(0, 2)]).duplicates, 1);
    assert_eq!(store.wants(0, &digest(1)).unwrap(), Wanted::Duplicate);
    assert_eq!(store.wants(0, &digest(3)).unwrap(), Wanted::Yes);
    assert_eq!(store.counts().unwrap(), [2, 0]);
}

#[test]
fn the_newest_label_counts() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 3);
    insert(&store, &[(0, 1), (0, 2)]);
    assert_eq!(store.wants(1, &digest(2)).unwrap(), Wanted::Labelled(0));
    assert_eq!(insert(&store, &[(1, 2)]), Inserted { relabelled: 1, ..Inserted::default() });
    assert_eq!(store.counts().unwrap(), [1, 1, 0]);
    let labels = [NewLabel { digest: digest(1), label: 2, origin: "/a/1.png".into() }];
    let moved = store.take_in(&Intake { labels: &labels, ..Intake::default() }).unwrap();
    assert_eq!((moved.relabelled, store.counts().unwrap()), (1, vec![0, 1, 1]));
    assert_eq!(store.origin_of(&digest(1)).unwrap().as_deref(), Some("/a/1.png"));
    let dataset = store.load_all().unwrap();
    assert_eq!((dataset.labels.as_slice(), dataset.damaged), (&[1, 2][..], 0));
    assert_eq!(dataset.features, [features(2), features(1)].concat(), "the features stay");
    assert_eq!(store.forget(&|_, label, _| label == 2).unwrap(), [0, 0, 1]);
    assert_eq!((store.counts().unwrap(), store.origin_of(&digest(1)).unwrap()), (vec![0, 1, 0], None));
    disk::check(&store);
}

#[test]
fn a_new_label_stays_within_the_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let limits = StoreLimits { max_samples_per_class: 2, ..StoreLimits::default() };
    let store = open(&folder, 2).with_limits(limits);
    insert(&store, &[(0, 1), (0, 2), (1, 3), (1, 4)]);
    let moved = insert(&store, &[(1, 1)]);
    assert_eq!(store.counts().unwrap(), [1, 2], "the wrong label is gone in any case");
    assert_eq!(moved.relabelled + moved.refused, 1);
    disk::check(&store);
}

#[test]
fn files_that_were_read_are_known_within_a_bound() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2).with_limits(StoreLimits { max_bytes: 192 * 2 * 10, ..StoreLimits::default() });
    assert_eq!(store.known_capacity(), 10);
    let known = |file: u64| KnownFile { file: file << 32, stamp: file, digest: digest(file as u32), label: 1 };
    for file in 0..50 {
        store.take_in(&Intake { known: &[known(file)], ..Intake::default() }).unwrap();
        assert_eq!(store.known(file << 32, file).unwrap(), Some((digest(file as u32), 1)));
        assert_eq!(store.known(file << 32, file + 1).unwrap(), None, "it has changed");
    }
    let remembered = (0..50).filter(|&file| store.known(file << 32, file).unwrap().is_some()).count();
    assert_eq!(remembered, 10);
    drop(store);
    let store = Store::open(&folder.path().join("edge.redb"), &listing(&["new", "class 1", "class 0"])).unwrap();
    assert_eq!(store.known(49 << 32, 49).unwrap(), Some((digest(49), 1)));
}

#[test]
fn a_replacement_takes_the_place_of_a_store_when_it_is_complete_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    insert(&store, &[(0, 1), (1, 2)]);
    let path = store.path().to_owned();
    assert!(matches!(Store::replacement(&path, &identity(3), store.limits()), Err(StoreError::Busy { .. })));
    let limits = store.limits();
    drop(store);
    let new = Store::replacement(&path, &identity(3), limits).unwrap();
    insert(new.store(), &[(2, 3)]);
    assert!(matches!(Store::open(&path, &identity(2)), Err(StoreError::Busy { .. })), "nobody writes it meanwhile");
    drop(new);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(open(&folder, 2).counts().unwrap(), [1, 1]);
    let new = Store::replacement(&path, &identity(3), limits).unwrap();
    insert(new.store(), &[(2, 3)]);
    let store = new.take_place().unwrap();
    assert_eq!(store.counts().unwrap(), [0, 0, 1]);
    insert(&store, &[(0, 9)]);
    drop(store);
    assert_eq!(open(&folder, 3).counts().unwrap(), [1, 0, 1]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    fs::write(&path, vec![b'x'; 10_000]).unwrap();
    Store::replacement(&path, &identity(3), limits).unwrap().take_place().unwrap();
    assert_eq!(fs::read(folder.path().join("edge.redb.damaged")).unwrap().len(), 10_000);
}

#[test]
fn rows_come_back_by_label_and_digest_whatever_the_order() {
    let images: Vec<(u16, u32)> = (0..40).map(|image| ((image % 3) as u16, image)).collect();
    let mut reversed = images.clone();
    reversed.reverse();
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (forward, backward) = (open(&one, 3), open(&other, 3));
    insert(&forward, &images);
    for chunk in reversed.chunks(7) {
        insert(&backward, chunk);
    }
    let dataset = forward.load_all().unwrap();
    assert_eq!(dataset, backward.load_all().unwrap());

    let mut expected = images;
    expected.sort_by_key(|&(label, image)| (label, digest(image)));
    let rows: Vec<f32> = expected.iter().flat_map(|&(_, image)| features(image)).collect();
    assert_eq!(dataset.features, rows, "sixteenths are exact in f16");
    assert_eq!(dataset.labels, expected.iter().map(|&(label, _)| label).collect::<Vec<_>>());
}

#[test]
fn a_reopened_store_has_everything() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    insert(&store, &[(0, 1), (1, 2)]);
    let entry = OutboxEntry { run: 5, round: 6, digest: [1; 32], bytes: vec![9; 100_000] };
    store.put_outbox(&entry).unwrap();
    store.put_head(&head()).unwrap();
    let dataset = store.load_all().unwrap();
    drop(store);

    let store = open(&folder, 2);
    assert_eq!(store.load_all().unwrap(), dataset);
    assert_eq!(store.counts().unwrap(), [1, 1]);
    assert_eq!(store.outbox().unwrap(), Some(entry));
    assert_eq!(store.newest_head().unwrap(), Some(head()));
}

#[test]
fn another_extractor_is_refused_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder, 2));
    let path = folder.path().join("edge.redb");
    let refusal = |identity: &StoreIdentity| Store::open(&path, identity).err().unwrap().to_string();

    let extractor = StoreIdentity { extractor: [0xcd; 32], ..identity(2) };
    assert!(refusal(&extractor).contains("abababababab"), "{}", refusal(&extractor));
    let shape = StoreIdentity { shape: Shape::new(2, FEATURES + 1).unwrap(), ..identity(2) };
    assert!(refusal(&shape).contains("5 features"));
    for changed in [&extractor, &shape] {
        assert!(refusal(changed).contains("edge-client ingest --reset"));
    }
    let contradiction = StoreIdentity { classes: vec!["only".into()], ..identity(2) };
    assert!(matches!(Store::open(&path, &contradiction), Err(StoreError::ClassCount { names: 1, classes: 2 })));
}

/// The identity of a store with these classes.
fn listing(classes: &[&str]) -> StoreIdentity {
    let classes: Vec<String> = classes.iter().map(|&class| class.into()).collect();
    StoreIdentity { shape: Shape::new(classes.len(), FEATURES).unwrap(), classes, ..identity(2) }
}

#[test]
fn another_class_list_takes_the_samples_over_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.redb");
    let store = Store::open(&path, &listing(&["cat", "dog", "emu"])).unwrap();
    insert(&store, &[(0, 1), (0, 2), (0, 3), (2, 4)]);
    drop(store);
    for (classes, expected) in [
        (&["cat", "dog", "emu", "fox"][..], &[3, 0, 1, 0][..]),
        (&["emu", "cat"], &[1, 3]),
        (&["ant", "cat", "bee", "emu"], &[0, 3, 0, 1]),
        (&["cat", "emu"], &[3, 1]),
    ] {
        let store = Store::open(&path, &listing(classes)).unwrap();
        assert_eq!(store.counts().unwrap(), expected, "{classes:?}");
        let dataset = store.load_all().unwrap();
        assert_eq!((dataset.labels.len(), dataset.damaged), (4, 0), "{classes:?}");
        let emu = classes.iter().position(|&class| class == "emu").unwrap();
        let row = dataset.labels.iter().position(|&label| usize::from(label) == emu).unwrap();
        assert_eq!(dataset.features[row * FEATURES..][..FEATURES], features(4), "{classes:?}");
        assert_eq!(store.wants(emu as u16, &digest(4)).unwrap(), Wanted::Duplicate);
        disk::check(&store);
        assert_eq!((store.newest_head().unwrap(), store.outbox().unwrap()), (None, None), "they were of another list");
        store.put_outbox(&OutboxEntry { run: 5, round: 6, digest: [1; 32], bytes: vec![9] }).unwrap();
        let shape = store.shape();
        let main = Head { weight: vec![0.5; shape.weights()], bias: vec![0.0; shape.classes()] };
        store.put_head(&NewestHead { run: 1, round: 2, main, digest: [2; 32] }).unwrap();
    }
    let error = Store::open(&path, &listing(&["cat", "dog"])).err().unwrap();
    assert!(matches!(&error, StoreError::ClassGone { class, samples: 1, .. } if class == "emu"), "{error}");
    let (_, found) = Store::open_read_only(&path).unwrap();
    let error = found.expect(&path, &listing(&["emu", "cat"])).unwrap_err();
    assert!(matches!(error, StoreError::ClassesChanged { .. }), "{error}");
    assert_eq!(Store::open(&path, &listing(&["cat", "emu"])).unwrap().counts().unwrap(), [3, 1], "nothing was lost");
}

#[test]
fn a_reset_forgets_everything() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    insert(&store, &[(0, 1), (1, 2)]);
    store.put_head(&head()).unwrap();
    store.put_outbox(&OutboxEntry { run: 5, round: 6, digest: [1; 32], bytes: vec![9] }).unwrap();
    let path = store.path().to_owned();
    drop(store);

    let changed = StoreIdentity { extractor: [1; 32], ..identity(3) };
    let store = replaced(&path, &changed);
    assert_eq!(store.counts().unwrap(), [0, 0, 0]);
    assert_eq!(store.load_all().unwrap(), Dataset::default());
    assert_eq!((store.newest_head().unwrap(), store.outbox().unwrap()), (None, None));
    drop(store);
    Store::open(&path, &changed).unwrap();
}

#[test]
fn a_file_that_is_no_store_is_refused_and_moved_aside_by_a_reset() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.redb");
    fs::write(&path, vec![b'x'; 10_000]).unwrap();
    let error = Store::open(&path, &identity(2)).err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    let store = replaced(&path, &identity(2));
    assert_eq!(store.counts().unwrap(), [0, 0]);
    assert_eq!(fs::read(folder.path().join("edge.redb.damaged")).unwrap().len(), 10_000);
}

#[test]
fn a_second_writer_is_refused_and_a_reader_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    insert(&store, &[(0, 1)]);
    let error = Store::open(store.path(), &identity(2)).err().unwrap();
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");

    let (reader, found) = Store::open_read_only(store.path()).unwrap();
    assert_eq!(found, identity(2));
    assert_eq!(reader.counts().unwrap(), [1, 0]);
    insert(&store, &[(1, 2)]);
    assert_eq!(reader.counts().unwrap(), [1, 1], "it follows the writer");
    assert!(matches!(reader.empty_outbox([0; 32]), Ok(false)));
    assert!(matches!(reader.put_head(&head()), Err(StoreError::ReadOnly { .. })));

    let missing = Store::open_read_only(&folder.path().join("none.redb")).err().unwrap();
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
}

#[test]
fn a_killed_process_loses_nothing_and_its_store_can_be_read_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    insert(&store, &[(0, 1), (1, 2)]);
    store.put_head(&head()).unwrap();
    // The file as a kill leaves it: without the marks of a proper end.
    let copy = folder.path().join("killed.redb");
    fs::copy(store.path(), &copy).unwrap();
    let left = fs::read(&copy).unwrap();

    let (reader, found) = Store::open_read_only(&copy).unwrap();
    assert!(reader.is_interrupted());
    assert_eq!((found, reader.counts().unwrap()), (identity(2), vec![1, 1]));
    assert_eq!(reader.load_all().unwrap(), store.load_all().unwrap());
    assert_eq!(reader.newest_head().unwrap(), Some(head()));
    assert!(matches!(reader.put_head(&head()), Err(StoreError::ReadOnly { .. })));
    drop(reader);
    assert!(fs::read(&copy).unwrap() == left, "a reader changes nothing");

    let reopened = Store::open(&copy, &identity(2)).unwrap();
    assert_eq!(reopened.load_all().unwrap(), store.load_all().unwrap());
    assert!(!Store::open_read_only(&copy).unwrap().0.is_interrupted());
}

#[test]
fn a_reader_of_what_a_killed_process_left_notices_the_next_writer() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    insert(&store, &[(0, 1), (1, 2)]);
    let copy = folder.path().join("killed.redb");
    fs::copy(store.path(), &copy).unwrap();
    let past = fs::metadata(&copy).unwrap().modified().unwrap() - core::time::Duration::from_secs(60);
    File::options().write(true).open(&copy).unwrap().set_modified(past).unwrap();

    let (reader, _) = Store::open_read_only(&copy).unwrap();
    let writer = Store::open(&copy, &identity(2)).unwrap();
    insert(&writer, &(10..300).map(|image| (0, image)).collect::<Vec<_>>());
    // What is in the reader's memory may still be used; what it must fetch belongs to another state.
    assert!(
        matches!(reader.load_all(), Err(StoreError::Changed { .. })) || reader.load_all().unwrap().labels.len() == 2
    );
    drop(reader);
    let (reader, _) = Store::open_read_only(&copy).unwrap();
    assert_eq!((reader.is_interrupted(), reader.counts().unwrap()), (false, vec![291, 1]));
}

#[test]
fn damaged_samples_are_left_out_and_ingesting_again_repairs_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    insert(&store, &[(0, 1), (0, 2), (1, 3)]);
    let key = sample_key(0, &digest(1));
    store
        .database
        .write(|transaction| {
            let mut samples = transaction.open_table(SAMPLES)?;
            let mut record = samples.get(&key)?.expect("the sample is stored").value().to_vec();
            record[3] ^= 0x10;
            samples.insert(&key, record.as_slice())?;
            Ok(())
        })
        .unwrap();
    let dataset = store.load_all().unwrap();
    assert_eq!((dataset.labels.as_slice(), dataset.damaged), (&[0_u16, 1][..], 1));
    assert_eq!(store.wants(0, &digest(1)).unwrap(), Wanted::Yes);
    assert_eq!(insert(&store, &[(0, 1)]).added, 1);
    assert_eq!(store.load_all().unwrap().damaged, 0);
    assert_eq!(store.counts().unwrap(), [2, 1]);
}

#[test]
fn damaged_device_records_read_as_absent() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    store.put_head(&head()).unwrap();
    store
        .database
        .write(|transaction| {
            let mut records = transaction.open_table(RECORDS)?;
            let mut record = records.get("head")?.expect("the head is stored").value().to_vec();
            record[60] ^= 1;
            records.insert("head", record.as_slice())?;
            Ok(())
        })
        .unwrap();
    assert_eq!(store.newest_head().unwrap(), None);
}

#[test]
fn only_the_receipt_of_the_pending_update_empties_the_outbox() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    assert!(!store.empty_outbox([1; 32]).unwrap());
    let first = OutboxEntry { run: 5, round: 6, digest: [1; 32], bytes: vec![1, 2, 3] };
    let second = OutboxEntry { round: 7, digest: [2; 32], ..first.clone() };
    store.put_outbox(&first).unwrap();
    store.put_outbox(&second).unwrap();
    assert!(!store.empty_outbox([1; 32]).unwrap(), "a late receipt");
    assert_eq!(store.outbox().unwrap(), Some(second));
    assert!(store.empty_outbox([2; 32]).unwrap());
    assert_eq!(store.outbox().unwrap(), None);
}

#[test]
fn a_newer_head_is_told_from_the_known_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    assert_eq!(store.newer_head(&head()).unwrap(), None);
    store.put_head(&head()).unwrap();
    assert_eq!(store.newer_head(&head()).unwrap(), None);
    let next = NewestHead { round: 8, digest: [4; 32], ..head() };
    store.put_head(&next).unwrap();
    assert_eq!(store.newer_head(&head()).unwrap(), Some(next));
}

#[test]
fn samples_that_do_not_fit_are_refused_and_nothing_of_their_batch_is_stored() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    let good = features(1);
    let refused = |sample: Sample<'_>| {
        let batch = [Sample { label: 0, digest: digest(1), features: &good }, sample];
        store.insert_batch(&batch).unwrap_err()
    };
    let sample = |label, features| Sample { label, digest: digest(2), features };
    assert!(matches!(refused(sample(2, &good)), StoreError::Label { label: 2, classes: 2 }));
    assert!(matches!(refused(sample(0, &good[1..])), StoreError::Features { expected: 5, received: 4 }));
    assert!(matches!(refused(sample(0, &[0.0, f32::NAN, 0.0, 0.0, 0.0])), StoreError::FeatureValue { index: 1, .. }));
    assert!(matches!(refused(sample(0, &[300.0, 0.0, 0.0, 0.0, 0.0])), StoreError::FeatureValue { index: 0, .. }));
    assert_eq!(store.counts().unwrap(), [0, 0]);
}

#[test]
fn many_stores_open_in_one_process_and_start_small() {
    let folder = tempfile::tempdir().unwrap();
    let stores: Vec<Store> = (0..40)
        .map(|device| Store::open(&folder.path().join(format!("{device}/edge.redb")), &identity(2)).unwrap())
        .collect();
    for store in &stores {
        assert!(fs::metadata(store.path()).unwrap().len() <= 256 << 10, "a new store is small");
    }
}

/// Whatever bytes a bad card returns, the process lives, and a reset makes a working store of them.
#[test]
fn a_rotten_file_never_brings_the_process_down() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.redb");
    let store = open(&folder, 3);
    insert(&store, &(0..200).map(|image| ((image % 3) as u16, image)).collect::<Vec<_>>());
    store.put_outbox(&OutboxEntry { run: 5, round: 6, digest: [1; 32], bytes: vec![9; 20_000] }).unwrap();
    drop(store);
    let whole = fs::read(&path).unwrap();
    let rotten = folder.path().join("rotten.redb");
    for case in 0..60_usize {
        let mut bytes = whole.clone();
        match case % 3 {
            0 => bytes.truncate(whole.len() * case / 60),
            1 => bytes[case * 131 % 4096] ^= 1 << (case % 8),
            _ => bytes[case * 2_477 % whole.len()] ^= 1 << (case % 8),
        }
        fs::write(&rotten, bytes).unwrap();
        if let Ok(store) = Store::open(&rotten, &identity(3)) {
            let (_, _, _) = (store.load_all(), store.outbox(), store.counts());
            let _ = store.insert_batch(&[Sample { label: 1, digest: digest(1_000), features: &features(1) }]);
        }
        let reset = replaced(&rotten, &identity(3));
        assert_eq!(insert(&reset, &[(2, 5)]).added, 1, "case {case}");
    }
}
