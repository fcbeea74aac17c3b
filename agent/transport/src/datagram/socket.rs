//! Sealed datagrams on UDP.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};

use migrate_proto::cluster::lease::Nanos;
use migrate_proto::name::NodeName;
use nix::sys::socket::{setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use thiserror::Error;
use tokio::io::Interest;
use tokio::sync::watch;

use super::drops::{Drops, Foreign};
use super::keys::{BootId, DatagramKeys};
use super::open::{Incoming, Opener};
use super::seal::{SealError, Sealer};
use super::wire::MAX_DATAGRAM_BYTES;

/// What the kernel may hold while nobody reads: a node that stands still for a while must not forget what was said meanwhile.
const WAITING_BYTES: usize = 1 << 20;

/// What a socket could not do.
#[derive(Debug, Error)]
pub enum SocketError {
    /// There is no socket.
    #[error("cannot {doing} UDP on {address}: {source}")]
    Bind {
        /// What was tried.
        doing: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// It was not sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It was not sent. Datagrams may be lost anyhow.
    #[error("cannot send a datagram to {to}: {source}")]
    Send {
        /// Where to.
        to: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing can be received.
    #[error("cannot receive datagrams: {0}")]
    Receive(io::Error),
    /// The system has no clock that goes on while the machine sleeps.
    #[error("cannot read the clock: {0}")]
    Clock(nix::Error),
}

/// A UDP socket that says and hears only what is sealed.
pub struct SealedSocket {
    socket: UdpSocket,
    /// The same socket, as the runtime watches it.
    watched: tokio::net::UdpSocket,
    boot: BootId,
    halves: Mutex<Halves>,
}

struct Halves {
    sealer: Sealer,
    opener: Opener,
    keys: watch::Receiver<DatagramKeys>,
    /// One byte longer than what can be a datagram, so that what is longer can be told.
    buffer: Box<[u8; MAX_DATAGRAM_BYTES + 1]>,
}

/// What one look at the socket brought.
enum Look {
    Nothing,
    Dropped,
    Came(Incoming),
}

impl SealedSocket {
    /// A socket of this node on `address`. `boot` must have been drawn for it ([`BootId::random`]). When `keys` changes, what is sent and
    /// received from then on is under those. Within a tokio runtime only.
    pub fn bind(
        address: SocketAddr,
        node: NodeName,
        boot: BootId,
        mut keys: watch::Receiver<DatagramKeys>,
    ) -> Result<SealedSocket, SocketError> {
        let failed = |doing| move |source| SocketError::Bind { doing, address, source };
        let socket = UdpSocket::bind(address).map_err(failed("bind"))?;
        socket.set_nonblocking(true).map_err(failed("set up"))?;
        // Beyond the system's limit only with CAP_NET_ADMIN; what the system gives is enough for small clusters.
        if setsockopt(&socket, sockopt::RcvBufForce, &WAITING_BYTES).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &WAITING_BYTES).map_err(io::Error::from).map_err(failed("set up"))?;
        }
        let first = keys.borrow_and_update().clone();
        let sealer = Sealer::new(node, boot, &first)?;
        let opener = Opener::new(boot, first);
        let buffer = Box::new([0; MAX_DATAGRAM_BYTES + 1]);
        let watched = socket.try_clone().and_then(tokio::net::UdpSocket::from_std).map_err(failed("watch"))?;
        Ok(SealedSocket { socket, watched, boot, halves: Mutex::new(Halves { sealer, opener, keys, buffer }) })
    }

    /// Where it listens: the port, if 0 was asked for.
    pub fn local_addr(&self) -> Result<SocketAddr, SocketError> {
        self.socket.local_addr().map_err(SocketError::Receive)
    }

    /// Which life of this node this is.
    pub fn boot(&self) -> BootId {
        self.boot
    }

    /// Sends, once, without waiting: where the system has no room the datagram is lost, and an error says so.
    pub fn send(&self, to: SocketAddr, kind: u8, body: &[u8]) -> Result<(), SocketError> {
        let sealed = self.halves()?.sealer.seal(kind, body)?;
        let failed = |source| SocketError::Send { to, source };
        let address = reachable_by(self.socket.local_addr().map_err(failed)?, to);
        self.socket.send_to(&sealed, address).map_err(failed).map(drop)
    }

    /// The next one that is good. Nothing is lost where the waiting is given up.
    pub async fn recv(&self) -> Result<Incoming, SocketError> {
        loop {
            match self.look_as_watched()? {
                Look::Came(incoming) => return Ok(incoming),
                // A flood must not keep the other tasks from running.
                Look::Dropped => tokio::task::consume_budget().await,
                Look::Nothing => self.watched.readable().await.map_err(SocketError::Receive)?,
            }
        }
    }

    /// What the socket holds now, of at most so many datagrams good or bad. It asks the kernel and not the runtime, which may not have
    /// looked since this process stood still: so whoever serves a timer knows what came before it.
    pub fn waiting(&self, most: usize) -> Result<Vec<Incoming>, SocketError> {
        let mut came = Vec::new();
        for _ in 0..most {
            match self.look()? {
                Look::Nothing => break,
                Look::Dropped => {}
                Look::Came(incoming) => came.push(incoming),
            }
        }
        Ok(came)
    }

    /// What was dropped so far.
    pub fn drops(&self) -> Drops {
        self.lock().opener.drops()
    }

    /// Where datagrams under another cluster's key came from since this was asked last.
    pub fn take_foreign(&self) -> Foreign {
        self.lock().opener.take_foreign()
    }

    /// Looks where the runtime believes that something is there, and tells it if there is nothing.
    fn look_as_watched(&self) -> Result<Look, SocketError> {
        let mut looked = Ok(Look::Nothing);
        // It knows of no other failure than this one.
        let _ = self.watched.try_io(Interest::READABLE, || {
            looked = self.look();
            match looked {
                Ok(Look::Nothing) => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        });
        looked
    }

    fn look(&self) -> Result<Look, SocketError> {
        let mut halves = self.halves()?;
        let Halves { opener, buffer, .. } = &mut *halves;
        let (length, from) = loop {
            match self.socket.recv_from(&mut buffer[..]) {
                Ok(came) => break came,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Look::Nothing),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SocketError::Receive(error)),
            }
        };
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let now = boottime()?;
        Ok(opener.open(now, from, &buffer[..length]).map_or(Look::Dropped, Look::Came))
    }

    /// The halves, under the keys that are in force now.
    fn halves(&self) -> Result<MutexGuard<'_, Halves>, SocketError> {
        let mut halves = self.lock();
        // Without a sender any more the keys stay what they are.
        if halves.keys.has_changed().unwrap_or(false) {
            let keys = halves.keys.borrow_and_update().clone();
            halves.sealer.replace_keys(&keys)?;
            halves.opener.replace_keys(keys);
        }
        Ok(halves)
    }

    fn lock(&self) -> MutexGuard<'_, Halves> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An IPv6 socket that serves IPv4 as well wants IPv4 addresses written as IPv6 ones.
fn reachable_by(local: SocketAddr, to: SocketAddr) -> SocketAddr {
    match (local.ip(), to.ip()) {
        (IpAddr::V6(_), IpAddr::V4(v4)) => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
        _ => to,
    }
}

/// The clock that goes on while the machine sleeps, as leases want it.
fn boottime() -> Result<Nanos, SocketError> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(SocketError::Clock)?;
    Ok(Nanos(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64))
}
