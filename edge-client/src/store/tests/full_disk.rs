//! The disk is full at every write that a store makes: it says so, keeps what it has, and goes on when there is room.

use super::disk::{Contents, Disk, Room, check, open_on};
use super::*;

/// One commit of a device's life.
fn step(store: &Store, number: u32) -> Result<(), StoreError> {
    let entry = OutboxEntry { run: 5, round: 6, digest: [1; 32], bytes: vec![9; 40_000] };
    match number % 4 {
        1 => store.put_outbox(&entry),
        3 => store.empty_outbox([1; 32]).map(drop),
        _ => {
            let rows: Vec<Vec<f32>> = (0..40).map(|index| features(100 * number + index)).collect();
            let samples: Vec<Sample<'_>> = (0..)
                .zip(&rows)
                .map(|(index, features)| Sample {
                    label: (index % 2) as u16,
                    digest: digest(100 * number + index),
                    features,
                })
                .collect();
            store.insert_batch(&samples).map(drop)
        }
    }
}

const STEPS: u32 = 6;

/// What happens on a disk on which there is always room.
struct Life {
    /// Changes of the disk before the first step.
    first: usize,
    /// Changes in all.
    all: usize,
    /// What the store holds before the first step and after each.
    contents: Vec<Contents>,
}

impl Life {
    fn with_room() -> Self {
        let disk = Disk::default();
        let store = open_on(&disk, &identity(2)).unwrap();
        let (first, mut contents) = (disk.count(), vec![Contents::of(&store)]);
        for number in 0..STEPS {
            step(&store, number).unwrap();
            contents.push(Contents::of(&store));
        }
        Self { first, all: disk.count(), contents }
    }
}

#[track_caller]
fn check_sentence(error: &StoreError) {
    let sentence = error.to_string();
    assert!(matches!(error, StoreError::Full { .. }), "{sentence}");
    assert!(sentence.starts_with("the disk is full: disk cannot grow; free some space") && !sentence.contains('\n'));
}

#[test]
fn a_write_that_finds_no_room_costs_its_commit_and_no_other() {
    let life = Life::with_room();
    assert!(life.all - life.first > 60, "{} to {}", life.first, life.all);
    for refused in life.first..life.all {
        let disk = Disk::default();
        let store = open_on(&disk, &identity(2)).unwrap();
        disk.set_room(Room::NoneFor(refused));
        let mut errors = 0;
        for (number, pair) in (0..STEPS).zip(life.contents.windows(2)) {
            if let Err(error) = step(&store, number) {
                check_sentence(&error);
                errors += 1;
                // The last sync of a commit may have failed after everything was written.
                assert!(pair.contains(&Contents::of(&store)), "change {refused}");
                check(&store);
                step(&store, number).unwrap();
            }
            assert!(Contents::of(&store) == pair[1], "change {refused}");
        }
        assert_eq!(errors, 1, "change {refused}");
        check(&store);
        drop(store);
        assert!(Contents::of(&open_on(&disk, &identity(2)).unwrap()) == life.contents[STEPS as usize]);
    }
}

#[test]
fn a_store_on_a_full_disk_can_be_read_and_goes_on_when_there_is_room() {
    let life = Life::with_room();
    let mut met = 0;
    for full in life.first..life.all {
        let disk = Disk::default();
        let store = open_on(&disk, &identity(2)).unwrap();
        disk.set_room(Room::NoneFrom(full));
        let failed = (0..STEPS).find_map(|number| step(&store, number).err().map(|error| (number, error)));
        let Some((number, error)) = failed else { continue };
        met += 1;
        check_sentence(&error);
        check_sentence(&step(&store, number).unwrap_err());
        assert!(Contents::of(&store) == life.contents[number as usize], "change {full}");
        disk.set_room(Room::Enough);
        (number..STEPS).for_each(|number| step(&store, number).unwrap());
        check(&store);
        assert!(Contents::of(&store) == life.contents[STEPS as usize], "change {full}");
    }
    assert!(met > 20, "{met}");
}
