//! The real transport end to end over loopback: who gets through the door, who does not, and what that costs.
#![allow(clippy::unwrap_used, missing_docs)]

use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use migrate_proto::error::Code;
use migrate_transport::door::{admission::MOST_OF_AN_ADDRESS, outgoing};
use migrate_transport::keys::ClusterKey;
use migrate_transport::keys::authority::NodeIdentity;
use migrate_transport::link::{Link, PeerAddress, Transport, TransportError};
use migrate_transport::parcel::Parcel;
use migrate_transport::session::{Acceptor, LinkState, Session, SessionError, SessionId, Timing};
use migrate_transport::zmq::{Config, ZmqTransport};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it does not come to an end")
}

/// A cluster on loopback, each node with a run directory of its own.
struct Cluster {
    key: ClusterKey,
    directory: TempDir,
}

impl Cluster {
    fn new() -> Cluster {
        Cluster { key: ClusterKey::generate().unwrap(), directory: tempfile::tempdir().unwrap() }
    }

    fn identity(&self, name: &str) -> NodeIdentity {
        NodeIdentity::issue(&self.key, name.parse().unwrap()).unwrap()
    }

    async fn start(&self, name: &str) -> Arc<ZmqTransport> {
        let listen = "127.0.0.1:0".parse().unwrap();
        let config = Config { identity: self.identity(name), run: self.directory.path().join(name), listen };
        ZmqTransport::start(config).await.unwrap()
    }
}

fn at(name: &str, address: SocketAddr) -> PeerAddress {
    PeerAddress { node: name.parse().unwrap(), address: address.to_string() }
}

fn timing() -> Timing {
    Timing { silence: Duration::from_secs(20), give_up: PATIENCE }
}

fn numbered(number: u32) -> Parcel {
    let size = [0, 10, 1 << 20][number as usize % 3];
    Parcel { header: Bytes::copy_from_slice(&number.to_le_bytes()), bulk: vec![number as u8; size].into() }
}

