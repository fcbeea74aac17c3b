//! Leases: whether a node may let its workloads run, decided without the record and without clocks that agree.
//!
//! ```text
//! every node      Holder    ── Renew ──►  Promiser   every voter
//!                           ◄── Ack ────
//! the leader      Gather    ── Ask ────►  Promiser
//!                           ◄── Lapse ──
//! every sandbox   leash(armed, page, now, margin)   the page is what the holder wrote
//! ```
//!
//! A lease belongs to a node's [`Claim`](super::Claim): its name and its session. It is kept by the acknowledgements of a majority of the
//! voters. Deadlines run from the moment a renewal was *sent*, promises from the moment it was *received*; so clocks need
//! not agree, and only their rates must stay within the bound of the [`Terms`].
//!
//! What all of it is for: **when a gather is ready, the holder of that claim has lapsed for ever**. In short: each voter that said
//! [`Lapse`] had acknowledged nothing for so long that every deadline which counts it has passed, and acknowledges that claim no more;
//! every majority that the holder can count contains such a voter; and a holder that has lapsed hears nothing any more.
//!
//! What whoever drives the machines promises:
//!
//! - The clocks of a holder, of its sandboxes and of a leader go on while their machine sleeps (`CLOCK_BOOTTIME`), and
//!   `now` never goes back. A voter's clock may stand still meanwhile.
//! - A promiser lives as long as the voter's agent; a new agent makes a new one ([`Promiser::new`]) and does not restore the old.
//! - The deadline is written to the page, and an agent that finds a page goes on from it: [`Holder::resume`]. Without one
//!   there is nothing to go on from, and a session must be opened.
//! - [`Holder::open`] gets the moment *before* the session was proposed.
//! - A session is taken up only by the agent that has proposed it, and only if the record has answered `Changed`: what was
//!   `AlreadySo` may have been opened for an agent before it, earlier than it thinks.
//! - A node that has proposed to open the session after `s` never takes up `s`, also if it hears only then that it has it.
//! - [`Gather::new`] gets the moment from which on this node's copy of the record has had the session; it need not have led since.
//! - A [`Gather`] dies with the process that made it, and so do the [`Electors`] it is judged by.
//! - `Fence` names the configuration that the gather was judged by, and is refused where the log has another by then: a
//!   leader that was deposed does not know who votes.
//! - Sessions without end are nobody's to fence, and have no holder.

mod gather;
mod holder;
mod leash;
mod promiser;
mod terms;
mod voters;

#[cfg(test)]
mod proof;

pub use gather::{Gather, Lapse};
pub use holder::{Ack, Holder};
pub use leash::{ENDLESS, Leash, NEVER, Page, leash};
pub use promiser::{Ask, Known, Promiser, Renew, Seat};
pub use terms::{BadTerms, Nanos, Terms};
pub use voters::{Electors, LogId, Voters};
