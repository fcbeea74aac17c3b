//! Keys are replaced while nodes talk: links that there are go on, new ones use the new keys, and who has only the old key is
//! out at the end.
#![allow(clippy::unwrap_used)]

mod cluster;

use std::sync::Arc;

use bytes::Bytes;
use cluster::{Cluster, at, soon, works};
use migrate_transport::keys::authority::NodeIdentity;
use migrate_transport::keys::{ClusterKey, KeyRing, generate};
use migrate_transport::link::{Link, Transport, TransportError};
use migrate_transport::zmq::ZmqTransport;

fn ring(keys: [&ClusterKey; 2]) -> KeyRing {
    let [first, second] = keys.map(|key| ClusterKey::copied(key.bytes()));
    let mut ring = KeyRing::of(first);
    let _ = ring.add(second);
    ring
}

fn issue(transport: &ZmqTransport, keys: [&ClusterKey; 2]) {
    transport.replace_identity(NodeIdentity::issue(&ring(keys), transport.node().clone()).unwrap());
}

async fn both_ways(a: &Arc<ZmqTransport>, b: &Arc<ZmqTransport>) {
    works(a.connect(&at("b", b.local_addr())).await.unwrap(), b, "a").await;
    works(b.connect(&at("a", a.local_addr())).await.unwrap(), a, "b").await;
}

/// Says something at one end and hears it at the other.
async fn carries(from: &mut Link, to: &mut Link) {
    from.sender.send(vec![Bytes::from_static(b"on")]).await.unwrap();
    assert_eq!(soon(to.receiver.recv()).await.unwrap(), [&b"on"[..]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_interrupts_nothing_and_shuts_the_old_key_out() {
    let cluster = Cluster::new();
    let (old, new) = (&cluster.key, &generate().unwrap());
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let mut outgoing = a.connect(&at("b", b.local_addr())).await.unwrap();
    outgoing.sender.send(vec![Bytes::from_static(b"first")]).await.unwrap();
    let mut incoming = soon(b.accept()).await.unwrap();
    assert_eq!(soon(incoming.receiver.recv()).await.unwrap(), [&b"first"[..]]);
    for step in [[old, new], [new, old]] {
        for node in [&a, &b] {
            issue(node, step);
            both_ways(&a, &b).await;
            carries(&mut outgoing, &mut incoming).await;
            carries(&mut incoming, &mut outgoing).await;
        }
    }
    // A link that was proved by the old key ends where that key is retired, at whichever end it is.
    issue(&b, [new, new]);
    assert!(soon(incoming.receiver.recv()).await.is_err());
    assert!(soon(outgoing.receiver.recv()).await.is_err());
    both_ways(&a, &b).await;
    issue(&a, [new, new]);
    both_ways(&a, &b).await;
    assert_eq!((a.keys(), b.keys()), (vec![new.fingerprint()], vec![new.fingerprint()]));

    let left_behind = cluster.start("c").await;
    let refused = left_behind.connect(&at("b", b.local_addr())).await.err();
    assert!(matches!(refused, Some(TransportError::Untrusted { .. })), "{refused:?}");
    let refused = b.connect(&at("c", left_behind.local_addr())).await.err();
    assert!(matches!(refused, Some(TransportError::Untrusted { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_was_dialled_ends_with_the_key_of_its_peer() {
    let cluster = Cluster::new();
    let new = generate().unwrap();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let mut outgoing = a.connect(&at("b", b.local_addr())).await.unwrap();
    a.replace_identity(NodeIdentity::issue(&new, a.node().clone()).unwrap());
    assert!(soon(outgoing.receiver.recv()).await.is_err());
}
