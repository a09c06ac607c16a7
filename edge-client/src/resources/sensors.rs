//! The board's sensors as Linux shows them below `/sys/class`.

use std::fs;
use std::path::{Path, PathBuf};

use super::pause_rule::{Heat, Readings};

/// Zones that say the same whatever happens: Jetson boards give 100 °C for this one.
const CONSTANT_ZONES: [&str; 1] = ["PMIC-Die"];
/// Anything else is a sensor that does not work, in degrees Celsius.
const PLAUSIBLE: core::ops::RangeInclusive<i32> = -55..=150;

/// What the sensors below `folder` say. What cannot be read says nothing: a zone may be switched off, a battery may be
/// taken out.
pub(super) fn read(folder: &Path) -> Readings {
    let zones = entries(&folder.join("thermal"), "thermal_zone");
    let batteries = entries(&folder.join("power_supply"), "");
    Readings {
        hottest: zones.iter().filter_map(|zone| heat(zone)).max_by_key(|heat| heat.celsius),
        battery_percent: batteries.iter().filter_map(|battery| discharging_percent(battery)).max(),
    }
}

fn heat(zone: &Path) -> Option<Heat> {
    let name = line(&zone.join("type"))?;
    let celsius = line(&zone.join("temp"))?.parse::<i32>().ok()? / 1_000;
    let is_measured = PLAUSIBLE.contains(&celsius) && !CONSTANT_ZONES.contains(&name.as_str());
    is_measured.then_some(Heat { zone: name, celsius: celsius as i16 })
}

/// The charge of a battery that feeds the board and is not being charged.
fn discharging_percent(supply: &Path) -> Option<u8> {
    let is = |name: &str, expected: &str| line(&supply.join(name)).is_some_and(|found| found == expected);
    // The battery of a mouse has this scope.
    let feeds_the_board = is("type", "Battery") && !is("scope", "Device");
    let percent =
        if feeds_the_board && is("status", "Discharging") { line(&supply.join("capacity"))? } else { return None };
    percent.parse().ok()
}

/// In the order of their names, so that equal readings give equal answers.
fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let named = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(named).collect();
    paths.sort();
    paths
}

fn line(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (name, content) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    fn zone(folder: &Path, number: u8, name: &str, temp: &str) {
        let file = |file| format!("thermal/thermal_zone{number}/{file}");
        write(folder, &[(&file("type"), name), (&file("temp"), temp)]);
    }

    #[test]
    fn the_hottest_zone_that_measures_counts() {
        let folder = tempfile::tempdir().unwrap();
        zone(folder.path(), 0, "cpu-thermal\n", "48312\n");
        zone(folder.path(), 1, "gpu-thermal\n", "51999\n");
        zone(folder.path(), 2, "PMIC-Die\n", "100000\n");
        zone(folder.path(), 3, "broken\n", "-274000\n");
        zone(folder.path(), 4, "off\n", "");
        write(folder.path(), &[("thermal/cooling_device0/type", "fan\n"), ("thermal/cooling_device0/temp", "99000\n")]);
        let hottest = Some(Heat { zone: "gpu-thermal".into(), celsius: 51 });
        assert_eq!(read(folder.path()), Readings { hottest, battery_percent: None });
    }

    #[test]
    fn only_a_battery_of_the_board_that_is_discharged_counts() {
        let folder = tempfile::tempdir().unwrap();
        let supply = |name: &str, files: &[(&str, &str)]| {
            for (file, content) in files {
                write(folder.path(), &[(&format!("power_supply/{name}/{file}"), content)]);
            }
        };
        supply("AC", &[("type", "Mains\n"), ("online", "0\n")]);
        supply(
            "mouse",
            &[("type", "Battery\n"), ("scope", "Device\n"), ("status", "Discharging\n"), ("capacity", "2\n")],
        );
        supply("BAT0", &[("type", "Battery\n"), ("status", "Charging\n"), ("capacity", "11\n")]);
        assert_eq!(read(folder.path()), Readings::default());
        supply("BAT0", &[("status", "Discharging\n")]);
        assert_eq!(read(folder.path()).battery_percent, Some(11));
        supply("BAT1", &[("type", "Battery\n"), ("status", "Discharging\n"), ("capacity", "64\n")]);
        assert_eq!(read(folder.path()).battery_percent, Some(64));
    }

    #[test]
    fn a_board_without_sensors_says_nothing() {
        assert_eq!(read(Path::new("/nowhere")), Readings::default());
    }
}
