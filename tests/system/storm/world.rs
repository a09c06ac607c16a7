//! A federation under a virtual clock: every stimulus is taken off one queue and applied to the part that it meets.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use grapevine_aggregator::store::RoundPhase;
use grapevine_edge_client::store::Dataset;
use grapevine_models::Shape;
use grapevine_protocol::{DatasetId, DeviceId, Digest, RoundId};

use super::aggregator::{Aggregator, Outgoing, Said};
use super::device::{Device, Wish};
use super::invariants::{self, Broken};
use super::meter::{Meter, Owner};
use super::network::Network;
use super::plan::Plan;
use super::reference::Reference;
use super::stimulus::{Ending, Fault, Part, Queue, Stimulus};
use super::trace::Trace;

/// The shell may have more to hear before it carries out what was decided.
const BUSY_SHARE: f64 = 0.25;
const BUSY_MS: u32 = 4;
/// Work that comes to nothing, as with a full disk.
const FAILING_SHARE: f64 = 0.05;
/// An interruption that the work hears of before it is done.
const INTERRUPTED_SHARE: f64 = 0.7;
/// Longest until the next step of some work.
const STEP_MS: u32 = 500;
/// Stimuli of one instant, for each part.
const MOST_AT_ONCE: usize = 1_000;
/// A crowd shares its samples.
const KINDS_OF_DATA: usize = 16;
/// What a device that held none is given.
const LATE_SAMPLES: u16 = 5;

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Stimuli that met a part.
    pub steps: u64,
    /// Rounds that were merged.
    pub merged: u64,
    /// Rounds that were abandoned.
    pub abandoned: u64,
    /// How often a round was given its time again.
    pub extended: u64,
    /// Updates that devices have receipts for.
    pub receipts: u64,
    /// Processes that were killed or lost their power.
    pub deaths: u64,
    /// Of those, in the middle of a write.
    pub torn: u64,
    /// Frames in somebody else's name that reached the aggregator.
    pub forged: u64,
    /// Devices that were sent into quarantine.
    pub quarantined: u64,
    /// Devices that were released from it.
    pub released: u64,
    /// Pieces of work that ended before their end.
    pub interrupted: u64,
    /// Connections that a device gave up because it heard nothing.
    pub reconnected: u64,
}

impl Figures {
    /// Adds what happened in another run.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.merged += other.merged;
        self.abandoned += other.abandoned;
        self.extended += other.extended;
        self.receipts += other.receipts;
        self.deaths += other.deaths;
        self.torn += other.torn;
        self.forged += other.forged;
        self.quarantined += other.quarantined;
        self.released += other.released;
        self.interrupted += other.interrupted;
        self.reconnected += other.reconnected;
    }
}

/// Round, device and digest of an update.
pub(super) type Receipted = (RoundId, u32, Digest);

pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) now: Duration,
    pub(super) aggregator: Aggregator,
    pub(super) devices: Vec<Device>,
    pub(super) network: Network,
    /// Only where heads are compared.
    pub(super) reference: Option<Reference>,
    pub(super) figures: Figures,
    pub(super) meter: Meter,
    pub(super) trace: Trace,
    /// Since when everything works.
    pub(super) healed_at: Option<Duration>,
    /// The open round, and for how long it was seen to be open with the broker there since the aggregator's start.
    pub(super) open_for: Option<(RoundId, Duration)>,
    /// The newest round that was looked at, and how many updates it had.
    pub(super) seen_updates: (RoundId, usize),
    /// When it was last seen so, on this connection.
    pub(super) seen_open_at: Option<Duration>,
    /// Updates that their devices were told about, and whether they are stored.
    pub(super) receipts: BTreeMap<Receipted, bool>,
    /// Heads that announcements named.
    pub(super) published: BTreeSet<Digest>,
    /// What each device's outbox held after its last step.
    pub(super) outboxes: Vec<Option<(RoundId, Digest)>>,
    pub(super) queue: Queue,
    /// Stimuli since the clock last moved.
    at_once: usize,
    /// When each part is woken next, the aggregator first.
    pub(super) timers: Vec<Option<Duration>>,
    /// For how long a part stays down when its power fails.
    pub(super) downs: Vec<Duration>,
}

