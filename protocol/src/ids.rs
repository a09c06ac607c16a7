//! Names and numbers that identify fleets, devices, runs, rounds and contents.

use core::fmt;
use core::str::FromStr;

use alloc::string::String;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::limits::{MAX_DEVICE_ID, MAX_FLEET_ID};

/// The aggregator's own name in topics and in its MQTT client id. No device may have it.
pub const AGGREGATOR: &str = "aggregator";

/// A name that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Too long, empty, or of other characters.
    #[error("`{name}` is not a name: use 1 to {longest} of a-z, 0-9, `-` and `_`, and begin with a letter or a digit")]
    Form {
        /// What was given, shortened.
        name: String,
        /// Characters allowed.
        longest: usize,
    },
    /// A dot separates levels of a topic on some brokers (RabbitMQ, NATS).
    #[error("`{name}` is not a name: brokers give dots a meaning of their own; write `{instead}`")]
    Dots {
        /// What was given.
        name: String,
        /// The same without dots.
        instead: String,
    },
    /// The aggregator has that name.
    #[error("no device may be named `{AGGREGATOR}`: the aggregator itself has that name at the broker; choose another")]
    Reserved,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $longest:expr $(, reserved $reserved:expr)?) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(heapless::String<{ $longest }>);

        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(name: &str) -> Result<Self, IdError> {
                check_name(name, $longest)?;
                $(
                    if name == $reserved {
                        return Err(IdError::Reserved);
                    }
                )?
                let too_long = |_| form_error(name, $longest);
                heapless::String::try_from(name).map(Self).map_err(too_long)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(name: String) -> Result<Self, IdError> {
                name.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name_type!(
    /// A fleet: one aggregator and its devices on one broker.
    FleetId,
    MAX_FLEET_ID
);
name_type!(
    /// A device, unique in its fleet.
    DeviceId,
    MAX_DEVICE_ID,
    reserved AGGREGATOR
);

/// Refuses what is no name on every broker, file system and command line: dots are levels of a topic on some brokers,
/// upper-case letters are not told from lower-case ones by some file systems, and a leading `-` looks like an option.
fn check_name(name: &str, longest: usize) -> Result<(), IdError> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_inner = |byte: u8| is_plain(byte) || matches!(byte, b'-' | b'_');
    let is_name = |name: &str| name.bytes().next().is_some_and(is_plain) && name.bytes().all(is_inner);
    if name.len() <= longest && is_name(name) {
        return Ok(());
    }
    let instead = name.replace('.', "-");
    if name.len() <= longest && name.contains('.') && is_name(&instead) {
        return Err(IdError::Dots { name: name.into(), instead });
    }
    Err(form_error(name, longest))
}

fn form_error(name: &str, longest: usize) -> IdError {
    IdError::Form { name: name.chars().take(longest).flat_map(char::escape_debug).collect(), longest }
}

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_type!(
    /// One run of one method on one fleet, drawn at random when it starts.
    RunId,
    u64
);
number_type!(
    /// A round of a run, from 0.
    RoundId,
    u32
);
number_type!(
    /// One start of a device's program, drawn at random.
    Incarnation,
    u64
);

number_type!(
    /// Which samples a device holds, see [`DatasetId::of`].
    DatasetId,
    u64
);

impl DatasetId {
    /// The start of a SHA-256 over the samples, each by its label and the digest of its content, in a fixed order. Equal for
    /// equal samples, whatever happened in between, and 0 for none.
    pub fn of(samples: impl IntoIterator<Item = (u16, [u8; 32])>) -> Self {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Self::default();
        }
        let mut hasher = Sha256::new();
        for (label, digest) in samples {
            hasher.update(label.to_le_bytes());
            hasher.update(digest);
        }
        let digest: [u8; 32] = hasher.finalize().into();
        Self(u64::from_le_bytes(digest[..8].try_into().expect("eight bytes")).max(1))
    }
}

/// SHA-256 of some content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let bytes = hex.as_bytes();
        if bytes.len() != 64 || !hex.is_ascii() {
            return None;
        }
        let mut digest = [0_u8; 32];
        for (byte, pair) in digest.iter_mut().zip(bytes.chunks_exact(2)) {
            *byte = u8::from_str_radix(core::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(digest))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The identity of a fleet's class list: names in order, so that class 3 means the same everywhere.
pub fn class_list_digest<'a>(names: impl IntoIterator<Item = &'a str>) -> Digest {
    let mut hasher = Sha256::new();
    for name in names {
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
    }
    Digest(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn names_are_checked() {
        for good in ["camera-7_north", "7", "a-", &"x".repeat(64)] {
            assert_eq!(good.parse::<DeviceId>().unwrap().as_str(), good);
        }
        for bad in ["", "Camera", "a/b", "a+b", "a#", "é", "a b", "-rf", "--help", "_a", ".", "..", &"x".repeat(65)] {
            assert!(bad.parse::<DeviceId>().is_err(), "{bad:?}");
            assert!(bad.parse::<FleetId>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(33).parse::<FleetId>().is_err());
    }

    #[test]
    fn a_refused_name_says_which_one_would_do() {
        let refused = |name: &str| name.parse::<DeviceId>().unwrap_err().to_string();
        assert!(refused("cam.north.1").ends_with("write `cam-north-1`"), "{}", refused("cam.north.1"));
        assert!(refused("..").contains("begin with a letter or a digit"), "{}", refused(".."));
        assert!(refused("a\u{1b}[2J").contains("\\u{1b}"), "control characters are escaped");
        assert!(refused(AGGREGATOR).contains("choose another"));
        assert_eq!(AGGREGATOR.parse::<FleetId>().unwrap().as_str(), AGGREGATOR);
    }

    #[test]
    fn digests_read_what_they_write() {
        let digest = Digest::of(b"grapevine");
        assert_eq!(Digest::from_hex(&digest.to_string()), Some(digest));
        assert_eq!(Digest::from_hex("zz"), None);
        assert_eq!(Digest::from_hex(&"é".repeat(32)), None);
    }

    #[test]
    fn class_lists_differ_by_order_and_by_boundaries() {
        assert_ne!(class_list_digest(["ab", "c"]), class_list_digest(["a", "bc"]));
        assert_ne!(class_list_digest(["a", "b"]), class_list_digest(["b", "a"]));
    }
}
