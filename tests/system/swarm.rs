//! As many devices as the machine bears over a real broker: real sessions and real work, many of them over each of a few
//! connections, and the shipped aggregator as a process of its own.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};
use grapevine_edge_client::session::{Action, Blob, FinishedUpdate, Identity, Session};
use grapevine_edge_client::store::Dataset;
use grapevine_edge_client::work::work;
use grapevine_host::transport::{Event, Options, Transport};
use grapevine_host::{BrokerAddress, Shutdown, memory};
use grapevine_models::{Method, Shape};
use grapevine_protocol::limits::MAX_FRAME_BYTES;
use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{
    Attributes, DeviceId, Digest, FleetId, Incarnation, ToAggregator, ToDevice, class_list_digest, decode_to_device,
    encode, topics,
};
use grapevine_simulator::data::digits;
use grapevine_vision::manifest;
use serde::Serialize;

use crate::broker::Broker;
use crate::fleet;
use crate::programs::{Running, extractor, now};
use crate::storm::dataset;

/// Longest wait for one round, or for all devices to be there.
const PATIENCE: Duration = Duration::from_secs(600);
/// Messages that may wait for the sessions of a connection.
const INCOMING: usize = 1_024;
/// Packets that may wait for the broker, for each device of a connection.
const QUEUE_PER_DEVICE: usize = 4;
/// Longest sleep of a connection's thread.
const LONGEST_WAIT: Duration = Duration::from_millis(200);
/// Devices share their samples.
const KINDS_OF_DATA: usize = 16;
const SAMPLES: u16 = 20;
const BLOBS: [BlobKind; 2] = [BlobKind::Heads, BlobKind::SideInformation];

/// What is to be done.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Swarm {
    /// Devices on the one aggregator.
    pub devices: usize,
    /// Connections that they share.
    pub connections: usize,
    /// Rounds of training.
    pub rounds: usize,
}

/// What it took.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was done.
    #[serde(flatten)]
    pub swarm: Swarm,
    /// The broker.
    pub broker: &'static str,
    /// From the first connection to the opening of the first round, for which all devices must be there.
    pub gathered_seconds: f64,
    /// From one merge to the next, the first one from the opening of its round.
    pub round_seconds: Vec<f64>,
    /// The aggregator's memory before any device came.
    pub empty_resident_bytes: u64,
    /// The aggregator's largest memory after a round.
    pub resident_bytes: u64,
}

/// Runs the rounds; every one of them must have the updates of all devices.
pub fn swarm(swarm: Swarm) -> Report {
    let broker = Broker::start();
    let aggregator =
        fleet::aggregator(Some(&broker.address().to_string()), swarm.devices, swarm.rounds, Method::FedAvg);
    let mut serving = aggregator.start("aggregator", &["serve", "-v"]);
    hear(&mut serving, "connected to the broker");
    let resident = |serving: &Running| memory::resident_bytes_of(serving.id()).expect("a running program on Linux");
    let empty_resident_bytes = resident(&serving);
    let stop = Shutdown::manual();
    let began = now();
    let threads: Vec<JoinHandle<()>> =
        (0..swarm.connections).map(|connection| start(&broker.address(), &swarm, connection, &stop)).collect();
    hear(&mut serving, "round opened");
    let gathered = now();
    let (mut last, mut round_seconds, mut resident_bytes) = (gathered, Vec::new(), 0);
    for round in 0..swarm.rounds {
        let line = hear(&mut serving, "round merged");
        let all = format!("updates={} ", swarm.devices);
        assert!(line.contains(&all), "round {round} was merged without some of the devices: {line}");
        round_seconds.push((now() - last).as_secs_f64());
        last = now();
        resident_bytes = resident(&serving).max(resident_bytes);
    }
    stop.request();
    threads.into_iter().for_each(|thread| thread.join().expect("a connection's thread panicked"));
    Report {
        swarm,
        broker: broker.name(),
        gathered_seconds: (gathered - began).as_secs_f64(),
        round_seconds,
        empty_resident_bytes,
        resident_bytes,
    }
}

/// The next line with `part`; those of thousands of devices are forgotten.
fn hear(serving: &mut Running, part: &str) -> String {
    let line = serving.line_until(part, now() + PATIENCE);
    let last = serving.last_line().map(str::to_owned);
    serving.forget_lines();
    line.unwrap_or_else(|| panic!("`{part}` was not said in {PATIENCE:?}, but {last:?} at last"))
}

/// Starts the thread of one connection, with its share of the devices.
fn start(broker: &BrokerAddress, swarm: &Swarm, connection: usize, stop: &Shutdown) -> JoinHandle<()> {
    let fleet: FleetId = fleet::FLEET.parse().expect("a name");
    let members: Vec<Member> =
        (connection..swarm.devices).step_by(swarm.connections).map(|number| Member::new(&fleet, number)).collect();
    let mut options = Options::new(broker.clone(), format!("swarm-{connection}"));
    options.subscriptions = members.iter().map(|member| member.down.clone()).collect();
    options.subscriptions.push(topics::announcement(&fleet));
    options.max_packet_bytes = MAX_FRAME_BYTES + 1_024;
    options.queue = QUEUE_PER_DEVICE * members.len() + 64;
    let (sender, events) = bounded(INCOMING);
    // A closed channel means that the swarm is stopping.
    let transport = Transport::start(options, move |event| drop(sender.send(event))).expect("valid options");
    let places = members.iter().enumerate().map(|(at, member)| (member.down.clone(), at)).collect();
    let connection = Connection {
        fleet,
        transport,
        members,
        places,
        followers: [0; BLOBS.len()],
        started: now(),
        stop: stop.clone(),
    };
    thread::spawn(move || connection.serve(&events))
}

