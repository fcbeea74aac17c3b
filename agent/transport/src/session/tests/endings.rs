//! How sessions end, well and badly, and what peers may not do.

use super::*;
use crate::link::{Link, TransportError};
use crate::session::wire::{Header, Kind, refusal};

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
    assert_eq!((answer.kind, answer.detail, answer.number), (Kind::Refused, refusal::UNKNOWN, 4));
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
