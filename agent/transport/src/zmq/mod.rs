//! The real transport: ZeroMQ on Unix sockets, behind the [door](crate::door).
//!
//! ```text
//!  DEALER ── out-N.sock ── door ══ TLS 1.3 over TCP ══ door ── router-X.sock ── ROUTER
//! ```
//! One ROUTER per node takes all links of peers; every link that this node makes is a DEALER of its own. All sockets are in a
//! directory that only the agent's user can enter. What the `zeromq` library does not do, is done around it: it does not
//! bound lengths (the door does), has no back-pressure (sessions have credit), does not reconnect (sessions do), and says nothing
//! when a connection ends (the door does).

mod dealer;
mod roster;

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt;
use migrate_proto::name::NodeName;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use zeromq::util::PeerIdentity;
use zeromq::{RouterRecvHalf, RouterSocket, Socket, SocketEvent, SocketOptions, SocketRecv, ZmqMessage};

use self::dealer::Remote;
use self::roster::Roster;
use crate::allocation::keep_frames;
use crate::door::incoming::{Incoming, listen};
use crate::door::outgoing;
use crate::keys::authority::NodeIdentity;
use crate::keys::credentials::Credentials;
use crate::keys::{Fingerprint, KeyError, fill_random};
use crate::link::{Frames, Link, LinkCut, PeerAddress, Transport, TransportError};

/// How many links of peers may wait for [`Transport::accept`].
const MOST_ARRIVALS: usize = 64;
/// The longest path of a Unix socket.
const LONGEST_SOCKET_PATH: usize = 107;

/// What a node needs to take part.
pub struct Config {
    /// Proves this node and checks others.
    pub identity: NodeIdentity,
    /// The agent's run directory; the sockets go into `zmq/` below it.
    pub run: PathBuf,
    /// Where the door listens.
    pub listen: SocketAddr,
}

/// ZeroMQ behind the door. Dropping it closes the door and ends the links of peers; links that it made live on.
pub struct ZmqTransport {
    node: NodeName,
    credentials: Arc<Credentials>,
    directory: PathBuf,
    address: SocketAddr,
    next_socket: AtomicU64,
    arrivals: Mutex<mpsc::Receiver<Link>>,
    /// The ROUTER's reader and the door; dropped with the transport.
    _tasks: JoinSet<()>,
}

impl ZmqTransport {
    /// Opens the door.
    pub async fn start(config: Config) -> Result<Arc<ZmqTransport>, TransportError> {
        let Config { identity, run, listen: address } = config;
        keep_frames();
        let directory = run.join("zmq");
        private_directory(&directory).map_err(failed("prepare the directory", &directory))?;
        let router_path =
            router_path(&directory).map_err(io::Error::other).map_err(failed("name a socket in", &directory))?;
        let own = PeerIdentity::try_from(format!("{}/router", identity.node()).into_bytes());
        let own = own.map_err(io::Error::other).map_err(failed("name", &router_path))?;
        let mut router = RouterSocket::with_options(socket_options(own));
        let mut events = router.monitor();
        let unix = bind(&router_path).map_err(failed("listen on", &router_path))?;
        router.bind_listener(unix).await.map_err(io::Error::other).map_err(failed("listen on", &router_path))?;
        let (router_sender, router_receiver) = router.split();
        let (new_links, arrivals) = mpsc::channel(MOST_ARRIVALS);
        let roster = Roster::new(router_sender, new_links);

        let listener = listen(address).map_err(failed("listen on", &address))?;
        let address = listener.local_addr().map_err(failed("listen on", &address))?;
        let node = identity.node().clone();
        let credentials = Credentials::new(identity);
        let door = Incoming {
            node: node.clone(),
            credentials: credentials.clone(),
            router: router_path,
            guests: roster.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(Box::pin(door.serve(listener)));
        tasks.spawn(sort_messages(router_receiver, roster.clone()));
        tasks.spawn(async move {
            while let Some(event) = events.next().await {
                if let SocketEvent::Disconnected(identity) = event {
                    roster.remove(&identity);
                }
            }
        });
        Ok(Arc::new(ZmqTransport {
            node,
            credentials,
            directory,
            address,
            next_socket: AtomicU64::new(0),
            arrivals: Mutex::new(arrivals),
            _tasks: tasks,
        }))
    }

    /// Where the door listens: the port, if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// This node.
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Which keys are trusted now; the first one issued this node's certificate.
    pub fn keys(&self) -> Vec<Fingerprint> {
        self.credentials.now().keys()
    }

    /// From now on this node proves itself with, and trusts, what `identity` says. It must be of this node.
    pub fn replace_identity(&self, identity: NodeIdentity) {
        debug_assert_eq!(*identity.node(), self.node);
        self.credentials.replace(identity);
    }
}

#[async_trait]
impl Transport for ZmqTransport {
    async fn connect(&self, peer: &PeerAddress) -> Result<Link, TransportError> {
        let identity = self.credentials.now();
        let stream = Box::pin(outgoing::connect(&identity, peer)).await?;
        let retired = identity.retirement(stream.get_ref().1.peer_certificates()).ok_or_else(|| {
            let (node, address) = (peer.node.clone(), peer.address.clone());
            TransportError::Untrusted { node, address, reason: "its certificate is not the cluster's own".to_owned() }
        })?;
        let number = self.next_socket.fetch_add(1, Ordering::Relaxed);
        let socket = self.directory.join(format!("out-{number}.sock"));
        Box::pin(dealer::connect(&self.node, peer, Remote { stream, retired }, socket)).await
    }

