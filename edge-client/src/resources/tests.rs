use std::fs;
use std::path::Path;
use std::thread;

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

fn resources(sensors: &Path) -> Resources {
    Resources {
        threads: None,
        nice: 0,
        limits: Limits { celsius: 80, battery_percent: 20 },
        check_every: Duration::from_millis(5),
        sensors: sensors.to_owned(),
        sample_bytes: 0,
    }
}

/// A board that is so hot.
fn board(celsius: i32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("thermal/thermal_zone0")).unwrap();
    fs::write(folder.path().join("thermal/thermal_zone0/type"), "cpu-thermal\n").unwrap();
    heat(folder.path(), celsius);
    folder
}

fn heat(folder: &Path, celsius: i32) {
    let path = folder.join("thermal/thermal_zone0/temp");
    // Renamed into place, as a reader never sees half a temperature on a real board either.
    fs::write(path.with_extension("new"), format!("{celsius}000\n")).unwrap();
    fs::rename(path.with_extension("new"), path).unwrap();
}

#[test]
fn work_waits_while_the_board_is_hot_and_goes_on_when_it_is_cool() {
    let board = board(85);
    let throttle = Throttle::new(&resources(board.path()));
    let changes = throttle.changes();
    let work = {
        let throttle = throttle.clone();
        thread::spawn(move || throttle.passes(&Shutdown::manual()))
    };
    changes.recv_timeout(PATIENCE).unwrap();
    assert_eq!(throttle.pause(), Some(Pause::Hot(Heat { zone: "cpu-thermal".into(), celsius: 85 })));
    assert!(!work.is_finished());
    heat(board.path(), 70);
    changes.recv_timeout(PATIENCE).unwrap();
    assert!(work.join().unwrap() && throttle.pause().is_none());
}

#[test]
fn sensors_are_read_once_a_period() {
    let board = board(60);
    let throttle = Throttle::new(&Resources { check_every: Duration::from_secs(3_600), ..resources(board.path()) });
    assert!(throttle.passes(&Shutdown::manual()));
    heat(board.path(), 95);
    assert!(throttle.passes(&Shutdown::manual()) && throttle.changes().is_empty());
}

#[test]
fn a_wish_to_stop_ends_a_pause_at_once() {
    let board = board(95);
    let throttle = Throttle::new(&Resources { check_every: Duration::from_secs(3_600), ..resources(board.path()) });
    let stop = Shutdown::manual();
    let work = {
        let (throttle, stop) = (throttle.clone(), stop.clone());
        thread::spawn(move || throttle.passes(&stop))
    };
    throttle.changes().recv_timeout(PATIENCE).unwrap();
    stop.request();
    assert!(!work.join().unwrap());
}

#[test]
fn a_budget_of_one_thread_is_kept() {
    let one = Resources { threads: NonZeroUsize::new(1), ..resources(Path::new("/nowhere")) };
    let throttle = Throttle::new(&one);
    let inside = Arc::new(Mutex::new(()));
    let alone = |throttle: Throttle, inside: Arc<Mutex<()>>| {
        move || (0..200).all(|_| throttle.in_turn(|| inside.try_lock().map(|_guard| thread::yield_now()).is_ok()))
    };
    let other = thread::spawn(alone(throttle.clone(), inside.clone()));
    assert!(alone(throttle, inside)() && other.join().unwrap());
}

#[test]
fn the_default_lets_everything_pass() {
    let throttle = Throttle::default();
    assert!(throttle.passes(&Shutdown::manual()) && throttle.pause().is_none());
    assert_eq!(throttle.in_turn(|| 7), 7);
    throttle.lower_priority();
}
