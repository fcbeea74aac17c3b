//! Sessions over links in memory, sound and faulty.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use migrate_proto::error::Code;
use migrate_proto::name::NodeName;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::wire::{Header, Kind};
use super::{Acceptor, LinkState, Session, SessionError, SessionId, Timing, WINDOW};
use crate::faulty::{Faults, Faulty, LinkFaults, Plan};
use crate::link::{Link, PeerAddress, Transport, TransportError};
use crate::memory::{MemoryTransport, Network};
use crate::parcel::{MAX_BULK, Parcel};

/// Long enough for any machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);
const ID: SessionId = SessionId([5; 16]);

fn timing() -> Timing {
    Timing { silence: Duration::from_secs(20), give_up: PATIENCE }
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn to_b() -> PeerAddress {
    PeerAddress { node: name("b"), address: "in memory".to_owned() }
}

fn nodes() -> (Network, Arc<MemoryTransport>, Arc<MemoryTransport>) {
    let network = Network::new();
    let (a, b) = (network.node(name("a")), network.node(name("b")));
    (network, a, b)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it does not come to an end")
}

async fn open(transport: Arc<dyn Transport>) -> Result<Session, SessionError> {
    soon(Session::open(transport, to_b(), ID, 7, timing())).await
}

/// A session from `a` to `b`, and what must be kept for it to live.
async fn pair(a: Arc<dyn Transport>, b: Arc<dyn Transport>) -> (Session, Session, Acceptor) {
    let mut acceptor = Acceptor::start(b, timing());
    let (opened, accepted) = tokio::join!(open(a), soon(acceptor.next()));
    (opened.unwrap(), accepted.unwrap(), acceptor)
}

/// The `number`th parcel of a stream that can be checked.
fn numbered(number: u32) -> Parcel {
    let size = [0, 1, 300, 70_000][number as usize % 4];
    Parcel { header: Bytes::copy_from_slice(&number.to_le_bytes()), bulk: vec![number as u8; size].into() }
}

async fn send_all(session: &super::SessionSender, count: u32) {
    for number in 0..count {
        session.send(numbered(number)).await.unwrap();
    }
    session.close().await.unwrap();
}

async fn receive_all(receiver: &mut super::SessionReceiver, count: u32) {
    for number in 0..count {
        let parcel = receiver.recv().await.unwrap();
        assert_eq!(parcel, Some(numbered(number)), "parcel {number}");
    }
    assert_eq!(receiver.recv().await.unwrap(), None);
}

/// Sends `count` parcels both ways at once and checks that each arrives once and in order.
async fn exchange(a: Arc<dyn Transport>, b: Arc<dyn Transport>, count: u32) {
    let (here, there, _acceptor) = pair(a, b).await;
    let mut link = here.link_state();
    let (here_sender, mut here_receiver) = here.split();
    let (there_sender, mut there_receiver) = there.split();
    soon(async {
        tokio::join!(
            send_all(&here_sender, count),
            send_all(&there_sender, count),
            receive_all(&mut here_receiver, count),
            receive_all(&mut there_receiver, count),
        );
        link.wait_for(|state| *state == LinkState::Gone).await.unwrap();
    })
    .await;
}

fn plan(links: impl IntoIterator<Item = LinkFaults>) -> Plan {
    Plan { refused_connects: 0, links: links.into_iter().collect() }
}

fn sending(faults: Faults) -> LinkFaults {
    LinkFaults { sending: faults, ..LinkFaults::default() }
}

fn receiving(faults: Faults) -> LinkFaults {
    LinkFaults { receiving: faults, ..LinkFaults::default() }
}

fn cut_after(messages: usize) -> Faults {
    Faults { cut_after: Some(messages), ..Faults::default() }
}

#[tokio::test]
async fn parcels_arrive_once_and_in_order_both_ways() {
    let (_network, a, b) = nodes();
    exchange(a, b, 500).await;
}

#[tokio::test]
async fn the_acceptor_knows_who_opened_and_what_for() {
    let (_network, a, b) = nodes();
    let (_here, there, _acceptor) = pair(a, b).await;
    assert_eq!((there.peer(), there.purpose(), there.id()), (name("a"), 7, ID));
}

#[tokio::test]
async fn a_link_that_is_cut_anywhere_is_resumed() {
    // Every message from the greeting on, sent or received, is once the one with which the link goes; several links in a row.
    for at in 0..12 {
        let (_network, a, b) = nodes();
        let links = [sending(cut_after(at)), receiving(cut_after(at)), sending(cut_after(at + 3))];
        exchange(Faulty::new(a, plan(links)), b, 40).await;
    }
}

#[tokio::test]
async fn a_link_that_the_acceptor_loses_is_resumed() {
    for at in 0..12 {
        let (_network, a, b) = nodes();
        let links = [receiving(cut_after(at)), sending(cut_after(at))];
        exchange(a, Faulty::new(b, plan(links)), 40).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lost_messages_come_again() {
    for lost in 0..10 {
        let (_network, a, b) = nodes();
        let faults = LinkFaults {
            sending: Faults { lose: vec![lost, lost + 3], ..Faults::default() },
            receiving: Faults { lose: vec![lost + 1], ..Faults::default() },
            made_twice: false,
        };
        exchange(Faulty::new(a, plan([faults])), b, 30).await;
    }
}

#[tokio::test(start_paused = true)]
async fn damaged_messages_come_again() {
    for message in 0..8 {
        for frame in 0..3 {
            let (_network, a, b) = nodes();
            let corrupt = Faults { corrupt: Some((message, frame)), ..Faults::default() };
            exchange(Faulty::new(a, plan([sending(corrupt)])), b, 20).await;
        }
    }
}

#[tokio::test]
async fn a_link_that_was_made_twice_does_no_harm() {
    let (_network, a, b) = nodes();
    let twice = || LinkFaults { made_twice: true, sending: cut_after(9), ..LinkFaults::default() };
    exchange(Faulty::new(a, plan([twice(), twice()])), b, 40).await;
}

#[tokio::test]
async fn a_peer_that_is_not_there_yet_is_waited_for() {
    let (_network, a, b) = nodes();
    let refusing = Faulty::new(a, Plan { refused_connects: 3, ..Plan::default() });
    exchange(refusing, b, 10).await;
}

#[tokio::test]
async fn a_receiver_that_does_not_read_stops_the_sender_at_the_window() {
    let (_network, a, b) = nodes();
    let (here, there, _acceptor) = pair(a, b).await;
    let parcel = || Parcel { header: Bytes::new(), bulk: vec![1; MAX_BULK].into() };
    let mut sent: u64 = 0;
    // The sixteenth does not fit; nobody reads, so it cannot but wait.
    while sent < 15 {
        soon(here.send(parcel())).await.unwrap();
        sent += 1;
    }
    soon(here.flush()).await.unwrap();
    let (sender, _keep) = here.split();
    let mut blocked = Box::pin(sender.send(parcel()));
    assert!(futures_util::poll!(&mut blocked).is_pending());
    assert!(sender.shared.look(|state| state.out.kept()) <= WINDOW);
    let (_there_sender, mut receiver) = there.split();
    assert!(receiver.buffered() <= WINDOW && receiver.buffered() > WINDOW - 2 * MAX_BULK as u64);
    // Reading gives credit, and the parcel goes.
    let mut received = 0;
    soon(async {
        let reading = async {
            while received < 16 {
                receiver.recv().await.unwrap().unwrap();
                received += 1;
            }
        };
        let (sent, ()) = tokio::join!(blocked, reading);
        sent.unwrap();
    })
    .await;
}

#[tokio::test]
async fn flush_waits_for_the_peers_acknowledgement() {
    let (_network, a, b) = nodes();
    // Everything that comes back after the welcome waits for the test.
    let gate = Arc::new(Semaphore::new(0));
    let held = receiving(Faults { hold: Some((1, gate.clone())), ..Faults::default() });
    let (here, mut there, _acceptor) = pair(Faulty::new(a, plan([held])), b).await;
    soon(here.send(numbered(1))).await.unwrap();
    assert_eq!(soon(there.recv()).await.unwrap(), Some(numbered(1)), "it has arrived");
    let mut flush = Box::pin(here.flush());
    assert!(futures_util::poll!(&mut flush).is_pending(), "but the acknowledgement has not");
    gate.add_permits(1);
    soon(flush).await.unwrap();
    soon(here.flush()).await.unwrap();
}

#[tokio::test]
async fn the_state_of_the_link_can_be_followed() {
    let (network, a, b) = nodes();
    let (here, _there, acceptor) = pair(Faulty::new(a, plan([sending(cut_after(2))])), b).await;
    let mut link = here.link_state();
    soon(link.wait_for(|state| *state == LinkState::Up)).await.unwrap();
    network.remove(&name("b"));
    drop(acceptor);
    here.send(numbered(0)).await.unwrap();
    here.send(numbered(1)).await.unwrap();
    soon(link.wait_for(|state| *state == LinkState::Down)).await.unwrap();
    drop(here);
    soon(link.wait_for(|state| *state == LinkState::Gone)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_stays_away_is_given_up() {
    let (network, a, b) = nodes();
    let (here, there, _acceptor) = pair(Faulty::new(a, plan([sending(cut_after(2))])), b).await;
    network.remove(&name("b"));
    let (sender, mut receiver) = here.split();
    sender.send(numbered(0)).await.unwrap();
    sender.send(numbered(1)).await.unwrap();
    let error = sender.flush().await.unwrap_err();
    assert!(matches!(&error, SessionError::Lost { peer, .. } if *peer == name("b")), "{error}");
    assert_eq!(error.code(), Code::LinkLost);
    assert!(matches!(receiver.recv().await, Err(SessionError::Lost { .. })));
    assert!(matches!(sender.send(numbered(2)).await, Err(SessionError::Lost { .. })));
    assert!(matches!(sender.close().await, Err(SessionError::Lost { .. })));
    // The other side gives up too, after it has handed out what had arrived.
    let (_there_sender, mut there_receiver) = there.split();
    assert_eq!(there_receiver.recv().await.unwrap(), Some(numbered(0)));
    assert!(matches!(there_receiver.recv().await, Err(SessionError::Lost { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_comes_is_given_up() {
    let (network, a, _b) = nodes();
    network.remove(&name("b"));
    let error = Session::open(a, to_b(), ID, 0, timing()).await.err().unwrap();
    assert!(matches!(&error, SessionError::Lost { why, .. } if why.contains("does not answer")), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_counts_as_a_cut_link() {
    let (_network, a, b) = nodes();
    // From the second message on nothing gets through, and nothing is said either.
    let stuck = receiving(Faults { hold: Some((1, Arc::new(Semaphore::new(0)))), ..Faults::default() });
    exchange(Faulty::new(a, plan([stuck])), b, 20).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_stays_up() {
    let (_network, a, b) = nodes();
    let (here, mut there, _acceptor) = pair(a, b).await;
    let mut link = here.link_state();
    link.wait_for(|state| *state == LinkState::Up).await.unwrap();
    link.mark_unchanged();
    assert!(timeout(10 * timing().silence, link.changed()).await.is_err(), "the link went down");
    here.send(numbered(3)).await.unwrap();
    assert_eq!(there.recv().await.unwrap(), Some(numbered(3)));
}

#[tokio::test]
async fn a_peer_that_was_restarted_has_forgotten_the_session() {
    let (network, a, b) = nodes();
    let (here, there, acceptor) = pair(a, b).await;
    drop((there, acceptor));
    // The old agent's session reset ours, or its link went: both end it, and neither silently.
    let b = network.node(name("b"));
    let _acceptor = Acceptor::start(b, timing());
    let (_sender, mut receiver) = here.split();
    let error = soon(receiver.recv()).await.unwrap_err();
    assert!(matches!(error, SessionError::Forgotten { .. } | SessionError::Reset { .. }), "{error}");
}

#[tokio::test]
async fn a_session_that_nobody_knows_cannot_be_resumed() {
    let (_network, a, b) = nodes();
    let _acceptor = Acceptor::start(b, timing());
    let mut link = soon(a.connect(&to_b())).await.unwrap();
    link.sender.send(Header { number: 4, ..Header::new(Kind::Resume, ID) }.encode(None)).await.unwrap();
    let (answer, _) = Header::decode(soon(link.receiver.recv()).await.unwrap()).unwrap();
    assert_eq!((answer.kind, answer.detail, answer.number), (Kind::Refused, super::wire::refusal::UNKNOWN, 4));
}

#[tokio::test]
async fn another_node_cannot_resume_a_session() {
    let (network, a, b) = nodes();
    let (_here, _there, _acceptor) = pair(a, b).await;
    let c = network.node(name("c"));
    let mut link = soon(c.connect(&to_b())).await.unwrap();
    link.sender.send(Header { number: 9, ..Header::new(Kind::Resume, ID) }.encode(None)).await.unwrap();
    let (answer, _) = Header::decode(soon(link.receiver.recv()).await.unwrap()).unwrap();
    assert_eq!(answer.kind, Kind::Refused);
}

/// A link to an acceptor on which the test speaks for itself, greeted.
async fn own_link(a: &MemoryTransport) -> Link {
    let mut link = soon(a.connect(&to_b())).await.unwrap();
    link.sender.send(Header { number: 1, grant: WINDOW, ..Header::new(Kind::Open, ID) }.encode(None)).await.unwrap();
    let (answer, _) = Header::decode(soon(link.receiver.recv()).await.unwrap()).unwrap();
    assert_eq!(answer.kind, Kind::Welcome);
    link
}

#[tokio::test]
async fn a_peer_that_ignores_its_credit_loses_the_session() {
    let (_network, a, b) = nodes();
    let mut acceptor = Acceptor::start(b, timing());
    let mut link = own_link(&a).await;
    let session = soon(acceptor.next()).await.unwrap();
    let mut gone = session.link_state();
    for number in 1..=20 {
        let parcel = Parcel { header: Bytes::new(), bulk: vec![0; 1 << 20].into() };
        let data = Header { number, ..Header::new(Kind::Data, ID) }.encode(Some(parcel));
        if link.sender.send(data).await.is_err() {
            break;
        }
    }
    soon(gone.wait_for(|state| *state == LinkState::Gone)).await.unwrap();
    let (_sender, mut receiver) = session.split();
    assert!(receiver.buffered() <= WINDOW);
    let error = loop {
        match soon(receiver.recv()).await {
            Ok(parcel) => assert!(parcel.is_some()),
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, SessionError::Violation { what, .. } if what.contains("granted")), "{error}");
}

#[tokio::test]
async fn dropping_an_end_tells_the_peer() {
    let (_network, a, b) = nodes();
    let (here, there, _acceptor) = pair(a, b).await;
    drop(here);
    let (sender, mut receiver) = there.split();
    assert!(matches!(soon(receiver.recv()).await, Err(SessionError::Reset { .. })));
    assert!(matches!(soon(sender.send(numbered(0))).await, Err(SessionError::Reset { .. })));
}

#[tokio::test]
async fn a_receiver_that_is_gone_lets_nothing_vanish_silently() {
    let (_network, a, b) = nodes();
    let (here, there, _acceptor) = pair(a, b).await;
    let (_there_sender, there_receiver) = there.split();
    drop(there_receiver);
    here.send(numbered(0)).await.unwrap();
    assert!(matches!(soon(here.flush()).await, Err(SessionError::Reset { .. })));
}

#[tokio::test]
async fn nothing_is_sent_after_the_end() {
    let (_network, a, b) = nodes();
    let (here, mut there, _acceptor) = pair(a, b).await;
    here.send(numbered(0)).await.unwrap();
    soon(here.close()).await.unwrap();
    soon(here.close()).await.unwrap();
    assert!(matches!(here.send(numbered(1)).await, Err(SessionError::Closed)));
    // The other direction goes on.
    there.send(numbered(2)).await.unwrap();
    soon(there.flush()).await.unwrap();
    assert_eq!(soon(there.recv()).await.unwrap(), Some(numbered(0)));
    assert_eq!(soon(there.recv()).await.unwrap(), None);
}

#[tokio::test]
async fn a_parcel_over_the_limit_is_not_taken() {
    let (_network, a, b) = nodes();
    let (here, _there, _acceptor) = pair(a, b).await;
    let parcel = Parcel { header: Bytes::new(), bulk: vec![0; MAX_BULK + 1].into() };
    assert!(matches!(here.send(parcel).await, Err(SessionError::TooLarge(_))));
}

/// A transport that finds a stranger at every address.
struct Strangers;

#[async_trait::async_trait]
impl Transport for Strangers {
    async fn connect(&self, peer: &PeerAddress) -> Result<Link, TransportError> {
        let (node, address) = (peer.node.clone(), peer.address.clone());
        Err(TransportError::Untrusted { node, address, reason: "another key".to_owned() })
    }

    async fn accept(&self) -> Result<Link, TransportError> {
        Err(TransportError::ShutDown)
    }
}

#[tokio::test]
async fn a_stranger_is_an_error_at_once() {
    let error = open(Arc::new(Strangers)).await.err().unwrap();
    assert!(matches!(error, SessionError::NoLink(TransportError::Untrusted { .. })), "{error}");
    assert_eq!(error.code(), Code::PeerUntrusted);
    assert!(Acceptor::start(Arc::new(Strangers), timing()).next().await.is_none());
}
