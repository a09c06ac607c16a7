//! Carries out what the machine decides, in order: nothing is told before what it rests on is durable.
//!
//! The same executor runs in the server and in the simulation of a fleet. What differs is the [`Ledger`] and the
//! [`Publisher`].

use core::time::Duration;
use std::collections::BTreeMap;

use grapevine_host::clock::unix_ms;
use grapevine_protocol::{Refusal, RoundId, RunId};

use super::ledger;
use crate::round::{AcceptedUpdate, Action, Coordinator, Durable, Event, RoundOutcome, Tell};
use crate::store::{Ledger, StoreError};

/// The world around the machine, without its disk.
pub trait Publisher<L: ?Sized> {
    /// The time on the machine's clock.
    fn now(&self) -> Duration;

    /// Tells somebody. What it rests on is in the ledger.
    fn tell(&mut self, machine: &Coordinator, ledger: &L, tell: Tell);

    /// A merged round is durable.
    fn committed(&mut self, outcome: &RoundOutcome);

    /// Makes a call into the machine. A simulation measures it.
    fn call<T>(&mut self, call: impl FnOnce() -> T) -> T {
        call()
    }
}

/// Carries out actions. See the module's documentation.
#[derive(Debug)]
pub struct Executor {
    kept_heads: u32,
    /// Updates to be stored together.
    updates: Vec<AcceptedUpdate>,
    /// What the disk had no room for.
    waiting: Option<Work>,
    /// Refusals that are not in the ledger yet.
    refusals: BTreeMap<Refusal, u64>,
}

/// One thing to do. It is done again as a whole if the disk had no room for it.
#[derive(Debug)]
enum Work {
    Action(Box<Durable>),
    Updates(Vec<AcceptedUpdate>),
    Registry,
}

impl Executor {
    /// An executor that keeps the heads of so many merged rounds.
    pub fn new(kept_heads: u32) -> Self {
        Self { kept_heads, updates: Vec::new(), waiting: None, refusals: BTreeMap::new() }
    }

    /// Does what waits for room on the disk, if anything does.
    ///
    /// # Errors
    /// As [`Executor::run`].
    pub fn retry<L: Ledger + ?Sized>(
        &mut self,
        machine: &mut Coordinator,
        ledger: &mut L,
        publisher: &mut impl Publisher<L>,
    ) -> Result<(), StoreError> {
        match self.waiting.take() {
            Some(work) => self.attempt(work, machine, ledger, publisher),
            None => Ok(()),
        }
    }

    /// Does all that the machine wants.
    ///
    /// # Errors
    /// If the ledger cannot be read or written. If the disk is full ([`StoreError::is_full`]), nothing is lost: the next
    /// call of this or of [`Executor::retry`] goes on with the same action.
    pub fn run<L: Ledger + ?Sized>(
        &mut self,
        machine: &mut Coordinator,
        ledger: &mut L,
        publisher: &mut impl Publisher<L>,
    ) -> Result<(), StoreError> {
        self.retry(machine, ledger, publisher)?;
        loop {
            match publisher.call(|| machine.poll_action()) {
                // Updates that come together are stored together, after everything else.
                Some(Action::Durable(Durable::StoreUpdate(update))) => self.updates.push(update),
                Some(Action::Durable(action)) => {
                    self.attempt(Work::Action(Box::new(action)), machine, ledger, publisher)?
                }
                Some(Action::Tell(tell)) => {
                    if let Tell::People(Event::Refused { reason, .. }) = &tell {
                        *self.refusals.entry(*reason).or_default() += 1;
                    }
                    publisher.tell(machine, ledger, tell);
                }
                None if self.updates.is_empty() => return Ok(()),
                None => {
                    let updates = core::mem::take(&mut self.updates);
                    self.attempt(Work::Updates(updates), machine, ledger, publisher)?;
                }
            }
        }
    }

    /// Writes what is new about devices and refusals: after a merge, for people who look, and at the end, not per message.
    ///
    /// # Errors
    /// As [`Executor::run`], which goes on with it if the disk was full.
    pub fn write_registry<L: Ledger + ?Sized>(
        &mut self,
        machine: &mut Coordinator,
        ledger: &mut L,
        publisher: &mut impl Publisher<L>,
    ) -> Result<(), StoreError> {
        self.attempt(Work::Registry, machine, ledger, publisher)
    }