impl World {
    pub(super) fn new(plan: Plan, meter: Meter, trace: Trace, compares: bool) -> Self {
        let devices = devices(&plan);
        let known = devices.iter().map(|device| (device.id.clone(), device.datasets.clone()));
        let mut world = Self {
            now: Duration::ZERO,
            aggregator: Aggregator::new(plan.round.clone(), plan.kept_heads, plan.seed ^ 0xa66),
            network: Network::new(devices.len(), plan.weather, plan.seed ^ 0x7e7),
            reference: compares.then(|| Reference::new(plan.round.clone(), known)),
            figures: Figures::default(),
            meter,
            trace,
            healed_at: None,
            open_for: None,
            seen_open_at: None,
            seen_updates: (RoundId(0), 0),
            receipts: BTreeMap::new(),
            published: BTreeSet::new(),
            queue: Queue::default(),
            at_once: 0,
            outboxes: vec![None; devices.len()],
            timers: vec![None; devices.len() + 1],
            downs: vec![Duration::ZERO; devices.len() + 1],
            devices,
            plan,
        };
        if world.plan.disk_lies {
            world.aggregator.ledger.lie();
        }
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.queue.push(Duration::ZERO, Stimulus::Fault(Fault::Start(Part::Aggregator)));
        let calm_at = self.plan.calm_at;
        for device in 0..self.devices.len() as u32 {
            let at = if calm_at.is_zero() { Duration::ZERO } else { self.network.within(5_000) };
            self.queue.push(at, Stimulus::Fault(Fault::Start(Part::Device(device))));
            if self.plan.samples[device as usize] == 0 {
                self.queue.push(calm_at.mul_f64(0.5), Stimulus::Ingested { device });
            }
        }
        for (at, fault) in core::mem::take(&mut self.plan.faults) {
            self.queue.push(at, Stimulus::Fault(fault));
        }
        self.queue.push(calm_at, Stimulus::Fault(Fault::Heal));
    }

    /// What happened so far.
    pub(super) fn figures(&self) -> Figures {
        let ended = |phase| self.aggregator.ledger.rounds().iter().filter(|round| round.row.phase == phase).count();
        Figures {
            merged: self.merged(),
            abandoned: ended(RoundPhase::Abandoned) as u64,
            extended: self.aggregator.extended,
            quarantined: self.aggregator.quarantined,
            receipts: self.receipts.values().filter(|is_stored| **is_stored).count() as u64,
            ..self.figures
        }
    }

    /// Rounds that were merged so far.
    pub(super) fn merged(&self) -> u64 {
        self.aggregator.ledger.merged()
    }

    /// The next thing happens; `false` if there is none.
    pub(super) fn step(&mut self) -> Result<bool, Broken> {
        let Some((at, stimulus)) = self.queue.pop() else { return Ok(false) };
        self.at_once = if at == self.now { self.at_once + 1 } else { 0 };
        if self.at_once > MOST_AT_ONCE * (self.devices.len() + 1) {
            return Err(Broken::new("time goes on", format!("{stimulus:?} is due again and again")));
        }
        self.now = at;
        self.trace.note(at, &stimulus);
        let met = self.apply(stimulus)?;
        if let Some(part) = met {
            self.figures.steps += 1;
            self.wind(part);
            invariants::check(self, part)?;
        }
        Ok(true)
    }

    /// Gives the part that it met, if any.
    fn apply(&mut self, stimulus: Stimulus) -> Result<Option<Part>, Broken> {
        let part = match stimulus {
            Stimulus::Heard { device, frame, broker } => {
                if broker != self.network.broker || !self.network.reaches(Part::Aggregator) {
                    return Ok(None);
                }
                self.aggregator.hear(self.now, &self.devices[device as usize].id, &frame, &mut self.meter);
                Part::Aggregator
            }
            Stimulus::Told { device, frame, broker } => {
                let is_deaf = self.devices[device as usize].process.as_ref().is_some_and(|process| process.is_deaf);
                if broker != self.network.broker || !self.network.reaches(Part::Device(device)) || is_deaf {
                    return Ok(None);
                }
                self.devices[device as usize].hear(self.now, &frame, &mut self.meter);
                Part::Device(device)
            }
            Stimulus::Timeout(part) => {
                if !self.ring(part) {
                    return Ok(None);
                }
                part
            }
            Stimulus::Act(part) => part,
            Stimulus::WorkDone { device, start, job, ending } => {
                let worker = &mut self.devices[device as usize];
                let is_at_it =
                    worker.process.as_ref().is_some_and(|process| process.jobs == job && process.job.is_some());
                if worker.starts != start || !is_at_it {
                    return Ok(None);
                }
                worker.finish_work(self.now, ending, &mut self.meter);
                self.figures.interrupted += u64::from(ending == Ending::Interrupted);
                Part::Device(device)
            }
            Stimulus::Forged { speaker, frame, broker } => {
                if broker != self.network.broker || !self.network.reaches(Part::Aggregator) {
                    return Ok(None);
                }
                self.hear_forged(&speaker, &frame)?;
                Part::Aggregator
            }
            Stimulus::Ingested { device } => {
                self.ingested(device);
                Part::Device(device)
            }
            Stimulus::Fault(fault) => return self.befall(fault),
        };
        if part == Part::Aggregator && self.network.happens(BUSY_SHARE * f64::from(u8::from(self.healed_at.is_none())))
        {
            let at = self.now + self.network.within(BUSY_MS);
            self.queue.push(at, Stimulus::Act(part));
        } else {
            self.act(part)?;
        }
        Ok(Some(part))
    }

