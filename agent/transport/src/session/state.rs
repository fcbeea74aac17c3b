//! One session as a machine: messages in, messages out. Pure; the lock around it and the waiting are in [`super::shared`].

use migrate_proto::name::NodeName;

use super::flow::{Arrival, Incoming, Item, Outgoing, PARCEL_COST, Violation, WINDOW};
use super::wire::{Header, Kind};
use super::{SessionError, SessionId};
use crate::link::Frames;
use crate::parcel::Parcel;

/// How often a link may repeat what was there already. After a new link that can be a whole window of the smallest parcels, and
/// their end.
const MOST_REPEATS: u64 = WINDOW / PARCEL_COST + 1;

/// Which end of the session this is. The opener makes links; the acceptor says when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Opener,
    Acceptor,
}

/// What to do after a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum After {
    /// Read on.
    GoOn,
    /// This link has lost something: leave it and resume on another.
    Cut,
    /// The session is over.
    Over,
}

/// How a session ended.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    /// Both directions ended and everything arrived.
    Complete,
    /// Otherwise.
    Failed(SessionError),
}

/// Everything a session knows.
#[derive(Debug)]
pub(super) struct State {
    role: Role,
    peer: NodeName,
    id: SessionId,
    pub(super) out: Outgoing,
    pub(super) inc: Incoming,
    status_due: bool,
    /// How often the link has repeated something.
    repeats: u64,
    /// The link has carried something since it was made.
    link_proved: bool,
    reset_due: bool,
    senders_gone: bool,
    receiver_gone: bool,
    ending: Option<Ending>,
}

impl State {
    /// A session that holds at most `window` bytes for its application.
    pub(super) fn new(role: Role, peer: NodeName, id: SessionId, window: u64) -> State {
        State {
            role,
            peer,
            id,
            out: Outgoing::default(),
            inc: Incoming::with_window(window),
            status_due: false,
            repeats: 0,
            link_proved: false,
            reset_due: false,
            senders_gone: false,
            receiver_gone: false,
            ending: None,
        }
    }

    /// A new link begins where the peer says it is.
    pub(super) fn link_made(&mut self, greeting: &Header) -> Result<(), SessionError> {
        self.out.acknowledge(greeting.received).map_err(|violation| self.violated(violation))?;
        self.out.granted(greeting.grant);
        self.out.rewind();
        self.status_due = false;
        self.repeats = 0;
        self.link_proved = false;
        Ok(())
    }

    /// A greeting for a new link: says what has arrived and what may come.
    pub(super) fn greeting(&mut self, kind: Kind, detail: u8, attempt: u64) -> Frames {
        let (received, grant) = (self.inc.received(), self.inc.announce());
        Header { detail, number: attempt, received, grant, ..Header::new(kind, self.id) }.encode(None)
    }

    /// A message from the peer.
    pub(super) fn arrived(&mut self, header: Header, parcel: Option<Parcel>) -> After {
        if header.session != self.id {
            return After::Cut;
        }
        self.link_proved = true;
        let handled = match (header.kind, parcel) {
            (Kind::Data, Some(parcel)) => self.item_arrived(header.number, Item::Parcel(parcel)),
            (Kind::End, None) => self.item_arrived(header.number, Item::End),
            (Kind::Status, None) => self.status_arrived(&header),
            (Kind::Bye, None) => self.bye_arrived(&header),
            (Kind::Reset, None) => self.reset_arrived(&header),
            _ => Err(Violation::OutOfPlace),
        };
        handled.unwrap_or_else(|violation| {
            let error = self.violated(violation);
            self.end(Ending::Failed(error));
            After::Over
        })
    }

    fn item_arrived(&mut self, number: u64, item: Item) -> Result<After, Violation> {
        if self.receiver_gone && matches!(item, Item::Parcel(_)) {
            self.reset_due = true;
            return Ok(After::GoOn);
        }
        self.status_due = true;
        Ok(match self.inc.arrive(number, item)? {
            Arrival::Taken => After::GoOn,
            Arrival::Repeated => {
                self.repeats += 1;
                if self.repeats > MOST_REPEATS {
                    return Err(Violation::Repetition);
                }
                After::GoOn
            }
            Arrival::Gap => After::Cut,
        })
    }

