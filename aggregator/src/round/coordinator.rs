//! The machine's entrance: it routes what comes to the part whose it is, and what a part returns to the next one.

use core::time::Duration;

use grapevine_protocol::{
    BlockHeader, BlockRequest, DeviceId, Digest, Goodbye, Hello, Incarnation, Offer, Refusal, Refused, RoundId, RunId,
    ToAggregator, ToDevice, Welcome,
};

use super::action::{Actions, Durable, Tell};
use super::announcements::Announcements;
use super::collecting::Collecting;
use super::committing::Committing;
use super::connection::Connection;
use super::context::Shared;
use super::device_index::{DeviceIndex, DeviceSet};
use super::devices::{Devices, UpdateName, ask_for_hello};
use super::downloads::Downloads;
use super::phase::Phase;
use super::round_record::RoundRecord;
use super::run::RunState;
use super::sifting::{Found, Sifted, take_out};
use super::uploads::{Fetched, Uploads};
use super::{Action, Contribution, Event, OpenRound, Progress, Registry, RoundConfig};

/// Devices that make room together when the registry is full: one by one each would cost the ledger a write.
const EVICTED_AT_ONCE: usize = 512;

/// The machine. See the module's documentation for how to drive it.
pub struct Coordinator {
    pub(super) shared: Shared,
    pub(super) connection: Connection,
    pub(super) announcements: Announcements,
    pub(super) uploads: Uploads,
    pub(super) downloads: Downloads,
    pub(super) run: RunState,
    pub(super) phase: Phase,
}

impl Coordinator {
    /// A run that goes on from `progress`, with the devices of the registry and, after a stop in the middle of a round,
    /// that round with its updates. Opens or continues a round as soon as enough devices are there. `incarnation` names this
    /// start, so that devices know that they have to say hello again.
    pub fn new(
        config: RoundConfig,
        incarnation: Incarnation,
        run: RunId,
        progress: Progress,
        registry: Registry,
        open: Option<OpenRound>,
        now: Duration,
    ) -> Self {
        let mut coordinator = Self {
            uploads: Uploads::new(config.upload_bytes),
            shared: Shared { config, devices: Devices::new(registry), out: Actions::default() },
            connection: Connection::default(),
            announcements: Announcements::new(incarnation),
            downloads: Downloads::default(),
            run: RunState::new(run, progress),
            phase: Phase::Gathering,
        };
        coordinator.downloads.offer(&coordinator.run.model);
        match open.and_then(|open| coordinator.resumed(open, now)) {
            Some(collecting) => coordinator.phase = Phase::Collecting(Box::new(collecting)),
            None => coordinator.gather(now),
        }
        coordinator
    }

    /// A round that a stop interrupted; its time begins anew.
    fn resumed(&self, open: OpenRound, now: Duration) -> Option<Collecting> {
        // The model was read before the machine was made, and a round that asks nothing is never opened.
        let (request, updates) = (open.announcement.task.request()?, open.accepted);
        let sum = self.run.empty_sum(request, &self.shared.config).ok()?;
        let record = RoundRecord::resumed(open, request, self.announcements.incarnation());
        let absent = DeviceSet::default();
        Some(Collecting::new(record, sum, absent, now, self.shared.config.deadline).restoring(updates))
    }

    /// What to do next, or `None` when there is nothing left to do for now.
    #[must_use]
    pub fn poll_action(&mut self) -> Option<Action> {
        self.shared.out.next()
    }

