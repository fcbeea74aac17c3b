//! A cluster on loopback for tests: every node in a run directory of its own, every port chosen by the system.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use migrate_transport::keys::authority::NodeIdentity;
use migrate_transport::keys::{ClusterKey, generate};
use migrate_transport::link::{Link, PeerAddress, Transport};
use migrate_transport::zmq::{Config, ZmqTransport};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

pub const PATIENCE: Duration = Duration::from_secs(60);

pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it does not come to an end")
}

/// A cluster on loopback, each node with a run directory of its own.
pub struct Cluster {
    pub key: ClusterKey,
    pub directory: TempDir,
}

impl Cluster {
    pub fn new() -> Cluster {
        Cluster { key: generate().unwrap(), directory: tempfile::tempdir().unwrap() }
    }

    pub fn identity(&self, name: &str) -> NodeIdentity {
        NodeIdentity::issue(&self.key, name.parse().unwrap()).unwrap()
    }

    pub async fn start(&self, name: &str) -> Arc<ZmqTransport> {
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = Config { identity: self.identity(name), run: self.directory.path().join(name), listen };
        ZmqTransport::start(config).await.unwrap()
    }
}

pub fn at(name: &str, address: SocketAddr) -> PeerAddress {
    PeerAddress { node: name.parse().unwrap(), address: address.to_string() }
}

/// Says something over a link that was made, and hears it at the other end.
pub async fn works(mut link: Link, there: &ZmqTransport, from: &str) {
    link.sender.send(vec![Bytes::from_static(b"hello"), Bytes::new()]).await.unwrap();
    soon(async {
        loop {
            let mut arrived = there.accept().await.unwrap();
            // A link that came to nothing may have arrived before.
            if let Ok(frames) = arrived.receiver.recv().await {
                assert_eq!(arrived.peer.as_str(), from);
                assert_eq!(frames, [&b"hello"[..], b""]);
                arrived.sender.send(vec![Bytes::from_static(b"back")]).await.unwrap();
                assert_eq!(link.receiver.recv().await.unwrap(), [&b"back"[..]]);
                return;
            }
        }
    })
    .await;
}

/// Waits until the other side has closed the connection; what it sent before is dropped.
pub async fn closed(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut buffer = [0; 4096];
    soon(async { while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {} }).await;
}
