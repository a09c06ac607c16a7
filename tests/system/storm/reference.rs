//! What a fault-free run with the same participants would have made: every merged round once more, from the devices'
//! samples and the models before it, in another order and without a network.

use std::collections::BTreeMap;
use std::rc::Rc;

use grapevine_aggregator::round::RoundConfig;
use grapevine_aggregator::store::{Digest, RoundPhase};
use grapevine_edge_client::session::Job;
use grapevine_edge_client::store::Dataset;
use grapevine_edge_client::work::work;
use grapevine_models::{Conditions, FleetModel, Head, Heads, Memory, RoundSum, Samples, Step};
use grapevine_protocol::{
    AidBody, DeviceId, Digest as Sha256, HeadsBody, MemoryBody, Notice, Task, ToDevice, Update, decode_to_device,
};

use super::ledger::Round;

/// The quiet run, as far as rounds were merged.
pub(super) struct Reference {
    config: RoundConfig,
    devices: BTreeMap<String, (DeviceId, Rc<Dataset>)>,
    /// The next round of the ledger to look at.
    next: usize,
    trained: u32,
    model: FleetModel,
}

impl Reference {
    pub(super) fn new(config: RoundConfig, devices: impl Iterator<Item = (DeviceId, Rc<Dataset>)>) -> Self {
        let devices = devices.map(|(id, dataset)| (id.to_string(), (id, dataset))).collect();
        Self { config, devices, next: 0, trained: 0, model: FleetModel::default() }
    }

    /// Follows the ledger; says what differs.
    pub(super) fn follow(&mut self, rounds: &[Round]) -> Result<(), String> {
        while let Some(round) = rounds.get(self.next).filter(|round| round.row.phase != RoundPhase::Collecting) {
            if round.row.phase == RoundPhase::Merged {
                self.merge(round).map_err(|what| format!("round {}: {what}", round.row.round))?;
            }
            self.next += 1;
        }
        Ok(())
    }

    fn merge(&mut self, round: &Round) -> Result<(), String> {
        let Ok((ToDevice::Notice(notice), _)) = decode_to_device(&round.row.notice) else {
            return Err("its notice in the ledger cannot be read".into());
        };
        let step = match notice.task {
            Task::Statistics { extent } => Step::Gather(extent),
            Task::Train => Step::Train,
            Task::Wait | Task::Finished => return Err("it was merged and asked for nothing".into()),
        };
        let sum = self.sum(&notice, step, round)?;
        let own = self.config.auxiliary.clone();
        let own = own.as_deref().map(|set| Samples::new(self.config.shape, &set.features, &set.labels)).transpose();
        let conditions = Conditions {
            params: &self.config.params,
            seed: self.config.seed,
            rounds: self.config.rounds,
            trained: self.trained,
            auxiliary: own.map_err(|error| error.to_string())?,
        };
        let mut merged = sum.merge(self.model.clone(), &conditions);
        // Devices get the aid as it is written, and so do later rounds.
        merged.aid = merged.aid.map(|aid| self.written(AidBody(aid)));
        self.model.update(merged);
        self.trained += u32::from(step == Step::Train);
        let row = &round.row;
        let expected = [self.heads(), self.aid(), self.memory(), self.in_use()];
        for ((name, stored), expected) in
            [("heads", row.heads), ("aid", row.aid), ("memory", row.memory), ("head in use", row.in_use)]
                .into_iter()
                .zip(expected)
        {
            // An aid and a memory of the past are forgotten once there are newer ones.
            let is_forgotten = stored.is_none() && (name == "aid" || name == "memory");
            if stored != expected.map(|bytes| Sha256::of(&bytes).0) && !is_forgotten {
                return Err(format!("its {name} differ from those of a quiet run with the same devices"));
            }
        }
        Ok(())
    }

    /// The participants' answers, last name first.
    fn sum(&self, notice: &Notice, step: Step, round: &Round) -> Result<RoundSum, String> {
        let shape = self.config.shape;
        let job = Job {
            notice: notice.clone(),
            heads: notice.heads.and(self.heads()).map(Into::into),
            aid: notice.aid.and(self.aid()).map(Into::into),
        };
        let mut sum = RoundSum::new(shape, step, &self.config.params, &self.model.memory);
        for (name, stored) in round.updates.iter().rev() {
            let (id, dataset) = self.devices.get(name).ok_or("an unknown device is in it")?;
            let content = work(&job, id, dataset, &mut || true).map_err(|error| error.to_string())?;
            if !is_named(stored.digest, &content) {
                return Err(format!("{name} answered something else than in a quiet run"));
            }
            let update = Update::decode(&content, shape, notice.task, notice.params.method);
            let update = update.map_err(|error| error.to_string())?;
            sum.add(name, &update.content, update.samples).map_err(|error| error.to_string())?;
        }
        Ok(sum)
    }

    fn written(&self, aid: AidBody) -> grapevine_protocol::Aid {
        let bytes = aid.encode(self.config.encoding);
        AidBody::decode(&bytes, self.config.shape).expect("what was written can be read").0
    }

    fn heads(&self) -> Option<Vec<u8>> {
        self.model.heads.clone().map(|heads| HeadsBody(heads).encode(self.config.shape))
    }

    fn aid(&self) -> Option<Vec<u8>> {
        self.model.aid.clone().map(|aid| AidBody(aid).encode(self.config.encoding))
    }

    fn memory(&self) -> Option<Vec<u8>> {
        let memory = &self.model.memory;
        (*memory != Memory::default()).then(|| MemoryBody(memory.clone()).encode())
    }

    fn in_use(&self) -> Option<Vec<u8>> {
        let shape = self.config.shape;
        let alone = |main| Heads { main, supplementary: Head::zeros(shape) };
        self.model.in_use.clone().map(|main| HeadsBody(alone(main)).encode(shape))
    }
}

fn is_named(digest: Digest, content: &[u8]) -> bool {
    Sha256::of(content).0 == digest
}