/// Says something over a link that was made, and hears it at the other end.
async fn works(mut link: Link, there: &ZmqTransport, from: &str) {
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
async fn closed(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut buffer = [0; 4096];
    soon(async { while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_with_the_same_key_talk() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    works(link, &b, "a").await;
    let link = soon(b.connect(&at("a", a.local_addr()))).await.unwrap();
    works(link, &a, "b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_carries_bulk_both_ways() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let address = at("b", b.local_addr());
    let mut acceptor = Acceptor::start(b, timing());
    let (here, there) = tokio::join!(Session::open(a, address, SessionId([1; 16]), 3, timing()), acceptor.next());
    let (here, there) = (here.unwrap(), there.unwrap());
    assert_eq!((there.purpose(), there.peer().as_str()), (3, "a"));
    soon(async { tokio::join!(exchange(here, 100), exchange(there, 100)) }).await;
}

/// Sends and receives `count` parcels at once and ends the session.
async fn exchange(session: Session, count: u32) {
    let (sender, mut receiver) = session.split();
    let sending = async {
        for number in 0..count {
            sender.send(numbered(number)).await.unwrap();
        }
        sender.close().await.unwrap();
    };
    let receiving = async {
        for number in 0..count {
            assert_eq!(receiver.recv().await.unwrap(), Some(numbered(number)), "parcel {number}");
        }
        assert_eq!(receiver.recv().await.unwrap(), None);
    };
    tokio::join!(sending, receiving);
}

/// Passes connections on to a node's door, and cuts them on command.
struct Relay {
    address: SocketAddr,
    cut: watch::Sender<()>,
    _tasks: JoinSet<()>,
}

impl Relay {
    async fn to(door: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cut = watch::Sender::new(());
        let subscriber = cut.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut cut = subscriber.subscribe();
                connections.spawn(async move {
                    let mut server = TcpStream::connect(door).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Relay { address, cut, _tasks: tasks }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_survives_the_loss_of_its_connection() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let relay = Relay::to(b.local_addr()).await;
    let mut acceptor = Acceptor::start(b, timing());
    let address = at("b", relay.address);
    let (here, there) = tokio::join!(Session::open(a, address, SessionId([1; 16]), 0, timing()), acceptor.next());
    let (here, mut there) = (here.unwrap(), there.unwrap());
    let mut link = here.link_state();
    let sending = async {
        for number in 0..120 {
            here.send(numbered(number)).await.unwrap();
        }
        here.close().await.unwrap();
    };
    let receiving = async {
        for number in 0..120 {
            assert_eq!(there.recv().await.unwrap(), Some(numbered(number)), "parcel {number}");
            if number % 40 == 20 {
                relay.cut.send_replace(());
                link.wait_for(|state| *state == LinkState::Down).await.unwrap();
            }
        }
        assert_eq!(there.recv().await.unwrap(), None);
    };
    soon(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_whose_agent_was_restarted_has_forgotten_the_session() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let address = b.local_addr();
    let mut acceptor = Acceptor::start(b.clone(), timing());
    let (here, there) =
        tokio::join!(Session::open(a, at("b", address), SessionId([1; 16]), 0, timing()), acceptor.next());
    let (here, there) = (here.unwrap(), there.unwrap());
    // The directory and the address are those of the agent that was.
    drop((acceptor, b));
    let again = async {
        loop {
            let config =
                Config { identity: cluster.identity("b"), run: cluster.directory.path().join("b"), listen: address };
            match ZmqTransport::start(config).await {
                Ok(transport) => return transport,
                Err(TransportError::Local { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let _acceptor = Acceptor::start(soon(again).await, timing());
    let (_sender, mut receiver) = here.split();
    let error = soon(receiver.recv()).await.unwrap_err();
    assert!(matches!(error, SessionError::Forgotten { .. }), "{error}");
    drop(there);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_another_key_is_refused() {
    let (ours, theirs) = (Cluster::new(), Cluster::new());
    let (a, b) = (ours.start("a").await, theirs.start("b").await);
    let error = soon(a.connect(&at("b", b.local_addr()))).await.err().unwrap();
    assert!(matches!(&error, TransportError::Untrusted { reason, .. } if reason.contains("cluster key")), "{error}");
    assert_eq!(error.code(), Code::PeerUntrusted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_than_the_one_dialled_is_refused() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let error = soon(a.connect(&at("c", b.local_addr()))).await.err().unwrap();
    assert!(matches!(&error, TransportError::WrongNode { node, .. } if node.as_str() == "c"), "{error}");
    assert_eq!(error.code(), Code::PeerUntrusted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_at_the_address_is_said_so() {
    let a = Cluster::new().start("a").await;
    // Bound, so that nobody else gets the port, but not listening.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = soon(a.connect(&at("b", socket.local_addr().unwrap()))).await.err().unwrap();
    assert!(matches!(error, TransportError::Unreachable { .. }), "{error}");
    assert_eq!(error.code(), Code::PeerDown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_answers_is_told_from_one_that_is_not_there() {
    let a = Cluster::new().start("a").await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = soon(a.connect(&at("b", silent.local_addr().unwrap()))).await.err().unwrap();
    assert!(matches!(error, TransportError::TimedOut { .. }), "{error}");
    assert_eq!(error.code(), Code::PeerDown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_shown_the_door() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let zmtp_in_the_clear =
        [&[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0, b'N', b'U', b'L', b'L'][..], &[0; 48]].concat();
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0; 1 << 16], zmtp_in_the_clear] {
        let mut tcp = TcpStream::connect(b.local_addr()).await.unwrap();
        let _ = tcp.write_all(&garbage).await;
        closed(&mut tcp).await;
    }
    let link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    works(link, &b, "a").await;
}

/// The greeting of ZMTP 3.0, and a READY command with an identity.
fn introduction(identity: &str) -> Vec<u8> {
    let mut greeting = vec![0; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    let mut ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0".to_vec();
    ready.push(identity.len() as u8);
    ready.extend_from_slice(identity.as_bytes());
    [greeting, vec![4, ready.len() as u8], ready].concat()
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_announces_a_tebibyte_is_dropped_and_costs_nothing() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let before = resident_bytes();
    for identity in ["m/1", "m/2", "m/3", "m/4"] {
        let mut tls = soon(outgoing::connect(&cluster.identity("m"), &at("b", b.local_addr()))).await.unwrap();
        tls.write_all(&introduction(identity)).await.unwrap();
        tls.write_all(&[2, 0, 0, 1, 0, 0, 0, 0, 0]).await.unwrap();
        // As much of it as the door takes.
        let mebibyte = vec![0; 1 << 20];
        while tls.write_all(&mebibyte).await.is_ok() {}
        closed(&mut tls).await;
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 256 << 20, "resident memory grew by {grown} bytes");
    let link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    works(link, &b, "a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_sends_without_being_read_is_dropped() {
    let cluster = Cluster::new();
    let b = cluster.start("b").await;
    let mut tls = soon(outgoing::connect(&cluster.identity("m"), &at("b", b.local_addr()))).await.unwrap();
    tls.write_all(&introduction("m/1")).await.unwrap();
    let mut link = soon(b.accept()).await.unwrap();
    let message = [&[2, 0, 0, 0, 0, 0, 0x10, 0, 0][..], &vec![0; 1 << 20]].concat();
    let flood = async { while tls.write_all(&message).await.is_ok() {} };
    soon(flood).await;
    let mut waited = 0;
    while let Ok(frames) = soon(link.receiver.recv()).await {
        waited += frames[0].len();
    }
    assert!(waited <= 32 << 20, "{waited} bytes were kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_anothers_identity() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let mut link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    link.sender.send(vec![Bytes::from_static(b"one")]).await.unwrap();
    let mut arrived = soon(b.accept()).await.unwrap();
    assert_eq!(soon(arrived.receiver.recv()).await.unwrap(), [&b"one"[..]]);
    // Somebody else under a's name, and a itself under an identity that is in use.
    let mut own = soon(outgoing::connect(&cluster.identity("a"), &at("b", b.local_addr()))).await.unwrap();
    own.write_all(&introduction("a/x")).await.unwrap();
    let _arrived = soon(b.accept()).await.unwrap();
    for (node, identity) in [("m", "a/y"), ("m", "m"), ("a", "a/x")] {
        let mut tls = soon(outgoing::connect(&cluster.identity(node), &at("b", b.local_addr()))).await.unwrap();
        tls.write_all(&introduction(identity)).await.unwrap();
        closed(&mut tls).await;
    }
    arrived.sender.send(vec![Bytes::from_static(b"two")]).await.unwrap();
    assert_eq!(soon(link.receiver.recv()).await.unwrap(), [&b"two"[..]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_do_not_keep_an_honest_one_out() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(b.local_addr()).await.unwrap());
    }
    let link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    works(link, &b, "a").await;
    // All but one address's share had to make room before their time was up, the oldest first.
    for stream in &mut silent[..200 - MOST_OF_AN_ADDRESS] {
        closed(stream).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_one_side_drops_ends_on_the_other() {
    let cluster = Cluster::new();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let mut link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    let mut arrived = soon(b.accept()).await.unwrap();
    link.sender.send(vec![Bytes::from_static(b"goodbye")]).await.unwrap();
    drop(link);
    assert_eq!(soon(arrived.receiver.recv()).await.unwrap(), [&b"goodbye"[..]]);
    assert!(soon(arrived.receiver.recv()).await.is_err());

    let mut link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    link.sender.send(vec![Bytes::from_static(b"hello")]).await.unwrap();
    let mut arrived = soon(b.accept()).await.unwrap();
    assert_eq!(soon(arrived.receiver.recv()).await.unwrap(), [&b"hello"[..]]);
    drop(arrived);
    assert!(soon(link.receiver.recv()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sockets_are_private_and_leave_nothing_behind() {
    let cluster = Cluster::new();
    let directory = cluster.directory.path().join("a").join("zmq");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("out-7.sock"), "left over").unwrap();
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let _link = soon(a.connect(&at("b", b.local_addr()))).await.unwrap();
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o7777, 0o700);
    let names: Vec<_> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert!(names[0].to_string_lossy().starts_with("router-"), "{names:?}");
}
