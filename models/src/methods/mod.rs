//! The methods: one file for each, and the list below. A file says in data and a few pure functions everything in which
//! its method differs from plain federated averaging; nothing outside this folder asks which method it is.
//!
//! To add one: write its file, put it into the list at the end (the order is on the wire), and it is known to the
//! aggregator, the devices, the demo, the bench and the reports.

mod climb;
mod creff;
mod fed_focal;
mod fedavg;
mod fedprox;
mod lda;
mod logit_adjusted;
mod ncm;
mod post_hoc;
mod ratio_loss;
mod redgrape;
mod redgrape_live;
mod redgrape_no_prototypes;
mod redgrape_no_supplementary;
mod redgrape_plus;
mod ridge;
mod ridge_plain;
#[cfg(test)]
mod tests;

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::aid::{Aid, AidView};
use crate::evaluate::Groups;
use crate::fleet::{Conditions, FleetModel, Memory, Merged};
use crate::head::Heads;
use crate::local::Local;
use crate::merge::{DeviceWeights, HeadSum, PrototypeSum};
use crate::params::{Params, Sums, ValidParams};
use crate::prior::log_prior;
use crate::shape::Shape;
use crate::statistics::Statistics;

/// Most settings that a method may have of its own.
pub const MAX_SETTINGS: usize = 6;

/// A hyper-parameter that only one method has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Its name in configurations and on command lines.
    pub name: &'static str,
    /// What it does, for people: one line.
    pub meaning: &'static str,
    /// Its value unless something else is said.
    pub default: f32,
    /// The least it may be.
    pub least: f32,
    /// The most it may be.
    pub most: f32,
    /// Whether it must be a whole number.
    pub whole: bool,
    /// The same in words, to end the sentence "it must be".
    pub allowed: &'static str,
}

/// In what a method differs. [`Definition::PLAIN`] is federated averaging of one head.
struct Definition {
    /// What it does, for people: one sentence without its end.
    summary: &'static str,
    /// Where it is from.
    source: &'static str,
    /// Its own settings.
    settings: &'static [Setting],
    /// Its published values where they are not the common ones; the second argument is the number of classes.
    defaults: fn(&mut Params, usize),
    /// What devices must have told the aggregator before the first round of training.
    needs: Sums,
    /// Whether there are rounds of training at all.
    trains: bool,
    /// What devices answer in a round of training.
    answer: Answer,
    /// Whether rounds of training are of every device until one has made an aid.
    begins_with_everybody: bool,
    /// Whether a supplementary head is trained beside the main one.
    supplementary: bool,
    /// Whether the main head takes a balanced step after every local one.
    balanced: bool,
    /// Samples of each class that the aggregator must hold itself.
    auxiliary: Option<u16>,
    /// What `tau` adds to the bias of the head in use.
    dial: Dial,
    /// What a device minimises. `None` before there is an aid; the last argument says whether the fleet has heads.
    local: for<'a> fn(&ValidParams, Option<AidView<'a>>, bool) -> Local<'a>,
    /// What the fleet's sums make of its model.
    prepare: fn(&Statistics, &ValidParams) -> Prepared,
    /// How much each device weighs in the next merge, beside its samples.
    weights: fn(&Memory) -> DeviceWeights,
    /// What the answers of a round make of the fleet's model.
    conclude: fn(Closed<'_>) -> Merged,
    /// Whether a memory is one that this method wrote.
    fits_memory: fn(&Memory, Shape) -> bool,
}

/// What devices answer in a round of training.
#[derive(Clone, Copy)]
struct Answer {
    /// The trained heads.
    heads: bool,
    /// The gradient of all samples in their place.
    gradient: bool,
    /// Gradient prototypes at the received main head.
    prototypes: bool,
    /// The mean loss at the received main head.
    loss: bool,
}

/// What `tau` adds to the bias of the head in use, times `tau`.
#[derive(Clone, Copy)]
enum Dial {
    /// The logarithm of the class prior (Menon et al., ICLR 2021, equation 9, with the sign turned).
    Prior,
    /// One for the head classes, see [`Groups`]. Where the head weighs all classes alike, it then weighs the head classes
    /// `exp(tau)` times as much: the Bayes rule for a mean over all classes and one over the head classes, so nothing
    /// gains more head accuracy for as much balanced accuracy (Elkan, "The foundations of cost-sensitive learning", IJCAI
    /// 2001).
    Head,
}

/// What a method makes of the fleet's sums before the first round of training.
#[derive(Default)]
pub(crate) struct Prepared {
    /// The heads to start from, unless `Params::start` says otherwise for the main one.
    pub(crate) heads: Option<Heads>,
    /// What devices get beside the heads.
    pub(crate) aid: Option<Aid>,
    /// What the aggregator remembers, see [`Memory::numbers`].
    pub(crate) numbers: Vec<f32>,
}

