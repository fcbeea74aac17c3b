//! Takes the connections of peers' doors: TLS first, then a connection to the local ROUTER of ZeroMQ.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use migrate_proto::name::NodeName;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsStream, server};
use tokio_util::sync::CancellationToken;

use super::admission::{Admission, Place, neighbourhood};
use super::shuttle::{Shuttle, ShuttleError};
use super::turnstile::Turnstile;
use super::zmtp::{Violation, Watch};
use super::{HANDSHAKE, enlarge_buffers};
use crate::keys::authority::{NodeIdentity, name_in};
use crate::keys::credentials::Credentials;

/// How many peers' connections there may be at once.
pub const MOST_CONNECTIONS: usize = 512;
/// How many of them may be one peer's, so that it cannot keep others out. Somewhat more than it may have sessions.
pub const MOST_CONNECTIONS_OF_A_PEER: usize = 96;
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
    pub credentials: Arc<Credentials>,
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
    #[error("its address begins too many handshakes")]
    TooOften,
    #[error("its certificate names no node")]
    Nameless,
    #[error("its certificate was not issued by the cluster itself")]
    Indirect,
    #[error("there are {MOST_CONNECTIONS} connections already")]
    Full,
    #[error("there are {MOST_CONNECTIONS_OF_A_PEER} connections of {0} already")]
    PeerFull(NodeName),
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
        let strangers = Strangers::default();
        let room = Room::default();
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
            let stranger = strangers.come(from.ip());
            let (incoming, room) = (incoming.clone(), room.clone());
            connections.spawn(Box::pin(async move {
                if let Err(turned) = incoming.receive(tcp, stranger, room).await {
                    tracing::info!(%from, %turned, "turned a connection away");
                }
            }));
            while connections.try_join_next().is_some() {}
        }
    }

    async fn receive(&self, tcp: TcpStream, stranger: Stranger, room: Room) -> Result<(), Turned> {
        let _ = tcp.set_nodelay(true);
        let identity = self.credentials.now();
        let handshake = timeout(HANDSHAKE, shake_hands(&identity, tcp, &stranger));
        let remote = tokio::select! {
            shaken = handshake => shaken.map_err(|_| Turned::TimedOut)??,
            () = stranger.place.has_to_leave() => return Err(Turned::MadeRoom),
        };
        let presented = remote.get_ref().1.peer_certificates();
        let peer = presented.and_then(|chain| name_in(chain.first()?)).ok_or(Turned::Nameless)?;
        let retired = identity.retirement(presented).ok_or(Turned::Indirect)?;
        drop((stranger, identity));
        let _inside = room.enter(&peer)?;
        let local = UnixStream::connect(&self.router)
            .await
            .map_err(|source| Turned::NoRouter { path: self.router.clone(), source })?;
        let carried = tokio::select! {
            carried = self.carry(&peer, local, TlsStream::from(remote)) => carried,
            () = retired.cancelled() => Err(ShuttleError::Retired),
        };
        match carried {
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

/// A stranger that says nothing costs nothing but its place; one that does waits for its turn.
async fn shake_hands(
    identity: &NodeIdentity,
    tcp: TcpStream,
    stranger: &Stranger,
) -> Result<server::TlsStream<TcpStream>, Turned> {
    tcp.readable().await.map_err(Turned::Handshake)?;
    sleep(stranger.turn()?).await;
    TlsAcceptor::from(identity.server_config()).accept(tcp).await.map_err(Turned::Handshake)
}

/// Those who have not proved who they are: how many there may be, and how often they may try.
#[derive(Clone, Default)]
struct Strangers {
    admission: Admission,
    turnstile: Arc<Mutex<Turnstile>>,
}

struct Stranger {
    address: IpAddr,
    place: Place,
    turnstile: Arc<Mutex<Turnstile>>,
}

impl Strangers {
    fn come(&self, address: IpAddr) -> Stranger {
        let address = neighbourhood(address);
        Stranger { address, place: self.admission.admit(address), turnstile: self.turnstile.clone() }
    }
}

impl Stranger {
    /// How long to wait before its handshake.
    fn turn(&self) -> Result<Duration, Turned> {
        lock(&self.turnstile).pass(self.address, HANDSHAKE, Instant::now()).ok_or(Turned::TooOften)
    }
}

/// Room for those who have: how many connections each peer has.
#[derive(Clone, Default)]
struct Room(Arc<Mutex<HashMap<NodeName, usize>>>);

/// A peer's place inside, until it is dropped.
struct Inside {
    room: Room,
    peer: NodeName,
}

impl Room {
    fn enter(&self, peer: &NodeName) -> Result<Inside, Turned> {
        let mut connections = lock(&self.0);
        if connections.values().sum::<usize>() >= MOST_CONNECTIONS {
            return Err(Turned::Full);
        }
        let own = connections.entry(peer.clone()).or_default();
        if *own >= MOST_CONNECTIONS_OF_A_PEER {
            return Err(Turned::PeerFull(peer.clone()));
        }
        *own += 1;
        Ok(Inside { room: self.clone(), peer: peer.clone() })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let mut connections = lock(&self.room.0);
        if let Some(own) = connections.get_mut(&self.peer) {
            *own -= 1;
        }
        connections.retain(|_, own| *own > 0);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn no_peer_takes_all_the_room() {
        let (room, node) = (Room::default(), |name: &str| -> NodeName { name.parse().unwrap() });
        let greedy: Vec<_> = std::iter::from_fn(|| room.enter(&node("greedy")).ok()).collect();
        assert_eq!(greedy.len(), MOST_CONNECTIONS_OF_A_PEER);
        assert!(matches!(room.enter(&node("greedy")), Err(Turned::PeerFull(_))));
        let others: Vec<_> = (0..).map_while(|number| room.enter(&node(&format!("n{number}"))).ok()).collect();
        assert_eq!(greedy.len() + others.len(), MOST_CONNECTIONS);
        drop(greedy);
        assert!(room.enter(&node("greedy")).is_ok());
        drop(others);
        assert!(lock(&room.0).is_empty());
    }
}
