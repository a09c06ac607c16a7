//! The table of hyper-parameters: the one place that says what each is called, what it means and what it may be.
//!
//! Checks, configuration files, command lines, searches and reports all read it. A method adds its own in its file, see
//! [`Method::method_params`](crate::Method::method_params).

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use crate::params::{Init, Params};

/// One hyper-parameter. Its values are numbers: a choice is the place in its list, and a flag is 0 or 1.
#[derive(Clone, Copy, Debug)]
pub struct HyperParameter {
    /// Its name in configurations, on command lines and in reports: `snake_case`.
    pub name: &'static str,
    /// What it does, for people: one line without its end.
    pub meaning: &'static str,
    /// Its unit, for people; empty for a pure number.
    pub unit: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// Its value, unless a method says otherwise.
    pub default: f32,
    /// For which methods it makes a difference.
    pub applies: Applies,
    field: Field,
}

/// What a hyper-parameter may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A number.
    Number(Range),
    /// A whole number.
    Count(Range),
    /// One of some words.
    Choice(&'static [&'static str]),
    /// Yes or no.
    Flag,
}

/// The numbers that a hyper-parameter may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// The least.
    pub least: f32,
    /// The most.
    pub most: f32,
    /// Whether it must be above the least.
    pub is_above: bool,
    /// Whether it must be below the most.
    pub is_below: bool,
}

/// For which methods a hyper-parameter makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// For all.
    Always,
    /// For those that train.
    Training,
    /// For those that train on devices.
    LocalTraining,
    /// For those with a balanced step.
    BalancedStep,
    /// For those whose devices share prototypes or statistics.
    Sharing,
    /// For those that train from a head that is not zero.
    Initialised,
    /// For the method that it belongs to.
    OfMethod,
}

/// Where the value is.
#[derive(Clone, Copy, Debug)]
enum Field {
    Common { read: fn(&Params) -> f32, write: fn(&mut Params, f32) },
    OfMethod,
}

impl Range {
    const fn closed(least: f32, most: f32) -> Self {
        Self { least, most, is_above: false, is_below: false }
    }

    const fn above(least: f32, most: f32) -> Self {
        Self { is_above: true, ..Self::closed(least, most) }
    }

    const fn below(least: f32, most: f32) -> Self {
        Self { is_below: true, ..Self::closed(least, most) }
    }

    fn contains(&self, value: f32) -> bool {
        // Comparisons are false for NaN, which must not pass.
        (self.least..=self.most).contains(&value)
            && !(self.is_above && value == self.least)
            && !(self.is_below && value == self.most)
    }
}

