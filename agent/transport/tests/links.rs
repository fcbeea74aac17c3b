//! Links and sessions of the real transport end to end over loopback.
#![allow(clippy::unwrap_used, missing_docs)]

mod cluster;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use cluster::{Cluster, PATIENCE, at, soon};
use migrate_transport::link::{Transport, TransportError};
use migrate_transport::parcel::Parcel;
use migrate_transport::session::{Acceptor, LinkState, Session, SessionError, SessionId, Timing};
use migrate_transport::zmq::{Config, ZmqTransport};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

fn timing() -> Timing {
    Timing { silence: Duration::from_secs(20), give_up: PATIENCE }
}

fn numbered(number: u32) -> Parcel {
    let size = [0, 10, 1 << 20][number as usize % 3];
    Parcel { header: Bytes::copy_from_slice(&number.to_le_bytes()), bulk: vec![number as u8; size].into() }
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
