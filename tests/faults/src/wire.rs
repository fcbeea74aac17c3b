//! A wire that can be told to damage what it carries: all that two nodes say to each other passes through here.
//!
//! In the network namespace of each node the other's address becomes a local one, at which this listens; what comes is passed on
//! inside the other's namespace. The agents notice nothing but new connections.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

const PORT: u16 = 7700;
/// Between two looks whether somebody connects.
const LOOK: Duration = Duration::from_millis(5);

/// One end of the wire.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// A process in the node's namespaces.
    pub pid: i32,
    /// The node's address.
    pub address: Ipv4Addr,
}

/// The wire. Dropping it gives the nodes their own back.
pub struct Wire {
    shared: Arc<Shared>,
    ends: [End; 2],
    listeners: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    closing: AtomicBool,
    /// How many more pieces to damage.
    wanted: AtomicU32,
    damaged: AtomicU32,
    streams: Mutex<Vec<TcpStream>>,
}

impl Wire {
    /// Puts it between two nodes.
    pub fn between(one: End, other: End) -> io::Result<Wire> {
        let shared = Arc::<Shared>::default();
        let mut wire = Wire { shared: shared.clone(), ends: [one, other], listeners: Vec::new() };
        for (near, far) in [(one, other), (other, one)] {
            let listener = inside(near, move || {
                route("add", far.address)?;
                TcpListener::bind((far.address, PORT))
            })?;
            listener.set_nonblocking(true)?;
            let shared = shared.clone();
            wire.listeners.push(std::thread::spawn(move || listen(&listener, far, &shared)));
        }
        Ok(wire)
    }

    /// Flips a bit in each of the next pieces that cross.
    pub fn damage(&self, pieces: u32) {
        self.shared.wanted.store(pieces, Ordering::SeqCst);
    }

    /// How many were damaged.
    pub fn damaged(&self) -> u32 {
        self.shared.damaged.load(Ordering::SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        for listener in self.listeners.drain(..) {
            let _ = listener.join();
        }
        if let Ok(streams) = self.shared.streams.lock() {
            streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        }
        let [one, other] = self.ends;
        for (near, far) in [(one, other), (other, one)] {
            // A node that has lost power meanwhile has lost this as well.
            let _ = inside(near, move || route("delete", far.address));
        }
    }
}

/// Does something on a thread in a node's network namespace: sockets stay there.
fn inside<T: Send + 'static>(end: End, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let working = std::thread::spawn(move || {
        let namespace = File::open(format!("/proc/{}/ns/net", end.pid))?;
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    });
    working.join().map_err(|_| io::Error::other("the thread inside the node panicked"))?
}

fn route(action: &str, address: Ipv4Addr) -> io::Result<()> {
    let address = format!("{address}/32");
    let words = ["route", action, "local", &address, "dev", "lo"];
    let done = Command::new("ip").args(words).stdin(Stdio::null()).stderr(Stdio::null()).status()?;
    if done.success() { Ok(()) } else { Err(io::Error::other(format!("ip route {action} {address}: {done}"))) }
}

fn listen(listener: &TcpListener, far: End, shared: &Arc<Shared>) {
    while !shared.closing.load(Ordering::SeqCst) {
        let Ok((near, _)) = listener.accept() else {
            std::thread::sleep(LOOK);
            continue;
        };
        let address = SocketAddr::from((far.address, PORT));
        // A node that is not there refuses, as without the wire.
        let Ok(onward) = inside(far, move || TcpStream::connect_timeout(&address, Duration::from_secs(1))) else {
            continue;
        };
        if near.set_nonblocking(false).is_err() {
            continue;
        }
        for (from, to) in [(&near, &onward), (&onward, &near)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
            let (Ok(mut streams), Ok(kept)) = (shared.streams.lock(), from.try_clone()) else { continue };
            streams.push(kept);
            drop(streams);
            let shared = shared.clone();
            std::thread::spawn(move || carry(from, to, &shared));
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length) = from.read(&mut piece) {
        if length == 0 {
            break;
        }
        let wants = |wanted: u32| wanted.checked_sub(1);
        if shared.wanted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, wants).is_ok() {
            piece[length / 2] ^= 0x10;
            shared.damaged.fetch_add(1, Ordering::SeqCst);
        }
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
