//! Calls between members: a question, an answer, many at once over one conversation with each member.
//!
//! A call fails at once where there is no way to the member, and nothing of it is kept: what was given up must not arrive in a burst
//! when the way is there again. A conversation in which two calls in a row were not answered in time is given up and begun anew.
//!
//! Both sides trace every call with its number and the conversation's name, so that one search finds it in both logs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use migrate_proto::error::{Code, Problem};
use migrate_proto::message::Message;
use migrate_proto::name::NodeName;
use migrate_transport::link::PeerAddress;
use migrate_transport::session::{LinkState, SessionId};
use thiserror::Error;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::peers::Peers;
use crate::talk::{self, Listener, Purpose, Speaker, Talk};

/// So many calls in a row without an answer, and the conversation is begun anew.
const PATIENCE: u32 = 2;
/// How long the way to a member that is there takes to be made; what takes longer was begun when it was not there.
const HANDSHAKE: Duration = Duration::from_millis(300);
/// How many calls of one member are answered at once; more wait.
const AT_ONCE: usize = 32;

/// What a call asks for. Append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum What {
    /// Something of those that keep the record together.
    Ownership = 1,
    /// Something that the leader wants of a node: see [`super::lead::errand`].
    Leader = 2,
}

impl What {
    fn of(number: u8) -> Option<What> {
        [What::Ownership, What::Leader].into_iter().find(|what| *what as u8 == number)
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, Error)]
pub enum CallError {
    /// Nothing was sent.
    #[error("{0}")]
    Unreachable(Problem),
    /// It was sent, and may have been done.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// It was sent, and may have been done; the conversation is over.
    #[error("the conversation ended: {0}")]
    Lost(Problem),
    /// It was heard, and not done.
    #[error("{0}")]
    Refused(Problem),
}

/// Answers what other members ask.
#[async_trait]
pub trait Answers: Send + Sync + 'static {
    /// Does what `from` asks.
    async fn answer(&self, from: &NodeName, what: What, body: Vec<u8>) -> Result<Vec<u8>, Problem>;

    /// A member has begun to call: it is there, whatever was thought of it.
    fn is_called_by(&self, _member: &NodeName) {}
}

/// Begins conversations with members.
#[async_trait]
pub trait Begins: Send + Sync + 'static {
    /// One for calls. The address is where the member was last; there may be something newer.
    async fn begin(&self, to: &PeerAddress) -> Result<Talk, Problem>;
}

#[async_trait]
impl Begins for Peers {
    async fn begin(&self, to: &PeerAddress) -> Result<Talk, Problem> {
        let known = self.address(&to.node).unwrap_or_else(|_| to.clone());
        self.call_at(known, Purpose::Cluster).await
    }
}

/// The calls of this node.
pub struct Calls {
    peers: Arc<dyn Begins>,
    lines: Mutex<HashMap<NodeName, Arc<Line>>>,
}

impl Calls {
    /// Over conversations with these.
    pub fn new(peers: Arc<dyn Begins>) -> Calls {
        Calls { peers, lines: Mutex::default() }
    }

    /// Asks a member, and waits for at most `ttl`.
    pub async fn call(&self, to: &PeerAddress, what: What, body: Vec<u8>, ttl: Duration) -> Result<Vec<u8>, CallError> {
        let line = lock(&self.lines).entry(to.node.clone()).or_default().clone();
        let begun = line.conversation(&self.peers, to);
        let conversation = match tokio::time::timeout(ttl, begun).await {
            Ok(conversation) => conversation.map_err(CallError::Unreachable)?,
            Err(_) => return Err(CallError::Unreachable(unreached(&to.node))),
        };
        let answer = conversation.ask(what, body, ttl).await;
        match &answer {
            Err(CallError::Late(_)) if line.late.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE => {
                line.leave(&conversation);
            }
            Err(CallError::Late(_) | CallError::Unreachable(_)) => {}
            Err(CallError::Lost(_)) => line.leave(&conversation),
            Ok(_) | Err(CallError::Refused(_)) => line.late.store(0, Ordering::Relaxed),
        }
        answer
    }

