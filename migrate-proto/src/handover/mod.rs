//! The protocol that moves a workload: exactly one node may run it, before, during and after.
//!
//! Two machines, [`source::Source`] and [`target::Target`], hold all of it. An agent feeds them what happened and does
//! what they command, in order:
//!
//! ```text
//! events ──► step(now, event) ──► commands      (and `deadline()`: when to send a `Tick`)
//! ```
//!
//! What an executor of commands promises:
//!
//! - Commands are carried out in the order given. `Journal` is durable before the next command begins.
//! - Every command that changes something can be repeated: after a restart the machines repeat what they cannot know to
//!   have happened.
//! - A command that is given again while it is under way joins or replaces the earlier one: one report follows, not two.
//! - `Decide` creates the decision file if there is none, and reports what the file *then* says.
//! - `Send` without a connection is lost. While a machine has not finished and there is no connection, the executor
//!   keeps trying to get one, and reports `LinkBack`.
//! - A machine that has commanded `Finish` is done; its journal entry may go, unless the outcome is `Unknown`.

mod budgets;
mod timeline;

#[cfg(test)]
mod fixtures;

pub mod source;
pub mod target;

use serde::{Deserialize, Serialize};

pub use budgets::{Budget, Budgets, Watch};
pub use timeline::{Backwards, Timeline};

use crate::error::Problem;
use crate::id::{Epoch, HandoverId};
use crate::message::Message;
use crate::name::{NodeName, WorkloadName};

/// A point in time, in milliseconds of a clock that does not go backwards. Its zero means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    /// This much later.
    pub fn plus(self, millis: u64) -> Millis {
        Millis(self.0.saturating_add(millis))
    }
}

/// What the decision file says. It is written once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The target may run the workload; the source may never again.
    Commit,
    /// The source may run the workload; the target never may, in this handover.
    Abort,
}

/// What a handover is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// This attempt.
    pub handover: HandoverId,
    /// What moves.
    pub workload: WorkloadName,
    /// From where.
    pub from: NodeName,
    /// To where.
    pub to: NodeName,
    /// The epoch in which the source owns it.
    pub epoch: Epoch,
}

/// What to answer about a handover that is not under way on this node. `received` is the target's entry, where the workload came
/// and has moved on since.
///
/// - `Ask`: `abort`. A source forgets a handover only after an abort, or after the target has said `Resumed` or `Lost`; and a
///   target that has said either never asks again.
/// - `Resumed`, `Lost`: `Done`. This source has finished; the target need not repeat itself.
/// - `Commit`: what was said before, where that is in writing. A target that has lost its disk remembers nothing, and the
///   source's files are the last ones.
///
/// To everything else there is no answer.
pub fn answer_without_machine(message: &Message, received: Option<&target::Entry>) -> Option<Message> {
    match *message {
        Message::Ask { handover } => Some(Message::Answer { handover, decision: Some(Decision::Abort) }),
        Message::Resumed { handover, .. } | Message::Lost { handover, .. } => Some(Message::Done { handover }),
        Message::Commit { handover, .. } => {
            received.filter(|entry| entry.offer.handover == handover).map(target::Entry::arrived)
        }
        _ => None,
    }
}

pub(crate) fn abort_message(handover: HandoverId, problem: &Problem) -> Message {
    Message::Abort { handover, problem: problem.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handover::fixtures::{HANDOVER, OTHER, offer, problem};
    use crate::phase::Phase;

    #[test]
    fn whoever_has_forgotten_lets_the_other_side_finish() {
        let (handover, epoch) = (HANDOVER, Epoch(2));
        let abort = Message::Answer { handover, decision: Some(Decision::Abort) };
        let (resumed, lost) = (Message::Resumed { handover, pid: 9 }, Message::Lost { handover, problem: problem() });
        assert_eq!(answer_without_machine(&Message::Ask { handover }, None), Some(abort));
        for came in [&resumed, &lost] {
            assert_eq!(answer_without_machine(came, None), Some(Message::Done { handover }));
        }
        assert_eq!(answer_without_machine(&Message::Done { handover }, None), None);

        let entry = |lost| target::Entry { offer: offer(), phase: Phase::CleanUp, pid: Some(9), lost };
        let commit = Message::Commit { handover, epoch };
        assert_eq!(answer_without_machine(&commit, None), None, "nothing is in writing");
        assert_eq!(answer_without_machine(&commit, Some(&entry(None))), Some(resumed));
        assert_eq!(answer_without_machine(&commit, Some(&entry(Some(problem())))), Some(lost));
        let other = Message::Commit { handover: OTHER, epoch };
        assert_eq!(answer_without_machine(&other, Some(&entry(None))), None);
    }
}
