//! Why a trial did not come to its end, by whose fault it is.

use core::time::Duration;
use std::io;
use std::path::Path;

/// What stopped a trial. Each says in one sentence what happened and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// Ctrl-C or SIGTERM.
    #[error("stopped before the end")]
    Interrupted,
    /// A wait passed its limit.
    #[error("{what} did not happen within {} s; {advice}", .limit.as_secs())]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
        /// Where to look.
        advice: String,
    },
    /// This machine or the command line: a program or a file is missing.
    #[error("{0}")]
    Host(String),
    /// The board did not do what any working board does.
    #[error("{0}")]
    Board(String),
    /// All worked, and what was to be proven is not so.
    #[error("{0}")]
    Disproven(String),
}

impl Trouble {
    /// A file or folder of this machine that could not be used.
    pub(crate) fn file(path: &Path, doing: &str, error: &io::Error) -> Self {
        Self::Host(format!("cannot {doing} {}: {error}", path.display()))
    }
}
