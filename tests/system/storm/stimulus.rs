//! Everything that can happen to a federation, and the queue in which it waits for its time.

use core::cmp::Ordering;
use core::time::Duration;
use std::collections::BinaryHeap;
use std::rc::Rc;

use grapevine_protocol::DeviceId;

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
        /// Which of this start; one that has ended already does not end again.
        job: u32,
        /// How it ends.
        ending: Ending,
    },
    /// Somebody else's frame reaches the aggregator.
    Forged {
        /// In whose name.
        speaker: DeviceId,
        /// Message and block.
        frame: Rc<[u8]>,
        /// It is lost if the broker has been started again since.
        broker: u32,
    },
    /// Somebody put images on a device that had none.
    Ingested {
        /// Which.
        device: u32,
    },
    /// Something fails or comes back.
    Fault(Fault),
}

/// How work ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With an update.
    Done,
    /// With nothing, as with a full disk.
    Failed,
    /// At the next step after it was interrupted.
    Interrupted,
}

/// What somebody says who is not the one whose name is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgery {
    /// An update in a name that nobody has.
    StrangersUpdate,
    /// The hello of a device of another fleet.
    StrangersHello,
    /// An update of another run.
    OtherRun,
    /// An update of a round to come.
    LaterRound,
    /// An update that is none: what counts against the device, up to its quarantine.
    BadUpdate,
    /// The goodbye of an earlier start.
    OldGoodbye,
    /// A block that nobody asked for.
    Block,
}

impl Forgery {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::StrangersUpdate,
        Self::StrangersHello,
        Self::OtherRun,
        Self::LaterRound,
        Self::BadUpdate,
        Self::OldGoodbye,
        Self::Block,
    ];
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
    /// The aggregator's disk is full for a while.
    FillDisk {
        /// Until there is room.
        full: Duration,
    },
    /// There is room on the aggregator's disk.
    FreeDisk,
    /// A device gets images, loses some, or some of its labels are corrected.
    ChangeSamples {
        /// Which.
        device: u32,
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
        /// Whether it comes back without the newest retained announcement: it has the one before, or none.
        forgets: bool,
    },
    /// The broker comes and goes, and what it retains stays.
    Flap {
        /// How often from now on, after this time.
        times: u8,
        /// From one time to the next.
        every: Duration,
    },
    /// The broker starts.
    StartBroker,
    /// Somebody publishes bytes that are no message, in the name of a device or to one.
    Noise(Part),
    /// Somebody speaks in a device's name, or in one that nobody has.
    Forge {
        /// Whose.
        device: u32,
        /// What is said.
        forgery: Forgery,
    },
    /// The broker forgets what a device subscribed to, and goes on to answer its pings.
    Deafen {
        /// Which.
        device: u32,
    },
    /// Somebody releases a device from quarantine.
    Release {
        /// Which.
        device: u32,
    },
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
