//! Sessions over links in memory, sound and faulty.
#![allow(clippy::unwrap_used)]

mod endings;
mod faults;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use migrate_proto::error::Code;
use migrate_proto::name::NodeName;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Acceptor, LinkState, Session, SessionError, SessionId, Timing, WINDOW};
use crate::faulty::{Faults, Faulty, LinkFaults, Plan};
use crate::link::{PeerAddress, Transport};
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
