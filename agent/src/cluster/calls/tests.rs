//! Calls over sessions in memory.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicUsize;

use migrate_proto::message::AgentFacts;
use migrate_transport::link::Transport;
use migrate_transport::memory::Network;
use migrate_transport::session::{Acceptor, Session, Timing};
use tokio::sync::Notify;

use super::*;

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn to_b() -> PeerAddress {
    PeerAddress { node: name("b"), address: "in memory".to_owned() }
}

fn facts(node: &str) -> AgentFacts {
    AgentFacts { node: name(node), agent_version: "0".to_owned(), criu_version: None, kernel: "k".to_owned() }
}

fn timing() -> Timing {
    Timing { silence: PATIENCE, give_up: Duration::from_millis(200) }
}

/// The node `a`, which calls.
struct Caller {
    transport: Arc<dyn Transport>,
    begun: AtomicUsize,
}

#[async_trait]
impl Begins for Caller {
    async fn begin(&self, to: &PeerAddress) -> Result<Talk, Problem> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed) as u8;
        let session = Session::open(self.transport.clone(), to.clone(), SessionId([number; 16]), 4, timing()).await;
        let session = session.map_err(|error| Problem::new(Code::PeerDown, error.to_string()))?;
        talk::greet(session, facts("a")).await
    }
}

/// Turns bodies round; `wait` waits until it is let go, `no` is refused.
#[derive(Default)]
struct Turner {
    go: Notify,
}

#[async_trait]
impl Answers for Turner {
    async fn answer(&self, from: &NodeName, _: What, body: Vec<u8>) -> Result<Vec<u8>, Problem> {
        assert_eq!(from.as_str(), "a");
        match &body[..] {
            b"no" => return Err(Problem::new(Code::Busy, "not now")),
            b"wait" => self.go.notified().await,
            _ => {}
        }
        Ok(body.into_iter().rev().collect())
    }
}

/// The node `b`, which answers for as long as this lives.
fn answering(network: &Network) -> (Arc<Turner>, AbortHandle) {
    let turner = Arc::new(Turner::default());
    let (transport, answers) = (network.node(name("b")), turner.clone());
    let serving = tokio::spawn(async move {
        let mut acceptor = Acceptor::start(transport, timing());
        while let Some(session) = acceptor.next().await {
            let answers = answers.clone();
            tokio::spawn(async move { serve(answers, talk::welcome(session, facts("b")).await.unwrap()).await });
        }
    });
    (turner, serving.abort_handle())
}

fn caller(network: &Network) -> (Arc<Caller>, Calls) {
    let caller = Arc::new(Caller { transport: network.node(name("a")), begun: AtomicUsize::new(0) });
    (caller.clone(), Calls::new(caller))
}

async fn ask(calls: &Calls, body: &str, ttl: Duration) -> Answer {
    calls.call(&to_b(), What::Ownership, body.into(), ttl).await
}

#[tokio::test]
async fn many_are_under_way_at_once_in_one_conversation() {
    let network = Network::new();
    let (turner, _serving) = answering(&network);
    let (caller, calls) = caller(&network);
    let waiting = ask(&calls, "wait", PATIENCE);
    let others = async {
        assert_eq!(ask(&calls, "abc", PATIENCE).await.unwrap(), b"cba");
        assert!(matches!(ask(&calls, "no", PATIENCE).await, Err(CallError::Refused(p)) if p.code == Code::Busy));
        turner.go.notify_one();
    };
    let (waited, ()) = tokio::join!(waiting, others);
    assert_eq!(waited.unwrap(), b"tiaw");
    assert_eq!(caller.begun.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_member_that_is_not_there_is_an_error_and_found_when_it_is() {
    let network = Network::new();
    let (_, calls) = caller(&network);
    assert!(matches!(ask(&calls, "abc", PATIENCE).await, Err(CallError::Unreachable(_))));
    let (_turner, _serving) = answering(&network);
    assert_eq!(ask(&calls, "abc", PATIENCE).await.unwrap(), b"cba");
}

#[tokio::test]
async fn one_that_is_late_twice_is_called_in_another_conversation() {
    let network = Network::new();
    let (_turner, _serving) = answering(&network);
    let (caller, calls) = caller(&network);
    assert_eq!(ask(&calls, "abc", PATIENCE).await.unwrap(), b"cba");
    for _ in 0..2 {
        assert!(matches!(ask(&calls, "wait", SHORT).await, Err(CallError::Late(_))));
    }
    assert_eq!(ask(&calls, "abc", PATIENCE).await.unwrap(), b"cba");
    assert_eq!(caller.begun.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn what_is_not_a_call_ends_the_conversation_and_an_unknown_call_does_not() {
    let network = Network::new();
    let (_turner, _serving) = answering(&network);
    let (caller, _) = caller(&network);
    let Talk { speaker, mut listener, .. } = caller.begin(&to_b()).await.unwrap();
    speaker.say(&Message::Call { id: 9, what: 200, body: Vec::new() }).await.unwrap();
    let answer = listener.expect().await.unwrap();
    assert!(matches!(answer, Message::CallFailed { id: 9, problem } if problem.message.contains("200")));
    speaker.say(&Message::Prepared).await.unwrap();
    assert!(!matches!(listener.hear().await, Ok(Some(_))));
}

/// Never gets through to where a member was in its last life; does to where it is now.
struct Redialled(Arc<Caller>);

#[async_trait]
impl Begins for Redialled {
    async fn begin(&self, to: &PeerAddress) -> Result<Talk, Problem> {
        if self.0.begun.load(Ordering::Relaxed) == 0 {
            self.0.begun.store(1, Ordering::Relaxed);
            std::future::pending::<()>().await;
        }
        self.0.begin(to).await
    }
}

#[tokio::test]
async fn a_member_that_has_come_back_is_called_anew() {
    let network = Network::new();
    let (_turner, _serving) = answering(&network);
    let (caller, _) = caller(&network);
    let calls = Calls::new(Arc::new(Redialled(caller.clone())));
    assert!(matches!(ask(&calls, "abc", SHORT).await, Err(CallError::Unreachable(_))), "it is still dialled");
    calls.is_there(&name("c"));
    let deadline = Instant::now() + PATIENCE;
    while !matches!(ask(&calls, "abc", SHORT).await, Ok(answer) if answer == b"cba") {
        assert!(Instant::now() < deadline, "what was begun in its last life is still waited for");
        calls.is_there(&name("b"));
    }
    let begun = caller.begun.load(Ordering::Relaxed);
    calls.is_there(&name("b"));
    assert_eq!(ask(&calls, "abc", PATIENCE).await.unwrap(), b"cba");
    assert_eq!(caller.begun.load(Ordering::Relaxed), begun, "a way that leads there is kept");
}
