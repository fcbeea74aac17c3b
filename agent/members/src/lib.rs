//! Who is in the cluster, and who seems to have died: SWIM as a machine.
//!
//! [`Swim`] is foca behind a narrow door. It opens no socket, reads no clock and draws no randomness but from its seed: datagrams
//! and the time come in, what is to be sent and what has become known goes out. It says who is *suspected*; who may run something
//! is decided elsewhere.
//!
//! # What the caller owes
//!
//! - **Datagrams before timers.** Everything that the socket holds goes to [`Swim::datagram`] before [`Swim::due`] is called, above all
//!   after the caller itself stood still: otherwise this node takes the others for dead because *it* did not listen.
//! - [`Swim::due`] at [`Swim::deadline`], or as soon as possible: how much later it comes is how this node learns that it is slow.
//! - One clock for all calls that only goes forward and goes on while the machine sleeps. From where it counts does not matter.
//! - A generation that is higher than every one before of this node: `max(seconds since 1970, stored + 1)`, stored before
//!   [`Swim::new`], and again at every [`Out::CameBack`].
//! - Datagrams only from members of the cluster: they are sealed and authenticated before they come here.

mod comeback;
mod hearing;
mod local_health;
mod member;
mod settings;
mod swim;
mod timers;
mod views;
mod words;

use std::time::Duration;

use bytes::Bytes;
pub use migrate_proto::cluster::steward::Health;
use migrate_proto::id::StateMark;
use migrate_proto::name::NodeName;
use thiserror::Error;

pub use member::{InvalidMember, MAX_ADDRESS_BYTES, MAX_GENERATION, Member};
pub use settings::{BadSettings, MAX_DATAGRAM_BYTES, Settings};
pub use swim::Swim;
pub use words::{Words, WordsError};

/// What a call to [`Swim`] asks for or tells.
#[derive(Debug, PartialEq)]
pub enum Out {
    /// This datagram is to be sent; it may be lost.
    Send {
        /// Where to.
        to: Member,
        /// At most [`MAX_DATAGRAM_BYTES`].
        bytes: Bytes,
    },
    /// A member that was not there, or was taken for dead, or has come back with a higher generation.
    Up(Member),
    /// It did not answer, neither directly nor through others.
    Suspect(Member),
    /// It has contradicted the suspicion.
    Refuted(Member),
    /// It did not contradict in time. It comes `Up` again only with a higher generation. Said also of members that never were
    /// `Up` here.
    Down(Member),
    /// It has said goodbye.
    Left(Member),
    /// Two nodes have this name, and both are alive.
    SameName {
        /// The name.
        name: NodeName,
        /// What tells them apart.
        marks: [StateMark; 2],
    },
    /// How slow this node is now: 0 (not at all) to 8.
    IAmSlow(u8),
    /// The others took this node for dead; it is back with this generation, which has to be stored.
    CameBack(u64),
    /// Something did not go as it should; nothing was changed by it.
    Trouble(Trouble),
}

/// What a [`Swim`] could not do.
#[derive(Debug, PartialEq, Error)]
pub enum Trouble {
    /// A datagram that nobody understands.
    #[error("a datagram that cannot be read: {0}")]
    Words(#[from] WordsError),
    /// The protocol refuses it.
    #[error("the membership protocol: {0}")]
    Protocol(foca::Error),
    /// The others refuse this node, and there is no higher generation to come back with.
    #[error("this node's generation cannot rise any more: it stays out of the cluster")]
    NoGeneration,
}

/// What is known of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Who.
    pub member: Member,
    /// How it is.
    pub health: Health,
    /// Since when, by the caller's clock.
    pub since: Duration,
}
