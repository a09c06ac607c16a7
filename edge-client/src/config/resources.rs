//! `[resources]`: what training, extraction and predictions may take of the device.

use core::fmt::Display;
use core::num::NonZeroUsize;
use core::ops::RangeInclusive;
use core::time::Duration;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigError;
use crate::resources::{Limits, Resources};
use crate::store::SAMPLE_MEMORY_BYTES;

const THREADS: RangeInclusive<usize> = 1..=1_024;
const NICE: RangeInclusive<u8> = 0..=19;
/// No board reaches the upper end.
const CELSIUS: RangeInclusive<i16> = 30..=150;
const PERCENT: RangeInclusive<u8> = 0..=95;
const PERIOD_SECONDS: RangeInclusive<u64> = 1..=600;
const SAMPLE_MEGABYTES: RangeInclusive<u64> = 0..=1 << 20;

/// The section as written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourcesSection {
    /// Most threads that train, extract or predict at once; every core without it.
    pub threads: Option<usize>,
    /// How far working threads stand back for others.
    pub nice: u8,
    /// Work pauses while a thermal zone is hotter.
    pub pause_above_celsius: i16,
    /// Work pauses while a battery that nothing charges holds less.
    pub pause_below_battery_percent: u8,
    /// How often the sensors are read while there is work.
    #[serde(with = "humantime_serde")]
    pub check_every: Duration,
    /// Where the sensors are.
    pub sensors: PathBuf,
    /// Samples stay decoded in memory between rounds if they take at most so many megabytes.
    pub sample_megabytes: u64,
}

impl Default for ResourcesSection {
    fn default() -> Self {
        Self {
            threads: None,
            nice: 10,
            pause_above_celsius: 80,
            pause_below_battery_percent: 20,
            check_every: Duration::from_secs(5),
            sensors: "/sys/class".into(),
            sample_megabytes: SAMPLE_MEMORY_BYTES >> 20,
        }
    }
}

impl ResourcesSection {
    pub(super) fn check(self, path: &Path) -> Result<Resources, ConfigError> {
        let threads = self.threads.map(|threads| within(path, "resources.threads", threads, THREADS)).transpose()?;
        let seconds = self.check_every.as_secs();
        if !PERIOD_SECONDS.contains(&seconds) {
            let (least, most) = PERIOD_SECONDS.into_inner();
            return Err(ConfigError::Range {
                path: path.to_owned(),
                key: "resources.check_every",
                value: format!("{:?}", self.check_every),
                allowed: format!("\"{least}s\" to \"{most}s\""),
            });
        }
        let percent = self.pause_below_battery_percent;
        Ok(Resources {
            threads: threads.and_then(NonZeroUsize::new),
            nice: within(path, "resources.nice", self.nice, NICE)?,
            limits: Limits {
                celsius: within(path, "resources.pause_above_celsius", self.pause_above_celsius, CELSIUS)?,
                battery_percent: within(path, "resources.pause_below_battery_percent", percent, PERCENT)?,
            },
            check_every: self.check_every,
            sensors: self.sensors,
            sample_bytes: within(path, "resources.sample_megabytes", self.sample_megabytes, SAMPLE_MEGABYTES)? << 20,
        })
    }

    /// The section of a new configuration.
    pub(super) fn text() -> String {
        let Self {
            nice, pause_above_celsius, pause_below_battery_percent, check_every, sensors, sample_megabytes, ..
        } = Self::default();
        format!(
            r#"[resources]
# What training, extraction and predictions may use: at most so many threads (as many as cores without it), and their
# niceness, from 0 (as every program) to 19 (every other program goes first).
# threads = 1
nice = {nice}
# They pause while a part of the board is hotter (150 never pauses), and while a battery that nothing charges holds less
# (0 never pauses). They go on when it is 5 degrees cooler, or with mains or 5 % more.
pause_above_celsius = {pause_above_celsius}
pause_below_battery_percent = {pause_below_battery_percent}
# How often the sensors are read while there is work, and where they are.
check_every = "{}s"
sensors = "{}"
# The features of the images stay in memory between rounds if they take at most so much (0: read in each round).
sample_megabytes = {sample_megabytes}
"#,
            check_every.as_secs(),
            sensors.display(),
        )
    }
}

fn within<T: PartialOrd + Display>(
    path: &Path,
    key: &'static str,
    value: T,
    allowed: RangeInclusive<T>,
) -> Result<T, ConfigError> {
    if allowed.contains(&value) {
        return Ok(value);
    }
    let (value, allowed) = (value.to_string(), format!("{} to {}", allowed.start(), allowed.end()));
    Err(ConfigError::Range { path: path.to_owned(), key, value, allowed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_configuration_says_the_defaults() {
        let section: toml::Table = ResourcesSection::text().parse().unwrap();
        let written: ResourcesSection = section["resources"].clone().try_into().unwrap();
        assert_eq!(written, ResourcesSection::default());
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let check = |change: fn(&mut ResourcesSection)| {
            let mut section = ResourcesSection::default();
            change(&mut section);
            section.check(Path::new("device.toml")).map_err(|error| error.to_string())
        };
        assert_eq!(check(|section| section.threads = Some(1)).unwrap().threads, NonZeroUsize::new(1));
        let refused = |change| check(change).unwrap_err();
        assert!(
            refused(|section| section.threads = Some(0)).contains("`resources.threads` is 0; it must be 1 to 1024")
        );
        assert!(refused(|section| section.nice = 20).contains("`resources.nice` is 20; it must be 0 to 19"));
        assert!(refused(|section| section.pause_above_celsius = 20).contains("it must be 30 to 150"));
        assert!(refused(|section| section.pause_below_battery_percent = 100).contains("it must be 0 to 95"));
        assert!(refused(|section| section.sample_megabytes = u64::MAX).contains("it must be 0 to 1048576"));
        assert!(refused(|section| section.check_every = Duration::ZERO).contains("it must be \"1s\" to \"600s\""));
    }
}
