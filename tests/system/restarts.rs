//! A broker that is killed and started again, over and over, under a federation in the middle of its rounds.

use core::time::Duration;
use std::path::Path;
use std::time::Instant;

use grapevine_aggregator::round::{Event, RoundOutcome};
use grapevine_host::BrokerAddress;
use grapevine_models::{Method, Params, Shape};
use grapevine_protocol::Digest;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::federation::{Federation, Plan, Told, heads};
use crate::mosquitto::Mosquitto;
use crate::programs::{PATIENCE, now};

/// How the broker is treated.
#[derive(Clone, Copy, Debug)]
pub struct Restarts {
    /// How often it is killed.
    pub count: u32,
    /// Longest that it stays away.
    pub longest_away: Duration,
    /// How long a connection lasts at least between two kills.
    pub rest: Duration,
    /// Whether the run goes on to its end after the last restart, or is left when that has healed.
    pub to_the_end: bool,
    /// Decides the moments.
    pub seed: u64,
}

/// One of the kills.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Restart {
    /// The round that was open.
    pub round: u32,
    /// How long after its opening the broker was killed.
    pub after_ms: u64,
    /// How long the broker was away.
    pub away_ms: u64,
    /// From the moment it listened again until the open round and all of the next one were merged.
    pub healed_ms: u64,
}

/// RedGrape with updates of half a dozen blocks, so that there are moments in the middle of a transfer.
pub fn plan(devices: u16, rounds: u32) -> Plan {
    let shape = Shape::new(20, 256).expect("within limits");
    let params = Params { epochs: 1, ..Params::defaults(Method::RedGrape, shape.classes()) };
    Plan { shape, samples: 60, ..Plan::new(devices, params, rounds) }
}

/// The heads after every round of a run in which nothing happens.
pub fn quiet(folder: &Path, broker: &BrokerAddress, plan: &Plan) -> Vec<Digest> {
    let federation = Federation::start(folder, broker, plan);
    let outcomes = federation.outcomes();
    federation.stop();
    outcomes.iter().map(heads).collect()
}

/// Runs `plan` on a broker that is restarted; gives the restarts, each told as soon as it has healed, and the heads
/// after every round.
pub fn restarted(
    folder: &Path,
    mosquitto: &mut Mosquitto,
    plan: &Plan,
    restarts: Restarts,
    tell: &mut dyn FnMut(&Restart),
) -> (Vec<Restart>, Vec<Digest>) {
    let broker = BrokerAddress::new("127.0.0.1", mosquitto.port);
    let mut run = Run { federation: Federation::start(folder, &broker, plan), outcomes: Vec::new(), opened: None };
    let mut rng = ChaCha8Rng::seed_from_u64(restarts.seed);
    let mut healed = Vec::new();
    run.merge_of(0);
    let mut rested_at = now() + restarts.rest;
    for _ in 0..restarts.count {
        let opened_at = run.opening_after(rested_at);
        let round = run.opened.expect("a round was opened");
        let moment = opened_at + run.round_seconds().mul_f64(rng.random::<f64>());
        run.listen_until(moment);
        mosquitto.kill();
        let killed_at = now();
        run.listen_until(killed_at + restarts.longest_away.mul_f64(rng.random::<f64>()));
        mosquitto.restart();
        let back_at = now();
        run.listen_until(back_at);
        let open = run.opened.expect("a round was opened");
        run.merge_of(open + 1);
        let milliseconds = |duration: Duration| duration.as_millis() as u64;
        let restart = Restart {
            round,
            after_ms: milliseconds(killed_at - opened_at),
            away_ms: milliseconds(back_at - killed_at),
            healed_ms: milliseconds(now() - back_at),
        };
        tell(&restart);
        healed.push(restart);
        rested_at = now() + restarts.rest;
    }
    if restarts.to_the_end {
        run.merge_of(plan.rounds - 1);
    }
    run.federation.stop();
    (healed, run.outcomes.iter().map(|(_, outcome)| heads(outcome)).collect())
}

struct Run {
    federation: Federation,
    outcomes: Vec<(Instant, RoundOutcome)>,
    /// The newest round.
    opened: Option<u32>,
}

impl Run {
    /// Takes note of what is told until `moment`.
    fn listen_until(&mut self, moment: Instant) {
        while let Ok(told) = self.federation.told.recv_deadline(moment) {
            self.note(told);
        }
        // What came before that moment and was not waited for.
        while let Ok(told) = self.federation.told.try_recv() {
            self.note(told);
        }
    }

    /// Waits until this round is merged.
    fn merge_of(&mut self, round: u32) {
        let deadline = now() + PATIENCE;
        while self.outcomes.last().is_none_or(|(_, outcome)| outcome.round.0 < round) {
            self.hear(deadline);
        }
    }

    /// The first opening of a round after `moment`.
    fn opening_after(&mut self, moment: Instant) -> Instant {
        let deadline = now() + PATIENCE;
        let mut known = self.opened;
        loop {
            self.hear(deadline);
            if core::mem::replace(&mut known, self.opened) != self.opened && now() >= moment {
                return now();
            }
        }
    }

    /// The shortest time from one merge to the next: that of a round in which nothing happened.
    fn round_seconds(&self) -> Duration {
        let pairs = self.outcomes.windows(2);
        pairs.map(|pair| pair[1].0 - pair[0].0).min().unwrap_or(Duration::ZERO)
    }

    fn hear(&mut self, deadline: Instant) {
        let told = self.federation.told.recv_deadline(deadline).expect("the run goes on, and has rounds left");
        self.note(told);
    }

    fn note(&mut self, told: Told) {
        match told {
            Told::Event(Event::RoundOpened { round, .. }) => self.opened = Some(round.0),
            Told::Merged(outcome) => self.outcomes.push((now(), *outcome)),
            Told::Event(_) | Told::Device(..) => {}
        }
    }
}