    pub(super) fn act(&mut self, part: Part) -> Result<(), Broken> {
        match part {
            Part::Aggregator => self.act_aggregator(),
            Part::Device(device) => {
                self.act_device(device);
                Ok(())
            }
        }
    }

    fn act_aggregator(&mut self) -> Result<(), Broken> {
        let mut outgoing = Vec::new();
        let mut said = Ok(());
        let (receipts, published, devices) = (&mut self.receipts, &mut self.published, &self.devices);
        let select = &self.plan.round.select;
        let mut check = |ledger: &_, saying: Said| {
            match &saying {
                Said::Receipt(device, receipt) => {
                    let number = number(devices, device).expect("only devices that said hello get receipts");
                    *receipts.entry((receipt.round, number, receipt.digest)).or_default() |= receipt.refused.is_none();
                }
                Said::Quarantined(_) => {}
                Said::RoundAnnouncement(announcement) => published.extend(announcement.heads.map(|blob| blob.digest)),
            }
            let before = core::mem::replace(&mut said, Ok(()));
            said = before.and_then(|()| invariants::what_is_said_is_true(ledger, devices, select, &saying));
        };
        let mut out = |what| outgoing.push(what);
        let is_connected = self.network.link(Part::Aggregator).is_connected;
        let outcome = self.aggregator.act(self.now, is_connected, &mut self.meter, &mut out, &mut check);
        said?;
        // What was handed to the connection before the power failed may still go out.
        for what in outgoing {
            self.send(what);
        }
        match outcome {
            Ok(()) => Ok(()),
            Err(_) if !self.aggregator.ledger.power.is_on() => {
                self.figures.torn += 1;
                let down = self.downs[0];
                self.kill(Part::Aggregator, down);
                Ok(())
            }
            Err(error) => Err(Broken::new("the ledger takes what the machine gives it", error)),
        }
    }

    fn act_device(&mut self, device: u32) {
        let part = Part::Device(device);
        let reaches = self.network.reaches(part);
        let (network, queue, now) = (&mut self.network, &mut self.queue, self.now);
        let worker = &mut self.devices[device as usize];
        let start = worker.starts;
        let longest = self.plan.longest_work.as_millis() as u32;
        let is_healed = self.healed_at.is_some();
        let mut reconnects = false;
        let is_alive = worker.act(&mut self.meter, &mut |wish| match wish {
            Wish::Say(frame) if reaches => {
                network.carry(now, queue, &|broker| Stimulus::Heard { device, frame: frame.clone(), broker });
            }
            Wish::Say(_) => {}
            Wish::Work(job) => {
                let fails = !is_healed && network.happens(FAILING_SHARE);
                let ending = if fails { Ending::Failed } else { Ending::Done };
                queue.push(now + network.within(longest), Stimulus::WorkDone { device, start, job, ending });
            }
            Wish::Interrupt(job) if network.happens(INTERRUPTED_SHARE) => {
                let ending = Ending::Interrupted;
                queue.push(now + network.within(STEP_MS), Stimulus::WorkDone { device, start, job, ending });
            }
            Wish::Interrupt(_) => {}
            Wish::Reconnect => reconnects = true,
        });
        if reconnects {
            self.figures.reconnected += 1;
            self.hang_up(part);
        }
        if !is_alive && self.devices[device as usize].process.is_some() {
            self.figures.torn += 1;
            let down = self.downs[index(part)];
            self.kill(part, down);
        }
    }

    fn send(&mut self, what: Outgoing) {
        if !self.network.reaches(Part::Aggregator) {
            return;
        }
        match what {
            Outgoing::To(id, frame) => {
                if let Some(device) = number(&self.devices, &id) {
                    self.tell(device, &frame);
                }
            }
            Outgoing::RoundAnnouncement(frame) => {
                self.network.retain(frame.clone());
                (0..self.devices.len() as u32).for_each(|device| self.tell(device, &frame));
            }
            Outgoing::Block(kind, frame) => {
                for device in 0..self.devices.len() as u32 {
                    if self.devices[device as usize].follows(kind) {
                        self.tell(device, &frame);
                    }
                }
            }
        }
    }

