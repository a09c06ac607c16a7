//! What a method makes of the hyper-parameters: its published values, what it reads, and what it refuses.

use alloc::borrow::ToOwned;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::str::FromStr;

use crate::hyper_parameters::{Applies, COMMON, HyperParameter};
use crate::method::Method;
use crate::params::{Init, MAX_METHOD_PARAMS, Params, ParamsError, ValidParams};
use crate::statistics::Sums;
use crate::train::TrainingConfig;

/// From so many classes on, samples of each are few: two make a device rich in a class.
const MANY_CLASSES: usize = 100;
const RICH_SAMPLES_OF_MANY: u16 = 2;

impl Params {
    /// The published values for a method and a number of classes (see DESIGN.md, "hyper-parameters").
    pub fn defaults(method: Method, classes: usize) -> Self {
        let mut params = Self {
            method,
            learning_rate: 0.0,
            momentum: 0.0,
            lambda: 0.0,
            rich_samples: 0,
            clip: 0.0,
            batch: 0,
            epochs: 0,
            min_samples_to_share: 0,
            init: Init::Zeros,
            init_scale: 0.0,
            averaged: false,
            tau: 0.0,
            method_params: [0.0; MAX_METHOD_PARAMS],
        };
        for parameter in COMMON.iter().chain(method.method_params()) {
            params.set(parameter, parameter.default);
        }
        if classes >= MANY_CLASSES {
            params.rich_samples = RICH_SAMPLES_OF_MANY;
        }
        method.adjust_defaults(&mut params, classes);
        params
    }

    /// Every hyper-parameter of this method: the common ones, then its own.
    pub fn all(&self) -> impl Iterator<Item = &'static HyperParameter> + use<> {
        COMMON.iter().chain(self.method.method_params())
    }

    /// Whether a hyper-parameter makes a difference to the method with these values.
    pub fn applies(&self, parameter: &HyperParameter) -> bool {
        let method = self.method;
        match parameter.applies {
            Applies::Always => true,
            Applies::Training => !method.is_one_shot(),
            Applies::LocalTraining => method.trains_on_devices(),
            Applies::BalancedStep => method.has_balanced_step(),
            Applies::Sharing => method.sends_prototypes() || method.needs() != Sums::Nothing,
            Applies::Initialised => !method.is_one_shot() && self.init.needs() != Sums::Nothing,
            Applies::OfMethod => self.index_of(parameter).is_some(),
        }
    }

    /// The value of a hyper-parameter; `None` for one that the method does not have.
    pub fn value(&self, parameter: &HyperParameter) -> Option<f64> {
        let of_method = || self.index_of(parameter).map(|index| self.method_params[index]);
        // Through text, so that 0.1 stays 0.1.
        parameter.read(self).or_else(of_method).and_then(|value| format!("{value}").parse().ok())
    }

    /// The same with one hyper-parameter set.
    ///
    /// # Errors
    /// If it may not be that, or the method does not have it.
    pub fn with(self, parameter: &HyperParameter, value: f64) -> Result<Self, ParamsError> {
        let refused = |allowed| ParamsError { name: parameter.name, value: value as f32, allowed };
        if !parameter.allows(value as f32) {
            return Err(refused(parameter.allowed()));
        }
        let mut params = self;
        if !params.set(parameter, value as f32) {
            return Err(refused("left out: the method has no such hyper-parameter".to_owned()));
        }
        Ok(params)
    }

    /// Refuses what could not be trained with.
    ///
    /// # Errors
    /// If a hyper-parameter is outside its range.
    pub fn check(self) -> Result<ValidParams, ParamsError> {
        let own = self.method.method_params();
        let of_method = own.iter().zip(self.method_params);
        let common = COMMON.iter().filter_map(|parameter| Some((parameter, parameter.read(&self)?)));
        for (parameter, value) in common.chain(of_method) {
            if !parameter.allows(value) {
                return Err(ParamsError { name: parameter.name, value, allowed: parameter.allowed() });
            }
        }
        match self.method_params[own.len()..].iter().find(|value| **value != 0.0) {
            Some(&value) => {
                let allowed = "0 behind the method's own hyper-parameters".to_owned();
                Err(ParamsError { name: "method_params", value, allowed })
            }
            None => Ok(ValidParams(self)),
        }
    }

    /// Sets a hyper-parameter without a check; `false` if the method does not have it.
    pub(crate) fn set(&mut self, parameter: &HyperParameter, value: f32) -> bool {
        let index = self.index_of(parameter);
        if let Some(index) = index {
            self.method_params[index] = value;
        }
        index.is_some() || parameter.write(self, value)
    }

    fn index_of(&self, parameter: &HyperParameter) -> Option<usize> {
        self.method.method_params().iter().position(|own| own == parameter)
    }
}

impl ValidParams {
    /// What devices must have told the aggregator before the first round of training: for the method, for the start of
    /// its main head, or for the prior of `tau`.
    pub fn needs(&self) -> Sums {
        let prior = if self.tau == 0.0 { Sums::Nothing } else { Sums::Counts };
        let start = if self.method.is_one_shot() { Sums::Nothing } else { self.init.needs() };
        self.method.needs().max(start).max(prior)
    }

    /// What local training needs of them.
    pub fn training(&self) -> TrainingConfig {
        TrainingConfig {
            learning_rate: self.learning_rate,
            momentum: self.momentum,
            lambda: self.lambda,
            rich_samples: self.rich_samples,
            clip: self.clip,
            batch: self.batch,
            epochs: self.epochs,
            supplementary: self.method.has_supplementary_head(),
            balanced: self.method.has_balanced_step(),
        }
    }
}

impl TryFrom<Params> for ValidParams {
    type Error = ParamsError;

    fn try_from(params: Params) -> Result<Self, ParamsError> {
        params.check()
    }
}

impl HyperParameter {
    /// The common ones, then every method's own, each name once.
    pub fn all() -> Vec<&'static Self> {
        let own = Method::ALL.into_iter().flat_map(Method::method_params);
        let own: BTreeMap<&str, &'static Self> = own.map(|parameter| (parameter.name, parameter)).collect();
        COMMON.iter().chain(own.into_values()).collect()
    }
}

/// A name that no hyper-parameter has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a hyper-parameter; they are {names}", names = names())]
pub struct UnknownHyperParameter(pub String);

impl FromStr for &'static HyperParameter {
    type Err = UnknownHyperParameter;

    fn from_str(name: &str) -> Result<Self, UnknownHyperParameter> {
        let found = HyperParameter::all().into_iter().find(|parameter| parameter.name == name);
        found.ok_or_else(|| UnknownHyperParameter(name.to_owned()))
    }
}

fn names() -> String {
    let names: Vec<&str> = HyperParameter::all().into_iter().map(|parameter| parameter.name).collect();
    let (last, others) = names.split_last().expect("there are hyper-parameters");
    format!("{} and {last}", others.join(", "))
}
