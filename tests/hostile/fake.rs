//! A fake node: it has the cluster's key and speaks like an agent, but says what the test wants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use migrate_proto::codec;
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::{Epoch, HandoverId};
use migrate_proto::message::{AgentFacts, Message, Needs, Offer};
use migrate_proto::name::NodeName;
use migrate_proto::spec::{WorkloadSpec, default_layer_bytes};
use migrate_proto::version::{SPOKEN, Versions};
use migrate_transport::keys;
use migrate_transport::keys::authority::NodeIdentity;
use migrate_transport::link::PeerAddress;
use migrate_transport::parcel::Parcel;
use migrate_transport::session::{Session, SessionError, SessionId, SessionReceiver, SessionSender, Timing};
use migrate_transport::zmq::{Config, ZmqTransport};
use tokio::time::timeout;

use crate::field::{Field, HERE, PORT};
use crate::harness::PATIENCE;

/// What a session is for, as agents number it.
pub(crate) const REQUEST: u8 = 1;
pub(crate) const HANDOVER: u8 = 2;

/// How a fake node deals with time.
pub(crate) const TIMING: Timing = Timing { silence: Duration::from_secs(5), give_up: Duration::from_secs(10) };

pub(crate) fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

/// The certificate of a node of the lab's cluster.
pub(crate) fn identity(field: &Field, name: &str) -> NodeIdentity {
    let ring = keys::load(&field.lab.directory().join("cluster.key")).unwrap();
    NodeIdentity::issue(&ring, node(name)).unwrap()
}

/// Where a node of the lab is.
pub(crate) fn address_of(name: &str) -> PeerAddress {
    let number = name.strip_prefix("node").unwrap();
    PeerAddress { node: node(name), address: format!("10.77.0.{number}:{PORT}") }
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it does not come to an end")
}

pub(crate) struct Fake {
    pub(crate) name: NodeName,
    pub(crate) transport: Arc<ZmqTransport>,
}

impl Fake {
    /// A node of this name that only calls.
    pub(crate) async fn start(field: &Field, name: &str) -> Fake {
        Fake::listening(field, name, 0).await
    }

    /// A node of this name at which others can call.
    pub(crate) async fn listening(field: &Field, name: &str, port: u16) -> Fake {
        let run = field.run_directory(&format!("as-{name}-{port}"));
        let config = Config { identity: identity(field, name), run, listen: SocketAddr::from((HERE, port)) };
        Fake { name: node(name), transport: ZmqTransport::start(config).await.unwrap() }
    }

    pub(crate) fn facts(&self) -> AgentFacts {
        AgentFacts {
            node: self.name.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            criu_version: Some("4.2.0".to_owned()),
            kernel: "6.18".to_owned(),
        }
    }

    /// A session to a node, on which nothing was said yet.
    pub(crate) async fn open(&self, to: &str, purpose: u8) -> Result<Talk, SessionError> {
        self.open_as(to, purpose, SessionId(rand())).await
    }

    pub(crate) async fn open_as(&self, to: &str, purpose: u8, id: SessionId) -> Result<Talk, SessionError> {
        let opened = Session::open(self.transport.clone(), address_of(to), id, purpose, TIMING);
        Ok(Talk::of(soon(opened).await?))
    }

    /// A conversation that has begun as it should.
    pub(crate) async fn call(&self, to: &str, purpose: u8) -> Talk {
        let mut talk = self.open(to, purpose).await.unwrap();
        assert!(matches!(talk.greet(SPOKEN, self.facts()).await, Message::Welcome { .. }));
        talk
    }

    /// Says one thing in a conversation about handovers; what comes back, if anything.
    pub(crate) async fn tell(&self, to: &str, message: &Message) -> Option<Message> {
        let mut talk = self.call(to, HANDOVER).await;
        talk.say(message).await;
        talk.answer_or_end().await
    }
}

/// A session, spoken on in messages.
pub(crate) struct Talk {
    pub(crate) sender: SessionSender,
    pub(crate) receiver: SessionReceiver,
}

impl Talk {
    pub(crate) fn of(session: Session) -> Talk {
        let (sender, receiver) = session.split();
        Talk { sender, receiver }
    }

    /// Says hello; the answer.
    pub(crate) async fn greet(&mut self, offer: Versions, facts: AgentFacts) -> Message {
        self.say(&Message::Hello { offer, facts }).await;
        self.hear().await.unwrap().0
    }

    pub(crate) async fn say(&self, message: &Message) {
        self.try_say(message, Bytes::new()).await.unwrap();
    }

    pub(crate) async fn try_say(&self, message: &Message, bulk: Bytes) -> Result<(), SessionError> {
        soon(self.sender.send(Parcel { header: codec::encode(message).unwrap().into(), bulk })).await
    }

    /// The next message; `None` where the peer is done, or has dropped the conversation.
    pub(crate) async fn hear(&mut self) -> Option<(Message, Bytes)> {
        let parcel = soon(self.receiver.recv()).await.ok()??;
        Some((codec::decode(&parcel.header).unwrap(), parcel.bulk))
    }

    /// The answer; `None` where the conversation ends without one.
    pub(crate) async fn answer_or_end(&mut self) -> Option<Message> {
        self.hear().await.map(|(message, _)| message)
    }

    /// The problem in the refusal that must come.
    pub(crate) async fn refusal(&mut self) -> Problem {
        match self.answer_or_end().await {
            Some(Message::Refused(problem)) => problem,
            other => panic!("not refused: {other:?}"),
        }
    }
}

/// An offer that a target would take: nothing in it is wrong but that there is no such workload.
pub(crate) fn offer(name: &str, from: &str, to: &str, epoch: u64) -> Offer {
    let spec = WorkloadSpec {
        name: name.parse().unwrap(),
        argv: vec!["/bin/sleep".into(), "1000".into()],
        env: vec![],
        dir: None,
        user: None,
        volumes: vec![],
        own_root: false,
        memory_bytes: None,
        cpu_milli: None,
        layer_bytes: default_layer_bytes(),
    };
    Offer {
        handover: HandoverId(rand()),
        spec,
        epoch: Epoch(epoch),
        from: node(from),
        to: node(to),
        memory_bytes: 1 << 20,
        layer_bytes: default_layer_bytes(),
        layer_used_bytes: 1 << 20,
        layer_block_bytes: 64 << 10,
        needs: Needs {
            criu_version: "4.0.0".to_owned(),
            kernel: "6.0".to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpu_flags: vec![],
            mapped_files: vec![],
        },
        last_pid: 100,
        started: None,
    }
}

pub(crate) fn problem() -> Problem {
    Problem::new(Code::Cancelled, "the hostile client says so")
}

/// Sixteen bytes that no other has.
pub(crate) fn rand() -> [u8; 16] {
    use std::io::Read;
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes
}
