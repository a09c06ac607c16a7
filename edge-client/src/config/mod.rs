//! A device's configuration: the TOML file as written, and what is left of it after every check.
//!
//! Paths in the file are relative to the file, so that a device starts from any folder.

use core::time::Duration;
use std::path::{Path, PathBuf};

use grapevine_host::class_list::{self, ClassListError};
use grapevine_host::config::beside;
use grapevine_host::draft::{quoted, quoted_list};
use grapevine_host::transport::is_topic;
use grapevine_host::{BrokerAddress, config};
use grapevine_models::limits::MAX_SAMPLES;
use grapevine_protocol::{AttributeError, Attributes, DeviceId, FleetId, topics};
use serde::Deserialize;

use crate::resources::Resources;
use crate::store::StoreLimits;

mod attributes;
mod resources;

pub use attributes::{AttributeFault, LabelsSection, of_this_machine};
pub use resources::ResourcesSection;

/// Where the state lies when nothing else is said: beside the configuration.
pub const DEFAULT_STATE: &str = "state";
/// How to get a configuration, for the message about a missing one.
pub const ADVICE: &str = "run `edge-client init` to write one, or name it with `--config`";

/// Largest store, in megabytes.
const MAX_STORE_MEGABYTES: u64 = 1 << 20;
/// What a keep-alive may be: MQTT counts it in 16 bits of seconds, and a short one drains batteries for nothing.
const KEEP_ALIVE_SECONDS: [u64; 2] = [5, 65_535];
/// What the longest pause between two attempts to connect may be.
const PAUSE_SECONDS: [u64; 2] = [1, 3_600];

/// The file as written; [`Config::check`] makes it usable.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The fleet's name.
    pub fleet: FleetId,
    /// This device's name in the fleet.
    pub device: DeviceId,
    /// Where the broker is.
    pub broker: BrokerAddress,
    /// The extractor's manifest.
    pub extractor: PathBuf,
    /// The fleet's class list, in the fleet's order.
    #[serde(deserialize_with = "class_list::deserialize")]
    pub classes: Vec<String>,
    /// The folder this device keeps its state in.
    #[serde(default = "default_state")]
    pub state: PathBuf,
    /// Bounds of the feature store.
    #[serde(default)]
    pub store: StoreSection,
    /// How the device talks to its broker.
    #[serde(default)]
    pub mqtt: MqttSection,
    /// What the device says about images that come into a folder.
    #[serde(default)]
    pub predict: PredictSection,
    /// What the device learns from beside what it is given.
    #[serde(default)]
    pub ingest: IngestSection,
    /// What training and extraction may take of the device.
    #[serde(default)]
    pub resources: ResourcesSection,
    /// What the device says about itself, so that the fleet can choose among its devices.
    #[serde(default)]
    pub attributes: LabelsSection,
}

/// See [`Config::store`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSection {
    /// Most samples.
    pub max_samples: u32,
    /// Most samples of one class; without it as many as there is room for.
    pub max_samples_per_class: Option<u32>,
    /// Most megabytes of disk for samples.
    pub max_megabytes: u64,
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

/// See [`Config::ingest`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IngestSection {
    /// A folder of class folders to watch; without it nothing is stored while the device runs.
    pub watch: Option<PathBuf>,
}

/// See [`Config::predict`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PredictSection {
    /// The folder to watch; without it nothing is predicted.
    pub watch: Option<PathBuf>,
    /// Where predictions are published, if not on [`topics::predictions`].
    pub topic: Option<String>,
}

impl Default for StoreSection {
    fn default() -> Self {
        let StoreLimits { max_samples, max_samples_per_class: _, max_bytes } = StoreLimits::default();
        Self { max_samples, max_samples_per_class: None, max_megabytes: max_bytes >> 20 }
    }
}

impl Default for MqttSection {
    fn default() -> Self {
        Self { keep_alive: Duration::from_secs(60), longest_pause: Duration::from_secs(60) }
    }
}

fn default_state() -> PathBuf {
    DEFAULT_STATE.into()
}

