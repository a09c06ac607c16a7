//! How much memory a process takes, from `/proc`, and how much this one may take; nothing on systems without either.

use core::time::Duration;
use std::fs;

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

/// Ends this process when it asks for more than `bytes` of address space or computes for longer than `cpu`: for work on
/// files that nobody vouches for, in a process of its own.
pub fn limit(bytes: u64, cpu: Duration) {
    limits::set(bytes, cpu);
}

#[cfg(target_os = "linux")]
mod limits {
    use core::time::Duration;

    use rustix::process::{Resource, Rlimit, setrlimit};

    pub(super) fn set(bytes: u64, cpu: Duration) {
        let most = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
        // Where a stricter limit is in force already, that one stays. No core file for a failure that is foreseen.
        let _ = setrlimit(Resource::As, most(bytes));
        let _ = setrlimit(Resource::Cpu, most(cpu.as_secs().max(1)));
        let _ = setrlimit(Resource::Core, most(0));
    }
}

#[cfg(not(target_os = "linux"))]
mod limits {
    use core::time::Duration;

    pub(super) fn set(_bytes: u64, _cpu: Duration) {}
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
    }
}
