//! How many rounds a run has.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// How a run without an end is written.
const ENDLESS: &str = "endless";

/// Rounds of training in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounds {
    /// As long as there is something new to learn; then the run rests until devices or images come.
    #[default]
    Endless,
    /// So many.
    Count(u32),
}

impl Rounds {
    /// How many, if they have an end.
    pub fn count(self) -> Option<u32> {
        match self {
            Self::Endless => None,
            Self::Count(count) => Some(count),
        }
    }
}

/// As on a command line, without quotes.
impl FromStr for Rounds {
    type Err = core::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            ENDLESS => Ok(Self::Endless),
            _ => text.parse().map(Self::Count),
        }
    }
}

/// As in a configuration.
impl fmt::Display for Rounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endless => write!(f, "\"{ENDLESS}\""),
            Self::Count(count) => count.fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Rounds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Rounds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a number of rounds, or \"{ENDLESS}\"")
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Rounds, E> {
                let count = u32::try_from(value);
                count.map(Rounds::Count).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Rounds, E> {
                let count = u32::try_from(value);
                count.map(Rounds::Count).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }

            // An environment variable is a text, whatever it says.
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Rounds, E> {
                text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
