//! Sessions: an ordered, exactly-once, bounded stream of parcels in both directions that survives cut links.
//!
//! One side opens a session, the other accepts it. The opener makes a link; when the link is cut it makes another, both sides say
//! what they have, and what is missing goes again. Credit keeps either side from holding more than [`WINDOW`] bytes a
//! direction. An acknowledgement means that the peer's *session* has the parcel: what happens to it there is for messages to say.
//!
//! - `wire`: the 64-byte header. `flow`: numbers and credit of one direction. `state`: the session as a machine.
//! - `shared`: the lock and the waiting. `drive`: one link's work. `open`, `accept`: where links come from.
//!
//! A session ends cleanly when both sides have called [`SessionSender::close`]. Dropping the last sender before that, or a receiver for
//! which parcels still come, gives the session up: the peer is told.

mod accept;
mod drive;
mod flow;
mod open;
#[doc(hidden)]
pub mod outside;
mod shared;
mod state;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use migrate_proto::error::Code;
use migrate_proto::name::NodeName;
use thiserror::Error;
use tokio::sync::{Mutex, oneshot, watch};

pub use self::accept::Acceptor;
pub use self::flow::{PARCEL_COST, WINDOW};
use self::open::Opener;
use self::shared::Shared;
use self::state::Role;
use crate::link::{PeerAddress, Transport, TransportError};
use crate::parcel::{Parcel, TooLarge};

/// Names a session; chosen at random by who opens it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// How long a session waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// A peer that says nothing for this long has lost the link. Each side speaks at least three times as often.
    pub silence: Duration,
    /// A peer that cannot be reached for this long has lost the session.
    pub give_up: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing { silence: Duration::from_secs(10), give_up: Duration::from_secs(60) }
    }
}

/// Whether parcels get through at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// There is a link.
    Up,
    /// There is none; the session goes on when there is one again.
    Down,
    /// The session is over, well or badly.
    Gone,
}

/// Why a session does not do what it should.
#[derive(Debug, Clone, Error)]
pub enum SessionError {
    /// There was no link that could be trusted.
    #[error(transparent)]
    NoLink(TransportError),
    /// The peer could not be reached for as long as was allowed.
    #[error("{peer} could not be reached for {after:?}: {why}")]
    Lost {
        /// Who.
        peer: NodeName,
        /// The budget that was spent.
        after: Duration,
        /// What happened last.
        why: String,
    },
    /// The peer does not know the session: its agent was restarted.
    #[error("{peer} does not know this session any more; its agent was probably restarted")]
    Forgotten {
        /// Who.
        peer: NodeName,
    },
    /// The peer has too many sessions.
    #[error("{peer} takes no more sessions at present")]
    Refused {
        /// Who.
        peer: NodeName,
    },
    /// The peer gave the session up.
    #[error("{peer} gave the session up")]
    Reset {
        /// Who.
        peer: NodeName,
    },
    /// The peer broke the rules.
    #[error("{peer} broke the session protocol: {what}")]
    Violation {
        /// Who.
        peer: NodeName,
        /// How.
        what: String,
    },
    /// This side gave the session up.
    #[error("the session was given up on this side")]
    Abandoned,
    /// This side has closed the session.
    #[error("the session is closed")]
    Closed,
    /// The parcel is over the limit.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

impl SessionError {
    /// The kind of problem, for the wire and the API.
    pub fn code(&self) -> Code {
        match self {
            SessionError::NoLink(error) => error.code(),
            SessionError::Refused { .. } => Code::Busy,
            SessionError::Violation { .. } => Code::Corrupt,
            SessionError::TooLarge(_) => Code::Internal,
            SessionError::Abandoned | SessionError::Closed => Code::Cancelled,
            SessionError::Lost { .. } | SessionError::Forgotten { .. } | SessionError::Reset { .. } => Code::LinkLost,
        }
    }
}

/// One end of a session.
pub struct Session {
    purpose: u8,
    sender: SessionSender,
    receiver: SessionReceiver,
}

impl Session {
    /// Opens a session with a peer. `purpose` is for the acceptor to know what it is about.
    ///
    /// Tries until the budget of `timing` is spent; a peer that is not trusted is an error at once.
    pub async fn open(
        transport: Arc<dyn Transport>,
        peer: PeerAddress,
        id: SessionId,
        purpose: u8,
        timing: Timing,
    ) -> Result<Session, SessionError> {
        let shared = Shared::new(Role::Opener, peer.node.clone(), id, WINDOW);
        // From here on dropping it (also when this future is dropped) gives the session up.
        let session = Session::new(shared.clone(), purpose);
        let (opened, outcome) = oneshot::channel();
        tokio::spawn(Box::pin(Opener { shared, transport, peer, purpose, timing }.run(opened)));
        outcome.await.unwrap_or(Err(SessionError::Abandoned))?;
        Ok(session)
    }

