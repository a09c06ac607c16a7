//! Names once, numbers everywhere else: what the machine keeps of many devices lies dense, by the number of the device.

use core::cmp::Ordering;

use grapevine_protocol::{DeviceId, Digest};

/// A device's index in the registry of this start. Indices are given out in the order in which names are first heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DeviceIndex(u32);

impl DeviceIndex {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Every name that was ever heard, once.
#[derive(Default)]
pub(super) struct Names {
    /// All of them, one after the other.
    text: String,
    /// Where each ends in `text`.
    ends: Vec<u32>,
    /// All indices in the order of their names.
    sorted: Vec<DeviceIndex>,
    /// Indices whose names were taken out, for other names.
    free: Vec<DeviceIndex>,
}

impl Names {
    pub(super) fn find(&self, device: &DeviceId) -> Option<DeviceIndex> {
        self.search(device).ok().map(|at| self.sorted[at])
    }

    /// The place of a name, a new one where it has none.
    pub(super) fn index(&mut self, device: &DeviceId) -> DeviceIndex {
        match self.search(device) {
            Ok(at) => self.sorted[at],
            Err(at) => {
                let index = self.free.pop().unwrap_or(DeviceIndex(self.ends.len() as u32));
                let length = device.as_str().len();
                if self.text.capacity() - self.text.len() < length {
                    self.text.reserve_exact(length.max(growth(self.text.len())));
                }
                let start = self.start(index);
                self.text.insert_str(start, device.as_str());
                if index.index() == self.ends.len() {
                    make_room(&mut self.ends);
                    self.ends.push(start as u32);
                }
                self.ends[index.index()..].iter_mut().for_each(|end| *end += length as u32);
                make_room(&mut self.sorted);
                self.sorted.insert(at, index);
                index
            }
        }
    }

    /// Takes names out. Their indices go to other names, so nothing else may mean these devices by them.
    pub(super) fn remove(&mut self, indices: &DeviceSet) {
        self.sorted.retain(|index| !indices.contains(*index));
        let (mut text, mut ends) = (String::new(), Vec::with_capacity(self.ends.len()));
        for index in (0..self.ends.len() as u32).map(DeviceIndex) {
            if !indices.contains(index) {
                text.push_str(self.name(index));
            }
            ends.push(text.len() as u32);
        }
        (self.text, self.ends) = (text, ends);
        self.free.extend(indices.iter());
    }

    pub(super) fn id(&self, index: DeviceIndex) -> DeviceId {
        self.name(index).parse().expect("only names come in")
    }

    /// Which of two names comes first.
    pub(super) fn order(&self, one: DeviceIndex, other: DeviceIndex) -> Ordering {
        self.name(one).cmp(self.name(other))
    }

    fn name(&self, index: DeviceIndex) -> &str {
        &self.text[self.start(index)..self.ends[index.index()] as usize]
    }

    fn start(&self, index: DeviceIndex) -> usize {
        index.index().checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    fn search(&self, device: &DeviceId) -> Result<usize, usize> {
        self.sorted.binary_search_by(|index| self.name(*index).cmp(device.as_str()))
    }
}

/// By how much a list grows that has no room: doubling would cost a large fleet as much again as it needs.
fn growth(length: usize) -> usize {
    length / 8 + 64
}

fn make_room<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact(growth(list.len()));
    }
}

/// A set of devices, a bit for each index.
#[derive(Clone, Debug, Default)]
pub(super) struct DeviceSet {
    words: Vec<u64>,
    count: usize,
}

