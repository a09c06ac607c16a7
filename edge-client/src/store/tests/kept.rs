//! Samples that stay in memory are those on the disk, whatever happens.

use std::sync::Arc;

use super::*;

fn is_kept(store: &Store) -> bool {
    Arc::ptr_eq(&store.samples().unwrap(), &store.samples().unwrap())
}

#[track_caller]
fn check_change(store: &Store, change: impl FnOnce(&Store)) {
    let before = store.samples().unwrap();
    change(store);
    let after = store.samples().unwrap();
    assert_ne!(after, before);
    assert_eq!(*after, store.load_all().unwrap());
    assert!(is_kept(store));
}

#[test]
fn samples_are_read_again_after_every_change_and_only_then() {
    let folder = tempfile::tempdir().unwrap();
    let store = limited(&folder, 2, 3);
    insert(&store, &[(0, 1), (0, 2)]);
    let first = store.samples().unwrap();
    store.put_outbox(&OutboxEntry { run: 1, round: 2, digest: [1; 32], bytes: vec![9; 100] }).unwrap();
    store.put_head(&head()).unwrap();
    store.empty_outbox([1; 32]).unwrap();
    assert!(Arc::ptr_eq(&first, &store.samples().unwrap()), "a round changes no samples");
    check_change(&store, |store| assert_eq!(insert(store, &[(1, 3)]).added, 1));
    check_change(&store, |store| {
        let labels = [NewLabel { digest: digest(1), label: 1, origin: String::new() }];
        store.take_in(&Intake { labels: &labels, ..Intake::default() }).unwrap();
    });
    check_change(&store, |store| assert_eq!(insert(store, &[(0, 4)]).evicted, 1));
    check_change(&store, |store| {
        assert_eq!(store.forget(&|of, _, _| *of == digest(4)).unwrap().iter().sum::<u32>(), 1)
    });
}

#[test]
fn a_repaired_sample_comes_back_although_the_dataset_keeps_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    insert(&store, &[(0, 1), (1, 2)]);
    let id = store.dataset().unwrap();
    let damage = |transaction: &redb::WriteTransaction| {
        transaction.open_table(SAMPLES)?.insert(&sample_key(0, &digest(1)), [0_u8; 3].as_slice())?;
        Ok(())
    };
    store.database.change(damage).unwrap();
    assert_eq!(store.samples().unwrap().labels, [1]);
    insert(&store, &[(0, 1)]);
    assert_eq!((store.samples().unwrap().labels.as_slice(), store.dataset().unwrap()), (&[0, 1][..], id));
}

#[test]
fn what_another_process_changed_in_between_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    insert(&store, &[(0, 1)]);
    let (id, samples) = (store.dataset().unwrap(), store.samples().unwrap());
    // As after a failure of the disk.
    store.database.close();
    insert(&open(&folder, 2), &[(1, 2)]);
    assert_eq!((samples.labels.len(), store.samples().unwrap().labels.len()), (1, 2));
    assert_ne!(store.dataset().unwrap(), id);
}

#[test]
fn samples_that_take_too_much_memory_are_read_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 2);
    insert(&store, &[(0, 1), (1, 2)]);
    let bytes = store.load_all().unwrap().bytes();
    assert_eq!(bytes, 2 * (4 * FEATURES as u64 + 2));
    let store = store.with_sample_memory(bytes);
    assert!(is_kept(&store));
    insert(&store, &[(1, 3)]);
    assert!(!is_kept(&store));
    assert_eq!(*store.samples().unwrap(), store.load_all().unwrap());
    let (reader, _) = Store::open_read_only(store.path()).unwrap();
    assert!(!is_kept(&reader), "somebody else writes it");
    assert_eq!(*reader.samples().unwrap(), store.load_all().unwrap());
}