    pub(super) fn tell(&mut self, device: u32, frame: &Rc<[u8]>) {
        if (device as usize) < self.devices.len() && self.network.reaches(Part::Device(device)) {
            let make = |broker| Stimulus::Told { device, frame: frame.clone(), broker };
            self.network.carry(self.now, &mut self.queue, &make);
        }
    }

    /// The time of a part's machine, and when it wants to be woken.
    fn clock(&self, part: Part) -> Option<(Duration, Option<Duration>)> {
        match part {
            Part::Aggregator => {
                let process = self.aggregator.process.as_ref().filter(|process| !process.is_full);
                process.map(|process| (process.started, process.coordinator.poll_timeout()))
            }
            Part::Device(device) => {
                let process = self.devices[device as usize].process.as_ref();
                process.map(|process| (process.started, process.session.poll_timeout()))
            }
        }
    }

    /// Sees to it that a part is woken in time.
    fn wind(&mut self, part: Part) {
        let Some((started, Some(timeout))) = self.clock(part) else { return };
        let at = (started + timeout).max(self.now);
        let timer = &mut self.timers[index(part)];
        if timer.is_none_or(|before| before > at) {
            *timer = Some(at);
            self.queue.push(at, Stimulus::Timeout(part));
        }
    }

    /// Wakes a part, if it still wants to be woken now.
    fn ring(&mut self, part: Part) -> bool {
        if self.timers[index(part)] != Some(self.now) {
            return false;
        }
        self.timers[index(part)] = None;
        let Some((started, timeout)) = self.clock(part) else { return false };
        if timeout.is_none_or(|timeout| started + timeout > self.now) {
            self.wind(part);
            return false;
        }
        let now = self.now - started;
        match part {
            Part::Aggregator => {
                let process = self.aggregator.process.as_mut().expect("it has a clock");
                self.meter.of(Owner::Aggregator, || process.coordinator.handle_timeout(now));
            }
            Part::Device(device) => {
                let process = self.devices[device as usize].process.as_mut().expect("it has a clock");
                self.meter.of(Owner::Devices, || process.session.handle_timeout(now));
            }
        }
        true
    }
}

pub(super) fn index(part: Part) -> usize {
    match part {
        Part::Aggregator => 0,
        Part::Device(device) => device as usize + 1,
    }
}

fn devices(plan: &Plan) -> Vec<Device> {
    let shape = plan.round.shape;
    let mut datasets = BTreeMap::new();
    let device = |(number, &samples): (usize, &u16)| {
        let kind = (number % KINDS_OF_DATA, if samples == 0 { LATE_SAMPLES } else { samples });
        let dataset = datasets.entry(kind).or_insert_with(|| {
            let later = dataset(shape, kind.0 + 1, kind.1 + 1);
            [Rc::new(dataset(shape, kind.0, kind.1)), Rc::new(later)]
        });
        let labels = plan.labels.get(number).cloned().unwrap_or_default();
        Device::new(number, shape, dataset.clone(), samples > 0, labels, plan.seed)
    };
    plan.samples.iter().enumerate().map(device).collect()
}

/// Devices are sorted by name; `None` for a stranger.
pub(super) fn number(devices: &[Device], id: &DeviceId) -> Option<u32> {
    devices.binary_search_by(|device| device.id.cmp(id)).ok().map(|at| at as u32)
}

/// A separable handful of samples that depends on the device's number alone.
pub(crate) fn dataset(shape: Shape, number: usize, samples: u16) -> Dataset {
    let (classes, features) = (shape.classes(), shape.features());
    let labels: Vec<u16> =
        (0..samples).map(|index| ((index as usize * (1 + number % 2) + number) % classes) as u16).collect();
    let value = |row: usize, label: u16, at: usize| {
        ((row * 7 + at * 13 + number * 5) % 11) as f32 / 11.0 + f32::from(u8::from(at % classes == usize::from(label)))
    };
    let features =
        labels.iter().enumerate().flat_map(|(row, &label)| (0..features).map(move |at| value(row, label, at)));
    let features = features.collect();
    let named = labels.iter().zip(0_u8..).map(|(label, row)| (*label, [row ^ number as u8; 32]));
    let id = DatasetId::of(named);
    Dataset { features, labels, id, damaged: 0 }
}