/// One device: its session, and what it holds.
struct Member {
    session: Session,
    id: DeviceId,
    up: String,
    down: String,
    follows: [bool; BLOBS.len()],
    dataset: Arc<Dataset>,
}

struct Connection {
    fleet: FleetId,
    transport: Transport,
    members: Vec<Member>,
    /// By the topic on which they are spoken to.
    places: BTreeMap<String, usize>,
    /// How many members follow each blob.
    followers: [usize; BLOBS.len()],
    started: Instant,
    stop: Shutdown,
}

impl Member {
    fn new(fleet: &FleetId, number: usize) -> Self {
        let (manifest, _) = manifest::load(extractor().as_ref()).expect("the shipped extractor has a manifest");
        let id: DeviceId = format!("device-{number:05}").parse().expect("a name");
        let shape = Shape::new(digits::CLASSES, manifest.output.features).expect("within limits");
        let dataset = Arc::new(dataset(shape, number % KINDS_OF_DATA, SAMPLES));
        let identity = Identity {
            device: id.clone(),
            incarnation: Incarnation(number as u64 + 1),
            extractor: Digest::from_hex(&manifest.sha256).expect("a manifest names a digest"),
            classes: class_list_digest(digits::class_names().iter().map(String::as_str)),
            shape,
            attributes: Attributes::default(),
        };
        let session = Session::new(identity, u32::from(SAMPLES), dataset.id, None);
        let (up, down) = (topics::up(fleet, &id), topics::down(fleet, &id));
        Self { session, id, up, down, follows: [false; BLOBS.len()], dataset }
    }
}

impl Connection {
    fn serve(mut self, events: &Receiver<Event>) {
        while !self.stop.is_requested() {
            let now = self.started.elapsed();
            let due = self.members.iter().filter_map(|member| member.session.poll_timeout()).min();
            let wait = due.map_or(LONGEST_WAIT, |at| at.saturating_sub(now)).min(LONGEST_WAIT);
            if let Ok(event) = events.recv_timeout(wait) {
                self.handle(event);
                for event in events.try_iter().take(INCOMING) {
                    self.handle(event);
                }
            }
            let now = self.started.elapsed();
            for at in 0..self.members.len() {
                if self.members[at].session.poll_timeout().is_some_and(|due| due <= now) {
                    self.members[at].session.handle_timeout(now);
                    self.act(at);
                }
            }
        }
        self.transport.close();
    }

    fn handle(&mut self, event: Event) {
        let now = self.started.elapsed();
        match event {
            Event::Connected => self.each(|_| true, |session| session.handle_connected(now)),
            Event::Disconnected { .. } | Event::Refused { .. } => {
                self.each(|_| true, Session::handle_disconnected);
            }
            Event::Trouble { reason, .. } => panic!("{reason}"),
            Event::Recovered => {}
            Event::Message { topic, payload } => {
                let (message, block) = decode_to_device(&payload).expect("only the aggregator speaks here");
                if let Some(&at) = self.places.get(&topic) {
                    self.members[at].session.handle_message(now, message, block);
                    return self.act(at);
                }
                let kind = BLOBS.iter().position(|kind| topic == topics::blob(&self.fleet, *kind));
                let hears = |member: &Member| kind.is_none_or(|kind| member.follows[kind]);
                self.each(hears, |session| session.handle_message(now, ToDevice::clone(&message), block));
            }
        }
    }

    fn each(&mut self, fits: impl Fn(&Member) -> bool, mut happen: impl FnMut(&mut Session)) {
        for at in 0..self.members.len() {
            if fits(&self.members[at]) {
                happen(&mut self.members[at].session);
                self.act(at);
            }
        }
    }

    fn act(&mut self, at: usize) {
        while let Some(action) = self.members[at].session.poll_action() {
            match action {
                Action::Send(message, block) => self.send(at, &message, &block),
                Action::Follow(kind) => self.follow(at, kind, true),
                Action::Unfollow(kind) => self.follow(at, kind, false),
                Action::Work(job) => {
                    let member = &mut self.members[at];
                    let worked =
                        work(&job, &member.id, &member.dataset, None, &mut || true).expect("it can be trained");
                    let update = FinishedUpdate {
                        run: job.announcement.run,
                        round: job.announcement.round,
                        blob: Blob::of(worked.update),
                    };
                    member.session.handle_update(self.started.elapsed(), update);
                }
                // Work is over at once, and nothing is kept.
                Action::Interrupt
                | Action::Reconnect
                | Action::SaveHeads { .. }
                | Action::EmptyOutbox(_)
                | Action::Report(_) => {}
            }
        }
    }

    /// What finds no room is said again by the session.
    fn send(&self, at: usize, message: &ToAggregator, block: &[u8]) {
        drop(self.transport.publish(&self.members[at].up, encode(message, block), false));
    }

    /// The connection subscribes with its first follower and goes with its last.
    fn follow(&mut self, at: usize, kind: BlobKind, follows: bool) {
        let index = kind as usize;
        let was = core::mem::replace(&mut self.members[at].follows[index], follows);
        let topic = topics::blob(&self.fleet, kind);
        let before = self.followers[index];
        self.followers[index] = before + usize::from(follows) - usize::from(was);
        match (before, self.followers[index]) {
            (0, 1) => self.transport.subscribe(&topic).expect("a valid topic"),
            (1, 0) => self.transport.unsubscribe(&topic),
            (_, _) => {}
        }
    }
}
