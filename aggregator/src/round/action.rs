//! What goes into the machine at a start, and what comes out of it.

use std::collections::VecDeque;

use grapevine_models::{HeldBack, Request};
use grapevine_protocol::topics::BlobKind;
use grapevine_protocol::{BlockHeader, DeviceId, Refusal, RoundAnnouncement, RoundId, RunId, ToDevice};

#[cfg(doc)]
use super::Coordinator;
use super::{AcceptedUpdate, Counters, Model, ModelError};

/// How far a run has come; what a restarted aggregator reads from its ledger.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The number of the next round to open.
    pub next_round: u32,
    /// How far the run is since it last learned of new samples.
    pub counters: Counters,
    /// The newest model.
    pub model: Model,
    /// The newest merged round; each update that is in it is given to [`Coordinator::handle_merged_before`] before
    /// anything else happens.
    pub closed: Option<RoundId>,
}

/// A round that was open when the aggregator stopped.
#[derive(Clone, Debug)]
pub struct OpenRound {
    /// Its announcement, as published.
    pub announcement: RoundAnnouncement,
    /// Updates it waits for.
    pub expected: usize,
    /// Devices that were chosen for it.
    pub chosen: usize,
    /// How often it was given more time.
    pub extensions: u32,
    /// Updates in the ledger; each is given to [`Coordinator::handle_restored`] before anything else happens.
    pub accepted: usize,
}

/// What the machine wants done. The executor does it in order, so nothing is told before what it rests on is durable.
#[must_use = "whatever is not carried out is lost"]
#[derive(Debug)]
pub enum Action {
    /// Write to the ledger, or read it again.
    Durable(Durable),
    /// Tell somebody.
    Tell(Tell),
}

/// What concerns the ledger. What was written is durable before the next action is begun.
#[derive(Debug)]
pub enum Durable {
    /// Write what is known about a device.
    KeepDevice(DeviceId),
    /// Delete these devices.
    ForgetDevices(Vec<DeviceId>),
    /// Write the round before its announcement goes out.
    OpenRound {
        /// The announcement to come.
        announcement: RoundAnnouncement,
        /// Updates it waits for.
        expected: usize,
        /// Devices that were chosen.
        chosen: usize,
    },
    /// Write an update, then call [`Coordinator::handle_stored`].
    StoreUpdate(AcceptedUpdate),
    /// Read the updates of the open round, call [`Coordinator::handle_reread`] with each, in any order that stays the
    /// same, and then [`Coordinator::handle_all_reread`].
    RereadUpdates(RunId, RoundId),
    /// Delete an update of the open round.
    DropUpdate(RunId, RoundId, DeviceId),
    /// Write the merged model, then call [`Coordinator::handle_committed`].
    Commit(Box<RoundOutcome>),
    /// Write that the round was given more time.
    ExtendRound(RunId, RoundId),
    /// Write that the round ended without a merge.
    AbandonRound(RunId, RoundId),
    /// Write that the run is over.
    FinishRun(RunId),
}

/// What is told, and to whom.
#[derive(Debug)]
pub enum Tell {
    /// One device.
    Device(DeviceId, ToDevice),
    /// All devices that follow a blob: a block of it.
    Followers(BlobKind, BlockHeader, Vec<u8>),
    /// All devices, retained: what is going on.
    Everybody(RoundAnnouncement),
    /// People.
    People(Event),
}

/// The actions that wait to be carried out.
#[derive(Default)]
pub(super) struct Actions(VecDeque<Action>);

impl Actions {
    pub(super) fn durable(&mut self, action: Durable) {
        self.0.push_back(Action::Durable(action));
    }

    pub(super) fn tell(&mut self, action: Tell) {
        self.0.push_back(Action::Tell(action));
    }

    pub(super) fn report(&mut self, event: Event) {
        self.tell(Tell::People(event));
    }

    pub(super) fn next(&mut self) -> Option<Action> {
        self.0.pop_front()
    }
}

/// A merged round.
#[derive(Clone, Debug)]
pub struct RoundOutcome {
    /// The run.
    pub run: RunId,
    /// The round.
    pub round: RoundId,
    /// What it asked for.
    pub request: Request,
    /// The fleet's model after it.
    pub model: Model,
    /// Devices whose updates are in it.
    pub accepted: usize,
    /// Updates that it waited for.
    pub expected: usize,
    /// Devices that were chosen.
    pub chosen: usize,
    /// How often it was given more time.
    pub extensions: u32,
    /// Samples behind it.
    pub samples: u64,
    /// How far the run is after it.
    pub counters: Counters,
    /// By how much the heads changed, relative to their length; `None` for the first ones and where nothing was trained.
    pub change: Option<f32>,
    /// Why nothing changed, if that has a reason.
    pub held_back: Option<HeldBack>,
    /// Whether its updates are what the run knows of their devices' samples from now on.
    pub takes_in: bool,
}

/// What happened, for logs and observers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A device fits the fleet and is there.
    DeviceCame(DeviceId),
    /// A device said goodbye, or its connection broke.
    DeviceLeft(DeviceId),
    /// A round is open.
    RoundOpened {
        /// Which.
        round: RoundId,
        /// Updates it waits for.
        expected: usize,
    },
    /// An update is stored and in the sum.
    UpdateAccepted {
        /// Whose.
        device: DeviceId,
        /// Of which round.
        round: RoundId,
    },
    /// Something was refused.
    Refused {
        /// Of whom, if that is known.
        device: Option<DeviceId>,
        /// Why.
        reason: Refusal,
    },
    /// A device sent too many bad updates and is not heard any more, this being the last reason.
    Quarantined {
        /// Which.
        device: DeviceId,
        /// Why.
        reason: Refusal,
    },
    /// A device is heard again.
    Released(DeviceId),
    /// A device says hello and is not welcome, or there are two of its name. Said once for each reason.
    TurnedAway {
        /// Which.
        device: DeviceId,
        /// Why.
        reason: Refusal,
    },
    /// A device is not in the registry any more, as somebody wished.
    Forgotten(DeviceId),
    /// The registry was full: so many devices that never delivered anything are not in it any more.
    RoomMade(usize),
    /// The deadline passed below the quorum; the round goes on.
    RoundExtended(RoundId),
    /// The last deadline passed below the quorum; the round counts for nothing.
    RoundAbandoned(RoundId),
    /// The merged model cannot be used because of this device's update, which is taken out of the round.
    UpdateTakenOut {
        /// Whose.
        device: DeviceId,
        /// Of which round.
        round: RoundId,
    },
    /// A round was closed and what it gave cannot be used; it counts for nothing.
    RoundUnusable {
        /// Which.
        round: RoundId,
        /// Why.
        fault: ModelError,
    },
    /// Devices hold samples that the run does not know; they are asked for their statistics.
    NewsGathered {
        /// The round.
        round: RoundId,
        /// How many devices.
        devices: usize,
    },
    /// The number of rounds that was asked for is done.
    Finished,
    /// Nothing new is to be learned for now.
    Rested,
}
