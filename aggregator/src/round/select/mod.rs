//! Which devices take part: a small language over their labels.
//!
//! ```text
//! any        = all { "or" all }
//! all        = one { "and" one }
//! one        = "not" one | "(" any ")" | name [ comparison ]
//! comparison = ( "=" | "!=" ) ( text | number | flag ) | ( "<" | "<=" | ">" | ">=" ) number
//! ```
//!
//! A name alone holds where that label is `true`. A comparison with a label that a device does not have, or that is of
//! another kind, does not hold; `!=` is the opposite of `=`.

mod parse;
#[cfg(test)]
mod tests;

use core::cmp::Ordering;
use core::fmt;
use core::str::FromStr;

use grapevine_protocol::{LabelValue, Labels};

pub use parse::{SelectError, SelectFault};

/// Longest expression, in bytes.
pub const MAX_SELECT_BYTES: usize = 1_024;
/// How deep brackets and `not` may nest.
pub const MAX_SELECT_DEPTH: usize = 32;

/// An expression over labels; the default holds for every device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    text: String,
    /// None for an expression that was never given.
    rule: Option<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    /// The label is `true`.
    Is(String),
    Compare(String, Comparison, LabelValue),
    Not(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Select {
    /// Whether a device with these labels takes part.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.rule.as_ref().is_none_or(|rule| rule.holds(labels))
    }
}

impl FromStr for Select {
    type Err = SelectError;

    fn from_str(text: &str) -> Result<Self, SelectError> {
        Ok(Self { text: text.to_owned(), rule: Some(parse::parse(text)?) })
    }
}

/// As it was written.
impl fmt::Display for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl Rule {
    fn holds(&self, labels: &Labels) -> bool {
        match self {
            Self::Is(name) => labels.find(name) == Some(&LabelValue::Flag(true)),
            Self::Compare(name, comparison, value) => comparison.holds(labels.find(name), value),
            Self::Not(rule) => !rule.holds(labels),
            Self::All(rules) => rules.iter().all(|rule| rule.holds(labels)),
            Self::Any(rules) => rules.iter().any(|rule| rule.holds(labels)),
        }
    }
}

impl Comparison {
    fn holds(self, label: Option<&LabelValue>, value: &LabelValue) -> bool {
        let order = match (label, value) {
            (Some(LabelValue::Number(label)), LabelValue::Number(value)) => Some(label.cmp(value)),
            (Some(_) | None, LabelValue::Number(_) | LabelValue::Flag(_) | LabelValue::Text(_)) => None,
        };
        match self {
            Self::Equal => label == Some(value),
            Self::Unequal => label != Some(value),
            Self::Less => order.is_some_and(Ordering::is_lt),
            Self::AtMost => order.is_some_and(Ordering::is_le),
            Self::More => order.is_some_and(Ordering::is_gt),
            Self::AtLeast => order.is_some_and(Ordering::is_ge),
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::Unequal => "!=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::More => ">",
            Self::AtLeast => ">=",
        }
    }
}