/// A configuration that passed every check that needs no other file. Its paths are usable from the current folder.
#[derive(Clone, Debug)]
pub struct ValidConfig {
    /// The fleet's name.
    pub fleet: FleetId,
    /// This device's name in the fleet.
    pub device: DeviceId,
    /// Where the broker is.
    pub broker: BrokerAddress,
    /// The extractor's manifest.
    pub extractor: PathBuf,
    /// Two or more distinct names, see [`class_list::check`].
    pub classes: Vec<String>,
    /// The folder this device keeps its state in.
    pub state: PathBuf,
    /// Bounds of the feature store.
    pub limits: StoreLimits,
    /// MQTT keep-alive.
    pub keep_alive: Duration,
    /// Longest pause between two attempts to connect.
    pub longest_pause: Duration,
    /// What to predict and where to publish it, if anything.
    pub predict: Option<Predictions>,
    /// The folder of class folders whose images are stored as they come, if there is one.
    pub ingest_watch: Option<PathBuf>,
    /// What training and extraction may take of the device.
    pub resources: Resources,
    /// What the device says about itself, what it finds out alone included.
    pub attributes: Attributes,
}

/// A folder whose images are classified as they come, and where the predictions go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predictions {
    /// The folder.
    pub watch: PathBuf,
    /// An MQTT topic.
    pub topic: String,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, or a variable over it.
    #[error(transparent)]
    File(#[from] config::ConfigError),
    /// The class list.
    #[error("{}: {source}", path.display())]
    Classes {
        /// The configuration.
        path: PathBuf,
        /// The fault.
        source: ClassListError,
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
    /// An attribute that cannot be one.
    #[error("{}: `attributes.{name}`: {fault}", path.display())]
    Attribute {
        /// The configuration.
        path: PathBuf,
        /// Its name.
        name: String,
        /// The fault.
        fault: AttributeError,
    },
    /// A topic that cannot be published to, or that belongs to the protocol.
    #[error(
        "{}: `predict.topic` is `{topic}`; it must not be empty, hold `+` or `#`, or begin with `grapevine/` (leave it \
         out for {usual})",
        path.display()
    )]
    Topic {
        /// The configuration.
        path: PathBuf,
        /// What it says.
        topic: String,
        /// The topic without this setting.
        usual: String,
    },
    /// A topic for predictions that nobody makes.
    #[error("{}: `predict.topic` is `{topic}`, but nothing is predicted; set `predict.watch` to a folder", path.display())]
    TopicAlone {
        /// The configuration.
        path: PathBuf,
        /// What it says.
        topic: String,
    },
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
    /// If the class list cannot be used, a value is out of its range, or an attribute or the topic of predictions is
    /// not allowed.
    pub fn check(self, path: &Path) -> Result<ValidConfig, ConfigError> {
        class_list::check(&self.classes).map_err(|source| ConfigError::Classes { path: path.to_owned(), source })?;
        let range = |key, value: String, fits: bool, allowed: String| {
            if fits { Ok(()) } else { Err(ConfigError::Range { path: path.to_owned(), key, value, allowed }) }
        };
        let StoreSection { max_samples, max_samples_per_class, max_megabytes } = self.store;
        let max_samples_per_class = max_samples_per_class.unwrap_or(max_samples);
        for (key, bound) in [("store.max_samples", max_samples), ("store.max_samples_per_class", max_samples_per_class)]
        {
            range(key, bound.to_string(), (1..=MAX_SAMPLES).contains(&bound), format!("1 to {MAX_SAMPLES}"))?;
        }
        let megabytes = (1..=MAX_STORE_MEGABYTES).contains(&max_megabytes);
        range("store.max_megabytes", max_megabytes.to_string(), megabytes, format!("1 to {MAX_STORE_MEGABYTES}"))?;
        let MqttSection { keep_alive, longest_pause } = self.mqtt;
        let seconds = |key, value: Duration, [least, most]: [u64; 2]| {
            let fits = (least..=most).contains(&value.as_secs());
            range(key, format!("{value:?}"), fits, format!("\"{least}s\" to \"{most}s\""))
        };
        seconds("mqtt.keep_alive", keep_alive, KEEP_ALIVE_SECONDS)?;
        seconds("mqtt.longest_pause", longest_pause, PAUSE_SECONDS)?;
        let predict = self.predict.check(path, &self.fleet, &self.device)?;
        let resources = self.resources.check(path)?;
        let attributes = self.attributes.check();
        let attributes = attributes.map_err(|AttributeFault { name, fault }| ConfigError::Attribute {
            path: path.to_owned(),
            name,
            fault,
        })?;
        Ok(ValidConfig {
            fleet: self.fleet,
            device: self.device,
            broker: self.broker,
            extractor: beside(path, &self.extractor),
            classes: self.classes,
            state: beside(path, &self.state),
            limits: StoreLimits { max_samples, max_samples_per_class, max_bytes: max_megabytes << 20 },
            keep_alive,
            longest_pause,
            predict,
            ingest_watch: self.ingest.watch.map(|watch| beside(path, &watch)),
            resources,
            attributes,
        })
    }
}