    /// A member is there. Where the way to it was lost the next call makes a new one, now that it leads somewhere: a conversation with its last life pauses for
    /// ever longer between its attempts.
    pub fn is_there(&self, member: &NodeName) {
        if let Some(line) = lock(&self.lines).get(member) {
            line.begin_anew();
        }
    }
}

/// The way to one member.
struct Line {
    slot: watch::Sender<Slot>,
    /// Calls in a row that were not answered in time.
    late: AtomicU32,
}

#[derive(Clone, Default)]
enum Slot {
    #[default]
    Closed,
    /// Somebody is about to begin it, since then, and can be stopped.
    Opening(Instant, CancellationToken),
    /// It could not be begun.
    Failed(Problem),
    Open(Arc<Conversation>),
}

impl Default for Line {
    fn default() -> Line {
        Line { slot: watch::Sender::new(Slot::Closed), late: AtomicU32::new(0) }
    }
}

impl Line {
    /// The conversation with this member, begun where there is none. It is begun by a task of its own: who waits for it may be in more
    /// of a hurry than a handshake takes.
    async fn conversation(
        self: &Arc<Line>,
        peers: &Arc<dyn Begins>,
        to: &PeerAddress,
    ) -> Result<Arc<Conversation>, Problem> {
        let mut slot = self.slot.subscribe();
        let stop = CancellationToken::new();
        let begin = self.slot.send_if_modified(|slot| {
            let begin = match slot {
                Slot::Open(conversation) => conversation.is_over(),
                Slot::Opening(..) => false,
                Slot::Closed | Slot::Failed(_) => true,
            };
            if begin {
                *slot = Slot::Opening(Instant::now(), stop.clone());
            }
            begin
        });
        if begin {
            let (line, peers, to) = (self.clone(), peers.clone(), to.clone());
            tokio::spawn(async move { stop.run_until_cancelled(line.open(&*peers, &to)).await });
        }
        let settled = slot.wait_for(|slot| !matches!(slot, Slot::Opening(..))).await;
        match settled.as_deref() {
            Ok(Slot::Open(conversation)) => Ok(conversation.clone()),
            Ok(Slot::Failed(problem)) => Err(problem.clone()),
            Ok(Slot::Closed | Slot::Opening(..)) | Err(_) => Err(unreached(&to.node)),
        }
    }

    async fn open(&self, peers: &dyn Begins, to: &PeerAddress) {
        let talk = peers.begin(to).await;
        self.late.store(0, Ordering::Relaxed);
        self.slot.send_replace(match talk {
            Ok(talk) => Slot::Open(Arc::new(Conversation::new(talk))),
            Err(problem) => Slot::Failed(problem),
        });
    }

    /// Forgets a way that does not lead there at the moment.
    fn begin_anew(&self) {
        self.slot.send_if_modified(|slot| {
            let lost = match slot {
                Slot::Open(conversation) => !conversation.is_up(),
                Slot::Opening(since, stop) if since.elapsed() > HANDSHAKE => {
                    stop.cancel();
                    true
                }
                Slot::Opening(..) | Slot::Closed | Slot::Failed(_) => false,
            };
            if lost {
                *slot = Slot::Closed;
            }
            lost
        });
    }

    /// The next call begins another one.
    fn leave(&self, left: &Arc<Conversation>) {
        self.slot.send_if_modified(|slot| {
            let is_it = matches!(slot, Slot::Open(conversation) if Arc::ptr_eq(conversation, left));
            if is_it {
                *slot = Slot::Closed;
            }
            is_it
        });
    }
}

fn unreached(to: &NodeName) -> Problem {
    Problem::new(Code::PeerDown, format!("there is no conversation with {to} at the moment"))
}

type Answer = Result<Vec<u8>, CallError>;

/// Those who wait for answers; nothing when no more will come.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

struct Conversation {
    speaker: Speaker,
    link: watch::Receiver<LinkState>,
    waiting: Waiting,
    next: AtomicU64,
    hearing: AbortHandle,
    /// What both sides call it.
    name: SessionId,
}

