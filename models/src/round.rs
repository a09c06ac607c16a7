//! One step of a run without a network: what a device answers, and what the answers make of the fleet's model.
//!
//! The daemons put messages around these functions, a simulation calls them as they are: both get the same heads, to
//! the bit.

use alloc::borrow::{Cow, ToOwned};
use alloc::collections::BTreeMap;
use alloc::string::String;

use rand_chacha::ChaCha8Rng;

use crate::aid::{Aid, AidView};
use crate::evaluate::cross_entropy;
use crate::fleet::{Conditions, FleetModel, Merged, after_sums, after_training};
use crate::head::{HeadError, Heads};
use crate::merge::{DeviceWeights, HeadSum, MergeError, PrototypeSum};
use crate::params::{Sums, ValidParams};
use crate::prototype::{OwnPrototypes, Prototypes};
use crate::sampling::Plan;
use crate::shape::Shape;
use crate::statistics::{Statistics, StatisticsError};
use crate::train::{LocalTraining, Samples, whole_gradient};

/// What a run asks of its devices next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Pure sums, of every device.
    Gather(Sums),
    /// Local training, of the devices chosen for the round.
    Train,
    /// Nothing: the heads are final.
    Done,
}

impl ValidParams {
    /// The next step of a run of `rounds` rounds of training. `has_sums`: the fleet's sums were gathered; `trained`:
    /// rounds of training that were merged.
    pub fn next_step(&self, has_sums: bool, trained: u32, rounds: u32) -> Step {
        let extent = self.needs();
        if extent != Sums::Nothing && !has_sums {
            return Step::Gather(extent);
        }
        if !self.method.is_one_shot() && trained < rounds { Step::Train } else { Step::Done }
    }
}

/// What a device answers.
#[derive(Clone, Debug, PartialEq)]
pub enum UpdateContent {
    /// The answer to a round of training, as far as the method asks for it.
    Trained {
        /// After local training; the gradient of all samples in their place where the method asks for that, see
        /// [`crate::Method::sends_gradient`].
        heads: Option<Heads>,
        /// At the received heads, for the classes the device may share.
        prototypes: Prototypes,
        /// The mean cross-entropy of the received main head on the device's samples.
        loss: Option<f32>,
    },
    /// Pure sums.
    Statistics(Statistics),
}

/// A device's answer to a round of training, its prototypes not made yet.
#[derive(Clone, Debug)]
pub struct Trained<'a> {
    /// See [`UpdateContent::Trained`].
    pub heads: Option<Heads>,
    /// At the received heads, for the classes the device may share.
    pub prototypes: Option<OwnPrototypes<'a>>,
    /// See [`UpdateContent::Trained`].
    pub loss: Option<f32>,
}

impl From<Trained<'_>> for UpdateContent {
    fn from(Trained { heads, prototypes, loss }: Trained<'_>) -> Self {
        let prototypes = prototypes.map_or_else(Prototypes::default, |own| own.to_prototypes());
        Self::Trained { heads, prototypes, loss }
    }
}

/// A device's round of training. `heads` are the fleet's, none before the first merge; `rng` is the device's
/// [`crate::stream`] of this round. Fails where training leaves the range of numbers.
pub fn train_round(
    samples: Samples<'_>,
    heads: Option<Heads>,
    aid: Option<&Aid>,
    params: ValidParams,
    rng: ChaCha8Rng,
) -> Result<UpdateContent, HeadError> {
    let trained = train_while(samples, heads, aid.map(Aid::view), params, rng, &mut || true)?;
    Ok(trained.expect("nobody ends it early").into())
}

/// [`train_round`] with an aid that may lie anywhere, and with prototypes that are made one by one where they are
/// needed. Asks `goes_on` before every mini-batch; `None` where that said no.
pub fn train_while<'a>(
    samples: Samples<'a>,
    heads: Option<Heads>,
    aid: Option<AidView<'_>>,
    params: ValidParams,
    rng: ChaCha8Rng,
    goes_on: &mut dyn FnMut() -> bool,
) -> Result<Option<Trained<'a>>, HeadError> {
    let (shape, method) = (samples.shape(), params.method);
    let has_heads = heads.is_some();
    let heads = heads.unwrap_or_else(|| Heads::zeros(shape));
    let prototypes = method
        .sends_prototypes()
        .then(|| OwnPrototypes::new(Cow::Owned(heads.main.clone()), samples, params.min_samples_to_share));
    let loss = method.sends_loss().then(|| cross_entropy(&heads.main, &samples));
    if !method.sends_heads() {
        return Ok(Some(Trained { heads: None, prototypes, loss }));
    }
    if method.sends_gradient() {
        let anchor = if let Some(AidView::Anchor(anchor)) = aid { Some(anchor) } else { None };
        let gradient = whole_gradient(samples, &heads, anchor, params.min_samples_to_share, goes_on);
        let Some(gradient) = gradient else { return Ok(None) };
        gradient.check(shape)?;
        return Ok(Some(Trained { heads: Some(gradient), prototypes, loss }));
    }
    let local = method.local(&params, aid, has_heads);
    let mut plan = Plan::draw(samples.labels(), shape.classes(), &params, rng);
    let mut training = LocalTraining::new(samples, heads, local, plan.balanced(), params);
    if !training.run_while(&mut plan, goes_on) {
        return Ok(None);
    }
    let heads = training.into_heads();
    heads.check(shape)?;
    Ok(Some(Trained { heads: Some(heads), prototypes, loss }))
}

