//! A link between clients and their broker that is slow, late, cut again and again, or dead: a proxy on loopback.

use core::net::Ipv4Addr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;
use std::io::{Read, Write};
use std::net::{Shutdown as Both, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use grapevine_host::{BrokerAddress, Shutdown};

use crate::programs::now;

/// Bytes that are handed on at once.
const CHUNK_BYTES: usize = 4 * 1024;
/// Chunks under way in one direction of one connection: what a modem buffers.
const CHUNKS_UNDER_WAY: usize = 64;

/// What a link is like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions {
    /// Bytes a second from a client to the broker; `None` for as many as come.
    pub up: Option<u64>,
    /// Bytes a second from the broker to a client.
    pub down: Option<u64>,
    /// How long every byte is under way.
    pub delay: Duration,
    /// All connections break each time one of them has carried so many bytes in one direction.
    pub cut_every: Option<u64>,
}

/// What a link has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes from clients to the broker.
    pub up: u64,
    /// Bytes from the broker to clients.
    pub down: u64,
    /// Connections that were made.
    pub connections: u64,
}

/// A running proxy. Dropping it breaks every connection and frees the port.
pub struct Proxy {
    port: u16,
    link: Arc<Link>,
    accepting: Option<JoinHandle<()>>,
}

struct Link {
    target: u16,
    conditions: Conditions,
    is_over: AtomicBool,
    is_dead: AtomicBool,
    up: AtomicU64,
    down: AtomicU64,
    connections: AtomicU64,
    open: Mutex<Vec<Connection>>,
}

struct Connection {
    ends: Vec<TcpStream>,
    cut: Shutdown,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.cut.request();
        // The other end may have closed it already.
        self.ends.iter().for_each(|end| drop(end.shutdown(Both::Both)));
    }
}

impl Proxy {
    /// Starts a link to the broker on this port of 127.0.0.1.
    pub fn start(target: u16, conditions: Conditions) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a loopback port can be had");
        let port = listener.local_addr().expect("a listening socket has an address").port();
        let link = Arc::new(Link {
            target,
            conditions,
            is_over: AtomicBool::new(false),
            is_dead: AtomicBool::new(false),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: Mutex::new(Vec::new()),
        });
        let accepting = {
            let link = link.clone();
            thread::spawn(move || link.accept(&listener))
        };
        Self { port, link, accepting: Some(accepting) }
    }

    /// Where clients connect to.
    pub fn address(&self) -> BrokerAddress {
        BrokerAddress::new("127.0.0.1", self.port)
    }

    /// Breaks every connection; new ones are accepted.
    pub fn cut(&self) {
        self.link.cut();
    }

    /// From now on nothing arrives, and nobody is told: connections stay open.
    pub fn kill(&self) {
        self.link.is_dead.store(true, Ordering::Relaxed);
    }

    /// What the link has carried so far.
    pub fn carried(&self) -> Carried {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Link { up, down, connections, .. } = self.link.as_ref();
        Carried { up: load(up), down: load(down), connections: load(connections) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.link.is_over.store(true, Ordering::Relaxed);
        // Wakes the accepting thread.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        drop(self.accepting.take().map(JoinHandle::join));
        self.cut();
    }
}

impl Link {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming() {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let Ok(client) = client else { continue };
            self.connections.fetch_add(1, Ordering::Relaxed);
            let is_dead = self.is_dead.load(Ordering::Relaxed);
            let broker = if is_dead { None } else { TcpStream::connect((Ipv4Addr::LOCALHOST, self.target)).ok() };
            match broker {
                Some(broker) => self.clone().carry(client, broker),
                None if is_dead => self.open().push(Connection { ends: vec![client], cut: Shutdown::manual() }),
                // Without a broker the client is hung up on.
                None => drop(client),
            }
        }
    }

    fn carry(self: Arc<Self>, client: TcpStream, broker: TcpStream) {
        let cut = Shutdown::manual();
        let ends = [&client, &broker].map(|end| {
            end.set_nodelay(true).expect("an open socket");
            end.try_clone().expect("room for a file descriptor")
        });
        self.open().push(Connection { ends: ends.into(), cut: cut.clone() });
        let copies = [&client, &broker].map(|end| end.try_clone().expect("room for a file descriptor"));
        let [client_copy, broker_copy] = copies;
        let Conditions { up, down, .. } = self.conditions;
        self.clone().carry_one_way(client, broker_copy, up, |link| &link.up, cut.clone());
        self.carry_one_way(broker, client_copy, down, |link| &link.down, cut);
    }

    fn carry_one_way(
        self: Arc<Self>,
        from: TcpStream,
        to: TcpStream,
        rate: Option<u64>,
        counter: fn(&Self) -> &AtomicU64,
        cut: Shutdown,
    ) {
        let (sender, chunks) = bounded(CHUNKS_UNDER_WAY);
        let delay = self.conditions.delay;
        thread::spawn(move || read(from, &sender, delay));
        thread::spawn(move || self.write(&to, &chunks, rate, counter(&self), &cut));
    }

    /// Hands chunks on when their time has come, until the connection ends.
    fn write(
        &self,
        mut to: &TcpStream,
        chunks: &Receiver<Chunk>,
        rate: Option<u64>,
        counter: &AtomicU64,
        cut: &Shutdown,
    ) {
        let (mut free_at, mut carried) = (now(), 0);
        for Chunk { due, bytes } in chunks {
            let length = bytes.len() as u64;
            free_at =
                free_at.max(due) + rate.map_or(Duration::ZERO, |rate| Duration::from_secs(length).div_f64(rate as f64));
            if cut.receiver().recv_deadline(free_at) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            if self.is_dead.load(Ordering::Relaxed) {
                continue;
            }
            if to.write_all(&bytes).is_err() {
                break;
            }
            carried += length;
            counter.fetch_add(length, Ordering::Relaxed);
            if self.conditions.cut_every.is_some_and(|most| carried >= most) {
                return self.cut();
            }
        }
        // The other side has hung up, or this one.
        let _ = to.shutdown(Both::Both);
    }

    fn cut(&self) {
        drop(core::mem::take(&mut *self.open()));
    }

    fn open(&self) -> MutexGuard<'_, Vec<Connection>> {
        // A vector is whole whatever panics while it is locked.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Chunk {
    due: Instant,
    bytes: Vec<u8>,
}

fn read(mut from: TcpStream, chunks: &Sender<Chunk>, delay: Duration) {
    let mut buffer = [0; CHUNK_BYTES];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if chunks.send(Chunk { due: now() + delay, bytes: buffer[..length].to_vec() }).is_err() {
            return;
        }
    }
}
