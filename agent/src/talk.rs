//! Messages over a session: one end encodes, the other decodes.

use std::time::Duration;

use bytes::Bytes;
use migrate_proto::codec;
use migrate_proto::error::{Code, Problem};
use migrate_proto::message::{AgentFacts, Message};
use migrate_proto::name::NodeName;
use migrate_proto::version::{SPOKEN, Versions};
use migrate_transport::parcel::Parcel;
use migrate_transport::session::{LinkState, Session, SessionError, SessionId, SessionReceiver, SessionSender};
use tokio::sync::watch;

/// How long a peer may take to say what it wants, and to take the answer. It has a session: it need only speak.
const FIRST_WORDS: Duration = Duration::from_secs(10);

/// What a session is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// A request to the other agent's API.
    Request = 1,
    /// A handover.
    Handover = 2,
    /// The question whether a handover would be taken.
    Preflight = 3,
    /// Calls between members of a cluster.
    Cluster = 4,
    /// Checkpoints, and who keeps which.
    Checkpoint = 5,
}

impl Purpose {
    /// The purpose of a session that a peer opened.
    pub fn of(number: u8) -> Option<Purpose> {
        let known = [Purpose::Request, Purpose::Handover, Purpose::Preflight, Purpose::Cluster, Purpose::Checkpoint];
        known.into_iter().find(|purpose| *purpose as u8 == number)
    }
}

/// The speaking half. Clones speak into the same session, in turn.
#[derive(Clone)]
pub struct Speaker(SessionSender);

/// The listening half.
pub struct Listener(SessionReceiver);

/// Both halves of a conversation that has begun.
pub struct Talk {
    /// To the peer.
    pub speaker: Speaker,
    /// From the peer.
    pub listener: Listener,
    /// Who the peer is.
    pub peer: AgentFacts,
    /// What both sides call this conversation.
    pub name: SessionId,
}

impl Speaker {
    /// Says something; returns when the session has taken it.
    pub async fn say(&self, message: &Message) -> Result<(), Problem> {
        self.say_with(message, Bytes::new()).await
    }

    /// Says something that has bulk bytes beside it.
    pub async fn say_with(&self, message: &Message, bulk: Bytes) -> Result<(), Problem> {
        let header = codec::encode(message).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        self.0.send(Parcel { header: header.into(), bulk }).await.map_err(problem)
    }

    /// Waits until the peer's session has everything that was said.
    pub async fn flush(&self) -> Result<(), Problem> {
        self.0.flush().await.map_err(problem)
    }

    /// Says something, and that this was all.
    pub async fn say_last(&self, message: &Message) -> Result<(), Problem> {
        self.say(message).await?;
        self.close().await
    }

    /// Says that this was all, and waits until it has arrived.
    pub async fn close(&self) -> Result<(), Problem> {
        self.0.close().await.map_err(problem)
    }

    /// Follows whether there is a link.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.0.link_state()
    }
}

impl Listener {
    /// The next message with its bulk; `None` when the peer is done.
    pub async fn hear(&mut self) -> Result<Option<(Message, Bytes)>, Problem> {
        let Some(parcel) = self.0.recv().await.map_err(problem)? else { return Ok(None) };
        let message = codec::decode(&parcel.header).map_err(|error| Problem::new(Code::Corrupt, error.to_string()))?;
        Ok(Some((message, parcel.bulk)))
    }

    /// The same, in bounded time: for the first words of a conversation that a peer began.
    pub async fn expect_soon(&mut self) -> Result<Message, Problem> {
        tokio::time::timeout(FIRST_WORDS, self.expect()).await.unwrap_or_else(|_| Err(wordless()))
    }

    /// The next message, which must be there and have no bulk.
    pub async fn expect(&mut self) -> Result<Message, Problem> {
        match self.hear().await? {
            Some((message, bulk)) if bulk.is_empty() => Ok(message),
            Some(_) => Err(Problem::new(Code::Corrupt, "a message came with bytes that it cannot have")),
            None => Err(Problem::new(Code::LinkLost, "the peer ended the conversation early")),
        }
    }
}

/// Begins a conversation on a session that was opened here.
pub async fn greet(session: Session, facts: AgentFacts) -> Result<Talk, Problem> {
    let name = session.id();
    let (speaker, mut listener) = halves(session);
    speaker.say(&Message::Hello { offer: SPOKEN, facts }).await?;
    match listener.expect().await? {
        Message::Welcome { version, facts } if SPOKEN.contains(version) => {
            Ok(Talk { speaker, listener, peer: facts, name })
        }
        Message::Refused(problem) => Err(problem),
        other => Err(unexpected(&other)),
    }
}

/// Begins a conversation on a session that a peer opened.
pub async fn welcome(session: Session, facts: AgentFacts) -> Result<Talk, Problem> {
    let begun = tokio::time::timeout(FIRST_WORDS, begin(session, facts)).await;
    begun.unwrap_or_else(|_| Err(wordless()))
}

fn wordless() -> Problem {
    Problem::new(Code::TimedOut, format!("the peer said nothing for {FIRST_WORDS:?}"))
}

async fn begin(session: Session, facts: AgentFacts) -> Result<Talk, Problem> {
    let (authenticated, name) = (session.peer(), session.id());
    let (speaker, mut listener) = halves(session);
    let Message::Hello { offer, facts: theirs } = listener.expect().await? else {
        return Err(Problem::new(Code::Corrupt, "the peer did not begin with a greeting"));
    };
    let (here, there) = (facts.node.clone(), authenticated.clone());
    let choice = SPOKEN.choose(offer).map_err(|problem| no_common_version(problem, (&here, SPOKEN), (&there, offer)));
    let choice = choice.and_then(|version| {
        let honest = theirs.node == authenticated;
        let lied = || Problem::new(Code::PeerUntrusted, format!("{authenticated} says that it is {}", theirs.node));
        if honest { Ok(version) } else { Err(lied()) }
    });
    match choice {
        Ok(version) => {
            speaker.say(&Message::Welcome { version, facts }).await?;
            Ok(Talk { speaker, listener, peer: theirs, name })
        }
        Err(problem) => {
            speaker.say_last(&Message::Refused(problem.clone())).await?;
            Err(problem)
        }
    }
}

/// The same problem in words that mean the same on both nodes.
fn no_common_version(problem: Problem, one: (&NodeName, Versions), other: (&NodeName, Versions)) -> Problem {
    let older = if one.1.max < other.1.max { one.0 } else { other.0 };
    let of = |(node, spoken): (&NodeName, Versions)| format!("{node} speaks {} to {}", spoken.min, spoken.max);
    let message = format!("there is no protocol version that both agents know: {}, {}", of(one), of(other));
    Problem { message, hint: format!("upgrade the agent on {older}"), ..problem }
}

fn halves(session: Session) -> (Speaker, Listener) {
    let (sender, receiver) = session.split();
    (Speaker(sender), Listener(receiver))
}

/// A message that has no place where it came.
pub fn unexpected(message: &Message) -> Problem {
    Problem::new(Code::Corrupt, format!("a message of kind {} came where it has no place", message.kind()))
}

fn problem(error: SessionError) -> Problem {
    match &error {
        SessionError::NoLink(error) => error.problem(),
        _ => Problem::new(error.code(), error.to_string()),
    }
}