impl PredictSection {
    fn check(self, path: &Path, fleet: &FleetId, device: &DeviceId) -> Result<Option<Predictions>, ConfigError> {
        let Some(watch) = self.watch else {
            let topic = self.topic.map(|topic| ConfigError::TopicAlone { path: path.to_owned(), topic });
            return topic.map_or(Ok(None), Err);
        };
        let usual = topics::predictions(fleet, device);
        let topic = self.topic.unwrap_or_else(|| usual.clone());
        if !is_topic(&topic) || (topics::is_reserved(&topic) && topic != usual) {
            return Err(ConfigError::Topic { path: path.to_owned(), topic, usual });
        }
        Ok(Some(Predictions { watch: beside(path, &watch), topic }))
    }
}

/// What a new configuration says, see [`Draft::text`].
#[derive(Clone, Debug)]
pub struct Draft {
    /// The fleet's name.
    pub fleet: FleetId,
    /// This device's name in the fleet.
    pub device: DeviceId,
    /// The broker's address as written, password included.
    pub broker: String,
    /// The extractor's manifest, relative to the configuration.
    pub extractor: PathBuf,
    /// The fleet's class list.
    pub classes: Vec<String>,
    /// The folder for the device's state, relative to the configuration.
    pub state: PathBuf,
}

