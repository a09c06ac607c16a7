//! What a daemon tells the service manager that started it: the datagrams of `sd_notify(3)`.
//!
//! Without `NOTIFY_SOCKET` in the environment nothing is told and everything here does nothing.

use core::fmt;
use core::time::Duration;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::process;
use std::sync::{Arc, Mutex, PoisonError};

use crate::printable;

/// The service manager, or nobody. Clones share it.
#[derive(Clone, Default)]
pub struct Service {
    manager: Option<Arc<Manager>>,
}

struct Manager {
    socket: socket::Socket,
    /// Within what time it wants to hear that the daemon is well.
    patience: Option<Duration>,
    status: Mutex<String>,
}

/// When the service manager hears next that the daemon is well.
#[derive(Debug)]
pub struct Heartbeat {
    service: Service,
    due_at: Duration,
}

impl Service {
    /// The one in the environment (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`), if there is one.
    pub fn from_environment() -> Self {
        let Some(address) = env::var_os("NOTIFY_SOCKET") else { return Self::default() };
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let is_meant = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
        let patience = number("WATCHDOG_USEC").filter(|&microseconds| is_meant && microseconds > 0);
        Self::at(&address, patience.map(Duration::from_micros)).unwrap_or_else(|error| {
            tracing::warn!("the service manager is not told anything: {error}; is NOTIFY_SOCKET right?");
            Self::default()
        })
    }

    /// The one that listens at a path, or, with a leading `@`, at an abstract address.
    ///
    /// # Errors
    /// If nothing listens at the address, or the system has no such sockets.
    pub fn at(address: &OsStr, patience: Option<Duration>) -> io::Result<Self> {
        let manager = Manager { socket: socket::Socket::to(address)?, patience, status: Mutex::default() };
        Ok(Self { manager: Some(Arc::new(manager)) })
    }

    /// The daemon does what it is there for.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The daemon is about to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// What the daemon is doing, for people: one line, told when it is another one.
    pub fn status(&self, line: &str) {
        let Some(manager) = &self.manager else { return };
        let mut told = manager.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *told != line {
            line.clone_into(&mut told);
            self.tell(&format!("STATUS={}", printable(&line.replace('\n', " "))));
        }
    }

    /// The first beat is due at once.
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat { service: self.clone(), due_at: Duration::ZERO }
    }

    fn tell(&self, message: &str) {
        let Some(manager) = &self.manager else { return };
        if let Err(error) = manager.socket.send(message) {
            tracing::debug!(message, "the service manager does not listen: {error}");
        }
    }
}

impl Heartbeat {
    /// Call it at every turn of the loop that the daemon lives by. Says that it is well at half of the manager's
    /// patience, and nothing while it is not. Gives the time of the next turn at the latest.
    pub fn beat(&mut self, now: Duration, is_well: bool) -> Option<Duration> {
        let period = self.service.manager.as_ref()?.patience? / 2;
        if self.due_at <= now {
            self.due_at = now + period;
            if is_well {
                self.service.tell("WATCHDOG=1");
            }
        }
        Some(self.due_at)
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("is_told", &self.manager.is_some()).finish()
    }
}

#[cfg(unix)]
mod socket {
    use std::ffi::OsStr;
    use std::io;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    pub(super) struct Socket(UnixDatagram);

    impl Socket {
        pub(super) fn to(address: &OsStr) -> io::Result<Self> {
            let socket = UnixDatagram::unbound()?;
            // A manager that does not read must not hold up the daemon.
            socket.set_nonblocking(true)?;
            socket.connect_addr(&parse(address)?)?;
            Ok(Self(socket))
        }

        pub(super) fn send(&self, message: &str) -> io::Result<()> {
            self.0.send(message.as_bytes()).map(drop)
        }
    }

    fn parse(address: &OsStr) -> io::Result<SocketAddr> {
        match address.as_bytes().strip_prefix(b"@") {
            Some(name) => abstract_address(name),
            None => SocketAddr::from_pathname(address),
        }
    }

    #[cfg(target_os = "linux")]
    fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
        use std::os::linux::net::SocketAddrExt;
        SocketAddr::from_abstract_name(name)
    }

    #[cfg(not(target_os = "linux"))]
    fn abstract_address(_name: &[u8]) -> io::Result<SocketAddr> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(not(unix))]
mod socket {
    use std::ffi::OsStr;
    use std::io;

    pub(super) struct Socket;

    impl Socket {
        pub(super) fn to(_address: &OsStr) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn send(&self, _message: &str) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A manager's end of the socket.
    struct Listener {
        folder: tempfile::TempDir,
        socket: UnixDatagram,
    }

    impl Listener {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self { folder, socket }
        }

        fn service(&self, patience: Option<Duration>) -> Service {
            Service::at(self.folder.path().join("notify").as_os_str(), patience).unwrap()
        }

        /// Everything that was told by now; sending over such a socket is done when it returns.
        fn heard(&self) -> Vec<String> {
            let mut buffer = [0; 1_024];
            let next = || {
                let length = self.socket.recv(&mut buffer).ok()?;
                Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
            };
            core::iter::from_fn(next).collect()
        }
    }

    #[test]
    fn a_manager_hears_the_life_of_a_daemon() {
        let listener = Listener::new();
        let service = listener.service(None);
        service.ready();
        service.status("waiting for a round");
        service.status("waiting for a round");
        service.status("two\nlines");
        service.stopping();
        assert_eq!(listener.heard(), ["READY=1", "STATUS=waiting for a round", "STATUS=two lines", "STOPPING=1"]);
        assert_eq!(service.heartbeat().beat(SECOND, true), None, "it did not ask for it");
    }

    #[test]
    fn it_beats_at_half_of_the_patience_and_only_while_it_is_well() {
        let listener = Listener::new();
        let mut heartbeat = listener.service(Some(SECOND * 10)).heartbeat();
        assert_eq!(heartbeat.beat(SECOND, true), Some(SECOND * 6));
        assert_eq!(heartbeat.beat(SECOND * 5, true), Some(SECOND * 6));
        assert_eq!(listener.heard(), ["WATCHDOG=1"]);
        assert_eq!(heartbeat.beat(SECOND * 6, false), Some(SECOND * 11));
        assert_eq!(heartbeat.beat(SECOND * 11, false), Some(SECOND * 16));
        assert!(listener.heard().is_empty());
        heartbeat.beat(SECOND * 17, true);
        assert_eq!(listener.heard(), ["WATCHDOG=1"]);
    }

    #[test]
    fn a_manager_that_is_gone_or_never_was_holds_up_nothing() {
        let listener = Listener::new();
        let service = listener.service(Some(SECOND));
        drop(listener);
        service.ready();
        service.heartbeat().beat(SECOND, true);
        Service::default().ready();
        assert_eq!(Service::default().heartbeat().beat(SECOND, true), None);
        assert!(Service::at(OsStr::new("/nowhere/notify"), None).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn abstract_addresses_are_understood() {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::net::SocketAddr;
        let name = format!("grapevine-service-{}", process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Service::at(OsStr::new(&format!("@{name}")), None).unwrap().ready();
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
    }
}
