//! Everything that can happen to a federation, and the queue in which it waits for its time.

use core::cmp::Ordering;
use core::time::Duration;
use std::collections::BinaryHeap;
use std::rc::Rc;

/// A program that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The one aggregator.
    Aggregator,
    /// A device, by number.
    Device(u32),
}

/// One thing that happens. Nothing else ever does.
#[derive(Clone, Debug)]
pub enum Stimulus {
    /// A device's frame reaches the aggregator.
    Heard {
        /// Whose.
        device: u32,
        /// Message and block.
        frame: Rc<[u8]>,
        /// It is lost if the broker has been started again since.
        broker: u32,
    },
    /// A frame reaches a device.
    Told {
        /// Which.
        device: u32,
        /// Message and block.
        frame: Rc<[u8]>,
        /// It is lost if the broker has been started again since.
        broker: u32,
    },
    /// A part's timer may be due.
    Timeout(Part),
    /// A part carries out what its machine decided a moment ago.
    Act(Part),
    /// A device's work is over.
    WorkDone {
        /// Whose.
        device: u32,
        /// It died with the process if that was another start.
        start: u32,
        /// Whether it came to nothing, as with a full disk.
        fails: bool,
    },
    /// Somebody put images on a device that had none.
    Ingested {
        /// Which.
        device: u32,
    },
    /// Something fails or comes back.
    Fault(Fault),
}

/// What fails, and how it comes back.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A process is killed; its disk stays as it is. It starts again after a while.
    Kill {
        /// Whose.
        part: Part,
        /// Until the next start.
        down: Duration,
    },
    /// Power fails in the middle of one of a part's next writes.
    CutPower {
        /// Whose.
        part: Part,
        /// In which write from now on, counted from 1.
        writes: u32,
        /// Until the next start.
        down: Duration,
    },
    /// A device is stopped in good order.
    Stop {
        /// Which.
        device: u32,
        /// Until the next start.
        down: Duration,
    },
    /// A process starts, with its disk as it was.
    Start(Part),
    /// Nothing gets through between a part and the broker, and neither knows yet.
    CutLink {
        /// Whose.
        part: Part,
        /// Until it works again.
        away: Duration,
    },
    /// The link works again.
    MendLink(Part),
    /// Keep-alives went unanswered: part and broker know that the connection is gone, if it still is.
    Lost(Part),
    /// A part tries to reach the broker.
    Connect(Part),
    /// The broker dies with everything that was on its way.
    StopBroker {
        /// Until the next start.
        down: Duration,
        /// Whether it comes back without the newest retained notice: it has the one before, or none.
        forgets: bool,
    },
    /// The broker starts.
    StartBroker,
    /// Somebody publishes bytes that are no message, in the name of a device or to one.
    Noise(Part),
    /// All parts are started, all links mended, and from now on everything arrives.
    Heal,
}

/// What is to happen, by time; at the same time, first come, first served.
#[derive(Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Entry>,
    order: u64,
}

struct Entry {
    at: Duration,
    order: u64,
    stimulus: Stimulus,
}

impl Queue {
    pub(super) fn push(&mut self, at: Duration, stimulus: Stimulus) {
        self.order += 1;
        self.heap.push(Entry { at, order: self.order, stimulus });
    }

    pub(super) fn pop(&mut self) -> Option<(Duration, Stimulus)> {
        self.heap.pop().map(|entry| (entry.at, entry.stimulus))
    }
}

impl Ord for Entry {
    /// The heap gives its greatest first, so the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}