/// For what most methods share.
macro_rules! common {
    ($($(#[$documentation:meta])* $constant:ident = $field:ident: $type:ty, $kind:expr, $default:expr, $applies:ident, $unit:literal, $meaning:literal;)*) => {
        $(
            $(#[$documentation])*
            pub const $constant: HyperParameter = HyperParameter {
                name: stringify!($field),
                meaning: $meaning,
                unit: $unit,
                kind: $kind,
                default: $default,
                applies: Applies::$applies,
                field: Field::Common {
                    read: |params| f32::from(params.$field),
                    write: |params, value| params.$field = <$type as FromNumber>::from_number(value),
                },
            };
        )*

        /// The hyper-parameters that do not belong to one method, in the order tables show them.
        pub static COMMON: [HyperParameter; [$(stringify!($field)),*].len()] = [$($constant),*];
    };
}

common! {
    /// [`Params::learning_rate`].
    LEARNING_RATE = learning_rate: f32, Kind::Number(Range::above(0.0, 100.0)), 0.1, LocalTraining, "",
        "step size of local training";
    /// [`Params::momentum`].
    MOMENTUM = momentum: f32, Kind::Number(Range::below(0.0, 1.0)), 0.9, LocalTraining, "",
        "momentum of the local step";
    /// [`Params::lambda`].
    LAMBDA = lambda: f32, Kind::Number(Range::closed(0.0, 1_000.0)), 0.1, BalancedStep, "",
        "weight of the balanced step against the local one";
    /// [`Params::rich_samples`].
    RICH_SAMPLES = rich_samples: u16, Kind::Count(Range::closed(1.0, 10_000.0)), 8.0, BalancedStep, "samples",
        "samples a device must hold of a class to be rich in it";
    /// [`Params::clip`].
    CLIP = clip: f32, Kind::Number(Range::above(0.0, f32::MAX)), 1.0, LocalTraining, "",
        "L2 norm to which local gradients are clipped";
    /// [`Params::batch`].
    BATCH = batch: u16, Kind::Count(Range::closed(1.0, 4_096.0)), 64.0, LocalTraining, "samples",
        "samples in a mini-batch";
    /// [`Params::epochs`].
    EPOCHS = epochs: u16, Kind::Count(Range::closed(1.0, 1_000.0)), 5.0, LocalTraining, "",
        "passes over the local samples in a round";
    /// [`Params::min_samples_to_share`].
    MIN_SAMPLES_TO_SHARE = min_samples_to_share: u16, Kind::Count(Range::closed(1.0, 10_000.0)), 1.0, Sharing, "samples",
        "samples of a class below which its prototype and its sums stay on the device";
    /// [`Params::init`].
    INIT = init: Init, Kind::Choice(&Init::NAMES), 0.0, Training, "",
        "head to start from: zeros, or what sums of the devices' features give, times init_scale";
    /// [`Params::init_scale`].
    INIT_SCALE = init_scale: f32, Kind::Number(Range::above(0.0, 100.0)), 1.0, Initialised, "",
        "what the start is multiplied with";
    /// [`Params::averaged`].
    AVERAGED = averaged: bool, Kind::Flag, 0.0, Training, "",
        "whether the inference head is the mean of the heads of the last half of the rounds";
    /// [`Params::tau`].
    TAU = tau: f32, Kind::Number(Range::closed(-10.0, 10.0)), 0.0, Always, "",
        "logit offset of the inference head: above 0 for frequent classes, below 0 for rare ones";
}

impl HyperParameter {
    /// A number that belongs to one method.
    pub(crate) const fn number(
        name: &'static str,
        default: f32,
        (least, most): (f32, f32),
        meaning: &'static str,
    ) -> Self {
        let kind = Kind::Number(Range::closed(least, most));
        Self { name, meaning, unit: "", kind, default, applies: Applies::OfMethod, field: Field::OfMethod }
    }

    /// A whole number that belongs to one method.
    pub(crate) const fn count(
        name: &'static str,
        default: f32,
        (least, most): (f32, f32),
        meaning: &'static str,
    ) -> Self {
        let kind = Kind::Count(Range::closed(least, most));
        Self { kind, ..Self::number(name, default, (least, most), meaning) }
    }

    /// The same with another value for methods that say nothing else.
    pub(crate) const fn with_default(self, default: f32) -> Self {
        Self { default, ..self }
    }

    /// Whether it may be that.
    pub fn allows(&self, value: f32) -> bool {
        let is_whole = libm::truncf(value) == value;
        match &self.kind {
            Kind::Number(range) => range.contains(value),
            Kind::Count(range) => range.contains(value) && is_whole,
            Kind::Choice(names) => Range::below(0.0, names.len() as f32).contains(value) && is_whole,
            Kind::Flag => value == 0.0 || value == 1.0,
        }
    }

    /// What it may be, for people: ends a sentence that begins with "it must be".
    pub fn allowed(&self) -> String {
        match &self.kind {
            Kind::Number(range) => range.to_string(),
            Kind::Count(range) => format!("a whole number from {} to {}", range.least, range.most),
            Kind::Choice(names) => names.join(" or "),
            Kind::Flag => "true or false".into(),
        }
    }

    /// What it does, as the beginning of a sentence.
    pub fn sentence(&self) -> String {
        let mut letters = self.meaning.chars();
        letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
    }

    /// A value as a person wrote it; `None` if it is none of this kind. Its range is not checked.
    pub fn parse(&self, text: &str) -> Option<f64> {
        match &self.kind {
            Kind::Number(_) | Kind::Count(_) => text.parse().ok().filter(|value: &f64| value.is_finite()),
            Kind::Choice(names) => names.iter().position(|name| *name == text).map(|index| index as f64),
            Kind::Flag => text.parse().ok().map(|flag: bool| f64::from(u8::from(flag))),
        }
    }

    /// A value as a person writes it.
    pub fn show(&self, value: f64) -> String {
        match &self.kind {
            Kind::Number(_) | Kind::Count(_) => format!("{value}"),
            Kind::Choice(names) => names.get(value as usize).map_or_else(String::new, |name| (*name).into()),
            Kind::Flag => (value != 0.0).to_string(),
        }
    }

    /// The value of a hyper-parameter that is not a method's own.
    pub(crate) fn read(&self, params: &Params) -> Option<f32> {
        match self.field {
            Field::Common { read, .. } => Some(read(params)),
            Field::OfMethod => None,
        }
    }

    /// Sets a hyper-parameter that is not a method's own, to a value that it may be; `false` for others.
    pub(crate) fn write(&self, params: &mut Params, value: f32) -> bool {
        match self.field {
            Field::Common { write, .. } => {
                write(params, value);
                true
            }
            Field::OfMethod => false,
        }
    }
}

impl PartialEq for HyperParameter {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for HyperParameter {}

impl fmt::Display for HyperParameter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { least, most, is_above, is_below } = self;
        match (is_above, is_below) {
            (true, _) if *most == f32::MAX => write!(f, "above {least}"),
            (true, _) => write!(f, "above {least}, at most {most}"),
            (false, true) => write!(f, "at least {least}, below {most}"),
            (false, false) => write!(f, "{least} to {most}"),
        }
    }
}

/// How a field takes a number that it may be.
trait FromNumber {
    fn from_number(number: f32) -> Self;
}

impl FromNumber for f32 {
    fn from_number(number: f32) -> Self {
        number
    }
}

impl FromNumber for u16 {
    fn from_number(number: f32) -> Self {
        number as Self
    }
}

impl FromNumber for bool {
    fn from_number(number: f32) -> Self {
        number != 0.0
    }
}

impl FromNumber for Init {
    fn from_number(number: f32) -> Self {
        Self::ALL[(number as usize).min(Self::ALL.len() - 1)]
    }
}
