//! An aggregator's configuration: the TOML file as written, and what is left of it after every check.
//!
//! Paths in the file are relative to the file, so that an aggregator starts from any folder.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use grapevine_host::broker_address::DEFAULT_PORT;
use grapevine_host::config::beside;
use grapevine_host::{BrokerAddress, class_list, config};
use grapevine_models::limits::MAX_SAMPLES;
use grapevine_models::{Method, Shape, ValidParams};
use grapevine_protocol::limits::{MAX_BLOB_BYTES, MAX_DEVICES};
use grapevine_protocol::{
    Digest, Encoding, FleetId, Refusal, class_list_digest, largest_heads, largest_side_information, largest_update,
};
use grapevine_vision::manifest::Manifest;
use serde::Deserialize;

use crate::round::{Participants, Quarantine, RoundConfig, Select};

mod auxiliary;
mod draft;
mod error;
mod method;
mod rounds;
#[cfg(test)]
mod tests;

pub use auxiliary::AuxiliaryError;
pub use draft::{BrokerDraft, Draft};
pub use error::ConfigError;
pub use method::MethodSection;
pub use rounds::Rounds;

/// Where the state lies when nothing else is said: beside the configuration.
pub const DEFAULT_STATE: &str = "state";
/// How to get a configuration, for the message about a missing one.
pub const ADVICE: &str = "run `aggregator init` to write one, or name it with `--config`";
/// Samples of a class below which nothing about that class leaves a device, unless the file says otherwise.
pub const DEFAULT_MIN_SAMPLES_TO_SHARE: u16 = 5;
/// How a fleet learns that says nothing about it.
pub const DEFAULT_METHOD: Method = Method::RedGrapePlus;

/// Most rounds of one run that has an end.
pub const MAX_ROUNDS: u32 = 1_000_000;
/// Most extensions of one round.
const MAX_EXTENSIONS: u32 = 1_000;
/// Largest share of further devices to choose: as many again, twice over.
const MAX_OVER_SELECT: f64 = 2.0;
/// Most bad updates in a row that may be borne.
const MAX_STRIKES: u32 = 1_000_000;
/// Most megabytes of updates on their way in.
const MAX_UPLOAD_MEGABYTES: usize = 1 << 16;
/// What a keep-alive may be, as on the devices.
const KEEP_ALIVE_SECONDS: [u64; 2] = [5, 65_535];
/// What the longest pause between two attempts to connect may be.
const PAUSE_SECONDS: [u64; 2] = [1, 3_600];
/// What a deadline may be; the announcement counts it in 32 bits of milliseconds.
const DEADLINE_SECONDS: [u64; 2] = [1, 30 * 24 * 3_600];
/// What the pause before small news may be.
const NEWS_SECONDS: [u64; 2] = [0, 30 * 24 * 3_600];

/// The file as written; [`Config::check`] makes it usable.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The fleet's name.
    pub fleet: FleetId,
    /// The extractor's manifest.
    pub extractor: PathBuf,
    /// The fleet's class list, in the fleet's order.
    #[serde(deserialize_with = "class_list::deserialize")]
    pub classes: Vec<String>,
    /// The folder for the ledger and the model.
    #[serde(default = "default_state")]
    pub state: PathBuf,
    /// Where the broker is, or that it is part of the aggregator.
    pub broker: BrokerSection,
    /// How the aggregator talks to its broker.
    #[serde(default)]
    pub mqtt: MqttSection,
    /// What a round is.
    #[serde(default)]
    pub round: RoundSection,
    /// How the fleet learns.
    #[serde(default)]
    pub method: MethodSection,
    /// When a device is sent away.
    #[serde(default)]
    pub quarantine: QuarantineSection,
    /// Bounds of what the aggregator takes and keeps.
    #[serde(default)]
    pub limits: LimitsSection,
}

/// See [`Config::broker`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BrokerSection {
    /// Address of a broker of its own.
    pub url: Option<BrokerAddress>,
    /// Whether the aggregator brings its own broker.
    pub embedded: bool,
    /// Address the embedded broker listens on.
    pub listen: IpAddr,
    /// Port the embedded broker listens on; 0 for a free one.
    pub port: u16,
}

/// See [`Config::mqtt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MqttSection {
    /// Longest silence before a ping.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// Longest pause between two attempts to connect.
    #[serde(with = "humantime_serde")]
    pub longest_pause: Duration,
}

