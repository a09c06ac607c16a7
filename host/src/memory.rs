//! How much memory a process takes, from `/proc`, and how much this one may take; nothing on systems without either.

use core::time::Duration;
use std::fs;
use std::path::Path;

/// Bytes in memory now.
pub fn resident_bytes() -> Option<u64> {
    status("self", "VmRSS:")
}

/// Bytes that another process has in memory now.
pub fn resident_bytes_of(process: u32) -> Option<u64> {
    status(&process.to_string(), "VmRSS:")
}

/// Most bytes in memory at any time since the start.
pub fn peak_bytes() -> Option<u64> {
    status("self", "VmHWM:")
}

/// Bytes that this process could still get: what the system has free, or less where its control group allows less.
pub fn available_bytes() -> Option<u64> {
    let free = parse(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(group_bytes().map_or(free, |group| group.min(free)))
}

/// Ends this process when it asks for more than `bytes` of address space or computes for longer than `time`, which
/// [`extend_time`] raises to `most_time`, or when its parent ends: for work on files that nobody vouches for, in a process
/// of its own. Where the system has no memory left, it ends this process first.
pub fn limit(bytes: u64, time: Duration, most_time: Duration) {
    limits::set(bytes, time, most_time);
}

/// See [`limit`].
pub fn extend_time() {
    limits::extend_time();
}

#[cfg(target_os = "linux")]
mod limits {
    use core::time::Duration;
    use std::fs;

    use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};

    /// Between the signal that tells why a process ends and the end of all patience.
    const MARGIN_SECONDS: u64 = 2;
    /// The first to go.
    const OUT_OF_MEMORY_SCORE: &str = "1000";

    pub(super) fn set(bytes: u64, time: Duration, most_time: Duration) {
        let most = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
        let (time, most_time) = (time.as_secs().max(1), most_time.as_secs() + MARGIN_SECONDS);
        // Where a stricter limit is in force already, that one stays. No core file for a failure that is foreseen.
        let _ = setrlimit(Resource::As, most(bytes));
        let _ = setrlimit(Resource::Cpu, Rlimit { current: Some(time), maximum: Some(most_time) });
        let _ = setrlimit(Resource::Core, most(0));
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
        let _ = fs::write("/proc/self/oom_score_adj", OUT_OF_MEMORY_SCORE);
    }

    pub(super) fn extend_time() {
        let Rlimit { maximum, .. } = getrlimit(Resource::Cpu);
        let current = maximum.map(|seconds| seconds.saturating_sub(MARGIN_SECONDS));
        let _ = setrlimit(Resource::Cpu, Rlimit { current, maximum });
    }
}

#[cfg(not(target_os = "linux"))]
mod limits {
    use core::time::Duration;

    pub(super) fn set(_bytes: u64, _time: Duration, _most_time: Duration) {}

    pub(super) fn extend_time() {}
}

/// What is left of the memory of this process's control group; `None` where nothing bounds it.
fn group_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let folder = Path::new("/sys/fs/cgroup").join(group);
    let number = |file: &str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
    let statistics = fs::read_to_string(folder.join("memory.stat")).ok()?;
    // Pages of files that nobody needs now make room when it is asked for.
    let idle = statistics.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse().ok());
    let taken = number("memory.current")?.saturating_sub(idle.unwrap_or(0));
    Some(number("memory.max")?.saturating_sub(taken))
}

fn status(process: &str, field: &str) -> Option<u64> {
    parse(&fs::read_to_string(format!("/proc/{process}/status")).ok()?, field)
}

fn parse(status: &str, field: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_found_and_converted() {
        let status = "Name:\tfleet\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(parse(status, "VmRSS:"), Some(1 << 20));
        assert_eq!(parse(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(parse(status, "VmSwap:"), None);
        assert_eq!(parse("VmRSS: many kB", "VmRSS:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_a_size() {
        let (resident, peak) = (resident_bytes().unwrap(), peak_bytes().unwrap());
        assert!(resident > 100_000 && peak > 100_000);
        assert!(resident_bytes_of(std::process::id()).unwrap() > 100_000);
        assert!(available_bytes().unwrap() > 0);
    }
}
