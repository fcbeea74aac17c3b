//! What there is to do about one workload: a function of the lease, of what the record says, and of what is here.
//!
//! ```text
//!   the record ╲ here   nothing             runs, same epoch     older epoch            ended, lost, same epoch
//!   mine, Running       Revive, else Broke  Arm                  a person, if it runs   Ended; Revive, else Broke
//!   mine, Starting      Begin               Arm, Began           Drop, or Begin         Begin
//!   mine, Recovering    Recover             Arm, Began           Recover                Recover
//!   mine, ended         –                   End; Began if lost   Drop                   –
//!   mine, to be removed Gone                Remove               Drop                   Remove
//!   another's           –                   –                    Drop, then Forget      Drop, then Forget
//!   unknown             –                   Declare; a person if it was known before
//! ```

use migrate_proto::api::Exit;
use migrate_proto::care::restart::Stage;
use migrate_proto::cluster::record::{Life, LoadEntry, Origin, Wanted};
use migrate_proto::cluster::{CheckpointId, Claim, Ticket};
use migrate_proto::id::Epoch;
use migrate_proto::name::NodeName;

use crate::registry::{Doing, Record};
use crate::tenure::Lease;

/// What is known about a workload.
#[derive(Debug, Clone)]
pub struct Look {
    /// This node.
    pub me: NodeName,
    /// Its lease.
    pub lease: Lease,
    /// Whether the record is known at all.
    pub known: bool,
    /// What the record says about the workload, if it does.
    pub entry: Option<LoadEntry>,
    /// What is here, if something is.
    pub here: Option<Here>,
    /// The last epoch in which this node has given it up.
    pub broke: Option<Epoch>,
}

/// What a node has of a workload.
#[derive(Debug, Clone)]
pub struct Here {
    /// What is durable about it.
    pub record: Record,
    /// A request under which it was to be made known to the record.
    pub declaring: Option<Ticket>,
    /// What its init was armed with by this agent.
    pub armed: Option<u64>,
    /// Whether it has a sandbox.
    pub has_sandbox: bool,
    /// Whether its init is too old to be armed.
    pub is_unleashed: bool,
    /// Whether it was said that the lease holds it.
    pub is_held: bool,
    /// A handover or a restore has it, or it waits for a person.
    pub is_anothers: bool,
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
    /// It is what the record means: remember that.
    Recognise(Ticket, Epoch),
    /// Make it known to the record as this node's.
    Declare,
    /// Begin it, from the files that are here or from none.
    Begin,
    /// Bring it back from a checkpoint.
    Recover,
    /// Say something about it as its owner.
    Say(Word),
    /// End it; it stays known.
    End,
    /// End it, and remove everything of it.
    Remove,
    /// Another has it, or gets it anew: what is here never runs again.
    Drop,
    /// What was kept of what was dropped is not needed any more.
    Forget,
    /// Nothing of it runs until a person has looked, for this reason.
    Question(Question),
}

/// What an owner says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// It runs.
    Began,
    /// It has ended.
    Ended(Option<Exit>),
    /// It cannot run here.
    Broke {
        /// Whether it had begun.
        began: bool,
        /// For people.
        reason: String,
    },
    /// It is begun again.
    Revive(Option<CheckpointId>),
    /// Nothing is left of it.
    Gone,
}

/// What only a person can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// The record has another workload of this name.
    Namesake,
    /// The record knew it, and does not any more.
    Unknown,
    /// It runs here in an epoch that is over, and this node owns it.
    OldEpoch,
}

impl Look {
    /// What there is to do.
    pub fn todo(&self) -> Todo {
        let Some(here) = &self.here else {
            return match &self.entry {
                Some(entry) if self.known && self.owns(entry) => self.absent(entry),
                _ => Todo::Nothing,
            };
        };
        if here.is_anothers {
            return Todo::Nothing;
        }
        if self.lease == Lease::Over && here.runs() && !here.is_held && !here.is_unleashed {
            return Todo::SayHeld;
        }
        if !self.known {
            return Todo::Nothing;
        }
        match &self.entry {
            None => self.unknown(here),
            Some(entry) => self.both(entry, here),
        }
    }

    fn owns(&self, entry: &LoadEntry) -> bool {
        entry.owner.as_ref() == Some(&self.me)
    }

    fn claim(&self) -> Option<&Claim> {
        self.lease.claim()
    }

    /// This node's, and nothing of it is here.
    fn absent(&self, entry: &LoadEntry) -> Todo {
        if self.claim().is_none() {
            return Todo::Nothing;
        }
        if entry.wish == Wanted::Remove {
            return Todo::Say(Word::Gone);
        }
        match &entry.life {
            Life::Stopped(_) | Life::Failed(_) | Life::Queued => Todo::Nothing,
            _ if entry.wish == Wanted::Stop => Todo::Say(Word::Ended(None)),
            life => self.begin(entry, matches!(life, Life::Running | Life::Lost(_)), true),
        }
    }

    /// It should run here, and does not. `lost`: it had begun.
    fn begin(&self, entry: &LoadEntry, lost: bool, from_nothing: bool) -> Todo {
        if self.broke == Some(entry.epoch) {
            return broke(lost, "it was given up here before");
        }
        match &entry.life {
            Life::Recovering { .. } => Todo::Recover,
            _ if lost => match entry.newest_sound() {
                Some(checkpoint) => Todo::Say(Word::Revive(Some(checkpoint.id))),
                None if entry.policy.afresh => Todo::Say(Word::Revive(None)),
                None => broke(true, "its processes are gone with its node's power, and there is no checkpoint of it"),
            },
            _ if from_nothing && entry.spec.own_root => {
                broke(false, "its root directory was given where it was first run, and is not here")
            }
            _ => Todo::Begin,
        }
    }

