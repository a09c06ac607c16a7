//! When work pauses to spare the device: readings in, verdict out. Pure.

use core::fmt;

/// How much cooler than the limit it must be before work goes on: without a gap it would flutter around the limit.
const COOLER_BY: i16 = 5;
/// How much more charge than the limit there must be before work goes on without mains.
const FULLER_BY: u8 = 5;

/// What the board's sensors say at one moment; nothing where it has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    /// The hottest thermal zone.
    pub hottest: Option<Heat>,
    /// The charge of the fullest battery that is being discharged; `None` on mains too.
    pub battery_percent: Option<u8>,
}

/// The temperature of one thermal zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heat {
    /// The zone's name.
    pub zone: String,
    /// Whole degrees Celsius.
    pub celsius: i16,
}

/// From where on work pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Degrees Celsius; work pauses above.
    pub celsius: i16,
    /// Charge in percent while discharging; work pauses below.
    pub battery_percent: u8,
}

/// Why work pauses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pause {
    /// A part of the board is too hot.
    Hot(Heat),
    /// The battery is low and nothing charges it.
    LowBattery {
        /// Its charge.
        percent: u8,
    },
}

/// Decides whether work may go on.
#[derive(Clone, Debug)]
pub struct PauseRule {
    limits: Limits,
    pause: Option<Pause>,
}

impl PauseRule {
    /// Work goes on until a reading says otherwise.
    pub fn new(limits: Limits) -> Self {
        Self { limits, pause: None }
    }

    /// Why work pauses, if it does.
    pub fn pause(&self) -> Option<&Pause> {
        self.pause.as_ref()
    }

    /// Takes the newest readings. Says whether work begins to pause or goes on with them.
    pub fn judge(&mut self, readings: Readings) -> bool {
        let (was_hot, was_low) = match self.pause {
            None => (false, false),
            Some(Pause::Hot(_)) => (true, false),
            Some(Pause::LowBattery { .. }) => (false, true),
        };
        let Limits { celsius, battery_percent } = self.limits;
        // Reached again only below the gap, left only above it.
        let hottest = if was_hot { celsius - COOLER_BY } else { celsius };
        let lowest = if was_low { battery_percent.saturating_add(FULLER_BY) } else { battery_percent };
        let hot = readings.hottest.filter(|heat| heat.celsius > hottest).map(Pause::Hot);
        let low = readings.battery_percent.filter(|&percent| percent < lowest);
        let verdict = hot.or(low.map(|percent| Pause::LowBattery { percent }));
        let is_change = verdict.is_some() != self.pause.is_some();
        self.pause = verdict;
        is_change
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hot(Heat { zone, celsius }) => write!(f, "{zone} is at {celsius} °C"),
            Self::LowBattery { percent } => write!(f, "the battery is at {percent} %"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle() -> PauseRule {
        PauseRule::new(Limits { celsius: 80, battery_percent: 20 })
    }

    fn heat(celsius: i16) -> Readings {
        Readings { hottest: Some(Heat { zone: "cpu-thermal".into(), celsius }), battery_percent: None }
    }

    fn charge(percent: u8) -> Readings {
        Readings { battery_percent: Some(percent), ..Readings::default() }
    }

    /// Whether work pauses after each reading, and how many of them changed something.
    fn story(readings: impl IntoIterator<Item = Readings>) -> (Vec<bool>, usize) {
        let mut throttle = throttle();
        let judged: Vec<(bool, bool)> =
            readings.into_iter().map(|each| (throttle.judge(each), throttle.pause().is_some())).collect();
        (judged.iter().map(|(_, paused)| *paused).collect(), judged.iter().filter(|(change, _)| *change).count())
    }

    #[test]
    fn heat_pauses_above_the_limit_and_until_it_is_cooler_by_the_gap() {
        let (paused, changes) = story([79, 80, 81, 80, 79, 76, 75, 80, 81].map(heat));
        assert_eq!(paused, [false, false, true, true, true, true, false, false, true]);
        assert_eq!(changes, 3);
    }

    #[test]
    fn a_low_battery_pauses_until_mains_or_more_charge() {
        let (paused, changes) = story([21, 20, 19, 20, 24, 25, 20].map(charge));
        assert_eq!(paused, [false, false, true, true, true, false, false]);
        assert_eq!(changes, 2);
        assert_eq!(story([charge(3), Readings::default(), charge(3)]).0, [true, false, true]);
    }

    #[test]
    fn one_reason_after_the_other_is_one_pause() {
        let both = |celsius, percent| Readings { battery_percent: Some(percent), ..heat(celsius) };
        let (paused, changes) = story([both(90, 50), both(90, 10), both(70, 10), both(70, 22), both(70, 25)]);
        assert_eq!(paused, [true, true, true, true, false]);
        assert_eq!(changes, 2);
    }

    #[test]
    fn a_board_without_sensors_never_pauses() {
        assert_eq!(story([Readings::default(), Readings::default()]), (vec![false, false], 0));
    }

    #[test]
    fn people_read_what_is_the_matter() {
        let mut throttle = throttle();
        throttle.judge(heat(84));
        assert_eq!(throttle.pause().unwrap().to_string(), "cpu-thermal is at 84 °C");
        throttle.judge(charge(7));
        assert_eq!(throttle.pause().unwrap().to_string(), "the battery is at 7 %");
    }
}
