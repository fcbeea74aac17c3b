//! What there is to do about one workload: a function of the lease, of what the record says, and of what is here.

use migrate_proto::cluster::record::LoadEntry;
use migrate_proto::name::NodeName;

use crate::registry::{Doing, Record};
use crate::tenure::Lease;

/// What is known about a workload of this node.
#[derive(Debug, Clone)]
pub struct Look {
    /// This node.
    pub me: NodeName,
    /// Its lease.
    pub lease: Lease,
    /// What the record says about the workload, if it does.
    pub entry: Option<LoadEntry>,
    /// Whether the record is known at all.
    pub known: bool,
    /// What its init was armed with by this agent.
    pub armed: Option<u64>,
    /// Whether it has a sandbox.
    pub has_sandbox: bool,
    /// Whether its init is too old to be armed.
    pub is_unleashed: bool,
    /// Whether it was said that the lease holds it.
    pub is_held: bool,
    /// A move is under way, or waits for an answer.
    pub is_moving: bool,
    /// What is durable about it here.
    pub record: Record,
}

/// One thing to do; when it is done everything is looked at again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Todo {
    /// Nothing, or nothing yet.
    Nothing,
    /// See whether the lease holds it, and say so.
    SayHeld,
    /// Let it run in this session.
    Arm(u64),
}

impl Look {
    /// What there is to do.
    pub fn todo(&self) -> Todo {
        // What is on its way is its handover's.
        if self.is_moving || !self.record.owned {
            return Todo::Nothing;
        }
        let runs = self.has_sandbox && self.record.doing == Doing::Running && !self.is_unleashed;
        if self.lease == Lease::Over {
            return if runs && !self.is_held { Todo::SayHeld } else { Todo::Nothing };
        }
        let mine = self.entry.as_ref().is_none_or(|entry| entry.owner.as_ref() == Some(&self.me));
        let session = self.lease.session();
        if self.known && mine && runs && self.armed != Some(session) { Todo::Arm(session) } else { Todo::Nothing }
    }
}
