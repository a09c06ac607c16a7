//! What can be wrong with a configuration.

use std::path::PathBuf;

use grapevine_host::class_list::ClassListError;
use grapevine_host::config;
use grapevine_models::{Method, ParamsError, Shape, ShapeError};
use grapevine_protocol::Refusal;
use grapevine_protocol::limits::MAX_BLOB_BYTES;

use super::AuxiliaryError;
use crate::round::select::SelectError;

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
    /// An expression over attributes that is none.
    #[error("{}: `round.select`, {fault}", path.display())]
    Select {
        /// The configuration.
        path: PathBuf,
        /// The fault.
        fault: SelectError,
    },
    /// A refusal that nothing is refused with.
    #[error(
        "{}: `quarantine.reasons` names `{name}`, which is no reason for a refusal; the reasons are {}",
        path.display(), Refusal::ALL.map(Refusal::name).join(", ")
    )]
    Reason {
        /// The configuration.
        path: PathBuf,
        /// What it names.
        name: String,
    },
    /// A hyper-parameter out of its range.
    #[error("{}, [method]: {fault}", path.display())]
    Params {
        /// The configuration.
        path: PathBuf,
        /// The fault.
        fault: ParamsError,
    },
    /// A setting that the method does not have.
    #[error("{}, [method]: `{key}` is not a setting of `{method}`; it has {known}", path.display(), known = own(*method))]
    OtherMethod {
        /// The configuration.
        path: PathBuf,
        /// Which setting.
        key: &'static str,
        /// The method.
        method: Method,
    },
    /// A method that needs samples of the aggregator's own, and no file with them.
    #[error(
        "{}, [method]: `{method}` needs some {samples} samples of each class on the aggregator itself; name a file with \
         their features as `auxiliary`", path.display()
    )]
    NoAuxiliary {
        /// The configuration.
        path: PathBuf,
        /// The method.
        method: Method,
        /// How many the paper has of each class.
        samples: u16,
    },
    /// The aggregator's own samples.
    #[error("{}, [method]: `auxiliary`: {fault}", path.display())]
    Auxiliary {
        /// The configuration.
        path: PathBuf,
        /// The fault.
        fault: AuxiliaryError,
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

/// The method's own settings, in words.
fn own(method: Method) -> String {
    let names: Vec<&str> = method.method_params().iter().map(|setting| setting.name).collect();
    if names.is_empty() { "none of its own".to_owned() } else { format!("`{}`", names.join("`, `")) }
}
