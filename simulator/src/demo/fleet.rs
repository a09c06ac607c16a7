//! The threads of one federation: an aggregator and its devices, each with its own connection to the broker.

use core::time::Duration;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::Sender;
use grapevine_aggregator::round::{Event as RoundEvent, RoundConfig, RoundOutcome};
use grapevine_aggregator::serve::{Observer, RunChoice, ServeError, ServeOptions, ServeReport, serve};
use grapevine_aggregator::store::Ledger;
use grapevine_edge_client::config::of_this_machine;
use grapevine_edge_client::device::{self, DeviceOptions, DeviceReport, RunError};
use grapevine_edge_client::resources::{Semaphore, Throttle};
use grapevine_edge_client::session::{Event as DeviceEvent, Identity};
use grapevine_edge_client::store::Store;
use grapevine_host::{BrokerAddress, Service, Shutdown};
use grapevine_models::Head;
use grapevine_protocol::{Digest, FleetId, Incarnation, RunId};

/// Stack of a device's session thread; its large buffers are on the heap.
const DEVICE_STACK_BYTES: usize = 512 * 1024;
/// The broker is on this machine: a lost connection is tried again soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What the threads tell.
pub(super) enum Told {
    /// The aggregator opened the first round or did something else worth hearing.
    Round(RoundEvent),
    /// A round was merged, with the inference head after it.
    Merged(Box<RoundOutcome>, Option<Head>),
    /// A device has the heads with this digest.
    NewHeads(Digest),
    /// A thread ended before it was told to.
    Ended,
}

pub(super) struct Fleet {
    shutdown: Shutdown,
    aggregator: JoinHandle<Result<ServeReport, ServeError>>,
    devices: Vec<JoinHandle<Result<DeviceReport, RunError>>>,
}

pub(super) struct FleetPlan {
    pub(super) fleet: FleetId,
    pub(super) broker: BrokerAddress,
    pub(super) round: RoundConfig,
    pub(super) run: RunId,
    pub(super) stores: Vec<Arc<Store>>,
}

impl Fleet {
    /// Starts the aggregator and every device.
    pub(super) fn start(
        plan: &FleetPlan,
        folder: &Path,
        ledger: Box<dyn Ledger + Send>,
        told: &Sender<Told>,
    ) -> std::io::Result<Self> {
        let shutdown = Shutdown::manual();
        let aggregator = {
            let options = ServeOptions {
                fleet: plan.fleet.clone(),
                broker: plan.broker.clone(),
                round: plan.round.clone(),
                incarnation: Incarnation(plan.run.0),
                run: RunChoice::New(plan.run),
                until_finished: false,
                service: Service::default(),
                keep_alive: KEEP_ALIVE,
                longest_pause: LONGEST_PAUSE,
                kept_heads: 1,
            };
            let (shutdown, told, folder) = (shutdown.clone(), told.clone(), folder.to_owned());
            thread::Builder::new().name("aggregator".into()).spawn(move || {
                let _last_word = LastWord(told.clone());
                serve(&options, &folder, ledger, &shutdown, &mut Teller(told))
            })?
        };
        let gate = Semaphore::new(thread::available_parallelism().map_or(1, usize::from));
        let mut fleet = Self { shutdown, aggregator, devices: Vec::new() };
        for (number, store) in plan.stores.iter().enumerate() {
            fleet.start_device(plan, number, store.clone(), gate.clone(), told.clone())?;
        }
        Ok(fleet)
    }

    /// Stops everybody and gives what they did.
    pub(super) fn stop(self) -> Result<(ServeReport, Vec<DeviceReport>), Ended> {
        self.shutdown.request();
        let aggregator = self.aggregator.join().map_err(|_| Ended::Panicked)?.map_err(Ended::Aggregator);
        let devices: Result<Vec<DeviceReport>, Ended> = self
            .devices
            .into_iter()
            .map(|device| device.join().map_err(|_| Ended::Panicked)?.map_err(Ended::Device))
            .collect();
        Ok((aggregator?, devices?))
    }

    fn start_device(
        &mut self,
        plan: &FleetPlan,
        number: usize,
        store: Arc<Store>,
        gate: Semaphore,
        told: Sender<Told>,
    ) -> std::io::Result<()> {
        let options = DeviceOptions {
            fleet: plan.fleet.clone(),
            broker: plan.broker.clone(),
            identity: Identity {
                device: format!("device-{number:04}").parse().expect("a name of letters and digits"),
                incarnation: Incarnation(plan.run.0 ^ number as u64),
                extractor: plan.round.extractor,
                classes: plan.round.classes,
                shape: plan.round.shape,
                attributes: of_this_machine(),
            },
            keep_alive: KEEP_ALIVE,
            longest_pause: LONGEST_PAUSE,
            throttle: Throttle::gated(gate),
            service: Service::default(),
            outgoing: None,
        };
        let shutdown = self.shutdown.clone();
        let thread = thread::Builder::new().name(format!("device-{number}")).stack_size(DEVICE_STACK_BYTES);
        self.devices.push(thread.spawn(move || {
            let _last_word = LastWord(told.clone());
            device::run(&options, &store, &shutdown, &mut |event| {
                if let DeviceEvent::NewHeads(digest) = event {
                    // The listener is gone only when the federation is over.
                    let _ = told.send(Told::NewHeads(*digest));
                }
            })
        })?);
        Ok(())
    }
}

/// Why a thread of the federation ended.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The aggregator failed.
    #[error("the aggregator stopped: {0}")]
    Aggregator(ServeError),
    /// A device failed.
    #[error("a device stopped: {0}")]
    Device(RunError),
    /// A fault of this program.
    #[error("a thread of the federation panicked; please report what is printed above")]
    Panicked,
}

/// Tells that a thread ended, however it did.
struct LastWord(Sender<Told>);

impl Drop for LastWord {
    fn drop(&mut self) {
        let _ = self.0.send(Told::Ended);
    }
}

struct Teller(Sender<Told>);

impl Observer for Teller {
    fn event(&mut self, event: &RoundEvent) {
        match event {
            RoundEvent::RoundOpened { .. }
            | RoundEvent::Finished
            | RoundEvent::Rested
            | RoundEvent::RoundAbandoned(_) => {
                let _ = self.0.send(Told::Round(event.clone()));
            }
            RoundEvent::DeviceCame(_)
            | RoundEvent::DeviceLeft(_)
            | RoundEvent::UpdateAccepted { .. }
            | RoundEvent::Refused { .. }
            | RoundEvent::Quarantined { .. }
            | RoundEvent::Released(_)
            | RoundEvent::UpdateTakenOut { .. }
            | RoundEvent::RoundUnusable { .. }
            | RoundEvent::NewsGathered { .. }
            | RoundEvent::TurnedAway { .. }
            | RoundEvent::Forgotten(_)
            | RoundEvent::RoomMade(_)
            | RoundEvent::RoundExtended(_) => {}
        }
    }

    fn merged(&mut self, outcome: &RoundOutcome, head: Option<&Head>) {
        let _ = self.0.send(Told::Merged(Box::new(outcome.clone()), head.cloned()));
    }
}
