//! Takes the connections of peers' doors: TLS first, then a connection to the local ROUTER of ZeroMQ.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use migrate_proto::name::NodeName;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_util::sync::CancellationToken;

use super::admission::{Admission, Place};
use super::shuttle::{Shuttle, ShuttleError};
use super::zmtp::{Violation, Watch};
use super::{HANDSHAKE, enlarge_buffers};
use crate::keys::authority::name_in;

/// How many peers' connections there may be at once.
pub const MOST_CONNECTIONS: usize = 512;
const BACKLOG: u32 = 256;
/// What the system may need to have descriptors again.
const PAUSE_AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(50);

/// Keeps the list of who is inside. It is told before ZeroMQ hears of an identity.
pub trait Guests: Send + Sync {
    /// A peer comes in under an identity that begins with its name. Cancelling `stop` ends its connection.
    fn enter(&self, peer: &NodeName, identity: &[u8], stop: CancellationToken) -> Result<(), Violation>;

    /// The connection of that identity has ended. What it sent may still be on its way through ZeroMQ.
    fn leave(&self, identity: &[u8]);
}

/// Everything that an incoming connection needs.
pub struct Incoming {
    /// This node.
    pub node: NodeName,
    /// Proves this node, checks peers.
    pub tls: TlsAcceptor,
    /// The ROUTER's Unix socket.
    pub router: PathBuf,
    /// Who is inside.
    pub guests: Arc<dyn Guests>,
}

/// Why a connection came to nothing.
#[derive(Debug, Error)]
enum Turned {
    #[error("it made room for others")]
    MadeRoom,
    #[error("it did not finish the handshake in time")]
    TimedOut,
    #[error("the handshake failed: {0}")]
    Handshake(#[source] std::io::Error),
    #[error("its certificate names no node")]
    Nameless,
    #[error("there are {MOST_CONNECTIONS} connections already")]
    Full,
    #[error("ZeroMQ's socket {} cannot be reached: {source}", path.display())]
    NoRouter { path: PathBuf, source: std::io::Error },
}

/// A listening socket with large buffers, which its connections inherit.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    enlarge_buffers(&socket);
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Incoming {
    /// Takes connections until it is dropped, and ends them then.
    pub async fn serve(self, listener: TcpListener) {
        let incoming = Arc::new(self);
        let admission = Admission::default();
        let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let (tcp, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(PAUSE_AFTER_FAILED_ACCEPT).await;
                    continue;
                }
            };
            let place = admission.admit(canonical(from.ip()));
            let (incoming, room) = (incoming.clone(), room.clone());
            connections.spawn(Box::pin(async move {
                if let Err(turned) = incoming.receive(tcp, place, room).await {
                    tracing::info!(%from, %turned, "turned a connection away");
                }
            }));
            while connections.try_join_next().is_some() {}
        }
    }

    async fn receive(&self, tcp: TcpStream, place: Place, room: Arc<Semaphore>) -> Result<(), Turned> {
        let _ = tcp.set_nodelay(true);
        let handshake = timeout(HANDSHAKE, self.tls.accept(tcp));
        let remote = tokio::select! {
            shaken = handshake => shaken.map_err(|_| Turned::TimedOut)?.map_err(Turned::Handshake)?,
            () = place.has_to_leave() => return Err(Turned::MadeRoom),
        };
        let peer =
            remote.get_ref().1.peer_certificates().and_then(|chain| name_in(chain.first()?)).ok_or(Turned::Nameless)?;
        drop(place);
        let _inside = room.try_acquire().map_err(|_| Turned::Full)?;
        let local = UnixStream::connect(&self.router)
            .await
            .map_err(|source| Turned::NoRouter { path: self.router.clone(), source })?;
        match self.carry(&peer, local, TlsStream::from(remote)).await {
            Ok(()) => tracing::debug!(%peer, "a peer's connection was closed"),
            Err(ShuttleError::Broken(error)) => tracing::info!(%peer, %error, "a peer's connection broke"),
            Err(error) => tracing::warn!(%peer, %error, "dropped a peer's connection"),
        }
        Ok(())
    }

    async fn carry(
        &self,
        peer: &NodeName,
        local: UnixStream,
        remote: TlsStream<TcpStream>,
    ) -> Result<(), ShuttleError> {
        let stop = CancellationToken::new();
        let guest = Arc::new(std::sync::OnceLock::new());
        let (guests, name, entered, stopper) = (self.guests.clone(), peer.clone(), guest.clone(), stop.clone());
        let on_ready = Box::new(move |identity: &[u8]| {
            guests.enter(&name, identity, stopper.clone())?;
            entered.set(identity.to_vec()).map_err(|_| Violation::Command)
        });
        let from_remote = Watch::new(peer.as_str(), on_ready);
        let from_local = Watch::new(self.node.as_str(), Box::new(|_| Ok(())));
        let _leaving = Leaving { guests: &*self.guests, guest };
        Shuttle { local, remote, from_local, from_remote }.run(stop).await
    }
}

/// Takes the guest off the list when its connection ends, however it ends.
struct Leaving<'a> {
    guests: &'a dyn Guests,
    guest: Arc<std::sync::OnceLock<Vec<u8>>>,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(identity) = self.guest.get() {
            self.guests.leave(identity);
        }
    }
}

/// An IPv4 peer is the same stranger when it comes through an IPv6 socket.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
