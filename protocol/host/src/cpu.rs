//! How much processor time was used, user and system together; `None` where the system does not tell.

use core::time::Duration;

/// By all threads of this process, those that ended included.
pub fn process_cpu() -> Option<Duration> {
    clock::process()
}

/// By the calling thread.
pub fn thread_cpu() -> Option<Duration> {
    clock::thread()
}

#[cfg(target_os = "linux")]
mod clock {
    use core::time::Duration;

    use rustix::time::{ClockId, clock_gettime};

    pub(super) fn process() -> Option<Duration> {
        Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).ok()
    }

    pub(super) fn thread() -> Option<Duration> {
        Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod clock {
    use core::time::Duration;

    pub(super) fn process() -> Option<Duration> {
        None
    }

    pub(super) fn thread() -> Option<Duration> {
        None
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted() {
        let (process, thread) = (process_cpu().unwrap(), thread_cpu().unwrap());
        let sum = (0..5_000_000u64).fold(0u64, |sum, n| core::hint::black_box(sum ^ n.wrapping_mul(sum | 1)));
        core::hint::black_box(sum);
        // The thread's time is read last and first, so that it lies within the process's.
        let thread = thread_cpu().unwrap() - thread;
        let process = process_cpu().unwrap() - process;
        assert!(thread > Duration::from_micros(100), "{thread:?}");
        assert!(process >= thread, "{process:?} and {thread:?}");
    }
}
