//! How much processor time was used, user and system together (`None` where the system does not tell), and how much a
//! thread may take from others.

use core::time::Duration;
use std::io;

/// By all threads of this process, those that ended included.
pub fn process_cpu() -> Option<Duration> {
    clock::process()
}

/// By the calling thread.
pub fn thread_cpu() -> Option<Duration> {
    clock::thread()
}

/// Lets the calling thread, and those that it starts from now on, stand back for others: `nice` from 0 to 19. It takes
/// back nothing: only the superuser may lower it. Systems other than Linux do nothing.
///
/// # Errors
/// If the system refuses, as it does where priority would be gained.
pub fn lower_priority(nice: u8) -> io::Result<()> {
    clock::lower_priority(nice)
}

#[cfg(target_os = "linux")]
mod clock {
    use core::time::Duration;
    use std::io;

    use rustix::process::setpriority_process;
    use rustix::time::{ClockId, clock_gettime};

    pub(super) fn lower_priority(nice: u8) -> io::Result<()> {
        // Linux takes this for the calling thread alone, whatever POSIX says.
        Ok(setpriority_process(None, i32::from(nice))?)
    }

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
    use std::io;

    pub(super) fn lower_priority(_nice: u8) -> io::Result<()> {
        Ok(())
    }

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

    #[test]
    fn one_thread_stands_back_and_the_others_do_not() {
        use rustix::process::getpriority_process;
        let before = getpriority_process(None).unwrap();
        let other = std::thread::spawn(|| {
            lower_priority(19).unwrap();
            getpriority_process(None).unwrap()
        });
        assert_eq!(other.join().unwrap(), 19);
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
