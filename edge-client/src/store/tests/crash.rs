//! The power goes at every write that a store makes: it opens again and has everything that was committed.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::disk::{Change, Contents, Disk, apply, check, open_on};
use super::*;

/// Commits in a device's life.
const STEPS: u32 = 36;
/// Random fates of the unsynced changes, per span between two syncs, beside the named ones.
const RANDOM_FATES: usize = 12;

/// What a cut does to a change that was not synced.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Kept,
    Lost,
    /// Only the first bytes of a write, in 256ths, are there.
    Torn(u8),
}

impl Fate {
    fn befall(self, change: &Change, bytes: &mut Vec<u8>) {
        match (self, change) {
            (Self::Kept, _) => apply(bytes, change),
            (Self::Torn(part), Change::Write(at, data)) => {
                let length = data.len() * usize::from(part) / 256;
                apply(bytes, &Change::Write(*at, data[..length].to_vec()));
            }
            (Self::Lost, _) | (Self::Torn(_), Change::SetLen(_) | Change::Sync) => {}
        }
    }

    fn draw(rng: &mut ChaCha8Rng) -> Self {
        match rng.random_range(0..5) {
            0 => Self::Torn(rng.random()),
            1 | 2 => Self::Lost,
            _ => Self::Kept,
        }
    }
}

/// What a store did on a disk.
struct Recording {
    changes: Vec<Change>,
    /// How many changes had been made when a commit returned, and what the store held then.
    commits: Vec<(usize, Contents)>,
}

impl Recording {
    /// A device's life: batches that evict, an update that comes and goes, heads that replace one another.
    fn of_a_life() -> Self {
        let disk = Disk::default();
        let store = open_on(&disk, &identity(3)).unwrap();
        let limits = StoreLimits { max_samples: 200, max_samples_per_class: 120, ..StoreLimits::default() };
        let store = store.with_limits(limits);
        let mut commits = vec![(disk.count(), Contents::of(&store))];
        let entry = |bytes: usize| OutboxEntry { run: 5, round: 6, digest: [1; 32], bytes: vec![9; bytes] };
        let main = |bias| Head { weight: vec![0.5; 3 * FEATURES], bias: vec![bias; 3] };
        for step in 0..STEPS {
            match step % 6 {
                2 => store.put_outbox(&entry(2_000 * step as usize)).unwrap(),
                4 => assert!(store.empty_outbox([1; 32]).unwrap()),
                5 => {
                    let digest = [step as u8; 32];
                    store.put_head(&NewestHead { run: 5, round: step, main: main(step as f32), digest }).unwrap();
                }
                _ => assert!(insert(&store, &batch(step)).added > 0),
            }
            commits.push((disk.count(), Contents::of(&store)));
        }
        check(&store);
        drop(store);
        Self { changes: disk.changes(), commits }
    }

    /// What a store may hold whose disk was cut off after so many changes: what was committed, or one commit more.
    fn possible(&self, changes: usize) -> &[(usize, Contents)] {
        let committed = self.commits.iter().rposition(|&(at, _)| at <= changes).unwrap();
        &self.commits[committed..self.commits.len().min(committed + 2)]
    }

    /// The spans between syncs: where each begins, and where the sync after it is.
    fn spans(&self) -> Vec<(usize, usize)> {
        let first = self.commits[0].0;
        let syncs = (first..self.changes.len()).filter(|&at| self.changes[at] == Change::Sync);
        let mut ends: Vec<usize> = syncs.chain([self.changes.len()]).collect();
        ends.dedup();
        let begins = [first].into_iter().chain(ends.iter().map(|end| end + 1));
        begins.zip(ends.iter().copied()).collect()
    }

    fn bytes_after(&self, changes: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.changes[..changes].iter().for_each(|change| apply(&mut bytes, change));
        bytes
    }
}

fn batch(step: u32) -> Vec<(u16, u32)> {
    (0..30).map(|index| ((index % (2 + step % 2)) as u16, 100 * step + index)).collect()
}

/// Opens what a cut left and looks at all of it; gives the store.
#[track_caller]
fn reopen(recording: &Recording, bytes: Vec<u8>, changes: usize, cut: &dyn fmt::Debug) -> (Store, Disk) {
    let disk = Disk::of(bytes);
    let store = open_on(&disk, &identity(3)).unwrap_or_else(|error| panic!("{changes}, {cut:?}: {error}"));
    check(&store);
    let contents = Contents::of(&store);
    let is_possible = recording.possible(changes).iter().any(|(_, possible)| *possible == contents);
    assert!(is_possible, "{changes}, {cut:?}: {} samples are no state that was committed", contents.samples());
    (store, disk)
}

