//! `[labels]`: what a device says about itself beside what it finds out alone.

use std::collections::BTreeMap;
use std::env::consts::{ARCH, OS};
use std::{fs, thread};

use grapevine_protocol::{BUILT_IN_LABELS, LabelError, LabelValue, Labels};
use serde::Deserialize;

/// The section as written: a name and a value each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct LabelsSection(BTreeMap<String, Value>);

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a label is true, false, a whole number or a text")]
enum Value {
    Flag(bool),
    Number(i64),
    Text(String),
}

/// A label that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFault {
    /// Its name.
    pub name: String,
    /// The fault.
    pub fault: LabelError,
}

impl LabelsSection {
    /// Adds what this machine is to what its owner says.
    pub(super) fn check(self) -> Result<Labels, LabelFault> {
        let mut labels = of_this_machine();
        for (name, value) in self.0 {
            let value = match value {
                Value::Flag(flag) => Ok(LabelValue::Flag(flag)),
                Value::Number(number) => Ok(LabelValue::Number(number)),
                Value::Text(text) => LabelValue::text(&text),
            };
            let inserted = value.and_then(|value| labels.insert(&name, value));
            inserted.map_err(|fault| LabelFault { name, fault })?;
        }
        Ok(labels)
    }
}

/// The built-in labels: what can be found out without asking anybody. Memory is left out where the system does not say.
pub fn of_this_machine() -> Labels {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_mebibytes(&text));
    let values = [
        LabelValue::text(ARCH).ok(),
        LabelValue::text(OS).ok(),
        i64::try_from(cores).ok().map(LabelValue::Number),
        memory.map(LabelValue::Number),
    ];
    let mut labels = Labels::default();
    for (name, value) in BUILT_IN_LABELS.into_iter().zip(values) {
        if let Some(value) = value {
            labels.insert(name, value).expect("four labels of fixed names");
        }
    }
    labels
}

fn total_mebibytes(meminfo: &str) -> Option<i64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(value.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()? / 1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_where_it_is_told() {
        assert_eq!(total_mebibytes("MemTotal:        4028748 kB\nMemFree: 1 kB\n"), Some(3_934));
        assert_eq!(total_mebibytes("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn a_machine_knows_itself_and_its_owner_adds_to_that() {
        let check = |text: &str| toml::from_str::<LabelsSection>(text).unwrap().check();
        let labels = check("mains = true\nfloor = -1\nsite = 'north'").unwrap();
        assert_eq!(labels.find("arch"), Some(&LabelValue::text(ARCH).unwrap()));
        assert!(matches!(labels.find("cores"), Some(LabelValue::Number(1..))));
        assert_eq!(labels.find("site"), Some(&LabelValue::text("north").unwrap()));
        for (text, name, fault) in [
            ("arch = 'mine'", "arch", LabelError::Twice),
            ("Site = 'north'", "Site", LabelError::Name),
            ("site = 'a much longer text than there is room for'", "site", LabelError::Text),
        ] {
            assert_eq!(check(text), Err(LabelFault { name: name.into(), fault }));
        }
        let many: String = (0..20).map(|number| format!("l{number} = 1\n")).collect();
        assert_eq!(check(&many).unwrap_err().fault, LabelError::TooMany);
        let error = toml::from_str::<LabelsSection>("height = 1.5").unwrap_err().to_string();
        assert!(error.contains("a label is true, false, a whole number or a text"), "{error}");
    }
}