    fn status_arrived(&mut self, header: &Header) -> Result<After, Violation> {
        self.out.acknowledge(header.received)?;
        self.out.granted(header.grant);
        self.give_up_if_nobody_cares();
        // Links keep their order: what the peer had put on this one must be here by now.
        Ok(if header.sent > self.inc.received() && !self.reset_due { After::Cut } else { After::GoOn })
    }

    fn bye_arrived(&mut self, header: &Header) -> Result<After, Violation> {
        self.out.acknowledge(header.received)?;
        if !self.is_complete() || self.role != Role::Opener {
            return Err(Violation::OutOfPlace);
        }
        self.end(Ending::Complete);
        Ok(After::Over)
    }

    fn reset_arrived(&mut self, header: &Header) -> Result<After, Violation> {
        self.out.acknowledge(header.received)?;
        self.end(Ending::Failed(SessionError::Reset { peer: self.peer.clone() }));
        Ok(After::Over)
    }

    /// The next message for the link, and whether it is the last one.
    pub(super) fn next_message(&mut self) -> Option<(Frames, bool)> {
        if self.reset_due {
            self.end(Ending::Failed(SessionError::Abandoned));
            return Some((self.header(Kind::Reset, 0).encode(None), true));
        }
        if self.role == Role::Acceptor && self.is_complete() {
            self.end(Ending::Complete);
            return Some((self.header(Kind::Bye, 0).encode(None), true));
        }
        if std::mem::take(&mut self.status_due) {
            return Some((self.header(Kind::Status, 0).encode(None), false));
        }
        let (number, item) = self.out.next_for_link()?;
        Some(match item {
            Item::Parcel(parcel) => (self.header(Kind::Data, number).encode(Some(parcel)), false),
            Item::End => (self.header(Kind::End, number).encode(None), false),
        })
    }

    fn header(&mut self, kind: Kind, number: u64) -> Header {
        let grant = if kind == Kind::Status { self.inc.announce() } else { 0 };
        let (received, sent) = (self.inc.received(), self.out.on_link());
        Header { number, received, grant, sent, ..Header::new(kind, self.id) }
    }

    /// The peer should hear from this side, if only that it lives.
    pub(super) fn owe_status(&mut self) {
        self.status_due = true;
    }

    /// Whether anything ever came over the present link: a sign that resuming gets somewhere.
    pub(super) fn link_proved(&self) -> bool {
        self.link_proved
    }

    /// The last sender is gone.
    pub(super) fn senders_dropped(&mut self) {
        self.senders_gone = true;
        self.give_up_if_nobody_cares();
    }

    /// The receiver is gone.
    pub(super) fn receiver_dropped(&mut self) {
        self.receiver_gone = true;
        // What was acknowledged will never be read: the peer must not think otherwise.
        self.reset_due |= !self.inc.is_drained();
        self.give_up_if_nobody_cares();
    }

    fn give_up_if_nobody_cares(&mut self) {
        let broke_off = self.senders_gone && !self.out.has_ended();
        let lost_interest =
            self.senders_gone && self.receiver_gone && self.out.all_acknowledged() && !self.is_complete();
        self.reset_due |= broke_off || lost_interest;
    }

    /// Both directions have ended, and the peer has all of ours.
    pub(super) fn is_complete(&self) -> bool {
        self.out.has_ended() && self.out.all_acknowledged() && self.inc.has_ended()
    }

    /// Whether this side wants to leave without the peer.
    pub(super) fn is_abandoned(&self) -> bool {
        self.reset_due
    }

    /// The first ending is the one that counts; what is complete cannot fail any more.
    pub(super) fn end(&mut self, ending: Ending) {
        let ending = if self.is_complete() { Ending::Complete } else { ending };
        self.ending.get_or_insert(ending);
    }

    pub(super) fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    fn violated(&self, violation: Violation) -> SessionError {
        SessionError::Violation { peer: self.peer.clone(), what: violation.to_string() }
    }

    pub(super) fn peer(&self) -> &NodeName {
        &self.peer
    }

    pub(super) fn id(&self) -> SessionId {
        self.id
    }
}
