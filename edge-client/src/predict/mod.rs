//! Classifies the images that come into a watched folder, each with the head that is the newest in that moment, and hands
//! what it sees to the device's connection.
//!
//! The images that lie there at the start come first. So nothing is missed while a device is off, and whoever listens
//! may hear of an image twice; its digest tells.

mod outgoing;

use core::time::Duration;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use grapevine_host::Shutdown;
use grapevine_host::clock::unix_ms;
use grapevine_host::sentence::sentence;
use grapevine_protocol::{DeviceId, Digest};
use serde::Serialize;

use crate::classify::{Classifier, LatestHead, Prediction, written};
use crate::resources::Throttle;
use crate::watch::{Arrival, Watch};
use grapevine_vision::image_input::{ImageError, read_image_file};

pub use outgoing::{Figures, MAX_WAITING, Outgoing};

/// Most classes of one message, the likeliest first.
const TOP: usize = 3;
/// Before it is looked again for a first head, or after the store failed.
const HEADLESS_PAUSE: Duration = Duration::from_secs(2);

/// Watches one folder. [`Predictor::run`] needs a thread of its own.
#[derive(Debug)]
pub struct Predictor {
    device: DeviceId,
    classifier: Classifier,
    latest: LatestHead,
    watch: Watch,
    outgoing: Arc<Outgoing>,
    throttle: Throttle,
    /// What was complained about last, so that a folder that stays away is mentioned once.
    complaint: Option<String>,
}

/// What is published about one image.
#[derive(Serialize)]
struct Message<'a> {
    device: &'a str,
    /// Relative to the watched folder.
    image: String,
    /// Of the image file.
    sha256: String,
    class: &'a str,
    /// With three digits, 0.999 at most.
    #[serde(serialize_with = "written")]
    probability: f64,
    /// Whether a probability says how often the class is right. No head of this version does.
    calibrated: bool,
    /// The likeliest classes; the first is `class`.
    predictions: &'a [Prediction],
    /// How many rounds went before the head.
    round: u32,
    /// Its run, hexadecimal: 64 bits are too many for a number in JSON.
    run: String,
    /// The head's digest.
    head: String,
    /// Milliseconds since 1970, by the device's clock.
    time_ms: u64,
    /// Messages that this device gave up since its start because more waited than it keeps.
    dropped: u64,
}

impl Predictor {
    /// Predictions for the images that come into `folder`, put into `outgoing`; `throttle` says when they wait.
    pub fn new(
        device: DeviceId,
        classifier: Classifier,
        latest: LatestHead,
        folder: &Path,
        outgoing: Arc<Outgoing>,
        throttle: Throttle,
    ) -> Self {
        Self { device, classifier, latest, watch: Watch::new(folder), outgoing, throttle, complaint: None }
    }

    /// Goes on until `shutdown`. What goes wrong is logged and tried again: a device that cannot predict can still learn.
    pub fn run(mut self, shutdown: &Shutdown) {
        self.throttle.lower_priority();
        let started = now();
        while !shutdown.is_requested() {
            let pause = self.look(started.elapsed(), shutdown);
            // Only a request ends the wait early.
            let _ = shutdown.receiver().recv_timeout(pause);
        }
    }

    /// Deals with what is complete now; gives the time until the next look.
    fn look(&mut self, now: Duration, shutdown: &Shutdown) -> Duration {
        match self.latest.now() {
            Ok(Some(_)) => {}
            // The images wait in their folder.
            Ok(None) => return HEADLESS_PAUSE,
            Err(error) => {
                self.complain(sentence(&error));
                return HEADLESS_PAUSE;
            }
        }
        match self.watch.look(now) {
            Ok(arrivals) => {
                self.complaint = None;
                let throttle = self.throttle.clone();
                for arrival in arrivals.iter().take_while(|_| throttle.passes(shutdown)) {
                    throttle.in_turn(|| self.take(arrival));
                }
            }
            Err(error) => self.complain(sentence(&error)),
        }
        self.watch.pause()
    }

