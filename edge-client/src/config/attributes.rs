//! `[attributes]`: what a device says about itself beside what it finds out alone.

use std::collections::BTreeMap;
use std::env::consts::{ARCH, OS};
use std::{fs, thread};

use grapevine_protocol::{AttributeError, AttributeValue, Attributes, BUILT_IN_ATTRIBUTES};
use serde::Deserialize;

/// The section as written: a name and a value each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct LabelsSection(BTreeMap<String, Value>);

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "an attribute is true, false, a whole number or a text")]
enum Value {
    Flag(bool),
    Number(i64),
    Text(String),
}

/// An attribute that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeFault {
    /// Its name.
    pub name: String,
    /// The fault.
    pub fault: AttributeError,
}

impl LabelsSection {
    /// Adds what this machine is to what its owner says.
    pub(super) fn check(self) -> Result<Attributes, AttributeFault> {
        let mut attributes = of_this_machine();
        for (name, value) in self.0 {
            let value = match value {
                Value::Flag(flag) => Ok(AttributeValue::Flag(flag)),
                Value::Number(number) => Ok(AttributeValue::Number(number)),
                Value::Text(text) => AttributeValue::text(&text),
            };
            let inserted = value.and_then(|value| attributes.insert(&name, value));
            inserted.map_err(|fault| AttributeFault { name, fault })?;
        }
        Ok(attributes)
    }
}

/// The built-in attributes: what can be found out without asking anybody. Memory is left out where the system does not say.
pub fn of_this_machine() -> Attributes {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_mebibytes(&text));
    let values = [
        AttributeValue::text(ARCH).ok(),
        AttributeValue::text(OS).ok(),
        i64::try_from(cores).ok().map(AttributeValue::Number),
        memory.map(AttributeValue::Number),
    ];
    let mut attributes = Attributes::default();
    for (name, value) in BUILT_IN_ATTRIBUTES.into_iter().zip(values) {
        if let Some(value) = value {
            attributes.insert(name, value).expect("four attributes of fixed names");
        }
    }
    attributes
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
        let attributes = check("mains = true\nfloor = -1\nsite = 'north'").unwrap();
        assert_eq!(attributes.find("arch"), Some(&AttributeValue::text(ARCH).unwrap()));
        assert!(matches!(attributes.find("cores"), Some(AttributeValue::Number(1..))));
        assert_eq!(attributes.find("site"), Some(&AttributeValue::text("north").unwrap()));
        for (text, name, fault) in [
            ("arch = 'mine'", "arch", AttributeError::Twice),
            ("Site = 'north'", "Site", AttributeError::Name),
            ("site = 'a much longer text than there is room for'", "site", AttributeError::Text),
        ] {
            assert_eq!(check(text), Err(AttributeFault { name: name.into(), fault }));
        }
        let many: String = (0..20).map(|number| format!("l{number} = 1\n")).collect();
        assert_eq!(check(&many).unwrap_err().fault, AttributeError::TooMany);
        let error = toml::from_str::<LabelsSection>("height = 1.5").unwrap_err().to_string();
        assert!(error.contains("an attribute is true, false, a whole number or a text"), "{error}");
    }
}