/// See [`Config::round`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RoundSection {
    /// Rounds of training.
    pub rounds: Rounds,
    /// Rounds of training without new samples, after which a run without an end rests.
    pub rest_after: u32,
    /// Pause before news of few samples are gathered.
    #[serde(with = "humantime_serde")]
    pub news_after: Duration,
    /// Devices with samples that must be there before a round opens.
    pub min_devices: usize,
    /// Which devices take part: an expression over their attributes, see [`crate::round::select`]; all when absent.
    pub select: Option<String>,
    /// Updates that a round waits for; those of all devices when absent.
    pub participants: Option<usize>,
    /// The same as a share of the devices that are there.
    pub fraction: Option<f64>,
    /// Share of further devices that are chosen; the round closes without the slowest of them.
    pub over_select: f64,
    /// Share of the chosen devices that must have answered at the deadline.
    pub quorum: f64,
    /// Time a round is open.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// How often a round below its quorum is given the same time again.
    pub extensions: u32,
    /// Every random choice of the run comes from this.
    pub seed: u64,
}

/// See [`Config::limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Megabytes of updates on their way in at any time.
    pub upload_megabytes: usize,
    /// Merged rounds whose heads are kept, the newest ones.
    pub kept_heads: u32,
    /// Most samples that a device may say it holds.
    pub max_samples: u32,
}

/// See [`Config::quarantine`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuarantineSection {
    /// Bad updates in a row that send a device away; 0 for never.
    pub after: u32,
    /// Names of the refusals that make an update a bad one.
    pub reasons: Vec<String>,
}

impl Default for BrokerSection {
    fn default() -> Self {
        Self { url: None, embedded: false, listen: Ipv4Addr::LOCALHOST.into(), port: DEFAULT_PORT }
    }
}

impl Default for MqttSection {
    fn default() -> Self {
        Self { keep_alive: Duration::from_secs(60), longest_pause: Duration::from_secs(60) }
    }
}

impl Default for RoundSection {
    fn default() -> Self {
        Self {
            rounds: Rounds::Endless,
            rest_after: 50,
            news_after: Duration::from_secs(60),
            min_devices: 2,
            select: None,
            participants: None,
            fraction: None,
            over_select: 0.0,
            quorum: 0.8,
            deadline: Duration::from_secs(600),
            extensions: 2,
            seed: 0,
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self { upload_megabytes: 64, kept_heads: 100, max_samples: 20_000 }
    }
}

impl Default for QuarantineSection {
    fn default() -> Self {
        let reasons = [Refusal::Digest, Refusal::Content, Refusal::NotFinite, Refusal::Absurd, Refusal::Samples];
        Self { after: 3, reasons: reasons.map(|reason| reason.name().to_owned()).into() }
    }
}

fn default_state() -> PathBuf {
    DEFAULT_STATE.into()
}

/// Where the fleet's messages go through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broker {
    /// A broker of its own.
    At(BrokerAddress),
    /// A broker inside the aggregator.
    Embedded {
        /// Address it listens on.
        listen: IpAddr,
        /// Port it listens on; 0 for a free one.
        port: u16,
    },
}

