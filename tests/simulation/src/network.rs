//! Connections between nodes. Worse than the real ones, on purpose: a session of `migrate-transport` never loses,
//! doubles or reorders anything while it lasts; here a message may be lost silently, come twice, come late, and come
//! after the connection has ended.

use migrate_proto::message::Message;

use crate::faults::Fault;
use crate::node::Word;
use crate::random::Random;
use crate::world::{Happening, World};

/// A message on its way.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) session: u32,
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) message: Message,
}

#[derive(Debug)]
struct Session {
    handover: usize,
    ends: [usize; 2],
    open: bool,
    /// When the latest message to each end arrives.
    latest: [u64; 2],
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Network {
    sessions: Vec<Session>,
    parted: Vec<(usize, usize)>,
}

impl Network {
    /// Two nodes do not reach each other any more.
    pub(crate) fn part(&mut self, one: usize, other: usize) {
        self.parted.push((one.min(other), one.max(other)));
    }

    /// They do again.
    pub(crate) fn mend(&mut self, one: usize, other: usize) {
        let pair = (one.min(other), one.max(other));
        self.parted.retain(|parted| *parted != pair);
    }

    /// All do.
    pub(crate) fn mend_all(&mut self) {
        self.parted.clear();
    }

    fn is_parted(&self, one: usize, other: usize) -> bool {
        self.parted.contains(&(one.min(other), one.max(other)))
    }

    /// Any of those that are open.
    pub(crate) fn some_open(&self, random: &mut Random) -> Option<u32> {
        let open = self.sessions.iter().filter(|session| session.open).count();
        let chosen = if open == 0 { return None } else { random.index(open) };
        let mut all = (0u32..).zip(&self.sessions).filter(|(_, session)| session.open);
        all.nth(chosen).map(|(session, _)| session)
    }

    /// Between which nodes, and about what.
    pub(crate) fn ends(&self, session: u32) -> ([usize; 2], usize) {
        let session = &self.sessions[session as usize];
        (session.ends, session.handover)
    }
}

impl World {
    /// Tries to reach the other node; `None` where it does not answer.
    pub(crate) fn dial(&mut self, from: usize, to: usize, handover: usize) -> Option<u32> {
        let unlucky = self.faulty && self.random.one_in(8 * self.calm);
        if unlucky || self.network.is_parted(from, to) || self.nodes[to].agent.is_none() {
            return None;
        }
        let latest = [self.now; 2];
        self.network.sessions.push(Session { handover, ends: [from, to], open: true, latest });
        Some(self.network.sessions.len() as u32 - 1)
    }

    /// Says something on a connection; it may be lost.
    pub(crate) fn say(&mut self, from: usize, session: u32, message: Message) {
        let Session { ends, open, handover, .. } = self.network.sessions[session as usize];
        if !open {
            return;
        }
        let to = if ends[0] == from { ends[1] } else { ends[0] };
        let mut at = self.now + 1 + self.random.below(15);
        if self.faulty && self.random.one_in(12 * self.calm) {
            let fault = [Fault::MessageLost, Fault::MessageTwice, Fault::MessageReordered, Fault::MessageDelayed]
                [self.random.index(4)];
            self.mark_one(from, handover, fault);
            self.mark_one(to, handover, fault);
            self.note(|| format!("{} to node{}: message {}", fault, to + 1, message.kind()));
            match fault {
                Fault::MessageLost => return,
                Fault::MessageTwice => {
                    let again = self.now + 1 + self.random.below(4_000);
                    let message = message.clone();
                    self.at(again, Happening::Deliver(Box::new(Envelope { session, from, to, message })));
                }
                Fault::MessageReordered => {
                    at += self.random.below(200);
                    return self.at(at, Happening::Deliver(Box::new(Envelope { session, from, to, message })));
                }
                _ => at += self.random.below(5_000),
            }
        }
        let latest = &mut self.network.sessions[session as usize].latest[usize::from(ends[0] == from)];
        at = at.max(*latest + 1);
        *latest = at;
        self.at(at, Happening::Deliver(Box::new(Envelope { session, from, to, message })));
    }

    /// The connection ends; both sides notice it, each in its time.
    pub(crate) fn close_session(&mut self, session: u32) {
        let known = &mut self.network.sessions[session as usize];
        if !std::mem::replace(&mut known.open, false) {
            return;
        }
        let (ends, handover) = (known.ends, known.handover);
        for node in ends {
            let notice = if self.faulty && self.random.one_in(4) { 2_000 } else { 20 };
            self.later(0, notice, Happening::Silence { node, handover, session });
        }
    }

    pub(crate) fn close_sessions_of(&mut self, node: usize) {
        for session in 0..self.network.sessions.len() {
            let known = &self.network.sessions[session];
            if known.open && known.ends.contains(&node) {
                self.close_session(session as u32);
            }
        }
    }

    /// A message arrives: at the side that it is for, or at an agent that has to answer by itself.
    pub(crate) fn deliver(&mut self, envelope: Envelope) {
        let Envelope { session, from, to, message } = envelope;
        let Session { open, handover, .. } = self.network.sessions[session as usize];
        if self.nodes[to].agent.is_none() || self.network.is_parted(from, to) {
            return self.close_session(session);
        }
        let Some(line) = self.line_of(to, handover) else {
            if open {
                self.hear_without_a_side(to, session, handover, message);
            }
            return;
        };
        let newer = line.is_none_or(|line| line < session);
        if open && newer && matches!(message, Message::Offer(_)) {
            // An offer begins a conversation of its own, and this one has begun long ago.
            return;
        }
        if open && newer {
            self.hear(to, handover, Word::Connected(session));
        } else if line != Some(session) && !self.random.one_in(3) {
            // Mostly what was said on an earlier connection goes with it.
            return;
        }
        self.note(|| format!("node{} hears {} of handover {handover}", to + 1, message.kind()));
        self.hear(to, handover, Word::Heard(message));
    }
}
