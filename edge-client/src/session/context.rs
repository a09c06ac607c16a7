//! What every part of a session may use: the time, the actions that go out, and the randomness of pauses.

use core::time::Duration;
use std::collections::VecDeque;

use grapevine_protocol::{Incarnation, ToAggregator};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Action, Event};

/// The way out of every part.
pub(super) struct Context {
    now: Duration,
    actions: VecDeque<Action>,
    rng: ChaCha8Rng,
}

impl Context {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(incarnation.0);
        Self { now: Duration::ZERO, actions: VecDeque::new(), rng }
    }

    /// The same, at another time.
    pub(super) fn at(&mut self, now: Duration) -> &mut Self {
        self.now = now;
        self
    }

    pub(super) fn now(&self) -> Duration {
        self.now
    }

    /// When a pause that begins now is over: after half of it to the whole, so that a fleet does not come back in one
    /// instant.
    pub(super) fn after(&mut self, pause: Duration) -> Duration {
        self.now + pause.mul_f64(0.5 + 0.5 * self.rng.random::<f64>())
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    pub(super) fn send(&mut self, message: ToAggregator) {
        self.send_block(message, Vec::new());
    }

    pub(super) fn send_block(&mut self, message: ToAggregator, block: Vec<u8>) {
        self.act(Action::Send(message, block));
    }

    pub(super) fn report(&mut self, event: Event) {
        self.act(Action::Report(event));
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
}
