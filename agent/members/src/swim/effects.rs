//! What foca asks for during one call.

use std::time::Duration;

use bytes::Bytes;
use foca::{Message, Notification, Runtime, Timer};
use migrate_proto::name::NodeName;

use crate::member::Member;

/// Everything, in foca's order.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) sends: Vec<(Member, Bytes)>,
    pub(super) timers: Vec<(Timer<Member>, Duration)>,
    pub(super) notes: Vec<Note>,
}

/// What the machine needs of foca's notifications. Who is up or down is not among them: see `Swim::compare`.
pub(super) enum Note {
    /// A datagram was accepted.
    Heard,
    /// It was the answer to a probe.
    Answered,
    /// A probe begins.
    Probing,
    /// A probe was not answered.
    ProbeFailed(NodeName),
    /// Somebody else lives.
    Active,
    /// Nobody else does.
    Idle,
    /// The others take this node for dead.
    Defunct,
}

impl Runtime<Member> for Effects {
    fn notify(&mut self, notification: Notification<'_, Member>) {
        match notification {
            Notification::DataReceived(header) => {
                self.notes.push(Note::Heard);
                if matches!(header.message, Message::Ack(_) | Message::ForwardedAck { .. }) {
                    self.notes.push(Note::Answered);
                }
            }
            Notification::DataSent(header) if matches!(header.message, Message::Ping(_)) => {
                self.notes.push(Note::Probing)
            }
            Notification::ProbeFailed(_, target) => self.notes.push(Note::ProbeFailed(target.name().clone())),
            Notification::Active => self.notes.push(Note::Active),
            Notification::Idle => self.notes.push(Note::Idle),
            Notification::Defunct => self.notes.push(Note::Defunct),
            Notification::DataSent(_)
            | Notification::MemberUp(_)
            | Notification::MemberDown(_)
            | Notification::Rename(..)
            | Notification::Rejoin(_) => {}
        }
    }

    fn send_to(&mut self, to: Member, data: &[u8]) {
        self.sends.push((to, Bytes::copy_from_slice(data)));
    }

    fn submit_after(&mut self, timer: Timer<Member>, after: Duration) {
        self.timers.push((timer, after));
    }
}