    fn new(shared: Arc<Shared>, purpose: u8) -> Session {
        let last = Arc::new(LastSender(shared.clone()));
        let sender = SessionSender { shared: shared.clone(), turn: Arc::default(), _last: last };
        Session { purpose, sender, receiver: SessionReceiver { shared } }
    }

    /// What the opener said the session is for.
    pub fn purpose(&self) -> u8 {
        self.purpose
    }

    /// Who is at the other end, authenticated.
    pub fn peer(&self) -> NodeName {
        self.sender.shared.look(|state| state.peer().clone())
    }

    /// The name of the session.
    pub fn id(&self) -> SessionId {
        self.sender.shared.look(|state| state.id())
    }

    /// The two halves, for two tasks.
    pub fn split(self) -> (SessionSender, SessionReceiver) {
        (self.sender, self.receiver)
    }

    /// See [`SessionSender::send`].
    pub async fn send(&self, parcel: Parcel) -> Result<(), SessionError> {
        self.sender.send(parcel).await
    }

    /// See [`SessionSender::flush`].
    pub async fn flush(&self) -> Result<(), SessionError> {
        self.sender.flush().await
    }

    /// See [`SessionSender::close`].
    pub async fn close(&self) -> Result<(), SessionError> {
        self.sender.close().await
    }

    /// See [`SessionReceiver::recv`].
    pub async fn recv(&mut self) -> Result<Option<Parcel>, SessionError> {
        self.receiver.recv().await
    }

    /// See [`SessionSender::link_state`].
    pub fn link_state(&self) -> watch::Receiver<LinkState> {
        self.sender.link_state()
    }
}

/// Gives the session up when the last sender goes without having closed it.
struct LastSender(Arc<Shared>);

impl Drop for LastSender {
    fn drop(&mut self) {
        self.0.change(|state| state.senders_dropped());
    }
}

/// The sending half. Clones send into the same stream.
#[derive(Clone)]
pub struct SessionSender {
    shared: Arc<Shared>,
    /// First come, first served: a large parcel is not overtaken for ever by small ones.
    turn: Arc<Mutex<()>>,
    _last: Arc<LastSender>,
}

impl SessionSender {
    /// Waits for credit and takes the parcel over: it will arrive once, in order, unless the session is lost.
    /// When the future is dropped before it is done, the parcel was not taken.
    pub async fn send(&self, parcel: Parcel) -> Result<(), SessionError> {
        parcel.check()?;
        let _turn = self.turn.lock().await;
        let taken = self.shared.until(|state| {
            if state.out.has_ended() {
                return Some(Err(SessionError::Closed));
            }
            (state.ending().is_none() && state.out.admit(&parcel)).then_some(Ok(()))
        });
        taken.await??;
        self.shared.wake_driver();
        Ok(())
    }

    /// Waits until the peer's session has everything that was sent before.
    pub async fn flush(&self) -> Result<(), SessionError> {
        let target = self.shared.look(|state| state.out.newest());
        self.shared.until(|state| (state.out.acknowledged() >= target).then_some(())).await
    }

    /// Says that nothing more will come, and waits until the peer's session has everything. Waits for credit behind sends that
    /// are under way.
    pub async fn close(&self) -> Result<(), SessionError> {
        let turn = self.turn.lock().await;
        self.shared.change(|state| state.out.end());
        drop(turn);
        let ended_well = self.shared.until(|state| {
            let all = state.out.all_acknowledged();
            // A peer that left after it had every parcel has missed nothing.
            (all || (state.ending().is_some() && state.out.parcels_acknowledged())).then_some(())
        });
        ended_well.await
    }

    /// Follows whether there is a link.
    pub fn link_state(&self) -> watch::Receiver<LinkState> {
        self.shared.watch_link()
    }
}

/// The receiving half.
pub struct SessionReceiver {
    shared: Arc<Shared>,
}

impl SessionReceiver {
    /// The next parcel; `None` when the peer has closed its side. Parcels that arrived before the session was lost still come.
    /// Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Result<Option<Parcel>, SessionError> {
        self.shared.next_parcel().await
    }

    /// How many bytes wait here to be received: never more than [`WINDOW`].
    pub fn buffered(&self) -> u64 {
        self.shared.look(|state| state.inc.buffered())
    }
}

impl Drop for SessionReceiver {
    fn drop(&mut self) {
        self.shared.change(|state| state.receiver_dropped());
    }
}