impl Broker {
    /// Where a client on this machine reaches an embedded broker that listens on `listen`.
    pub fn address_here(listen: IpAddr, port: u16) -> BrokerAddress {
        let host = match listen {
            IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
            IpAddr::V6(address) if address.is_unspecified() => format!("[{}]", Ipv6Addr::LOCALHOST),
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        BrokerAddress::new(host, port)
    }
}

/// A configuration that passed every check that needs no other file. Its paths are usable from the current folder.
#[derive(Clone, Debug)]
pub struct ValidConfig {
    /// Where the configuration lies.
    pub path: PathBuf,
    /// The fleet's name.
    pub fleet: FleetId,
    /// The extractor's manifest.
    pub extractor: PathBuf,
    /// Two or more distinct names, see [`class_list::check`].
    pub classes: Vec<String>,
    /// The folder for the ledger and the model.
    pub state: PathBuf,
    /// The broker.
    pub broker: Broker,
    /// How the aggregator talks to its broker.
    pub mqtt: MqttSection,
    /// What a round is.
    pub round: RoundSection,
    /// Which devices take part.
    pub select: Select,
    /// When a device is sent away.
    pub quarantine: Quarantine,
    /// Method and hyper-parameters.
    pub params: ValidParams,
    /// How weights and gradients are written.
    pub encoding: Encoding,
    /// The file with the aggregator's own samples, for a method that needs some.
    pub auxiliary: Option<PathBuf>,
    /// Bytes of updates on their way in at any time.
    pub upload_bytes: usize,
    /// Merged rounds whose heads are kept.
    pub kept_heads: u32,
    /// Most samples that a device may say it holds.
    pub max_samples: u32,
}

/// Reads the file at `path` with `environment` over it (see [`grapevine_host::config`]), and checks it.
///
/// # Errors
/// If the file is missing or cannot be read, or a key or a value in it or in the environment cannot be used.
pub fn load(path: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<ValidConfig, ConfigError> {
    config::load::<Config>(path, environment, ADVICE)?.check(path)
}

impl Config {
    /// Checks what the types do not, and makes the paths relative to the current folder. `path` is where the
    /// configuration lies.
    ///
    /// # Errors
    /// If the class list cannot be used, a value is out of its range, or the settings contradict one another.
    pub fn check(self, path: &Path) -> Result<ValidConfig, ConfigError> {
        class_list::check(&self.classes).map_err(|fault| ConfigError::Classes { path: path.to_owned(), fault })?;
        self.check_ranges(path)?;
        let params = self.method.params(self.classes.len(), path)?;
        let auxiliary = self.method.auxiliary(path)?;
        let select = self.round.select.as_deref().map(str::parse).transpose();
        let select = select.map_err(|fault| ConfigError::Select { path: path.to_owned(), fault })?;
        let quarantine = self.quarantine.check(path)?;
        Ok(ValidConfig {
            path: path.to_owned(),
            fleet: self.fleet,
            extractor: beside(path, &self.extractor),
            classes: self.classes,
            state: beside(path, &self.state),
            broker: self.broker.check(path)?,
            mqtt: self.mqtt,
            round: self.round,
            select: select.unwrap_or_default(),
            quarantine,
            params,
            encoding: self.method.encoding,
            auxiliary,
            upload_bytes: self.limits.upload_megabytes << 20,
            kept_heads: self.limits.kept_heads,
            max_samples: self.limits.max_samples,
        })
    }

    fn check_ranges(&self, path: &Path) -> Result<(), ConfigError> {
        let range = |key, value: String, fits: bool, allowed: String| {
            if fits { Ok(()) } else { Err(ConfigError::Range { path: path.to_owned(), key, value, allowed }) }
        };
        let count = |key, value: usize, least: usize, most: usize| {
            range(key, value.to_string(), (least..=most).contains(&value), format!("{least} to {most}"))
        };
        let seconds = |key, value: Duration, [least, most]: [u64; 2]| {
            let fits = (least..=most).contains(&value.as_secs());
            range(key, format!("{value:?}"), fits, format!("\"{least}s\" to \"{most}s\""))
        };
        let RoundSection { rounds, min_devices, participants, quorum, deadline, extensions, .. } = self.round;
        let RoundSection { fraction, over_select, rest_after, news_after, .. } = self.round;
        let is_share = |share: f64| share > 0.0 && share <= 1.0;
        let share = "a share above 0, at most 1";
        if let Rounds::Count(rounds) = rounds {
            count("round.rounds", rounds as usize, 1, MAX_ROUNDS as usize)?;
        }
        count("round.rest_after", rest_after as usize, 1, MAX_ROUNDS as usize)?;
        seconds("round.news_after", news_after, NEWS_SECONDS)?;
        count("round.min_devices", min_devices, 1, MAX_DEVICES)?;
        participants.map_or(Ok(()), |wanted| count("round.participants", wanted, 1, MAX_DEVICES))?;
        if let Some(fraction) = fraction {
            let alone = participants.is_none();
            range("round.fraction", fraction.to_string(), alone, "left out where `participants` is given".into())?;
            range("round.fraction", fraction.to_string(), is_share(fraction), share.into())?;
        }
        let fits = (0.0..=MAX_OVER_SELECT).contains(&over_select);
        range("round.over_select", over_select.to_string(), fits, format!("0 to {MAX_OVER_SELECT}"))?;
        range("round.quorum", quorum.to_string(), is_share(quorum), share.into())?;
        seconds("round.deadline", deadline, DEADLINE_SECONDS)?;
        count("round.extensions", extensions as usize, 0, MAX_EXTENSIONS as usize)?;
        seconds("mqtt.keep_alive", self.mqtt.keep_alive, KEEP_ALIVE_SECONDS)?;
        seconds("mqtt.longest_pause", self.mqtt.longest_pause, PAUSE_SECONDS)?;
        count("quarantine.after", self.quarantine.after as usize, 0, MAX_STRIKES as usize)?;
        count("limits.upload_megabytes", self.limits.upload_megabytes, 1, MAX_UPLOAD_MEGABYTES)?;
        count("limits.max_samples", self.limits.max_samples as usize, 1, MAX_SAMPLES as usize)?;
        count("limits.kept_heads", self.limits.kept_heads as usize, 1, MAX_ROUNDS as usize)
    }
}

impl QuarantineSection {
    fn check(self, path: &Path) -> Result<Quarantine, ConfigError> {
        let reason = |name: String| {
            let found = Refusal::ALL.into_iter().find(|reason| reason.name() == name);
            found.ok_or_else(|| ConfigError::Reason { path: path.to_owned(), name })
        };
        Ok(Quarantine { after: self.after, reasons: self.reasons.into_iter().map(reason).collect::<Result<_, _>>()? })
    }
}

impl BrokerSection {
    fn check(self, path: &Path) -> Result<Broker, ConfigError> {
        match (self.url, self.embedded) {
            (Some(url), false) => Ok(Broker::At(url)),
            (None, true) => Ok(Broker::Embedded { listen: self.listen, port: self.port }),
            (Some(_), true) => Err(ConfigError::Broker { path: path.to_owned(), given: "both" }),
            (None, false) => Err(ConfigError::Broker { path: path.to_owned(), given: "neither" }),
        }
    }
}

impl ValidConfig {
    /// What a run is to do, for an extractor with this manifest.
    ///
    /// # Errors
    /// If there are too few or too many classes or features, a message would be too large, or the auxiliary samples
    /// cannot be used.
    pub fn round_config(&self, manifest: &Manifest) -> Result<RoundConfig, ConfigError> {
        let path = || self.path.clone();
        let shape = Shape::new(self.classes.len(), manifest.output.features)
            .map_err(|fault| ConfigError::Shape { path: path(), fault })?;
        let method = self.params.method;
        let bytes = largest_message(shape, &self.params);
        if bytes > MAX_BLOB_BYTES {
            let advice = if method.sends_prototypes() {
                "use `redgrape-live`, whose messages do not grow with the square of the classes"
            } else {
                "use fewer classes or an extractor with fewer features"
            };
            return Err(ConfigError::TooLarge { path: path(), method, shape, bytes, advice });
        }
        let auxiliary = self.auxiliary.as_ref().map(|file| auxiliary::load(file, shape, &self.classes)).transpose();
        let auxiliary = auxiliary.map_err(|fault| ConfigError::Auxiliary { path: path(), fault })?;
        Ok(RoundConfig {
            shape,
            // A manifest that passed its check has 64 hexadecimal digits there.
            extractor: Digest::from_hex(&manifest.sha256).expect("a checked manifest holds a digest"),
            classes: class_list_digest(self.classes.iter().map(String::as_str)),
            params: self.params,
            rounds: self.round.rounds.count(),
            rest_after: self.round.rest_after,
            news_after: self.round.news_after,
            max_samples: self.max_samples,
            min_devices: self.round.min_devices,
            select: self.select.clone(),
            participants: match (self.round.participants, self.round.fraction) {
                (Some(count), _) => Participants::Count(count),
                (None, Some(share)) => Participants::Share(share),
                (None, None) => Participants::All,
            },
            over_select: self.round.over_select,
            quorum: self.round.quorum,
            deadline: self.round.deadline,
            extensions: self.round.extensions,
            quarantine: self.quarantine.clone(),
            encoding: self.encoding,
            seed: self.round.seed,
            upload_bytes: self.upload_bytes,
            auxiliary: auxiliary.map(Arc::new),
        })
    }
}

/// Bytes of the largest blob that a run with these hyper-parameters sends in either direction.
fn largest_message(shape: Shape, params: &ValidParams) -> usize {
    let method = params.method;
    let sums = params.next_request(false, 0, 0);
    let training = (!method.is_one_shot()).then(|| method.training_request());
    let updates = sums.into_iter().chain(training).map(|request| largest_update(shape, request));
    updates.fold(largest_side_information(shape, method).max(largest_heads(shape)), usize::max)
}