impl DeviceSet {
    /// `false` if it is in already.
    pub(super) fn insert(&mut self, index: DeviceIndex) -> bool {
        let (word, bit) = (index.index() / 64, 1 << (index.index() % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += usize::from(is_new);
        is_new
    }

    /// `false` if it was not in.
    pub(super) fn remove(&mut self, index: DeviceIndex) -> bool {
        let is_in = self.contains(index);
        if is_in {
            self.words[index.index() / 64] &= !(1 << (index.index() % 64));
            self.count -= 1;
        }
        is_in
    }

    pub(super) fn contains(&self, index: DeviceIndex) -> bool {
        self.words.get(index.index() / 64).is_some_and(|word| word >> (index.index() % 64) & 1 == 1)
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// By index.
    pub(super) fn iter(&self) -> impl Iterator<Item = DeviceIndex> {
        let bits = |word: u64| (0..64).filter(move |bit| word >> bit & 1 == 1);
        self.words
            .iter()
            .enumerate()
            .flat_map(move |(at, &word)| bits(word).map(move |bit| DeviceIndex(at as u32 * 64 + bit)))
    }

    pub(super) fn clear(&mut self) {
        self.words.clear();
        self.count = 0;
    }

    /// Takes all out that do not fit.
    pub(super) fn retain(&mut self, fits: impl Fn(DeviceIndex) -> bool) {
        for at in 0..self.words.len() as u32 {
            for bit in (0..64).map(|bit| DeviceIndex(at * 64 + bit)) {
                if self.contains(bit) && !fits(bit) {
                    self.remove(bit);
                }
            }
        }
    }
}

impl Extend<DeviceIndex> for DeviceSet {
    fn extend<T: IntoIterator<Item = DeviceIndex>>(&mut self, indices: T) {
        for index in indices {
            self.insert(index);
        }
    }
}

impl FromIterator<DeviceIndex> for DeviceSet {
    fn from_iter<T: IntoIterator<Item = DeviceIndex>>(indices: T) -> Self {
        let mut set = Self::default();
        set.extend(indices);
        set
    }
}

/// Values of a chunk of a [`Column`].
const CHUNK: usize = 256;

/// One value for each index. It grows by chunks that never move, so that growing costs no second copy.
#[derive(Debug)]
pub(super) struct Column<T> {
    chunks: Vec<Vec<T>>,
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T: Default> Column<T> {
    pub(super) fn get(&self, index: DeviceIndex) -> Option<&T> {
        self.chunks.get(index.index() / CHUNK)?.get(index.index() % CHUNK)
    }

    pub(super) fn get_mut(&mut self, index: DeviceIndex) -> Option<&mut T> {
        self.chunks.get_mut(index.index() / CHUNK)?.get_mut(index.index() % CHUNK)
    }

    /// A place's value, the default where it has none.
    pub(super) fn slot(&mut self, index: DeviceIndex) -> &mut T {
        let (chunk, at) = (index.index() / CHUNK, index.index() % CHUNK);
        while self.chunks.len() <= chunk {
            self.chunks.push(Vec::new());
        }
        let chunk = &mut self.chunks[chunk];
        if chunk.len() <= at {
            chunk.reserve_exact(CHUNK - chunk.len());
            chunk.resize_with(at + 1, T::default);
        }
        &mut chunk[at]
    }
}

/// As much of a digest as tells the updates of one device apart: to find two that agree in 128 bits is nobody's business
/// but its own, and the blob itself is checked against all of it.
type Fingerprint = [u8; 16];

/// Whose updates a round has.
#[derive(Debug, Default)]
pub(super) struct Answers {
    fingerprints: Column<Fingerprint>,
    from: DeviceSet,
}

impl Answers {
    pub(super) fn insert(&mut self, index: DeviceIndex, digest: &Digest) {
        *self.fingerprints.slot(index) = fingerprint(digest);
        self.from.insert(index);
    }

    pub(super) fn remove(&mut self, index: DeviceIndex) {
        self.from.remove(index);
    }

    pub(super) fn has(&self, index: DeviceIndex) -> bool {
        self.from.contains(index)
    }

    /// Whether it is this very update.
    pub(super) fn is(&self, index: DeviceIndex, digest: &Digest) -> bool {
        self.has(index) && self.fingerprints.get(index) == Some(&fingerprint(digest))
    }

    pub(super) fn len(&self) -> usize {
        self.from.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.from.is_empty()
    }

    pub(super) fn from(&self) -> impl Iterator<Item = DeviceIndex> {
        self.from.iter()
    }
}

fn fingerprint(digest: &Digest) -> Fingerprint {
    let (front, _) = digest.0.split_first_chunk().expect("a digest is longer");
    *front
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(number: u32) -> DeviceId {
        format!("device-{number}").parse().unwrap()
    }

    #[test]
    fn a_name_has_one_place_whatever_comes_between() {
        let mut names = Names::default();
        let order = || (0..500).map(|number| number * 7 % 500);
        let indices: Vec<DeviceIndex> = order().map(|number| names.index(&device(number))).collect();
        assert_eq!(names.find(&device(500)), None);
        for (number, index) in order().zip(indices) {
            assert_eq!((names.find(&device(number)), names.id(index)), (Some(index), device(number)));
            assert_eq!(names.index(&device(number)), index);
        }
        let (one, other) = (names.index(&device(10)), names.index(&device(9)));
        assert_eq!(names.order(one, other), Ordering::Less, "in the order of their letters");
    }

    #[test]
    fn places_of_names_that_are_taken_out_go_to_others() {
        let mut names = Names::default();
        let indices: Vec<DeviceIndex> = (0..10).map(|number| names.index(&device(number))).collect();
        names.remove(&[indices[3], indices[9]].into_iter().collect());
        assert_eq!((names.find(&device(3)), names.find(&device(9))), (None, None));
        let (one, other) = (names.index(&device(77)), names.index(&device(78)));
        assert_eq!([one.min(other), one.max(other)], [indices[3], indices[9]]);
        assert_eq!(names.index(&device(79)).index(), 10);
        for number in (0..10).filter(|number| ![3, 9].contains(number)).chain(77..80) {
            let index = names.find(&device(number)).unwrap();
            assert_eq!(names.id(index), device(number));
        }
    }

    #[test]
    fn a_set_holds_what_was_put_in_and_not_taken_out() {
        let mut set = DeviceSet::default();
        for index in [3, 64, 700].map(DeviceIndex) {
            assert!(set.insert(index) && !set.insert(index));
        }
        assert!(set.remove(DeviceIndex(64)) && !set.remove(DeviceIndex(64)) && !set.remove(DeviceIndex(9_999)));
        assert_eq!((set.len(), set.iter().collect::<Vec<_>>()), (2, [3, 700].map(DeviceIndex).into()));
        set.retain(|index| index == DeviceIndex(700));
        assert_eq!(set.iter().collect::<Vec<_>>(), [DeviceIndex(700)]);
        set.clear();
        assert!(set.is_empty() && !set.contains(DeviceIndex(3)));
    }

    #[test]
    fn a_column_is_as_long_as_its_last_value() {
        let mut column = Column::default();
        *column.slot(DeviceIndex(600)) = 5;
        assert_eq!(
            (column.get(DeviceIndex(600)), column.get(DeviceIndex(599)), column.get(DeviceIndex(601))),
            (Some(&5), Some(&0), None)
        );
        assert_eq!((column.get(DeviceIndex(1)), column.get(DeviceIndex(9_000))), (None, None));
        *column.slot(DeviceIndex(1)) = 4;
        assert_eq!((column.get(DeviceIndex(1)), column.get(DeviceIndex(600))), (Some(&4), Some(&5)));
    }

    #[test]
    fn an_answer_is_told_from_another_of_its_device() {
        let mut answers = Answers::default();
        let digest = Digest::of(b"one");
        answers.insert(DeviceIndex(2), &digest);
        assert!(
            answers.has(DeviceIndex(2))
                && answers.is(DeviceIndex(2), &digest)
                && !answers.is(DeviceIndex(2), &Digest::of(b"two"))
        );
        assert!(!answers.has(DeviceIndex(1)) && !answers.is(DeviceIndex(1), &Digest([0; 32])));
        assert_eq!((answers.len(), answers.from().collect::<Vec<_>>()), (1, vec![DeviceIndex(2)]));
    }
}
