//! `aggregator devices`: every device that ever said a fitting hello.

use core::cmp::Ordering;
use std::collections::BTreeMap;

use anyhow::Context;
use clap::{Args, ValueEnum};
use grapevine_aggregator::round::Select;
use grapevine_aggregator::store::{self, DeviceRow, attributes_json};
use grapevine_host::clock::unix_ms;
use grapevine_protocol::{Attributes, DatasetId, Incarnation};
use serde::Serialize;
use serde_json::Value;

use super::live::{self, RefusedDevice};
use super::show::{Column, ago, bytes, table};
use super::{Answer, Common};

const EXAMPLES: &str = "\
Examples:
  aggregator devices
  aggregator devices --sort seen                       # who was silent longest comes last
  aggregator devices --select 'arch = \"aarch64\" and mains'
  aggregator devices --json | jq -r '.[] | select(.state == \"quarantined\") | .device'

Reads only, also beside `aggregator serve`, which writes this once per round and at most a second after a change.";

/// List the devices of the fleet.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// What to sort by; numbers and times begin with the largest.
    #[arg(long, value_name = "COLUMN", value_enum, default_value_t = Key::Device)]
    sort: Key,
    /// Reverse the order.
    #[arg(long)]
    reverse: bool,
    /// Only devices whose attributes fit, in the words of the configuration's `round.select`.
    #[arg(long, value_name = "EXPRESSION")]
    select: Option<String>,
    /// Print an array as JSON.
    #[arg(long)]
    json: bool,
}

/// A column to sort by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Key {
    Device,
    State,
    Seen,
    Round,
    Rounds,
    Samples,
    Up,
    Down,
    Failures,
}

/// Where a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Quarantined,
    Refused,
    Present,
    Gone,
}

#[derive(Serialize)]
struct Device {
    #[serde(flatten)]
    row: DeviceRow,
    state: State,
    /// Why it is refused now, what to do on the device, and when it said hello last.
    refused: Option<RefusedDevice>,
}

pub(super) fn devices(common: &Common, arguments: &Arguments) -> anyhow::Result<Answer> {
    let state = common.configuration()?.state;
    let select: Option<Select> = arguments.select.as_deref().map(str::parse).transpose().context("--select")?;
    let records = store::open_read_only(&state)?;
    let is_served = store::is_in_use(&state);
    let is_asked = |row: &DeviceRow| select.as_ref().is_none_or(|select| select.matches(&row.attributes));
    let mut refused: BTreeMap<String, RefusedDevice> = live::read(&state)
        .filter(|_| is_served)
        .into_iter()
        .flat_map(|live| live.refused_devices)
        .map(|refused| (refused.device.clone(), refused))
        .collect();
    let rows = records.devices()?.into_iter().filter(is_asked);
    let mut devices: Vec<Device> = rows
        .map(|row| {
            let refused = refused.remove(row.device.as_str());
            Device { refused, ..Device::new(row, is_served) }.judged()
        })
        .collect();
    if select.is_none() {
        // Who was never welcome has no row, and no attributes to choose by.
        devices.extend(refused.into_values().filter_map(Device::unknown));
    }
    devices.sort_by(|one, other| arguments.sort.order(one, other));
    if arguments.reverse {
        devices.reverse();
    }
    Ok(Answer::of(&devices, arguments.json, |devices| render(devices, unix_ms()))?)
}

/// Whether the aggregator last saw the device there. Nobody is there for an aggregator that does not run.
pub(super) fn is_present(row: &DeviceRow, is_served: bool) -> bool {
    is_served && row.present
}

impl Key {
    /// Equal ones stay in the order of their names.
    fn order(self, one: &Device, other: &Device) -> Ordering {
        let (a, b) = (&one.row, &other.row);
        match self {
            Self::Device => a.device.cmp(&b.device),
            Self::State => one.state.cmp(&other.state),
            Self::Seen => b.last_seen_ms.cmp(&a.last_seen_ms),
            Self::Round => b.last_round.cmp(&a.last_round),
            Self::Rounds => b.rounds_done.cmp(&a.rounds_done),
            Self::Samples => b.samples.cmp(&a.samples),
            Self::Up => b.bytes_up.cmp(&a.bytes_up),
            Self::Down => b.bytes_down.cmp(&a.bytes_down),
            Self::Failures => other.failed().cmp(&one.failed()),
        }
    }
}

impl Device {
    fn new(row: DeviceRow, is_served: bool) -> Self {
        let state = match (&row.quarantined, is_present(&row, is_served)) {
            (Some(_), _) => State::Quarantined,
            (None, true) => State::Present,
            (None, false) => State::Gone,
        };
        Self { row, state, refused: None }
    }

