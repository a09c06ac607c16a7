//! What a fault-free run with the same participants would have made: every merged round once more, from the devices'
//! samples and the models before it, in another order and without a network.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use grapevine_aggregator::round::RoundConfig;
use grapevine_aggregator::store::RoundPhase;
use grapevine_edge_client::session::Job;
use grapevine_edge_client::store::Dataset;
use grapevine_edge_client::work::work;
use grapevine_models::{
    Conditions, FleetModel, Head, Heads, Request, Response, RoundSum, Samples, ServerState, Statistics,
};
use grapevine_protocol::{
    DeviceId, Digest, HeadsBody, RoundAnnouncement, ServerStateBody, SideInformationBody, StatisticsBody, ToDevice,
    Update, decode_to_device,
};

use super::device::Device;
use super::ledger::Round;

/// The quiet run, as far as rounds were merged.
pub(super) struct Reference {
    config: RoundConfig,
    devices: BTreeMap<DeviceId, [Rc<Dataset>; 2]>,
    /// What each device told of its samples last.
    told: BTreeMap<DeviceId, Statistics>,
    /// The next round of the ledger to look at.
    next: usize,
    /// Rounds of training since the run started anew.
    trained: u32,
    model: FleetModel,
}

impl Reference {
    pub(super) fn new(config: RoundConfig, devices: impl Iterator<Item = (DeviceId, [Rc<Dataset>; 2])>) -> Self {
        let devices = devices.collect();
        Self { config, devices, told: BTreeMap::new(), next: 0, trained: 0, model: FleetModel::default() }
    }

    /// Follows the ledger; says what differs. The devices tell what the method had kept on them.
    pub(super) fn follow(&mut self, rounds: &[Round], devices: &[Device]) -> Result<(), String> {
        while let Some(round) = rounds.get(self.next).filter(|round| round.row.phase != RoundPhase::Collecting) {
            if round.row.phase == RoundPhase::Merged {
                self.merge(round, devices).map_err(|what| format!("round {}: {what}", round.row.round))?;
            }
            self.next += 1;
        }
        Ok(())
    }

    fn merge(&mut self, round: &Round, devices: &[Device]) -> Result<(), String> {
        let Ok((ToDevice::RoundAnnouncement(announcement), _)) = decode_to_device(&round.row.announcement) else {
            return Err("its announcement in the ledger cannot be read".into());
        };
        let request = announcement.task.request().ok_or("it was merged and asked for nothing")?;
        let sum = self.sum(&announcement, request, round, devices)?;
        let own = self.config.auxiliary.clone();
        let own = own.as_deref().map(|set| Samples::new(self.config.shape, &set.features, &set.labels)).transpose();
        let conditions = Conditions {
            params: &self.config.params,
            seed: self.config.seed,
            rounds: self.config.rounds.unwrap_or(self.config.rest_after),
            trained: self.trained,
            auxiliary: own.map_err(|error| error.to_string())?,
        };
        let mut merged = sum.merge(self.model.clone(), &conditions);
        // Devices get the side information as it is written, and so do later rounds.
        merged.side_information =
            merged.side_information.map(|side_information| self.written(SideInformationBody(side_information)));
        self.trained = if merged.starts_anew { 0 } else { self.trained + u32::from(request.is_training()) };
        self.model.update(merged);
        let row = &round.row.model;
        let statistics = self.model.statistics.clone().map(|statistics| StatisticsBody(statistics).encode());
        let expected = [self.heads(), self.side_information(), self.server_state(), self.inference_head(), statistics];
        for ((name, stored), expected) in [
            ("heads", row.heads),
            ("side information", row.side_information),
            ("server state", row.server_state),
            ("inference head", row.inference_head),
            ("statistics", row.statistics),
        ]
        .into_iter()
        .zip(expected)
        {
            // Of the past, only heads are kept once there are newer ones.
            let is_forgotten = stored.is_none() && ["side information", "server state", "statistics"].contains(&name);
            if stored != expected.map(|bytes| Digest::of(&bytes)) && !is_forgotten {
                return Err(format!("its {name} differ from those of a quiet run with the same devices"));
            }
        }
        Ok(())
    }

    /// The participants' answers, last name first.
    fn sum(
        &mut self,
        announcement: &RoundAnnouncement,
        request: Request,
        round: &Round,
        devices: &[Device],
    ) -> Result<RoundSum, String> {
        let shape = self.config.shape;
        let job = Job {
            announcement: announcement.clone(),
            heads: announcement.heads.and(self.model.heads.clone()).map(Arc::new),
            side_information: announcement.side_information.and(self.side_information()).map(Into::into),
        };
        let mut sum = RoundSum::new(shape, request, &self.config.params, &self.model);
        for (name, stored) in round.updates.iter().rev() {
            let datasets = self.devices.get(name).ok_or("an unknown device is in it")?;
            // With whichever samples it had then.
            let device = devices.iter().find(|device| device.id == *name);
            let kept = device.and_then(|device| device.kept_before(stored.digest));
            let answers = datasets.iter().filter_map(|dataset| work(&job, name, dataset, kept, &mut || true).ok());
            let mut answers = answers.map(|worked| worked.update);
            let Some(content) = answers.find(|content| is_named(stored.digest, content)) else {
                return Err(format!("{name} answered something else than in a quiet run"));
            };
            let update = Update::decode(&content, shape, request);
            let update = update.map_err(|error| error.to_string())?;
            let former = self.told.get(name);
            sum.add_in_place_of(former, name.as_str(), &update.response, update.samples)
                .map_err(|error| error.to_string())?;
            if let Response::Statistics(statistics) = update.response {
                self.told.insert(name.clone(), statistics);
            }
        }
        Ok(sum)
    }

    fn written(&self, side_information: SideInformationBody) -> grapevine_protocol::SideInformation {
        let bytes = side_information.encode(self.config.encoding);
        SideInformationBody::decode(&bytes, self.config.shape).expect("what was written can be read").0
    }

    fn heads(&self) -> Option<Vec<u8>> {
        self.model.heads.clone().map(|heads| HeadsBody(heads).encode(self.config.shape))
    }

    fn side_information(&self) -> Option<Vec<u8>> {
        self.model
            .side_information
            .clone()
            .map(|side_information| SideInformationBody(side_information).encode(self.config.encoding))
    }

    fn server_state(&self) -> Option<Vec<u8>> {
        let server_state = &self.model.server_state;
        (*server_state != ServerState::default()).then(|| ServerStateBody(server_state.clone()).encode())
    }

    fn inference_head(&self) -> Option<Vec<u8>> {
        let shape = self.config.shape;
        let alone = |main| Heads { main, supplementary: Head::zeros(shape) };
        self.model.inference_head.clone().map(|main| HeadsBody(alone(main)).encode(shape))
    }
}

fn is_named(digest: Digest, content: &[u8]) -> bool {
    Digest::of(content) == digest
}
