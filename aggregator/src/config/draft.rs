//! A new configuration, with a comment on every setting.

use std::path::{Path, PathBuf};

use grapevine_host::draft::{quoted, quoted_list};
use grapevine_models::hyper_parameters::{Applies, Kind, MIN_SAMPLES_TO_SHARE};
use grapevine_models::{HyperParameter, Method, Params};
use grapevine_protocol::FleetId;

use super::{DEFAULT_MIN_SAMPLES_TO_SHARE, LimitsSection, QuarantineSection, RoundSection};

/// What a new configuration says, see [`Draft::text`].
#[derive(Clone, Debug)]
pub struct Draft {
    /// The fleet's name.
    pub fleet: FleetId,
    /// The extractor's manifest, relative to the configuration.
    pub extractor: PathBuf,
    /// The fleet's class list.
    pub classes: Vec<String>,
    /// The folder for the ledger and the model, relative to the configuration.
    pub state: PathBuf,
    /// The broker.
    pub broker: BrokerDraft,
    /// The method.
    pub method: Method,
    /// Every random choice of the run comes from this.
    pub seed: u32,
}

/// The broker of a new configuration.
#[derive(Clone, Debug)]
pub enum BrokerDraft {
    /// Its address as written, password included.
    Url(String),
    /// One inside the aggregator, on this port.
    Embedded(u16),
}

impl Draft {
    /// The commented TOML file.
    pub fn text(&self) -> String {
        let path = |path: &Path| quoted(&path.to_string_lossy());
        let quarantine = QuarantineSection::default();
        format!(
            r#"# The aggregator of a Grapevine fleet. `aggregator --help` lists the commands that read this file.
# Environment variables override it: GRAPEVINE_FLEET, GRAPEVINE_ROUND__DEADLINE, ...

# a-z, 0-9, `-` and `_`, a letter or a digit first; the same on every device.
fleet = {fleet}

# The frozen extractor's manifest, the same file on every device of the fleet. Relative to this file.
extractor = {extractor}

# The fleet's class list; every device has the same one in the same order.
classes = {classes}

# Where the ledger, the updates of the open round and the merged heads lie. Relative to this file.
state = {state}

{broker}
[mqtt]
# Longest silence before a ping, and longest pause between two attempts to connect.
keep_alive = "60s"
longest_pause = "60s"

{round}
{method}
[quarantine]
# A device that sends so many bad updates in a row is refused until `aggregator release`; 0 for never.
after = {after}
# Reasons for which an update counts as bad; `aggregator status` counts refusals by the same names.
reasons = {reasons}

[limits]
# Memory for updates while they are received; further devices wait for their turn.
upload_megabytes = {upload_megabytes}
# Merged rounds whose heads are kept, the newest ones, for `aggregator export --round`.
kept_heads = {kept_heads}
# A device that reports more samples is refused, because its samples are its weight in the merge.
max_samples = {max_samples}
"#,
            after = quarantine.after,
            reasons = quoted_list(&quarantine.reasons),
            kept_heads = LimitsSection::default().kept_heads,
            max_samples = LimitsSection::default().max_samples,
            classes = quoted_list(&self.classes),
            fleet = quoted(self.fleet.as_str()),
            extractor = path(&self.extractor),
            state = path(&self.state),
            broker = self.broker_text(),
            round = self.round_text(),
            method = self.method_text(),
            upload_megabytes = LimitsSection::default().upload_megabytes,
        )
    }

    fn broker_text(&self) -> String {
        match &self.broker {
            BrokerDraft::Url(url) => format!(
                "[broker]\n# mqtt://[user:password@]host[:port]; or delete it and set `embedded = true` for a broker \
                 inside the aggregator.\nurl = {}\n",
                quoted(url)
            ),
            BrokerDraft::Embedded(port) => format!(
                "[broker]\n# A broker inside the aggregator: no login, no encryption, for one machine or a network you \
                 trust.\n# For a broker of its own delete this and set url = \"mqtt://[user:password@]host[:port]\".\n\
                 embedded = true\n# Only this machine reaches 127.0.0.1. With \"0.0.0.0\" devices elsewhere do, and so \
                 may anyone in the network.\nlisten = \"127.0.0.1\"\n# 0 for a free one.\nport = {port}\n"
            ),
        }
    }