    /// A device that was refused from its first hello on.
    fn unknown(refused: RefusedDevice) -> Option<Self> {
        let row = DeviceRow {
            device: refused.device.parse().ok()?,
            last_seen_ms: refused.seen_ms,
            present: false,
            incarnation: Incarnation::default(),
            samples: 0,
            dataset: DatasetId::default(),
            attributes: Attributes::default(),
            rounds_done: 0,
            last_round: None,
            failures: BTreeMap::new(),
            strikes: 0,
            quarantined: None,
            bytes_up: 0,
            bytes_down: 0,
        };
        Some(Self { refused: Some(refused), ..Self::new(row, false) }.judged())
    }

    /// With the state that a refusal makes.
    fn judged(mut self) -> Self {
        if let Some(refused) = &self.refused {
            self.row.last_seen_ms = self.row.last_seen_ms.max(refused.seen_ms);
            if self.row.quarantined.is_none() {
                self.state = State::Refused;
            }
        }
        self
    }

    fn failed(&self) -> u64 {
        self.row.failures.values().map(|count| u64::from(*count)).sum()
    }
}

fn render(devices: &[Device], now_ms: u64) -> String {
    if devices.is_empty() {
        return "no device has come yet, or none that fits; start `edge-client run` on one\n".into();
    }
    let columns = [
        Column::Left("device"),
        Column::Left("state"),
        Column::Right("seen"),
        Column::Right("round"),
        Column::Right("rounds"),
        Column::Right("samples"),
        Column::Right("up"),
        Column::Right("down"),
        Column::Left("failures"),
        Column::Left("attributes"),
    ];
    let cells = |device: &Device| {
        let row = &device.row;
        vec![
            row.device.to_string(),
            state(device),
            ago(now_ms, row.last_seen_ms),
            row.last_round.map_or("-".into(), |round| round.to_string()),
            row.rounds_done.to_string(),
            row.samples.to_string(),
            bytes(row.bytes_up),
            bytes(row.bytes_down),
            list(row.failures.iter().map(|(reason, count)| format!("{reason} {count}"))),
            list(attributes_json(&row.attributes).iter().map(|(name, value)| attribute(name, value))),
        ]
    };
    table(&columns, &devices.iter().map(cells).collect::<Vec<_>>())
}

fn state(device: &Device) -> String {
    match (device.state, &device.row.quarantined) {
        (State::Quarantined, Some(reason)) => format!("quarantined ({reason})"),
        (State::Quarantined, None) => "quarantined".into(),
        (State::Refused, _) => {
            let reason = device.refused.as_ref().map_or("", |refused| &refused.reason);
            format!("refused ({reason})")
        }
        (State::Present, _) => "present".into(),
        (State::Gone, _) => "gone".into(),
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "-".into() } else { items.join(", ") }
}

/// A flag by its name alone where it is set.
fn attribute(name: &str, value: &Value) -> String {
    match value {
        Value::Bool(true) => name.to_owned(),
        Value::String(text) => format!("{name} {text}"),
        Value::Null | Value::Bool(false) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            format!("{name} {value}")
        }
    }
}

#[cfg(test)]
mod tests {
    use grapevine_protocol::{AttributeValue, RoundId};

    use super::*;

    fn device(name: &str, samples: u32, quarantined: Option<&str>) -> Device {
        let mut attributes = Attributes::default();
        attributes.insert("mains", AttributeValue::Flag(true)).unwrap();
        attributes.insert("cores", AttributeValue::Number(4)).unwrap();
        let row = DeviceRow {
            device: name.parse().unwrap(),
            incarnation: Incarnation(1),
            samples,
            dataset: DatasetId(1),
            attributes,
            last_seen_ms: 1_000 * u64::from(samples),
            present: true,
            rounds_done: 2,
            last_round: Some(RoundId(7)),
            failures: BTreeMap::from([("late".into(), samples)]),
            strikes: 0,
            quarantined: quarantined.map(str::to_owned),
            bytes_up: 2_048,
            bytes_down: 3,
        };
        Device::new(row, true)
    }

    #[test]
    fn a_table_says_all_of_a_device_in_the_order_asked_for() {
        let mut devices = [device("a", 1, None), device("b", 3, Some("absurd")), device("c", 2, None)];
        let names = |devices: &[Device]| devices.iter().map(|device| device.row.device.as_str()).collect::<String>();
        for (key, expected) in
            [(Key::Samples, "bca"), (Key::State, "bac"), (Key::Seen, "bca"), (Key::Failures, "bca"), (Key::Up, "abc")]
        {
            devices.sort_by(|one, other| Key::Device.order(one, other));
            devices.sort_by(|one, other| key.order(one, other));
            assert_eq!(names(&devices), expected, "{key:?}");
        }
        devices.sort_by(|one, other| Key::State.order(one, other));
        let text = render(&devices, 5_000);
        let line: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        let expected = "b quarantined (absurd) 2 s ago 7 2 3 2.0 KiB 3 B late 3 cores 4, mains";
        assert_eq!(line.join(" "), expected);
        assert!(render(&[], 0).starts_with("no device has come yet"));
    }
}
