//! What `--data` names, in `demo` and `bench` alike.

use core::str::FromStr;
use std::path::PathBuf;

use grapevine_simulator::data::synthetic::{SyntheticSpec, SyntheticSpecError};

/// How made-up features begin.
const MADE_UP: &str = "synthetic:";
/// Samples per device of made-up features.
const USUAL_SAMPLES: u32 = 200;

/// Files, or a shape of made-up features.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// Images or features of a person's own.
    Files(PathBuf),
    /// Random class clusters.
    MadeUp(SyntheticSpec),
}

impl FromStr for Data {
    type Err = SyntheticSpecError;

    fn from_str(text: &str) -> Result<Self, SyntheticSpecError> {
        Ok(if text.starts_with(MADE_UP) { Self::MadeUp(text.parse()?) } else { Self::Files(text.into()) })
    }
}

/// The samples per device of made-up features, or why `--samples` has no meaning.
pub(super) fn samples(asked: Option<u32>, data: Option<&Data>) -> Result<usize, String> {
    match (asked, data) {
        (Some(_), None | Some(Data::Files(_))) => {
            Err("--samples is for made-up features: give --data synthetic:<features>x<classes>, or leave it out".into())
        }
        (asked, _) => Ok(asked.unwrap_or(USUAL_SAMPLES) as usize),
    }
}

/// Refuses options that made-up features have no use for.
pub(super) fn check_made_up(useless: &[(&str, bool)]) -> Result<(), String> {
    let named: Vec<&str> = useless.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| *name).collect();
    if named.is_empty() {
        return Ok(());
    }
    Err(format!("made-up features need no extractor and no scaling; leave out {}", named.join(" and ")))
}