    fn round_text(&self) -> String {
        let RoundSection { rounds, rest_after, news_after, min_devices, quorum, deadline, extensions, .. } =
            RoundSection::default();
        format!(
            r#"[round]
# Rounds of training in one run, as a number, or "endless": then the run rests when nothing new is learned, and goes on
# when devices or images come. A larger number later goes on with the same run.
rounds = {rounds}
# An endless run rests after so many rounds without new samples, or once rounds change next to nothing.
rest_after = {rest_after}
# New samples wait for so long, that more may come, before the run takes them in. A tenth of the fleet's does not wait.
news_after = "{news_after}s"
# Devices with samples that must be there before a round opens.
min_devices = {min_devices}
# Which devices take part: `and`, `or`, `not`, brackets, and attributes with =, !=, <, <=, > or >=; all without this.
# Every device reports `arch`, `os`, `cores` and `memory_mb`, and the [attributes] of its own configuration.
# select = 'arch = "aarch64" and cores >= 4'
# How many devices each round asks: a number, or a share of those that are there; without either, all of them.
# participants = 100
# fraction = 0.1
# Share of further devices that are drawn; the round closes without the slowest of them.
over_select = 0.0
# A round closes as soon as it has all its updates, or at its deadline with this share of them. With fewer its deadline
# is moved by the same time, at most `extensions` times; then the round is abandoned.
quorum = {quorum:?}
deadline = "{deadline}"
extensions = {extensions}
# Every random choice of the run comes from this: the same seed, devices and images give the same heads.
seed = {seed}
"#,
            news_after = news_after.as_secs(),
            deadline = format_args!("{}m", deadline.as_secs() / 60),
            seed = self.seed,
        )
    }

    fn method_text(&self) -> String {
        let defaults = Params::defaults(self.method, self.classes.len());
        let names: Vec<&str> = Method::ALL.into_iter().map(Method::name).collect();
        format!(
            r#"[method]
# One of {names}.
# Of {method}: {late}.
name = "{method}"
# {shared}.
min_samples_to_share = {min_samples_to_share}
# How weights are sent: "f32" exact, "f16" half the bytes, "int8" a quarter.
encoding = "f32"
# The values below are the published ones. They, the method and min_samples_to_share cannot change within a run.
{values}{auxiliary}"#,
            names = names.join(", "),
            method = self.method,
            late = self.method.on_late_data(),
            shared = MIN_SAMPLES_TO_SHARE.sentence(),
            min_samples_to_share = DEFAULT_MIN_SAMPLES_TO_SHARE,
            values = values_text(&defaults),
            auxiliary = auxiliary_text(self.method),
        )
    }
}

/// Every hyper-parameter that the method reads, or would with another start, as a comment.
fn values_text(defaults: &Params) -> String {
    let is_written = |parameter: &&HyperParameter| {
        let is_possible = defaults.applies(parameter) || parameter.applies == Applies::Initialised;
        is_possible && **parameter != MIN_SAMPLES_TO_SHARE
    };
    let line = |parameter: &HyperParameter| {
        let value = defaults.value(parameter).unwrap_or_default();
        let (value, words) = match parameter.kind {
            Kind::Choice(names) => (quoted(&parameter.show(value)), format!(". One of {}", names.join(", "))),
            // With a point, so that a reader sees that fractions are allowed.
            Kind::Number(_) => (format!("{value:?}"), String::new()),
            Kind::Count(_) | Kind::Flag => (parameter.show(value), String::new()),
        };
        format!("# {}{words}.\n# {} = {value}\n", parameter.sentence(), parameter.name)
    };
    defaults.all().filter(is_written).map(line).collect()
}

/// Where the aggregator's own samples are, for a method that needs some.
fn auxiliary_text(method: Method) -> String {
    method.auxiliary().map_or_else(String::new, |samples| {
        format!(
            "# Samples of the aggregator's own, the paper has {samples} of each class. One line each: the features as the\n\
             # extractor's manifest standardises them, then the class, separated by commas. Relative to this file.\n\
             auxiliary = \"auxiliary.csv\"\n"
        )
    })
}