#[test]
fn every_prefix_of_the_writes_and_every_torn_write_leaves_a_whole_store() {
    let recording = Recording::of_a_life();
    let mut bytes = recording.bytes_after(recording.commits[0].0);
    let mut cuts = 0;
    for at in recording.commits[0].0..recording.changes.len() {
        let change = &recording.changes[at];
        reopen(&recording, bytes.clone(), at, &"cut");
        cuts += 1;
        if let Change::Write(offset, data) = change {
            for length in [1, 512.min(data.len() / 2), data.len() / 2, data.len() - 1] {
                let mut torn = bytes.clone();
                apply(&mut torn, &Change::Write(*offset, data[..length].to_vec()));
                reopen(&recording, torn, at, &("torn", length));
                cuts += 1;
            }
        }
        apply(&mut bytes, change);
    }
    let (store, _) = reopen(&recording, bytes, recording.changes.len(), &"closed");
    assert_eq!(store.load_all().unwrap().labels.len(), 200);
    assert!(cuts > 2_000, "{cuts}");
}

#[test]
fn unsynced_writes_may_be_lost_in_any_combination() {
    let recording = Recording::of_a_life();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut bytes = recording.bytes_after(recording.commits[0].0);
    let mut cuts = 0;
    for (begin, end) in recording.spans() {
        let span = &recording.changes[begin..end];
        let mut fates: Vec<Vec<Fate>> = vec![vec![Fate::Lost; span.len()]];
        for one in 0..span.len() {
            let except = |others, fate| (0..span.len()).map(|at| if at == one { fate } else { others }).collect();
            fates.extend([except(Fate::Kept, Fate::Lost), except(Fate::Lost, Fate::Kept)]);
            fates.push(except(Fate::Kept, Fate::Torn(128)));
        }
        fates.extend((0..RANDOM_FATES).map(|_| span.iter().map(|_| Fate::draw(&mut rng)).collect()));
        for fates in &fates {
            let mut left = bytes.clone();
            span.iter().zip(fates).for_each(|(change, fate)| fate.befall(change, &mut left));
            reopen(&recording, left, end, fates);
            cuts += 1;
        }
        span.iter().for_each(|change| apply(&mut bytes, change));
    }
    assert!(cuts > 2_000, "{cuts}");
}

#[test]
fn a_second_cut_during_the_repair_of_the_first_loses_nothing_either() {
    let recording = Recording::of_a_life();
    let mut bytes = recording.bytes_after(recording.commits[0].0);
    let mut cuts = 0;
    for (number, (begin, end)) in recording.spans().into_iter().enumerate() {
        let span = &recording.changes[begin..end];
        let mut left = bytes.clone();
        span.iter().step_by(1 + number % 2).for_each(|change| apply(&mut left, change));
        let (store, disk) = reopen(&recording, left.clone(), end, &"first");
        // It goes on from there, and that is durable too.
        let before = store.load_all().unwrap().labels.len();
        assert_eq!(insert(&store, &[(2, 5_000)]).added, 1);
        assert_eq!(store.load_all().unwrap().labels.len(), before + 1);
        drop(store);
        let mut again = left.clone();
        for change in disk.changes() {
            apply(&mut again, &change);
            let store = open_on(&Disk::of(again.clone()), &identity(3)).unwrap();
            check(&store);
            let now = store.load_all().unwrap().labels.len();
            assert!(now == before || now == before + 1, "{begin}: {before} became {now}");
            cuts += 1;
        }
        assert_eq!(open_on(&disk, &identity(3)).unwrap().load_all().unwrap().labels.len(), before + 1);
        span.iter().for_each(|change| apply(&mut bytes, change));
    }
    assert!(cuts > 500, "{cuts}");
}

#[test]
fn another_class_list_is_taken_over_wholly_or_not_at_all() {
    let disk = Disk::default();
    let store = open_on(&disk, &identity(3)).unwrap();
    insert(&store, &(0..60).map(|image| ((image % 3) as u16, image)).collect::<Vec<_>>());
    drop(store);
    let before = disk.bytes();
    let first = disk.count();
    let turned = listing(&["class 2", "other", "class 0", "class 1"]);
    let store = open_on(&disk, &turned).unwrap();
    assert_eq!(store.counts().unwrap(), [20, 0, 20, 20]);
    let after = Contents::of(&store);
    drop(store);
    let mut left = before;
    for change in &disk.changes()[first..] {
        apply(&mut left, change);
        let store = open_on(&Disk::of(left.clone()), &turned).unwrap();
        check(&store);
        assert_eq!(Contents::of(&store), after);
    }
}

#[test]
fn a_cut_while_a_store_is_made_leaves_none_or_a_whole_one() {
    let disk = Disk::default();
    drop(open_on(&disk, &identity(3)).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.redb");
    let mut left = Vec::new();
    for change in disk.changes() {
        apply(&mut left, &change);
        let draft = folder.path().join("edge.redb.new");
        fs::write(&draft, &left).unwrap();
        let store = Store::open(&path, &identity(3)).unwrap();
        assert_eq!(insert(&store, &[(0, 1)]).added, 1);
        drop(store);
        assert!(!draft.exists());
        fs::remove_file(&path).unwrap();
    }
}
