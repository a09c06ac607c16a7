use grapevine_models::Head;
use proptest::prelude::*;
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
    assert_eq!(insert(&store, &[(1, 2)]).duplicates, 1, "also in another class");
    assert!(store.contains(&digest(1)).unwrap());
    assert!(!store.contains(&digest(3)).unwrap());
    assert_eq!(store.wants(0, &digest(1)).unwrap(), Wanted::Duplicate);
    assert_eq!(store.wants(0, &digest(3)).unwrap(), Wanted::Yes);
    assert_eq!(store.counts().unwrap(), [2, 0]);
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
    store.set_identity("pi-17").unwrap();
    store.put_outbox(&entry).unwrap();
    store.put_head(&head()).unwrap();
    store.set_note("boots", &[4]).unwrap();
    store.put_blob("aid", [8; 32], b"blob").unwrap();
    let dataset = store.load_all().unwrap();
    drop(store);

    let store = open(&folder, 2);
    assert_eq!(store.load_all().unwrap(), dataset);
    assert_eq!(store.counts().unwrap(), [1, 1]);
    assert_eq!(store.identity().unwrap().as_deref(), Some("pi-17"));
    assert_eq!(store.outbox().unwrap(), Some(entry));
    assert_eq!(store.newest_head().unwrap(), Some(head()));
    assert_eq!(store.note("boots").unwrap(), Some(vec![4]));
    assert_eq!(store.blob("aid", [8; 32]).unwrap().as_deref(), Some(&b"blob"[..]));
}

#[test]
fn another_identity_is_refused_with_a_way_out() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(&folder, 2));
    let path = folder.path().join("edge.redb");
    let refusal = |identity: &StoreIdentity| Store::open(&path, identity).err().unwrap().to_string();

    let extractor = StoreIdentity { extractor: [0xcd; 32], ..identity(2) };
    assert!(refusal(&extractor).contains("abababababab"), "{}", refusal(&extractor));
    let classes = StoreIdentity { classes: vec!["class 1".into(), "class 0".into()], ..identity(2) };
    assert!(refusal(&classes).contains("classes"));
    let shape = StoreIdentity { shape: Shape::new(2, FEATURES + 1).unwrap(), ..identity(2) };
    assert!(refusal(&shape).contains("5 features"));
    for changed in [&extractor, &classes, &shape] {
        assert!(refusal(changed).contains("edge-client ingest --reset"));
    }
    let contradiction = StoreIdentity { classes: vec!["only".into()], ..identity(2) };
    assert!(matches!(Store::open(&path, &contradiction), Err(StoreError::ClassCount { names: 1, classes: 2 })));
}

#[test]
fn a_reset_forgets_the_model_and_keeps_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    insert(&store, &[(0, 1), (1, 2)]);
    store.set_identity("pi-17").unwrap();
    store.put_head(&head()).unwrap();
    store.put_blob("aid", [8; 32], b"blob").unwrap();
    store.put_outbox(&OutboxEntry { run: 5, round: 6, digest: [1; 32], bytes: vec![9] }).unwrap();
    let path = store.path().to_owned();
    drop(store);

    let changed = StoreIdentity { extractor: [1; 32], ..identity(3) };
    let store = Store::reset(&path, &changed).unwrap();
    assert_eq!(store.identity().unwrap().as_deref(), Some("pi-17"));
    assert_eq!(store.counts().unwrap(), [0, 0, 0]);
    assert_eq!(store.load_all().unwrap(), Dataset::default());
    assert_eq!((store.newest_head().unwrap(), store.outbox().unwrap()), (None, None));
    assert_eq!(store.blob("aid", [8; 32]).unwrap(), None);
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
    let store = Store::reset(&path, &identity(2)).unwrap();
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
    assert!(matches!(reader.set_identity("x"), Err(StoreError::ReadOnly { .. })));

    let missing = Store::open_read_only(&folder.path().join("none.redb")).err().unwrap();
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing}");
}

#[test]
fn a_killed_process_loses_nothing_that_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    insert(&store, &[(0, 1), (1, 2)]);
    // The file as a kill leaves it: without the marks of a proper end.
    let copy = folder.path().join("killed.redb");
    fs::copy(store.path(), &copy).unwrap();
    let reopened = Store::open(&copy, &identity(2)).unwrap();
    assert_eq!(reopened.load_all().unwrap(), store.load_all().unwrap());
}

#[test]
fn damaged_samples_are_left_out_and_ingesting_again_repairs_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    insert(&store, &[(0, 1), (0, 2), (1, 3)]);
    let key = sample_key(0, &digest(1));
    store
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
    assert!(!store.contains(&digest(1)).unwrap());
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
fn one_blob_is_kept_per_kind() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    store.put_blob("aid", [1; 32], b"one").unwrap();
    store.put_blob("model", [1; 32], b"other").unwrap();
    store.put_blob("aid", [2; 32], b"two").unwrap();
    assert_eq!(store.blob("aid", [1; 32]).unwrap(), None);
    assert_eq!(store.blob("aid", [2; 32]).unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(store.blob("model", [1; 32]).unwrap().as_deref(), Some(&b"other"[..]));
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
    assert!(matches!(store.set_note("n", &[0; 5000]), Err(StoreError::TooLarge { bytes: 5000, .. })));
}

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
    let none = store.with_limits(StoreLimits { max_samples: 0, max_bytes });
    assert_eq!(insert(&none, &[(1, 50)]).refused, 1);
}

proptest! {
    // Each case is a database on a disk.
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_class_never_loses_samples_while_another_has_more(
        images in prop::collection::vec((0_u16..4, 0_u32..300), 1..90),
        capacity in 1_u32..25,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let store = limited(&folder, 4, capacity);
        let mut counts = vec![0; 4];
        for image in images {
            let inserted = insert(&store, &[image]);
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
    store.set_identity("pi-17").unwrap();
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
            let (_, _, _) = (store.load_all(), store.identity(), store.counts());
            let _ = store.insert_batch(&[Sample { label: 1, digest: digest(1_000), features: &features(1) }]);
        }
        let reset = Store::reset(&rotten, &identity(3)).unwrap();
        assert_eq!(insert(&reset, &[(2, 5)]).added, 1, "case {case}");
    }
}