/// The running sum of a step's answers. Its value does not depend on their order, and its size grows with the number of
/// devices only by a name and a number each, where the method asks for losses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundSum {
    sum: Sum,
    weights: DeviceWeights,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Sum {
    Trained {
        heads: HeadSum,
        prototypes: PrototypeSum,
        /// Bits of the losses, by device.
        losses: BTreeMap<String, u32>,
    },
    Statistics(Statistics),
}

/// Why an answer cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoundError {
    /// It answers another question.
    #[error("the update is not what the round asked for")]
    Content,
    /// Its heads cannot be weighted.
    #[error(transparent)]
    Heads(MergeError),
    /// Its prototypes are of too many devices.
    #[error(transparent)]
    Prototypes(MergeError),
    /// Its statistics do not fit.
    #[error(transparent)]
    Statistics(#[from] StatisticsError),
}

impl RoundSum {
    /// Nothing added yet to what the fleet knows when the round opens: statistics are added to those that devices told
    /// before.
    pub fn new(shape: Shape, step: Step, params: &ValidParams, known: &FleetModel) -> Self {
        let sum = match step {
            Step::Gather(extent) => {
                Sum::Statistics(known.statistics.clone().unwrap_or_else(|| Statistics::empty(shape, extent)))
            }
            Step::Train | Step::Done => Sum::Trained {
                heads: HeadSum::new(shape),
                prototypes: PrototypeSum::new(shape),
                losses: BTreeMap::new(),
            },
        };
        Self { sum, weights: params.method.weights(&known.memory) }
    }

    /// Adds the answer of a device that holds so many samples. One that cannot be added has no effect.
    ///
    /// # Errors
    /// If the answer is to another question, or does not fit the sum.
    pub fn add(&mut self, device: &str, content: &UpdateContent, samples: u32) -> Result<(), RoundError> {
        match (&mut self.sum, content) {
            (
                Sum::Trained { heads, prototypes, losses },
                UpdateContent::Trained { heads: trained, prototypes: gradients, loss },
            ) => {
                // No class has more devices than the heads have, so what follows the heads fails only with them.
                if let Some(trained) = trained {
                    heads.add(trained, samples, self.weights.of(device)).map_err(RoundError::Heads)?;
                }
                prototypes.add(gradients).map_err(RoundError::Prototypes)?;
                if let Some(loss) = loss {
                    losses.insert(device.to_owned(), loss.to_bits());
                }
                Ok(())
            }
            (Sum::Statistics(total), UpdateContent::Statistics(statistics)) => Ok(total.add(statistics)?),
            (Sum::Trained { .. }, UpdateContent::Statistics(_))
            | (Sum::Statistics(_), UpdateContent::Trained { .. }) => Err(RoundError::Content),
        }
    }

    /// As [`RoundSum::add`], in place of the statistics that the device told before, which are taken off exactly.
    ///
    /// # Errors
    /// As [`RoundSum::add`], and where what the device told before is not part of the sum; then nothing has changed.
    pub fn add_in_place_of(
        &mut self,
        former: Option<&Statistics>,
        device: &str,
        content: &UpdateContent,
        samples: u32,
    ) -> Result<(), RoundError> {
        let former = match (&mut self.sum, former) {
            (Sum::Statistics(total), Some(former)) => {
                total.subtract(former)?;
                Some(former)
            }
            (Sum::Statistics(_) | Sum::Trained { .. }, _) => None,
        };
        let added = self.add(device, content, samples);
        if let (Err(_), Some(former), Sum::Statistics(total)) = (&added, former, &mut self.sum) {
            total.add(former)?;
        }
        added
    }

    /// Closes the step. `known` is what the fleet has learned until now.
    pub fn merge(self, known: FleetModel, conditions: &Conditions<'_>) -> Merged {
        match self.sum {
            Sum::Trained { heads, prototypes, losses } => {
                let losses = losses.into_iter().map(|(device, bits)| (device, f32::from_bits(bits))).collect();
                after_training(&heads, prototypes, losses, known, conditions)
            }
            Sum::Statistics(statistics) => after_sums(statistics, known, conditions),
        }
    }
}