impl Conversation {
    fn new(talk: Talk) -> Conversation {
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let hearing = tokio::spawn(hear(talk.listener, waiting.clone())).abort_handle();
        let link = talk.speaker.link();
        Conversation { speaker: talk.speaker, link, waiting, next: AtomicU64::new(0), hearing, name: talk.name }
    }

    fn is_over(&self) -> bool {
        lock(&self.waiting).is_none() || *self.link.borrow() == LinkState::Gone
    }

    fn is_up(&self) -> bool {
        *self.link.borrow() == LinkState::Up
    }

    async fn ask(&self, what: What, body: Vec<u8>, ttl: Duration) -> Answer {
        // A session keeps what it cannot send, and would send it late.
        if !self.is_up() {
            return Err(CallError::Unreachable(Problem::new(Code::LinkLost, "the connection is cut at the moment")));
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        match &mut *lock(&self.waiting) {
            Some(waiting) => waiting.insert(id, answer),
            None => return Err(CallError::Unreachable(over())),
        };
        let asked = async {
            self.speaker.say(&Message::Call { id, what: what as u8, body }).await.map_err(CallError::Lost)?;
            answered.await.unwrap_or_else(|_| Err(CallError::Lost(over())))
        };
        tracing::debug!(conversation = ?self.name, call = id, ?what, "a call");
        let answer = tokio::time::timeout(ttl, asked).await;
        let answer = answer.unwrap_or(Err(CallError::Late(ttl)));
        tracing::debug!(conversation = ?self.name, call = id, answered = answer.is_ok(), "the end of a call");
        if let Some(waiting) = &mut *lock(&self.waiting) {
            waiting.remove(&id);
        }
        answer
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.hearing.abort();
    }
}

fn over() -> Problem {
    Problem::new(Code::LinkLost, "the conversation is over")
}

/// Hands answers to those who wait for them, until there are no more.
async fn hear(mut listener: Listener, waiting: Waiting) {
    let problem = loop {
        let (id, answer) = match listener.expect().await {
            Ok(Message::Reply { id, body }) => (id, Ok(body)),
            Ok(Message::CallFailed { id, problem }) => (id, Err(CallError::Refused(problem))),
            Ok(other) => break talk::unexpected(&other),
            Err(problem) => break problem,
        };
        let waits = lock(&waiting).as_mut().and_then(|waiting| waiting.remove(&id));
        // Who has given up does not wait any more.
        if let Some(waits) = waits {
            let _ = waits.send(answer);
        }
    };
    let all = lock(&waiting).take();
    for waits in all.into_iter().flat_map(HashMap::into_values) {
        let _ = waits.send(Err(CallError::Lost(problem.clone())));
    }
}

/// Answers what a member asks, for as long as the conversation goes on.
pub async fn serve(answers: Arc<dyn Answers>, talk: Talk) {
    let Talk { speaker, mut listener, peer, name } = talk;
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    answers.is_called_by(&peer.node);
    loop {
        // Never closed.
        let Ok(turn) = at_once.clone().acquire_owned().await else { return };
        let (id, number, body) = match listener.expect().await {
            Ok(Message::Call { id, what, body }) => (id, what, body),
            Ok(other) => {
                return tracing::info!(peer = %peer.node, kind = other.kind(), "no call came, but something else");
            }
            Err(problem) => return tracing::debug!(peer = %peer.node, %problem, "a member calls no more"),
        };
        let (answers, speaker, from) = (answers.clone(), speaker.clone(), peer.node.clone());
        tracing::debug!(conversation = ?name, call = id, what = number, %from, "a call came");
        tokio::spawn(async move {
            let answer = match What::of(number) {
                Some(what) => answers.answer(&from, what, body).await,
                None => Err(Problem::new(Code::Usage, format!("calls of kind {number} are not known here"))),
            };
            let said = match answer {
                Ok(body) => Message::Reply { id, body },
                Err(problem) => Message::CallFailed { id, problem },
            };
            let answered = matches!(said, Message::Reply { .. });
            let _ = speaker.say(&said).await;
            tracing::debug!(conversation = ?name, call = id, answered, "the answer to a call");
            drop(turn);
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