/// The answers of a closed round of training.
struct Closed<'a> {
    /// The weighted mean of the trained heads.
    heads: Option<Heads>,
    /// Samples of the devices that answered.
    samples: u64,
    /// The round's gradient prototypes.
    prototypes: PrototypeSum,
    /// The round's losses by device.
    losses: BTreeMap<String, f32>,
    /// The model that the devices had.
    known: FleetModel,
    /// Where the run is.
    conditions: &'a Conditions<'a>,
}

impl Definition {
    const PLAIN: Self = Self {
        summary: "",
        source: "",
        settings: &[],
        defaults: |_, _| {},
        needs: Sums::Nothing,
        trains: true,
        answer: Answer { heads: true, gradient: false, prototypes: false, loss: false },
        begins_with_everybody: false,
        supplementary: false,
        balanced: false,
        auxiliary: None,
        dial: Dial::Prior,
        local: |_, _, _| Local::PLAIN,
        prepare: |_, _| Prepared::default(),
        weights: |_| DeviceWeights::default(),
        conclude: |closed| closed.plain(),
        fits_memory: |_, _| true,
    };
    /// One exchange of sums and nothing else.
    const ONE_SHOT: Self = Self { trains: false, ..Self::PLAIN };
}

impl Closed<'_> {
    /// The mean is the new model.
    fn plain(self) -> Merged {
        Merged { heads: self.heads, memory: self.known.memory, ..Merged::default() }
    }
}

impl Method {
    /// What it does, for people: one sentence without its end.
    pub fn summary(self) -> &'static str {
        self.definition().summary
    }

    /// The paper it is from.
    pub fn source(self) -> &'static str {
        self.definition().source
    }

    /// Hyper-parameters that only this method has, at most [`MAX_SETTINGS`].
    pub fn settings(self) -> &'static [Setting] {
        self.definition().settings
    }

    /// Whether the whole method is one exchange of pure sums, without local training.
    pub fn is_one_shot(self) -> bool {
        !self.definition().trains
    }

    /// Whether a supplementary head is trained beside the main one.
    pub fn has_supplementary_head(self) -> bool {
        self.definition().supplementary
    }

    /// Whether devices send the heads that they trained, or something in their place.
    pub fn sends_heads(self) -> bool {
        self.definition().answer.heads
    }

    /// Whether what devices send in place of heads is the gradient, in the main head, of the mean cross-entropy of both heads'
    /// sum on all their samples, less that at [`Aid::Anchor`] where they have one.
    pub fn sends_gradient(self) -> bool {
        self.definition().answer.gradient
    }

    /// Whether the next round of training is of every device that can take part, however many are asked in others. `has_aid`:
    /// there is something that devices get beside the heads.
    pub fn asks_everybody(self, has_aid: bool) -> bool {
        self.definition().begins_with_everybody && !has_aid
    }

    /// Whether devices send gradient prototypes every round.
    pub fn sends_prototypes(self) -> bool {
        self.definition().answer.prototypes
    }

    /// Whether devices say how large their loss is at the received main head.
    pub fn sends_loss(self) -> bool {
        self.definition().answer.loss
    }

    /// Whether devices get anew every round what the method adds to the heads.
    pub fn renews_aid(self) -> bool {
        self.sends_prototypes() || self.auxiliary().is_some()
    }

    /// Samples of each class that the aggregator must hold itself, if the method needs any.
    pub fn auxiliary(self) -> Option<u16> {
        self.definition().auxiliary
    }

    /// Whether the main head takes a balanced step after every local one.
    pub fn has_balanced_step(self) -> bool {
        self.definition().balanced
    }

    /// Whether the second moment of all features is part of what the fleet gathers or of what devices get.
    pub fn needs_second_moment(self) -> bool {
        self.definition().needs == Sums::SecondMoment
    }

    /// What is added to the bias `[C]` of the head in use, times `tau`, for class shares `prior [C]`: above 0 `tau` is for the
    /// frequent classes, below 0 for the rare ones.
    pub fn dial(self, prior: &[f32]) -> Vec<f32> {
        match self.definition().dial {
            Dial::Prior => log_prior(prior),
            Dial::Head => {
                let mut order: Vec<usize> = (0..prior.len()).collect();
                order.sort_by(|a, b| prior[*b].total_cmp(&prior[*a]));
                let mut direction = vec![0.0; prior.len()];
                order[Groups::of(prior.len()).head].iter().for_each(|class| direction[*class] = 1.0);
                direction
            }
        }
    }

    /// The same for people, after "tau times".
    pub fn dial_in_words(self) -> &'static str {
        match self.definition().dial {
            Dial::Prior => "the log class share",
            Dial::Head => "one for the most frequent 30 % of the classes",
        }
    }

    /// Whether a memory that was stored is one that this method wrote for a fleet of this shape.
    pub fn fits_memory(self, memory: &Memory, shape: Shape) -> bool {
        (self.definition().fits_memory)(memory, shape)
    }

    /// What becomes of data that come after the first round, for people: one sentence.
    pub fn on_late_data(self) -> &'static str {
        let definition = self.definition();
        match (definition.trains, definition.needs) {
            (false, _) => "the statistics of new and changed devices are taken in at once, and the head is that of all",
            (true, Sums::SecondMoment) => {
                "the statistics of new and changed devices are taken in, and training starts anew from those of all"
            }
            (true, Sums::Counts | Sums::Means) => {
                "the statistics of new and changed devices are taken in, and training goes on with those of all"
            }
            (true, Sums::Nothing) => "new and changed devices take part in the rounds that follow",
        }
    }

    pub(crate) fn needs(self) -> Sums {
        self.definition().needs
    }

    pub(crate) fn adjust_defaults(self, params: &mut Params, classes: usize) {
        (self.definition().defaults)(params, classes);
    }

    pub(crate) fn local<'a>(self, params: &ValidParams, aid: Option<AidView<'a>>, has_heads: bool) -> Local<'a> {
        (self.definition().local)(params, aid, has_heads)
    }

    pub(crate) fn weights(self, memory: &Memory) -> DeviceWeights {
        (self.definition().weights)(memory)
    }

    /// What the fleet's sums make of its heads, its aid and the aggregator's memory.
    pub(crate) fn prepare(self, statistics: &Statistics, params: &ValidParams) -> Prepared {
        (self.definition().prepare)(statistics, params)
    }

    /// What a round's answers make of the fleet's model.
    pub(crate) fn conclude(
        self,
        heads: &HeadSum,
        prototypes: PrototypeSum,
        losses: BTreeMap<String, f32>,
        known: FleetModel,
        conditions: &Conditions<'_>,
    ) -> Merged {
        let (heads, samples) = (heads.mean(), heads.samples());
        (self.definition().conclude)(Closed { heads, samples, prototypes, losses, known, conditions })
    }
}

