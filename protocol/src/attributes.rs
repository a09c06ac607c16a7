//! Attributes: what a device says about itself, so that a fleet can choose among its devices.

use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_ATTRIBUTE_NAME, MAX_ATTRIBUTE_TEXT, MAX_ATTRIBUTES};

/// The attributes every device sets by itself: processor architecture, operating system, processor cores, memory in MiB.
pub const BUILT_IN: [&str; 4] = ["arch", "os", "cores", "memory_mb"];

/// What an attribute says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AttributeValue {
    /// Yes or no.
    Flag(bool),
    /// A whole number.
    Number(i64),
    /// A text without control characters, so that it may stand in a terminal.
    Text(heapless::String<MAX_ATTRIBUTE_TEXT>),
}

/// One name and what it says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Attribute {
    name: heapless::String<MAX_ATTRIBUTE_NAME>,
    value: AttributeValue,
}

/// A device's attributes, at most [`MAX_ATTRIBUTES`], sorted by name, no name twice. Takes no more memory than they need: an
/// aggregator keeps those of every device.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "RawLabels", into = "RawLabels")]
pub struct Attributes(Vec<Attribute>);

/// As on the wire, before any check.
#[derive(Serialize, Deserialize)]
struct RawLabels(heapless::Vec<Attribute, MAX_ATTRIBUTES>);

/// Why something is no attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// A name that is none.
    #[error(
        "an attribute's name is 1 to {MAX_ATTRIBUTE_NAME} of a-z, 0-9 and `_`, a letter first, and none of `and`, `or`, `not`"
    )]
    Name,
    /// A text that is too long or not for people.
    #[error("an attribute's text has at most {MAX_ATTRIBUTE_TEXT} bytes and no control characters")]
    Text,
    /// A name a second time, or names out of order on the wire.
    #[error("every attribute is given once")]
    Twice,
    /// One attribute more than there is room for.
    #[error("a device has at most {MAX_ATTRIBUTES} attributes, {} of them set by itself", BUILT_IN.len())]
    TooMany,
}

impl Attributes {
    /// Adds an attribute.
    ///
    /// # Errors
    /// If the name or the text is not allowed, the name is there already, or there is no room for another attribute.
    pub fn insert(&mut self, name: &str, value: AttributeValue) -> Result<(), AttributeError> {
        check(name, &value)?;
        let Err(at) = self.0.binary_search_by(|attribute| attribute.name.as_str().cmp(name)) else {
            return Err(AttributeError::Twice);
        };
        if self.0.len() == MAX_ATTRIBUTES {
            return Err(AttributeError::TooMany);
        }
        let name = heapless::String::try_from(name).map_err(|_| AttributeError::Name)?;
        self.0.insert(at, Attribute { name, value });
        Ok(())
    }

    /// What an attribute says, if the device has it.
    pub fn find(&self, name: &str) -> Option<&AttributeValue> {
        let at = self.0.binary_search_by(|attribute| attribute.name.as_str().cmp(name)).ok()?;
        self.0.get(at).map(|attribute| &attribute.value)
    }

    /// Every attribute, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &AttributeValue)> {
        self.0.iter().map(|attribute| (attribute.name.as_str(), &attribute.value))
    }
}

impl AttributeValue {
    /// A text, if it may be one.
    ///
    /// # Errors
    /// If the text is too long or holds control characters.
    pub fn text(text: &str) -> Result<Self, AttributeError> {
        let value = heapless::String::try_from(text).map(Self::Text).map_err(|_| AttributeError::Text)?;
        check_value(&value).map(|()| value)
    }
}

impl TryFrom<RawLabels> for Attributes {
    type Error = AttributeError;

    fn try_from(RawLabels(attributes): RawLabels) -> Result<Self, AttributeError> {
        attributes.iter().try_for_each(|attribute| check(&attribute.name, &attribute.value))?;
        if !attributes.is_sorted_by(|one, next| one.name < next.name) {
            return Err(AttributeError::Twice);
        }
        Ok(Self(attributes.to_vec()))
    }
}

impl From<Attributes> for RawLabels {
    fn from(attributes: Attributes) -> Self {
        Self(attributes.0.into_iter().collect())
    }
}

impl fmt::Display for AttributeValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => flag.fmt(f),
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

fn check(name: &str, value: &AttributeValue) -> Result<(), AttributeError> {
    if !is_attribute_name(name) {
        return Err(AttributeError::Name);
    }
    check_value(value)
}

fn check_value(value: &AttributeValue) -> Result<(), AttributeError> {
    match value {
        AttributeValue::Text(text) if text.chars().any(char::is_control) => Err(AttributeError::Text),
        AttributeValue::Text(_) | AttributeValue::Flag(_) | AttributeValue::Number(_) => Ok(()),
    }
}

/// Whether a word can name an attribute. The words of an expression over attributes cannot.
pub fn is_attribute_name(word: &str) -> bool {
    let is_reserved = ["and", "or", "not", "true", "false"].contains(&word);
    let is_word = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let starts_well = word.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    starts_well && is_word && !is_reserved && word.len() <= MAX_ATTRIBUTE_NAME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_given_once() {
        let mut attributes = Attributes::default();
        for (name, value) in [("site", AttributeValue::text("north").unwrap()), ("mains", AttributeValue::Flag(true))] {
            attributes.insert(name, value).unwrap();
        }
        assert_eq!(attributes.iter().map(|(name, _)| name).collect::<heapless::Vec<_, 4>>(), ["mains", "site"]);
        assert_eq!(attributes.find("mains"), Some(&AttributeValue::Flag(true)));
        assert_eq!(attributes.find("main"), None);
        assert_eq!(attributes.insert("site", AttributeValue::Flag(true)), Err(AttributeError::Twice));
        for name in ["", "Site", "9a", "_a", "a-b", "and", "not", "true", "a123456789012345678901"] {
            assert_eq!(attributes.insert(name, AttributeValue::Flag(true)), Err(AttributeError::Name), "{name}");
        }
        assert_eq!(AttributeValue::text("red \u{1b}[31m"), Err(AttributeError::Text));
        assert_eq!(AttributeValue::text(&"é".repeat(20)), Err(AttributeError::Text));
        for letter in ('b'..='z').take(MAX_ATTRIBUTES - 2) {
            attributes.insert(letter.encode_utf8(&mut [0; 4]), AttributeValue::Number(1)).unwrap();
        }
        assert_eq!(attributes.insert("z", AttributeValue::Number(1)), Err(AttributeError::TooMany));
    }

    #[test]
    fn the_wire_may_not_bring_what_a_device_may_not_say() {
        let read = |attributes: &[(&str, AttributeValue)]| {
            let attribute = |(name, value): &(&str, AttributeValue)| Attribute {
                name: heapless::String::try_from(*name).unwrap(),
                value: value.clone(),
            };
            Attributes::try_from(RawLabels(attributes.iter().map(attribute).collect()))
        };
        let (one, text) = (AttributeValue::Number(1), AttributeValue::Text(heapless::String::try_from("\n").unwrap()));
        assert!(read(&[("a", one.clone()), ("b", one.clone())]).is_ok());
        assert_eq!(read(&[("b", one.clone()), ("a", one.clone())]), Err(AttributeError::Twice));
        assert_eq!(read(&[("a", one.clone()), ("a", one.clone())]), Err(AttributeError::Twice));
        assert_eq!(read(&[("A", one)]), Err(AttributeError::Name));
        assert_eq!(read(&[("a", text)]), Err(AttributeError::Text));
    }
}