    async fn accept(&self) -> Result<Link, TransportError> {
        self.arrivals.lock().await.recv().await.ok_or(TransportError::ShutDown)
    }
}

async fn sort_messages(mut router: RouterRecvHalf, roster: Arc<Roster>) {
    loop {
        match router.recv().await {
            Ok(message) => {
                let mut frames = message.into_vecdeque();
                if let Some(identity) = frames.pop_front() {
                    roster.deliver(&identity, frames.into());
                }
            }
            Err(error) => return tracing::error!(%error, "ZeroMQ's ROUTER has stopped"),
        }
    }
}

fn failed<T: std::fmt::Debug>(doing: &'static str, object: &T) -> impl FnOnce(io::Error) -> TransportError + use<T> {
    let object = format!("{object:?}");
    move |source| TransportError::Local { doing, object, source: Arc::new(source) }
}

/// A directory that is ours alone, without what an earlier agent left.
fn private_directory(path: &Path) -> io::Result<()> {
    if path.join("out-18446744073709551615.sock").as_os_str().len() > LONGEST_SOCKET_PATH {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is too long for Unix sockets"));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let left_over = entry?.path();
        if left_over.extension().is_some_and(|extension| extension == "sock") {
            fs::remove_file(left_over)?;
        }
    }
    Ok(())
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A new name each time: the library removes a socket's file some time after the socket was dropped, and that must not be the
/// file of its successor.
fn router_path(directory: &Path) -> Result<PathBuf, KeyError> {
    Ok(directory.join(format!("router-{:016x}.sock", random_number()?)))
}

/// Large reads, so that a bulk frame takes a few system calls and not sixteen.
fn socket_options(own: PeerIdentity) -> SocketOptions {
    let mut options = SocketOptions::default();
    options.peer_identity(own).read_buffer(4 << 10, 256 << 10, 64);
    options
}

/// An identity that nobody had before: the node, which the peer's door checks, and chance.
fn identity(node: &NodeName) -> Result<PeerIdentity, KeyError> {
    let text = format!("{node}/{:016x}", random_number()?);
    PeerIdentity::try_from(text.into_bytes()).map_err(|_| KeyError::NoRandomness)
}

fn random_number() -> Result<u64, KeyError> {
    let mut bytes = [0; 8];
    fill_random(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Frames as the library wants them. No frames is no message.
fn message(frames: Frames) -> Result<ZmqMessage, LinkCut> {
    ZmqMessage::try_from(frames).map_err(|_| LinkCut)
}
