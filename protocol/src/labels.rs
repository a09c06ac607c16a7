//! Labels: what a device says about itself, so that a fleet can choose among its devices.

use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_LABEL_NAME, MAX_LABEL_TEXT, MAX_LABELS};

/// The labels every device sets by itself: processor architecture, operating system, processor cores, memory in MiB.
pub const BUILT_IN: [&str; 4] = ["arch", "os", "cores", "memory_mb"];

/// What a label says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LabelValue {
    /// Yes or no.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// A text without control characters, so that it may stand in a terminal.
    Text(heapless::String<MAX_LABEL_TEXT>),
}

/// One name and what it says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Label {
    name: heapless::String<MAX_LABEL_NAME>,
    value: LabelValue,
}

/// A device's labels, at most [`MAX_LABELS`], sorted by name, no name twice. Takes no more memory than they need: an
/// aggregator keeps those of every device.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "RawLabels", into = "RawLabels")]
pub struct Labels(Vec<Label>);

/// As on the wire, before any check.
#[derive(Serialize, Deserialize)]
struct RawLabels(heapless::Vec<Label, MAX_LABELS>);

/// Why something is no label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A name that is none.
    #[error(
        "a label's name is 1 to {MAX_LABEL_NAME} of a-z, 0-9 and `_`, a letter first, and none of `and`, `or`, `not`"
    )]
    Name,
    /// A text that is too long or not for people.
    #[error("a label's text has at most {MAX_LABEL_TEXT} bytes and no control characters")]
    Text,
    /// A name a second time, or names out of order on the wire.
    #[error("every label is given once")]
    Twice,
    /// One label more than there is room for.
    #[error("a device has at most {MAX_LABELS} labels, {} of them set by itself", BUILT_IN.len())]
    TooMany,
}

impl Labels {
    /// Adds a label.
    pub fn insert(&mut self, name: &str, value: LabelValue) -> Result<(), LabelError> {
        check(name, &value)?;
        let Err(at) = self.0.binary_search_by(|label| label.name.as_str().cmp(name)) else {
            return Err(LabelError::Twice);
        };
        if self.0.len() == MAX_LABELS {
            return Err(LabelError::TooMany);
        }
        let name = heapless::String::try_from(name).map_err(|_| LabelError::Name)?;
        self.0.insert(at, Label { name, value });
        Ok(())
    }

    /// What a label says, if the device has it.
    pub fn find(&self, name: &str) -> Option<&LabelValue> {
        let at = self.0.binary_search_by(|label| label.name.as_str().cmp(name)).ok()?;
        self.0.get(at).map(|label| &label.value)
    }

    /// Every label, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &LabelValue)> {
        self.0.iter().map(|label| (label.name.as_str(), &label.value))
    }
}

impl LabelValue {
    /// A text, if it may be one.
    pub fn text(text: &str) -> Result<Self, LabelError> {
        let value = heapless::String::try_from(text).map(Self::Text).map_err(|_| LabelError::Text)?;
        check_value(&value).map(|()| value)
    }
}

impl TryFrom<RawLabels> for Labels {
    type Error = LabelError;

    fn try_from(RawLabels(labels): RawLabels) -> Result<Self, LabelError> {
        labels.iter().try_for_each(|label| check(&label.name, &label.value))?;
        if !labels.is_sorted_by(|one, next| one.name < next.name) {
            return Err(LabelError::Twice);
        }
        Ok(Self(labels.to_vec()))
    }
}

impl From<Labels> for RawLabels {
    fn from(labels: Labels) -> Self {
        Self(labels.0.into_iter().collect())
    }
}

impl fmt::Display for LabelValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => flag.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

fn check(name: &str, value: &LabelValue) -> Result<(), LabelError> {
    if !is_label_name(name) {
        return Err(LabelError::Name);
    }
    check_value(value)
}

fn check_value(value: &LabelValue) -> Result<(), LabelError> {
    match value {
        LabelValue::Text(text) if text.chars().any(char::is_control) => Err(LabelError::Text),
        LabelValue::Text(_) | LabelValue::Flag(_) | LabelValue::Number(_) => Ok(()),
    }
}

/// Whether a word can name a label. The words of an expression over labels cannot.
pub fn is_label_name(word: &str) -> bool {
    let is_reserved = ["and", "or", "not", "true", "false"].contains(&word);
    let is_word = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let starts_well = word.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    starts_well && is_word && !is_reserved && word.len() <= MAX_LABEL_NAME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_given_once() {
        let mut labels = Labels::default();
        for (name, value) in [("site", LabelValue::text("north").unwrap()), ("mains", LabelValue::Flag(true))] {
            labels.insert(name, value).unwrap();
        }
        assert_eq!(labels.iter().map(|(name, _)| name).collect::<heapless::Vec<_, 4>>(), ["mains", "site"]);
        assert_eq!(labels.find("mains"), Some(&LabelValue::Flag(true)));
        assert_eq!(labels.find("main"), None);
        assert_eq!(labels.insert("site", LabelValue::Flag(true)), Err(LabelError::Twice));
        for name in ["", "Site", "9a", "_a", "a-b", "and", "not", "true", "a123456789012345678901"] {
            assert_eq!(labels.insert(name, LabelValue::Flag(true)), Err(LabelError::Name), "{name}");
        }
        assert_eq!(LabelValue::text("red \u{1b}[31m"), Err(LabelError::Text));
        assert_eq!(LabelValue::text(&"é".repeat(20)), Err(LabelError::Text));
        for letter in ('b'..='z').take(MAX_LABELS - 2) {
            labels.insert(letter.encode_utf8(&mut [0; 4]), LabelValue::Number(1)).unwrap();
        }
        assert_eq!(labels.insert("z", LabelValue::Number(1)), Err(LabelError::TooMany));
    }

    #[test]
    fn the_wire_may_not_bring_what_a_device_may_not_say() {
        let read = |labels: &[(&str, LabelValue)]| {
            let label = |(name, value): &(&str, LabelValue)| Label {
                name: heapless::String::try_from(*name).unwrap(),
                value: value.clone(),
            };
            Labels::try_from(RawLabels(labels.iter().map(label).collect()))
        };
        let (one, text) = (LabelValue::Number(1), LabelValue::Text(heapless::String::try_from("\n").unwrap()));
        assert!(read(&[("a", one.clone()), ("b", one.clone())]).is_ok());
        assert_eq!(read(&[("b", one.clone()), ("a", one.clone())]), Err(LabelError::Twice));
        assert_eq!(read(&[("a", one.clone()), ("a", one.clone())]), Err(LabelError::Twice));
        assert_eq!(read(&[("A", one)]), Err(LabelError::Name));
        assert_eq!(read(&[("a", text)]), Err(LabelError::Text));
    }
}