    /// Does it, or keeps it for the next call if the disk is full.
    fn attempt<L: Ledger + ?Sized>(
        &mut self,
        work: Work,
        machine: &mut Coordinator,
        ledger: &mut L,
        publisher: &mut impl Publisher<L>,
    ) -> Result<(), StoreError> {
        let done = match &work {
            Work::Action(action) => self.do_action(action, machine, ledger, publisher),
            Work::Updates(updates) => store_updates(updates, machine, ledger, publisher),
            Work::Registry => self.registry_to(machine, ledger, publisher),
        };
        if done.as_ref().is_err_and(StoreError::is_full) {
            self.waiting = Some(work);
        } else {
            publisher.call(|| drop(work));
        }
        done
    }

    fn do_action<L: Ledger + ?Sized>(
        &mut self,
        action: &Durable,
        machine: &mut Coordinator,
        ledger: &mut L,
        publisher: &mut impl Publisher<L>,
    ) -> Result<(), StoreError> {
        match action {
            Durable::KeepDevice(device) => ledger::keep_device(ledger, machine, device, publisher.now()),
            Durable::ForgetDevices(devices) => ledger.forget_devices(devices),
            Durable::OpenRound { announcement, expected, chosen } => {
                ledger::open_round(ledger, announcement, *expected, *chosen)
            }
            Durable::StoreUpdate(update) => store_updates(core::slice::from_ref(update), machine, ledger, publisher),
            Durable::RereadUpdates(run, round) => reread(*run, *round, machine, ledger, publisher),
            Durable::DropUpdate(run, round, device) => ledger.drop_update(*run, *round, device),
            Durable::Commit(outcome) => {
                ledger::commit(ledger, outcome)?;
                publisher.committed(outcome);
                let now = publisher.now();
                publisher.call(|| machine.handle_committed(now));
                self.clean_up(outcome, machine, ledger, publisher)
            }
            Durable::ExtendRound(run, round) => ledger.extend_round(*run, *round),
            Durable::AbandonRound(run, round) => ledger.abandon_round(*run, *round, unix_ms()),
            Durable::FinishRun(run) => ledger.finish_run(*run),
        }
    }

    /// Lets go of what nothing needs after a merge. If the disk is full, that is done after the next one.
    fn clean_up<L: Ledger + ?Sized>(
        &mut self,
        outcome: &RoundOutcome,
        machine: &mut Coordinator,
        ledger: &mut L,
        publisher: &mut impl Publisher<L>,
    ) -> Result<(), StoreError> {
        let forgotten = ledger::forget(ledger, outcome, self.kept_heads);
        match forgotten.and_then(|()| self.registry_to(machine, ledger, publisher)) {
            Err(error) if error.is_full() => Ok(()),
            other => other,
        }
    }

    fn registry_to<L: Ledger + ?Sized>(
        &mut self,
        machine: &mut Coordinator,
        ledger: &mut L,
        publisher: &mut impl Publisher<L>,
    ) -> Result<(), StoreError> {
        ledger::remember_devices(ledger, machine, publisher.now())?;
        ledger::remember_refusals(ledger, &self.refusals)?;
        self.refusals.clear();
        Ok(())
    }
}

/// Makes updates durable, all of them or none; only then are they in the sum, and their devices get receipts.
fn store_updates<L: Ledger + ?Sized>(
    updates: &[AcceptedUpdate],
    machine: &mut Coordinator,
    ledger: &mut L,
    publisher: &mut impl Publisher<L>,
) -> Result<(), StoreError> {
    ledger::store_updates(ledger, updates)?;
    for update in updates {
        let former = ledger::former_statistics(ledger, machine, &update.device)?;
        let now = publisher.now();
        publisher.call(|| machine.handle_stored(now, &update.device, update.round, former.as_deref()));
    }
    Ok(())
}

/// Hands the machine the updates of its round once more.
fn reread<L: Ledger + ?Sized>(
    run: RunId,
    round: RoundId,
    machine: &mut Coordinator,
    ledger: &mut L,
    publisher: &mut impl Publisher<L>,
) -> Result<(), StoreError> {
    ledger::each_update(ledger, run, round, |device, digest| {
        let former = ledger::former_statistics(ledger, machine, &device)?;
        let content = ledger.blob(&digest)?;
        publisher.call(|| machine.handle_reread(&device, &content, former.as_deref()));
        Ok(())
    })?;
    let now = publisher.now();
    publisher.call(|| machine.handle_all_reread(now));
    Ok(())
}