/// A method name nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a method; the methods are {names}", names = names())]
pub struct UnknownMethod(pub String);

fn names() -> String {
    let names: Vec<&str> = Method::ALL.into_iter().map(Method::name).collect();
    let (last, others) = names.split_last().expect("there are methods");
    alloc::format!("{} and {last}", others.join(", "))
}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        Self::ALL.into_iter().find(|method| method.name() == name).ok_or_else(|| UnknownMethod(name.to_owned()))
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

macro_rules! methods {
    ($($(#[$documentation:meta])* $method:ident = $name:literal in $module:ident,)*) => {
        /// How the fleet learns its head.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Method {
            $($(#[$documentation])* #[serde(rename = $name)] $method,)*
        }

        impl Method {
            /// Every method, in the order tables show them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$method),*];

            /// The name used on command lines, in configuration files and in reports.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$method => $name,)*
                }
            }

            fn definition(self) -> &'static Definition {
                match self {
                    $(Self::$method => &$module::DEFINITION,)*
                }
            }
        }
    };
}

methods! {
    /// One head, plain cross-entropy (McMahan et al., AISTATS 2017).
    FedAvg = "fedavg" in fedavg,
    /// FedAvg whose devices are held back to the received head (Li et al., MLSys 2020).
    FedProx = "fedprox" in fedprox,
    /// FedAvg with the focal loss (Sarkar et al., 2020).
    FedFocal = "fed-focal" in fed_focal,
    /// FedAvg with class weights that the aggregator reads off the head's gradients (Wang et al., AAAI 2021).
    RatioLoss = "ratio-loss" in ratio_loss,
    /// FedAvg where devices with a large loss weigh more (Shen et al., ICLR 2022).
    Climb = "climb" in climb,
    /// The aggregator makes up features that fit the fleet's gradients and trains on them (Shang et al., IJCAI 2022).
    Creff = "creff" in creff,
    /// One head, logits shifted by the fleet's log class prior (Menon et al., ICLR 2021, equation 10).
    LogitAdjusted = "logit-adjusted" in logit_adjusted,
    /// FedAvg whose head is shifted by the log class prior when it is used (Menon et al., ICLR 2021, equation 9).
    PostHoc = "post-hoc" in post_hoc,
    /// Two heads and gradient prototypes (Yang et al., TMLR 2024).
    RedGrape = "redgrape" in redgrape,
    /// RedGrape balancing on local rich classes only.
    RedGrapeNoPrototypes = "redgrape-no-prototypes" in redgrape_no_prototypes,
    /// RedGrape with one head doing both jobs.
    RedGrapeNoSupplementary = "redgrape-no-supplementary" in redgrape_no_supplementary,
    /// RedGrape with the fleet's class means instead of gradients: never stale, `C` times fewer bytes.
    RedGrapeLive = "redgrape-live" in redgrape_live,
    /// RedGrape that starts from the fleet's sums and balances with virtual samples drawn from them.
    RedGrapePlus = "redgrape-plus" in redgrape_plus,
    /// One-shot nearest class mean from pure sums.
    Ncm = "ncm" in ncm,
    /// One-shot class-weighted ridge regression from pure sums.
    Ridge = "ridge" in ridge,
    /// One-shot ridge regression from pure sums, every sample weighing the same.
    RidgePlain = "ridge-plain" in ridge_plain,
    /// One-shot linear discriminant analysis from pure sums, uniform prior.
    Lda = "lda" in lda,
}
