//! What a peer's messages do to a session, for the fuzzer: its machine without links, locks and time.

use super::state::{After, Role, State};
use super::{SessionId, wire};
use crate::link::Frames;
use crate::parcel::Parcel;

/// A message of a session, decoded and encoded again; `None` where it is none.
pub fn recoded(frames: Frames) -> Option<Frames> {
    wire::Header::decode(frames).ok().map(|(header, parcel)| header.encode(parcel))
}

/// One end of a session, alone with what its peer says.
pub struct Lone(State);

impl Lone {
    /// The end that opened the session, or that accepted it; for at most `window` bytes that wait.
    pub fn new(id: SessionId, opens: bool, window: u64) -> Option<Lone> {
        let role = if opens { Role::Opener } else { Role::Acceptor };
        Some(Lone(State::new(role, "peer".parse().ok()?, id, window)))
    }

    /// A link is made: this is what the peer greets with. False where the session ends on it.
    pub fn greeted(&mut self, frames: Frames) -> bool {
        wire::Header::decode(frames).is_ok_and(|(greeting, _)| self.0.link_made(&greeting).is_ok())
    }

    /// A message came. False where the link is left, or the session is over.
    pub fn hears(&mut self, frames: Frames) -> bool {
        wire::Header::decode(frames).is_ok_and(|(header, parcel)| self.0.arrived(header, parcel) == After::GoOn)
    }

    /// What it sends next.
    pub fn says(&mut self) -> Option<Frames> {
        self.0.next_message().map(|(frames, _)| frames)
    }

    /// The application sends. False where there is no credit.
    pub fn send(&mut self, parcel: &Parcel) -> bool {
        self.0.out.admit(parcel)
    }

    /// The application will send no more.
    pub fn close(&mut self) {
        self.0.out.end();
    }

    /// The application receives.
    pub fn receive(&mut self) -> Option<Parcel> {
        self.0.inc.take()
    }

    /// The application does not want any more.
    pub fn leave(&mut self) {
        self.0.receiver_dropped();
    }

    /// How many items have come, in order.
    pub fn received(&self) -> u64 {
        self.0.inc.received()
    }

    /// How many bytes wait for the application.
    pub fn waiting(&self) -> u64 {
        self.0.inc.buffered()
    }
}
