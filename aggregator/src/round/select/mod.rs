//! Which devices take part: a small language over their attributes.
//!
//! ```text
//! any        = all { "or" all }
//! all        = one { "and" one }
//! one        = "not" one | "(" any ")" | name [ comparison ]
//! comparison = ( "=" | "!=" ) ( text | number | flag ) | ( "<" | "<=" | ">" | ">=" ) number
//! ```
//!
//! A name alone holds where that attribute is `true`. A comparison with an attribute that a device does not have, or
//! that is of another kind, does not hold; `!=` is the opposite of `=`.

mod parse;
#[cfg(test)]
mod tests;

use core::cmp::Ordering;
use core::fmt;
use core::str::FromStr;

use grapevine_protocol::{AttributeValue, Attributes};

pub use parse::{SelectError, SelectFault};

/// Longest expression, in bytes.
pub const MAX_SELECT_BYTES: usize = 1_024;
/// How deep brackets and `not` may nest.
pub const MAX_SELECT_DEPTH: usize = 32;

/// An expression over attributes; the default holds for every device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Select {
    text: String,
    /// None for an expression that was never given.
    rule: Option<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    /// The attribute is `true`.
    Is(String),
    Compare(String, Comparison, AttributeValue),
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
    /// Whether a device with these attributes takes part.
    pub fn matches(&self, attributes: &Attributes) -> bool {
        self.rule.as_ref().is_none_or(|rule| rule.holds(attributes))
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
    fn holds(&self, attributes: &Attributes) -> bool {
        match self {
            Self::Is(name) => attributes.find(name) == Some(&AttributeValue::Flag(true)),
            Self::Compare(name, comparison, value) => comparison.holds(attributes.find(name), value),
            Self::Not(rule) => !rule.holds(attributes),
            Self::All(rules) => rules.iter().all(|rule| rule.holds(attributes)),
            Self::Any(rules) => rules.iter().any(|rule| rule.holds(attributes)),
        }
    }
}

impl Comparison {
    fn holds(self, attribute: Option<&AttributeValue>, value: &AttributeValue) -> bool {
        let order = match (attribute, value) {
            (Some(AttributeValue::Number(attribute)), AttributeValue::Number(value)) => Some(attribute.cmp(value)),
            (Some(_) | None, AttributeValue::Number(_) | AttributeValue::Flag(_) | AttributeValue::Text(_)) => None,
        };
        match self {
            Self::Equal => attribute == Some(value),
            Self::Unequal => attribute != Some(value),
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