    /// The record does not know it.
    fn unknown(&self, here: &Here) -> Todo {
        match here.record.ticket {
            _ if !here.record.owned => {
                if here.is_remains() {
                    Todo::Forget
                } else {
                    Todo::Nothing
                }
            }
            Some(_) => Todo::Question(Question::Unknown),
            None if self.claim().is_some() && !here.is_beginning() => Todo::Declare,
            None => Todo::Nothing,
        }
    }

    fn both(&self, entry: &LoadEntry, here: &Here) -> Todo {
        let (ticket, epoch, mine) = (Some(entry.ticket), entry.epoch, self.owns(entry));
        if here.is_remains() {
            let has_begun = !matches!(entry.life, Life::Starting | Life::Recovering { .. } | Life::Queued);
            return if mine || has_begun { Todo::Forget } else { Todo::Nothing };
        }
        if !here.record.owned {
            return Todo::Nothing;
        }
        if here.record.ticket != ticket {
            let same = here.record.ticket.is_none() && mine && here.record.epoch == epoch;
            let declared = here.record.ticket.is_none() && here.declaring == ticket;
            return match (same || declared, here.is_beginning()) {
                (true, _) => Todo::Recognise(entry.ticket, epoch),
                (false, true) => Todo::Nothing,
                (false, false) => Todo::Question(Question::Namesake),
            };
        }
        match (mine, here.record.epoch.cmp(&epoch)) {
            (false, std::cmp::Ordering::Less) => Todo::Drop,
            (true, std::cmp::Ordering::Less) => self.older(entry, here),
            (true, std::cmp::Ordering::Equal) => self.mine(entry, here),
            // What has just happened here is on its way into the record that is shown.
            _ => Todo::Nothing,
        }
    }

    /// This node's, in an epoch that is newer than what is here.
    fn older(&self, entry: &LoadEntry, here: &Here) -> Todo {
        let follows = here.record.epoch.next() == entry.epoch && entry.origin == Origin::Revived;
        match &entry.life {
            Life::Running if here.runs() => Todo::Question(Question::OldEpoch),
            Life::Starting if follows && !here.runs() && entry.wish == Wanted::Run && self.claim().is_some() => {
                self.begin(entry, false, false)
            }
            // It clears away what it finds.
            Life::Recovering { .. } if entry.wish == Wanted::Run && !here.runs() && self.claim().is_some() => {
                self.begin(entry, false, false)
            }
            _ => Todo::Drop,
        }
    }

    /// This node's, in this epoch.
    fn mine(&self, entry: &LoadEntry, here: &Here) -> Todo {
        if entry.wish == Wanted::Remove {
            return Todo::Remove;
        }
        if self.claim().is_none() {
            return Todo::Nothing;
        }
        let over = matches!(entry.life, Life::Stopped(_) | Life::Failed(_));
        let begun = matches!(entry.life, Life::Running | Life::Lost(_));
        if here.runs() {
            let session = self.lease.session();
            return match &entry.life {
                _ if over || entry.wish == Wanted::Stop => Todo::End,
                // Also where nobody has seen yet that it goes on.
                _ if (here.armed != Some(session) || here.is_held) && !here.is_unleashed => Todo::Arm(session),
                Life::Running => Todo::Nothing,
                _ => Todo::Say(Word::Began),
            };
        }
        if over || here.waits() {
            return Todo::Nothing;
        }
        let recovers = matches!(entry.life, Life::Recovering { .. });
        match &here.record.doing {
            Doing::Stopped(exit) if entry.wish == Wanted::Stop => Todo::Say(Word::Ended(*exit)),
            _ if entry.wish == Wanted::Stop => Todo::Say(Word::Ended(None)),
            _ if recovers => self.begin(entry, false, false),
            // It has run in this epoch, unless nobody saw how it ended.
            Doing::Stopped(exit) if begun || exit.is_some() => Todo::Say(Word::Ended(*exit)),
            // Another node would have the same trouble with it.
            Doing::Failed(_) if begun => Todo::Say(Word::Ended(None)),
            Doing::Failed(why) => broke(false, why),
            Doing::Lost(_) | Doing::Stopped(_) => self.begin(entry, begun, false),
            Doing::Starting if !begun => self.begin(entry, false, false),
            Doing::Starting | Doing::Running | Doing::Arriving => Todo::Nothing,
        }
    }
}

fn broke(began: bool, reason: &str) -> Todo {
    Todo::Say(Word::Broke { began, reason: reason.to_owned() })
}

impl Here {
    /// Whether something of it may run, or go on.
    fn runs(&self) -> bool {
        self.has_sandbox && self.record.doing == Doing::Running
    }

    /// Whether its care begins it again soon.
    fn waits(&self) -> bool {
        !self.record.care.held && matches!(self.record.care.past.stage(), Stage::Waiting { .. })
    }

    /// Whether it is what was kept of a copy that was dropped.
    fn is_remains(&self) -> bool {
        !self.record.owned && matches!(self.record.doing, Doing::Lost(_))
    }

    /// Whether somebody is just making it.
    fn is_beginning(&self) -> bool {
        matches!(self.record.doing, Doing::Starting | Doing::Arriving)
    }
}

#[cfg(test)]
mod tests;