    fn take(&mut self, arrival: &Arrival) {
        match self.message(&arrival.path) {
            Ok(Some(message)) => self.outgoing.push(message),
            Ok(None) => {}
            // It may be half written.
            Err(_) if !arrival.last_try => self.watch.give_back(arrival),
            Err(reason) => {
                self.outgoing.note_unusable();
                tracing::warn!(image = %arrival.path.display(), "not classified: {reason}");
            }
        }
    }

    /// `None` for a file that has gone.
    fn message(&mut self, path: &Path) -> Result<Option<Vec<u8>>, String> {
        let image = match read_image_file(path) {
            Err(ImageError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
            image => image.map_err(|error| sentence(&error))?,
        };
        let samples = self.latest.samples().map_err(|error| sentence(&error))?;
        let Some(inference_head) = self.latest.inference_head().map_err(|error| sentence(&error))? else {
            return Ok(None);
        };
        let predictions =
            self.classifier.classify(inference_head, &samples, &image).map_err(|error| sentence(&error))?;
        let likeliest = predictions.first().expect("a fleet has two classes or more");
        let message = Message {
            device: self.device.as_str(),
            image: path.strip_prefix(self.watch.folder()).unwrap_or(path).to_string_lossy().into_owned(),
            sha256: Digest::of(&image).to_string(),
            class: &likeliest.class,
            probability: likeliest.probability,
            calibrated: false,
            predictions: &predictions[..predictions.len().min(TOP)],
            round: inference_head.round,
            run: format!("{:016x}", inference_head.run),
            head: Digest(inference_head.digest).to_string(),
            time_ms: unix_ms(),
            dropped: self.outgoing.figures().dropped,
        };
        Ok(Some(serde_json::to_vec(&message).expect("texts and finite numbers are JSON")))
    }

    fn complain(&mut self, complaint: String) {
        if self.complaint.as_ref() != Some(&complaint) {
            tracing::warn!("no predictions for now: {complaint}");
            self.complaint = Some(complaint);
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "this is a shell: the watch gets its time from here")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use grapevine_models::{Head, Shape};
    use grapevine_vision::manifest::Manifest;
    use image::{GrayImage, Luma};
    use serde_json::Value;

    use super::*;
    use crate::resources::{Limits, Resources};
    use crate::store::{NewestHead, Store, StoreIdentity};
    use grapevine_vision::extractor::Extractor;

    const SECOND: Duration = Duration::from_secs(1);

    /// A predictor over a folder, and its time.
    struct Scene {
        folder: tempfile::TempDir,
        store: Arc<Store>,
        predictor: Predictor,
        outgoing: Arc<Outgoing>,
        now: Duration,
    }

    impl Scene {
        fn new() -> Self {
            Self::governed(Throttle::default())
        }

        fn governed(throttle: Throttle) -> Self {
            let onnx = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/onnx");
            let manifest: Manifest = toml::from_str(&fs::read_to_string(onnx.join("digits.toml")).unwrap()).unwrap();
            let extractor = Extractor::load(&manifest, &onnx.join(&manifest.file)).unwrap();
            let classes: Vec<String> = ["cat", "dog", "emu", "fox"].map(String::from).into();
            let shape = Shape::new(classes.len(), extractor.features()).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let identity = StoreIdentity { extractor: [7; 32], classes: classes.clone(), shape };
            let store = Arc::new(Store::open(&folder.path().join("store.redb"), &identity).unwrap());
            let outgoing = Arc::new(Outgoing::new("predictions"));
            let predictor = Predictor::new(
                "camera-1".parse().unwrap(),
                Classifier::new(extractor, classes).unwrap(),
                LatestHead::of(store.clone()),
                &folder.path().join("camera"),
                outgoing.clone(),
                throttle,
            );
            Self { folder, store, predictor, outgoing, now: Duration::ZERO }
        }

        /// A head that is sure of one class.
        fn store_head(&self, round: u32, class: usize) {
            let mut main = Head::zeros(self.store.shape());
            main.bias[class] = 10.0;
            // The same for every class, so that it is a head that learned something.
            let features = self.store.shape().features();
            main.weight.iter_mut().step_by(features).for_each(|weight| *weight = 1e-3);
            self.store.put_head(&NewestHead { run: u64::MAX, round, main, digest: [round as u8; 32] }).unwrap();
        }

        fn write_image(&self, name: &str, level: u8) {
            let path = self.folder.path().join("camera").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            GrayImage::from_pixel(8, 8, Luma([level])).save(path).unwrap();
        }

        /// What was said after so many seconds.
        fn after(&mut self, seconds: u32) -> Vec<Value> {
            for _ in 0..seconds {
                self.now += SECOND;
                self.predictor.look(self.now, &Shutdown::manual());
            }
            let messages = core::iter::from_fn(|| self.outgoing.next(Some(0)));
            messages.map(|message| serde_json::from_slice(&message).unwrap()).collect()
        }
    }

    #[test]
    fn images_are_classified_with_the_newest_head_of_the_moment() {
        let mut scene = Scene::new();
        scene.write_image("early/1.png", 90);
        assert!(scene.after(10).is_empty(), "there is no head, and the image waits");
        scene.store_head(3, 1);
        let said = scene.after(4);
        assert_eq!(said.len(), 1);
        assert_eq!((&said[0]["class"], &said[0]["image"]), (&"dog".into(), &"early/1.png".into()));
        assert_eq!((&said[0]["round"], &said[0]["run"]), (&3.into(), &"ffffffffffffffff".into()));
        assert_eq!((&said[0]["device"], &said[0]["dropped"]), (&"camera-1".into(), &0.into()));
        assert_eq!(said[0]["head"], "03".repeat(32));
        let image = fs::read(scene.folder.path().join("camera/early/1.png")).unwrap();
        assert_eq!(said[0]["sha256"], Digest::of(&image).to_string());
        assert_eq!(said[0]["predictions"].as_array().unwrap().len(), 3);
        assert_eq!(
            (&said[0]["probability"], &said[0]["calibrated"]),
            (&0.999.into(), &false.into()),
            "sure of nothing"
        );
        assert!(said[0]["predictions"][0]["samples"] == 0 && said[0]["time_ms"].as_u64().unwrap() > 1 << 40);

        scene.store_head(4, 2);
        scene.write_image("2.png", 91);
        let said = scene.after(4);
        assert_eq!((&said[0]["class"], &said[0]["round"], said.len()), (&"emu".into(), &4.into(), 1));
        assert!(scene.after(5).is_empty(), "each image once");
    }

    #[test]
    fn a_hot_board_classifies_nothing_until_it_is_cool() {
        let sensors = tempfile::tempdir().unwrap();
        let zone = sensors.path().join("thermal/thermal_zone0");
        fs::create_dir_all(&zone).unwrap();
        fs::write(zone.join("type"), "cpu-thermal\n").unwrap();
        fs::write(zone.join("temp"), "95000\n").unwrap();
        let throttle = Throttle::new(&Resources {
            threads: None,
            nice: 0,
            limits: Limits { celsius: 80, battery_percent: 0 },
            check_every: Duration::from_millis(1),
            sensors: sensors.path().to_owned(),
            sample_bytes: 0,
        });
        let mut scene = Scene::governed(throttle.clone());
        scene.store_head(1, 0);
        scene.write_image("1.png", 10);
        let outgoing = scene.outgoing.clone();
        let said = std::thread::scope(|scope| {
            let looking = scope.spawn(|| scene.after(4));
            let deadline = now() + Duration::from_secs(60);
            while throttle.pause().is_none() {
                assert!(now() < deadline, "the sensors are never read");
                std::thread::yield_now();
            }
            assert_eq!(outgoing.figures().waiting, 0, "it would have been classified by now");
            fs::write(zone.join("temp"), "60000\n").unwrap();
            looking.join().unwrap()
        });
        assert_eq!(said.len(), 1);
    }

    #[test]
    fn what_is_no_image_is_counted_when_it_stays_so_and_a_folder_may_come_later() {
        let mut scene = Scene::new();
        scene.store_head(1, 0);
        assert!(scene.after(2).is_empty(), "the folder is not there yet");
        scene.write_image("1.png", 10);
        fs::write(scene.folder.path().join("camera/broken.png"), "half an image").unwrap();
        assert_eq!(scene.after(10).len(), 1);
        assert_eq!(scene.outgoing.figures().unusable, 0, "it may still be written to");
        assert!(scene.after(40).is_empty());
        assert_eq!(scene.outgoing.figures().unusable, 1);
    }
}