    /// When to call [`Coordinator::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let (collecting, is_up) = (self.phase.collecting(), self.connection.is_up());
        let timers = [
            collecting.map(Collecting::deadline).filter(|_| is_up),
            collecting.and_then(Collecting::absence_at).filter(|_| is_up),
            self.uploads.again_at(),
            self.downloads.flush_at(),
            self.announcements.again_at().filter(|_| is_up),
            self.news_at(),
        ];
        timers.into_iter().flatten().min()
    }

    /// Everything whose time has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.downloads.publish(&mut self.shared.at(now));
        self.uploads.revive(&mut self.shared.at(now));
        // While the broker is gone nobody can come back, and nobody can answer.
        if self.connection.is_up() {
            if self.phase.collecting_mut().is_some_and(|collecting| collecting.expire_absence(now)) {
                self.close_if_complete(now);
            }
            self.check_deadline(now);
        }
        if self.news_at().is_some_and(|at| at <= now) {
            self.gather(now);
            if self.phase.is_resting() {
                self.run.leave_news();
            }
        }
        self.announce_again(now);
    }

    /// The broker is there: what is retained there may be old, and while it was not there devices may have gone
    /// without a word. A new incarnation in the announcement makes every device say hello again.
    pub fn handle_connected(&mut self, now: Duration) {
        let connected = self.connection.made(now);
        if connected.is_again {
            self.call_roll();
            self.shared.devices.registry.all_away();
        }
        if let Some(collecting) = self.phase.collecting_mut() {
            let incarnation = self.announcements.incarnation();
            collecting.go_on(now, connected.lost_at, self.shared.config.deadline, incarnation);
        }
        self.announce(now);
    }

    /// The broker is gone: nobody can answer, so no time runs until it is back.
    pub fn handle_disconnected(&mut self, now: Duration) {
        self.connection.lost(now);
    }

    /// The broker does not take packets of so many bytes: from now on blocks are smaller, and devices hear so. `false` if
    /// there are no smaller ones.
    pub fn handle_packet_limit(&mut self, now: Duration, bytes: usize) -> bool {
        let is_smaller = self.downloads.limit_packets(bytes);
        if is_smaller {
            self.announce(now);
        }
        is_smaller
    }

    /// A device's message, with the block behind it.
    pub fn handle_message(&mut self, now: Duration, device: &DeviceId, message: ToAggregator, block: &[u8]) {
        if let ToAggregator::Hello(hello) = &message {
            return self.handle_hello(now, device, hello);
        }
        let Shared { devices, out, .. } = &mut self.shared;
        let Some(index) = devices.heard(now, device, block.len(), out) else { return };
        match message {
            ToAggregator::Hello(_) => {}
            ToAggregator::BlockRequest(request) => self.handle_block_request(now, index, &request),
            ToAggregator::Offer(offer) => self.handle_offer(now, index, &offer, block),
            ToAggregator::Block(header) => self.handle_block(now, index, &header, block),
            ToAggregator::Goodbye(goodbye) => self.handle_goodbye(now, index, &goodbye),
        }
    }

    /// Something arrived that is no message of this protocol or no device's topic.
    pub fn handle_garbage(&mut self, now: Duration, device: Option<&DeviceId>, reason: Refusal) {
        let Shared { devices, out, .. } = &mut self.shared;
        devices.count_by_name(device, reason, out);
        if let (Some(device), Refusal::Version) = (device, reason) {
            devices.turn_away(now, device, reason, out);
            out.tell(Tell::Device(device.clone(), ToDevice::Refused(Refused { incarnation: None, reason })));
        }
    }

    /// The ledger has all of [`Coordinator::news_of_devices`].
    pub fn handle_remembered(&mut self) {
        self.shared.devices.registry.are_written();
    }

    /// What a device told the run about its samples, as the ledger has it.
    pub fn handle_contribution(&mut self, device: &DeviceId, contribution: Contribution) {
        let index = self.shared.devices.registry.index(device);
        self.run.contributions.put(index, contribution);
    }

    /// An update that is in the newest merged round, by the ledger: whoever asks for its receipt gets it again.
    pub fn handle_merged_before(&mut self, device: &DeviceId, digest: &Digest) {
        let index = self.shared.devices.registry.index(device);
        self.run.merged_before(index, digest);
    }

    /// An update of the ledger is in the sum of the resumed round again. They come one by one, so that no more than one
    /// of them is in memory.
    /// `former` is the device's newest update of statistics that was merged before, where
    /// [`Coordinator::replaces_statistics`] says so.
    pub fn handle_restored(&mut self, now: Duration, device: &DeviceId, content: &[u8], former: Option<&[u8]>) {
        let Shared { devices, out, .. } = &mut self.shared;
        let index = devices.registry.index(device);
        let Some(collecting) = self.phase.collecting_mut() else { return };
        if let Err(reason) = collecting.restored(index, device, content, former) {
            devices.count_by_name(Some(device), reason, out);
        }
        self.close_if_complete(now);
    }

    /// An update is durable: only now is it in the sum, and only now does its device hear so.
    /// `former` is as in [`Coordinator::handle_restored`].
    pub fn handle_stored(&mut self, now: Duration, device: &DeviceId, round: RoundId, former: Option<&[u8]>) {
        // By its name: a device that was forgotten meanwhile has given its update all the same.
        let Some(index) = self.shared.devices.registry.names().find(device) else { return };
        let collecting = self.phase.collecting_mut().filter(|collecting| collecting.announcement().round == round);
        let ctx = &mut self.shared.at(now);
        let Some(stored) = collecting.and_then(|collecting| collecting.stored(ctx, index, former)) else { return };
        if let Err((update, reason)) = stored {
            self.refuse_update(index, update, reason);
        }
        self.close_if_complete(now);
    }

    /// An update of the round that is sifted, as the ledger has it. `former` is as in [`Coordinator::handle_restored`].
    pub fn handle_reread(&mut self, device: &DeviceId, content: &[u8], former: Option<&[u8]>) {
        let Shared { devices, out, .. } = &mut self.shared;
        let index = devices.registry.index(device);
        let Phase::Sifting(sifting) = &mut self.phase else { return };
        if let Err(reason) = sifting.add(index, device, content, former) {
            devices.count_by_name(Some(device), reason, out);
        }
    }

    /// The ledger has no more updates of the round.
    pub fn handle_all_reread(&mut self, now: Duration) {
        let Phase::Sifting(sifting) = self.phase.end() else { return };
        match sifting.end_pass(&mut self.shared.at(now), &mut self.run) {
            Sifted::Phase(phase) => self.enter(now, phase),
            Sifted::Found(found) => {
                let Found { mut record, suspects, after } = *found;
                for (index, digest) in suspects {
                    take_out(&mut self.shared.at(now), &mut record, index);
                    self.refuse_update(index, record.update(digest), Refusal::Absurd);
                }
                let committing = Committing::begin(&mut self.shared.at(now), &mut self.run, record, after);
                self.enter(now, committing.into());
            }
        }
    }

    /// The merged model is durable: it is the fleet's model now, and the next round may open.
    pub fn handle_committed(&mut self, now: Duration) {
        let Phase::Committing(committing) = self.phase.end() else { return };
        committing.finish(&mut self.run);
        self.downloads.offer(&self.run.model);
        self.gather_and_announce(now);
    }

    /// Somebody wants a device out of the registry; one that still runs comes back as a new one. What it contributed stays.
    /// `false` if nobody of this name is known.
    pub fn handle_forget(&mut self, device: &DeviceId) -> bool {
        self.shared.devices.watchlist.welcome(device);
        let Some(index) = self.shared.devices.registry.find(device) else { return false };
        self.let_go(index);
        let Shared { devices, out, .. } = &mut self.shared;
        devices.registry.forget(index);
        out.durable(Durable::ForgetDevices(vec![device.clone()]));
        ask_for_hello(device.clone(), out);
        out.report(Event::Forgotten(device.clone()));
        true
    }

    /// Somebody looked after a quarantined device: its next hello is welcome. `false` if it is not quarantined.
    pub fn handle_release(&mut self, device: &DeviceId) -> bool {
        let Shared { devices, out, .. } = &mut self.shared;
        devices.release(device, out)
    }

    fn handle_hello(&mut self, now: Duration, device: &DeviceId, hello: &Hello) {
        let registry = &self.shared.devices.registry;
        let is_eligible = self.shared.config.select.matches(&hello.attributes);
        let known = registry.find(device);
        let former = known.and_then(|index| registry.incarnation(index)).unwrap_or(hello.incarnation);
        let was_here = former == hello.incarnation && known.is_some_and(|index| registry.is_present(index));
        let index = match self.take_in(now, device, hello, is_eligible) {
            Ok(index) => index,
            Err(reason) => {
                let Shared { devices, out, .. } = &mut self.shared;
                devices.turn_away(now, device, reason, out);
                return devices.refuse(device, Some(hello.incarnation), reason, out);
            }
        };
        self.downloads.forget(index);
        // What the device sees first is what there is to do, and not that there is nothing.
        if self.phase.is_resting() {
            self.run.wake(index);
            self.gather(now);
        }
        let Shared { devices, out, .. } = &mut self.shared;
        let welcome = Welcome { incarnation: hello.incarnation, run: self.run.id, is_eligible };
        out.tell(Tell::Device(device.clone(), ToDevice::Welcome(welcome)));
        if !was_here {
            out.report(Event::DeviceCame(device.clone()));
        }
        if devices.welcomed(now, index, former, hello.incarnation) {
            // Behind the welcome, which ends what a device was refused for before.
            devices.turn_away(now, device, Refusal::SameName, out);
            devices.refuse(device, None, Refusal::SameName, out);
        } else {
            devices.watchlist.welcome(device);
        }
        if self.phase.is_gathering() {
            self.gather(now);
        } else if let Some(collecting) = self.phase.collecting_mut().filter(|_| is_eligible) {
            collecting.welcome_back(index, device, hello.samples);
        }
    }

    fn take_in(
        &mut self,
        now: Duration,
        device: &DeviceId,
        hello: &Hello,
        is_eligible: bool,
    ) -> Result<DeviceIndex, Refusal> {
        let Shared { config, devices, .. } = &mut self.shared;
        devices.check(config, device, hello)?;
        let mut taken = devices.registry.greet(device, hello, is_eligible, now);
        if taken.is_none() && self.make_room() {
            taken = self.shared.devices.registry.greet(device, hello, is_eligible, now);
        }
        taken.ok_or(Refusal::TooManyDevices)
    }

    /// The registry is full: names that never delivered anything make room, for anybody can say hello under any name.
    fn make_room(&mut self) -> bool {
        let (collecting, uploads) = (self.phase.collecting(), &self.uploads);
        let is_busy = |index| collecting.is_some_and(|collecting| collecting.has(index)) || uploads.has(index);
        let strangers = self.shared.devices.registry.strangers(EVICTED_AT_ONCE, is_busy);
        if strangers.is_empty() {
            return false;
        }
        let ids: Vec<DeviceId> = strangers.iter().map(|index| self.shared.devices.id(index)).collect();
        strangers.iter().for_each(|index| self.let_go(index));
        let Shared { devices, out, .. } = &mut self.shared;
        devices.registry.evict(&strangers);
        out.report(Event::RoomMade(ids.len()));
        out.durable(Durable::ForgetDevices(ids));
        true
    }

    /// Nothing but the registry means this device any more.
    fn let_go(&mut self, index: DeviceIndex) {
        self.downloads.forget(index);
        self.uploads.forget(index);
        self.shared.devices.watchlist.forget(index);
        // Its statistics stay in the sum; should it come back, the ledger knows what to put others in the place of.
        self.run.contributions.forget(index);
        if let Some(collecting) = self.phase.collecting_mut() {
            collecting.forget(index);
        }
    }

    fn handle_goodbye(&mut self, now: Duration, index: DeviceIndex, goodbye: &Goodbye) {
        let Shared { devices, out, .. } = &mut self.shared;
        if devices.registry.leave(index, goodbye.incarnation) {
            if let Some(collecting) = self.phase.collecting_mut() {
                collecting.left(index, now);
            }
            out.report(Event::DeviceLeft(devices.id(index)));
            // The goodbye of a lost connection may come after the device's next hello.
            ask_for_hello(devices.id(index), out);
        }
    }

    /// A device needs blocks. A blob that is no longer the fleet's is not served: the device missed an announcement.
    fn handle_block_request(&mut self, now: Duration, index: DeviceIndex, request: &BlockRequest) {
        if !self.downloads.request(now, index, request) {
            self.announce_to(now, index);
        }
    }

    /// An update is ready at a device; its first block came along.
    fn handle_offer(&mut self, now: Duration, index: DeviceIndex, offer: &Offer, first: &[u8]) {
        let update = UpdateName { run: offer.run, round: offer.round, digest: offer.blob.digest };
        let ctx = &mut self.shared.at(now);
        if self.phase.has_stored(&self.run, index, offer) {
            // Perhaps its receipt was lost, perhaps somebody else says it again: the sum has it once.
            ctx.count(index, Refusal::Replayed);
            return ctx.send(index, update.receipt(None));
        }
        match self.phase.check_offer(&self.run, &ctx.devices.registry, index, offer) {
            Ok(()) => {
                let fetched = self.uploads.offer(ctx, index, offer, first);
                self.take_update(now, index, fetched);
            }
            Err(reason) => {
                self.refuse_update(index, update, reason);
                if matches!(reason, Refusal::WrongRun | Refusal::WrongRound | Refusal::Late | Refusal::Stale) {
                    self.announce_to(now, index);
                }
            }
        }
    }

    fn handle_block(&mut self, now: Duration, index: DeviceIndex, header: &BlockHeader, block: &[u8]) {
        let fetched = self.uploads.block(&mut self.shared.at(now), index, header, block);
        self.take_update(now, index, fetched);
    }

    /// Hands an update that is here to the open round; then others may come.
    fn take_update(&mut self, now: Duration, index: DeviceIndex, fetched: Option<Fetched>) {
        let Some(Fetched { digest, content }) = fetched else { return };
        if let Some(collecting) = self.phase.collecting_mut() {
            let (ctx, known) = (&mut self.shared.at(now), &self.run.contributions);
            let update = collecting.record().update(digest);
            let taken = content.and_then(|content| collecting.take(ctx, known, index, digest, content));
            if let Err(reason) = taken {
                self.refuse_update(index, update, reason);
            }
        }
        self.uploads.admit(&mut self.shared.at(now));
    }

    /// Refuses an update for good; a device that is not heard any more gets no blocks and gives none.
    fn refuse_update(&mut self, index: DeviceIndex, update: UpdateName, reason: Refusal) {
        let Shared { config, devices, out } = &mut self.shared;
        if devices.refuse_update(index, update, reason, &config.quarantine, out) {
            self.downloads.forget(index);
            self.uploads.forget(index);
        }
    }
}
