//! What can be wrong with a configuration.

use std::path::PathBuf;

use grapevine_host::config;
use grapevine_models::limits::MAX_CLASSES;
use grapevine_models::{Method, ParamsError, Shape, ShapeError};
use grapevine_protocol::limits::MAX_BLOB_BYTES;

/// Most characters of a class name.
pub(super) const MAX_CLASS_NAME: usize = 100;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, or a variable over it.
    #[error(transparent)]
    File(#[from] config::ConfigError),
    /// The class list.
    #[error("{}: {fault}", path.display())]
    Classes {
        /// The configuration.
        path: PathBuf,
        /// The fault.
        fault: ClassListError,
    },
    /// No broker, or two.
    #[error("{}: give either `broker.url` or `broker.embedded = true`, not {given}", path.display())]
    Broker {
        /// The configuration.
        path: PathBuf,
        /// What it gives.
        given: &'static str,
    },
    /// A number or a duration out of its range.
    #[error("{}: `{key}` is {value}; it must be {allowed}", path.display())]
    Range {
        /// The configuration.
        path: PathBuf,
        /// Which setting.
        key: &'static str,
        /// What it is.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// A hyper-parameter out of its range.
    #[error("{}, [method]: {fault}", path.display())]
    Params {
        /// The configuration.
        path: PathBuf,
        /// The fault.
        fault: ParamsError,
    },
    /// The extractor and the class list make no head.
    #[error("{}: {fault}", path.display())]
    Shape {
        /// The configuration.
        path: PathBuf,
        /// The fault.
        fault: ShapeError,
    },
    /// The method's messages would exceed what the protocol carries.
    #[error(
        "{}: `{method}` with {} classes of {} features needs messages of up to {} MB, the protocol carries {} MB; {advice}",
        path.display(), shape.classes(), shape.features(), bytes.div_ceil(1 << 20), MAX_BLOB_BYTES >> 20
    )]
    TooLarge {
        /// The configuration.
        path: PathBuf,
        /// The method.
        method: Method,
        /// Classes and features.
        shape: Shape,
        /// The largest message.
        bytes: usize,
        /// What to do.
        advice: &'static str,
    },
}

/// Why names are not a class list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassListError {
    /// Too few or too many.
    #[error("`classes` lists {count} names; a fleet has 2 to {max} classes", max = MAX_CLASSES)]
    Count {
        /// How many there are.
        count: usize,
    },
    /// The same name twice.
    #[error("`classes` lists `{name}` twice; give every class a name of its own")]
    Twice {
        /// The name.
        name: String,
    },
    /// A name that cannot be a folder of images.
    #[error("`{name}` cannot be a class: devices keep images in folders of that name, so use 1 to {max} characters without `/` or `\\`, not beginning with a dot", max = MAX_CLASS_NAME)]
    Name {
        /// The name.
        name: String,
    },
}
