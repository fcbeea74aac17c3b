//! Links that this node makes: a DEALER of its own for each, behind a Unix socket of the door.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use migrate_proto::name::NodeName;
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use zeromq::{DealerRecvHalf, DealerSendHalf, DealerSocket, Socket, SocketRecv, SocketSend, ZmqError};

use super::{identity, message, socket_options};
use crate::door::HANDSHAKE;
use crate::door::outgoing::failed;
use crate::door::shuttle::{Shuttle, ShuttleError};
use crate::door::zmtp::Watch;
use crate::link::{Frames, Link, LinkCut, LinkReceiver, LinkSender, PeerAddress, TransportError};

/// The door's connection to a peer.
pub(super) struct Remote {
    pub(super) stream: TlsStream<TcpStream>,
    /// The key that the peer proved itself with is trusted no longer.
    pub(super) retired: CancellationToken,
}

/// Connects a DEALER through the door's connection to the peer's ROUTER, and waits until the two have introduced themselves.
pub(super) async fn connect(
    own: &NodeName,
    peer: &PeerAddress,
    remote: Remote,
    socket: PathBuf,
) -> Result<Link, TransportError> {
    let local = |doing| {
        let object = socket.display().to_string();
        move |source| TransportError::Local { doing, object, source: Arc::new(source) }
    };
    let listener = UnixListener::bind(&socket).map_err(local("listen on"))?;
    let _unlink = Unlink(&socket);
    let mine = identity(own).map_err(|error| local("choose an identity for")(io::Error::other(error)))?;
    let mut options = socket_options(mine);
    options.connect_timeout(HANDSHAKE);
    let mut dealer = DealerSocket::with_options(options);
    let (stop, gone) = (CancellationToken::new(), CancellationToken::new());
    let from_local = Watch::new(own.as_str(), Box::new(|_| Ok(())));
    let from_remote = Watch::new(peer.node.as_str(), Box::new(|_| Ok(())));
    let shuttle = tokio::spawn(Box::pin(carry(listener, remote, from_local, from_remote, stop.clone(), gone.clone())));
    let stop = Arc::new(stop.drop_guard());
    let introduced = dealer.connect(&format!("ipc://{}", socket.display())).await;
    if let Err(error) = introduced {
        return Err(no_introduction(peer, error, shuttle).await);
    }
    let (sender, receiver) = dealer.split();
    Ok(Link {
        peer: peer.node.clone(),
        sender: Box::new(DealerSender { dealer: sender, gone: gone.clone(), _stop: stop.clone() }),
        receiver: Box::new(DealerReceiver { dealer: receiver, gone, _stop: stop }),
    })
}

async fn carry(
    listener: UnixListener,
    remote: Remote,
    from_local: Watch,
    from_remote: Watch,
    stop: CancellationToken,
    gone: CancellationToken,
) -> Result<(), ShuttleError> {
    let _gone = gone.drop_guard();
    let (local, _) = timeout(HANDSHAKE, listener.accept()).await.map_err(|_| ShuttleError::Silent)??;
    drop(listener);
    let shuttle = Shuttle { local, remote: remote.stream, from_local, from_remote };
    tokio::select! {
        ended = shuttle.run(stop) => ended,
        () = remote.retired.cancelled() => Err(ShuttleError::Retired),
    }
}

/// The handshake of TLS succeeded, that of ZeroMQ did not: the shuttle knows why.
async fn no_introduction(
    peer: &PeerAddress,
    error: ZmqError,
    shuttle: JoinHandle<Result<(), ShuttleError>>,
) -> TransportError {
    let (node, address) = (peer.node.clone(), peer.address.clone());
    match timeout(HANDSHAKE, shuttle).await {
        Ok(Ok(Err(ShuttleError::Broken(broken)))) => failed(peer, broken),
        Ok(Ok(Err(ShuttleError::Violation(violation)))) => {
            TransportError::Untrusted { node, address, reason: violation.to_string() }
        }
        Ok(Ok(Err(error @ ShuttleError::Retired))) => {
            TransportError::Untrusted { node, address, reason: error.to_string() }
        }
        Ok(Ok(Err(ShuttleError::Silent))) | Err(_) => TransportError::TimedOut { node, address },
        Ok(_) => TransportError::Unreachable { node, address, source: Arc::new(io::Error::other(error)) },
    }
}

/// Removes the socket's name once it has served.
struct Unlink<'a>(&'a Path);

impl Drop for Unlink<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

/// When both halves are gone, ZeroMQ sends what it has and closes, and the door with it.
struct DealerSender {
    dealer: DealerSendHalf,
    gone: CancellationToken,
    _stop: Arc<DropGuard>,
}

#[async_trait]
impl LinkSender for DealerSender {
    async fn send(&mut self, frames: Frames) -> Result<(), LinkCut> {
        // The library would take messages for a connection that has ended.
        if self.gone.is_cancelled() {
            return Err(LinkCut);
        }
        self.dealer.send(message(frames)?).await.map_err(|_| LinkCut)
    }
}

struct DealerReceiver {
    dealer: DealerRecvHalf,
    gone: CancellationToken,
    _stop: Arc<DropGuard>,
}

#[async_trait]
impl LinkReceiver for DealerReceiver {
    async fn recv(&mut self) -> Result<Frames, LinkCut> {
        // The library says nothing when the connection ends, so the door does.
        tokio::select! {
            biased;
            message = self.dealer.recv() => message.map(zeromq::ZmqMessage::into_vec).map_err(|_| LinkCut),
            () = self.gone.cancelled() => Err(LinkCut),
        }
    }
}