impl Draft {
    /// The commented TOML file.
    pub fn text(&self) -> String {
        let path = |path: &Path| quoted(&path.to_string_lossy());
        let StoreSection { max_samples, max_samples_per_class: _, max_megabytes } = StoreSection::default();
        let topic = topics::predictions(&self.fleet, &self.device);
        format!(
            r#"# A device of a Grapevine fleet. `edge-client --help` lists the commands that read this file.
# Environment variables override it: GRAPEVINE_BROKER, GRAPEVINE_STORE__MAX_SAMPLES, ...

# Names: a-z, 0-9, `-` and `_`, a letter or a digit first; the device's name is unique in its fleet.
fleet = {fleet}
device = {device}

# mqtt://[user:password@]host[:port]
broker = {broker}

# The frozen extractor's manifest, the same on every device of the fleet. Relative to this file.
extractor = {extractor}

# The fleet's class list, in the fleet's order. `edge-client ingest DIR` reads DIR/<class>/*.png.
classes = {classes}

# Where this device keeps its features, its newest head and what it has yet to deliver. Relative to this file.
state = {state}

[store]
# When a bound is met, the class with the most samples gives way.
max_samples = {max_samples}
max_megabytes = {max_megabytes}
# max_samples_per_class = 1000

[mqtt]
# Longest silence before a ping, and longest pause between two attempts to connect.
keep_alive = "60s"
longest_pause = "60s"

{resources}
[predict]
# A folder whose images `edge-client run` classifies as they come, and the topic of its predictions, which are JSON.
# watch = "camera"
# topic = "{topic}"

[ingest]
# A folder of class folders, such as labelled/<class>/1.jpg, whose images `edge-client run` stores as they come.
# watch = "labelled"

# What this device is, for a fleet that chooses among its devices: true, false, a whole number or a text each.
# `arch`, `os`, `cores` and `memory_mb` are reported without an entry here.
[attributes]
# mains = true
# site = "north"
"#,
            resources = ResourcesSection::text(),
            classes = quoted_list(&self.classes),
            fleet = quoted(self.fleet.as_str()),
            device = quoted(self.device.as_str()),
            broker = quoted(&self.broker),
            extractor = path(&self.extractor),
            state = path(&self.state),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> Draft {
        Draft {
            fleet: "north".parse().unwrap(),
            device: "camera-1".parse().unwrap(),
            broker: "mqtt://me:a%22b@broker:1884".into(),
            extractor: "a \"quoted\" folder/digits.toml".into(),
            classes: ["it's", "two words", "日本"].map(String::from).into(),
            state: "C:\\state".into(),
        }
    }

    fn check(text: &str) -> Result<ValidConfig, ConfigError> {
        let path = Path::new("etc/device.toml");
        config::parse::<Config>(text, path, [])?.check(path)
    }

    #[test]
    fn a_draft_reads_back_as_it_was_meant() {
        let valid = check(&draft().text()).unwrap();
        assert_eq!(valid.classes, draft().classes);
        assert_eq!(valid.extractor, Path::new("etc/a \"quoted\" folder/digits.toml"));
        assert_eq!(valid.state, Path::new("etc/C:\\state"));
        assert_eq!(valid.broker.login(), Some(("me", "a\"b")));
        assert_eq!(valid.limits, StoreLimits { max_samples_per_class: 20_000, ..StoreLimits::default() });
        assert_eq!((valid.predict, valid.ingest_watch), (None, None));
        assert_eq!(valid.keep_alive, Duration::from_secs(60));
        let many: Vec<String> = (0..1_000).map(|class| format!("class {class}")).collect();
        assert_eq!(check(&Draft { classes: many.clone(), ..draft() }.text()).unwrap().classes, many);
    }

    #[test]
    fn the_packaged_configuration_says_what_a_new_one_says() {
        let packaged = include_str!("../../../cross/packages/edge-client/edge-client.toml");
        assert!(check(packaged).unwrap_err().to_string().contains("missing field `fleet`; give it a value"));
        let open = ["fleet", "device", "broker", "classes"].map(|key| format!("\n# {key} = "));
        let text = open.iter().fold(packaged.to_owned(), |text, key| text.replacen(key, &key.replace("# ", ""), 1));
        let valid = check(&text).unwrap();
        let draft = Draft {
            broker: "mqtt://broker.local:1883".into(),
            extractor: "/usr/share/grapevine-edge-client/general.toml".into(),
            classes: ["cat", "dog"].map(String::from).into(),
            state: "/var/lib/grapevine-edge-client".into(),
            ..draft()
        };
        let new = ValidConfig { ingest_watch: valid.ingest_watch.clone(), ..check(&draft.text()).unwrap() };
        assert_eq!(format!("{valid:?}"), format!("{new:?}"));
    }

    #[test]
    fn absolute_paths_stay() {
        let text = Draft { state: "/var/lib/grapevine".into(), ..draft() }.text();
        assert_eq!(check(&text).unwrap().state, Path::new("/var/lib/grapevine"));
    }

    #[test]
    fn faults_name_the_setting_and_what_it_may_be() {
        for (from, to, expected) in [
            ("max_samples = 20000", "max_samples = 0", "`store.max_samples` is 0; it must be 1 to 16777216"),
            ("max_megabytes = 64", "max_megabytes = 9999999", "`store.max_megabytes` is 9999999"),
            ("keep_alive = \"60s\"", "keep_alive = \"1s\"", "`mqtt.keep_alive` is 1s; it must be \"5s\" to"),
            ("longest_pause = \"60s\"", "longest_pause = \"2h\"", "`mqtt.longest_pause` is 7200s"),
            ("longest_pause = \"60s\"", "longest_pause = 60", "line 29: invalid type"),
            ("fleet = \"north\"", "fleet = \"North\"", "line 5: `North` is not a name"),
            ("mqtt://me", "http://me", "begins with `mqtt://`"),
            ("max_samples = 20000", "max_sample = 1", "did you mean `max_samples`?"),
            (
                "# max_samples_per_class = 1000",
                "max_samples_per_class = 0",
                "`store.max_samples_per_class` is 0; it must",
            ),
            ("# topic", "topic", "nothing is predicted; set `predict.watch`"),
            ("# mains = true", "mains = 1.5", "an attribute is true, false, a whole number or a text"),
            ("# mains = true", "arch = 'mine'", "`attributes.arch`: every attribute is given once"),
        ] {
            let text = draft().text().replace(from, to);
            let error = check(&text).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("etc/device.toml"), "{error}");
        }
    }

    #[test]
    fn a_watched_folder_is_beside_the_configuration() {
        let text = draft().text().replace("# watch = \"labelled\"", "watch = \"labelled\"");
        assert_eq!(check(&text).unwrap().ingest_watch.as_deref(), Some(Path::new("etc/labelled")));
    }

    #[test]
    fn predictions_have_a_topic_of_their_own() {
        let text = draft().text().replace("# watch", "watch");
        let predict = check(&text).unwrap().predict.unwrap();
        assert_eq!(predict.watch, Path::new("etc/camera"));
        assert_eq!(predict.topic, "grapevine/north/predictions/camera-1");
        let with_topic = |topic: &str| {
            let line = format!("topic = \"{topic}\"");
            check(&text.replace("# topic = \"grapevine/north/predictions/camera-1\"", &line))
        };
        assert_eq!(with_topic("plant/camera").unwrap().predict.unwrap().topic, "plant/camera");
        assert_eq!(with_topic(&predict.topic).unwrap().predict, Some(predict));
        for topic in ["", "plant/#", "a/+/b", "grapevine/north/up/camera-1", "grapevine/north/predictions/other"] {
            let error = with_topic(topic).unwrap_err().to_string();
            assert!(error.contains(&format!("`predict.topic` is `{topic}`; it must not")), "{error}");
        }
    }
}
