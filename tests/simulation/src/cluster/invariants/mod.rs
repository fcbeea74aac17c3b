//! What must be true of a cluster. Each invariant is a file; all but two halves are judged after everything that happens.

mod at_most_one_running;
mod eventually_settled;
mod lease_before_run;
mod no_two_owners;
mod nothing_lost;
mod queued_job_runs;
mod record_monotone;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use migrate_proto::cluster::CheckpointId;
use migrate_proto::id::HandoverId;
use migrate_proto::name::NodeName;

use self::nothing_lost::Best;
use super::faults::Excuse;
use super::world::World;

/// Something that must be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// At no time two nodes believe that they own a workload; what they believe only rises.
    NoTwoOwners,
    /// At no time two copies of a workload run.
    AtMostOneRunning,
    /// What runs is armed with a session that is not over, before the deadline in its page, in the epoch of the record.
    LeaseBeforeRun,
    /// The best that there is of a workload is dropped by nobody.
    NothingLost,
    /// What is queued runs when there is room; what has ended does not run again.
    QueuedJobRuns,
    /// When the faults have ended everything comes to rest.
    EventuallySettled,
    /// Every agent's record only goes forward, and is the same on all nodes.
    RecordMonotone,
}

impl Invariant {
    /// All of them.
    pub const ALL: [Invariant; 7] = [
        Invariant::NoTwoOwners,
        Invariant::AtMostOneRunning,
        Invariant::LeaseBeforeRun,
        Invariant::NothingLost,
        Invariant::QueuedJobRuns,
        Invariant::EventuallySettled,
        Invariant::RecordMonotone,
    ];
}

impl FromStr for Invariant {
    type Err = String;

    fn from_str(word: &str) -> Result<Invariant, String> {
        let known = || Invariant::ALL.map(|invariant| invariant.to_string()).join(", ");
        let found = Invariant::ALL.into_iter().find(|invariant| invariant.to_string() == word);
        found.ok_or_else(|| format!("there is no invariant '{word}'; there are {}", known()))
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// In what way.
    pub how: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.how)
    }
}

/// What there is to know of a workload, whether any node knows it.
#[derive(Debug)]
pub(crate) struct Load {
    /// What it does until it ends by itself, in nanoseconds.
    pub(crate) length: u64,
    /// Where it is asked for; it is queued where that is nowhere.
    pub(crate) first: Option<usize>,
    /// Whether it may begin from nothing.
    pub(crate) afresh: bool,
    /// The best that there was of it when that was last looked at.
    pub(crate) best: Best,
    /// That may be less from now on.
    pub(crate) excused: bool,
    /// Who has believed to own it, in each epoch.
    pub(crate) believed: BTreeMap<u64, usize>,
}

impl Load {
    pub(crate) fn new(length: u64, first: Option<usize>, afresh: bool) -> Load {
        Load { length, first, afresh, best: Best::default(), excused: true, believed: BTreeMap::new() }
    }
}

/// Everything that is true, and what verdicts need to remember.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) loads: Vec<Load>,
    /// Who never comes back.
    pub(crate) dead: Option<usize>,
    /// The leases that a leader who knows who votes knows to be over.
    pub(crate) over: BTreeSet<(NodeName, u64)>,
    /// What each checkpoint's workload had done.
    pub(crate) checkpoints: BTreeMap<CheckpointId, u64>,
    /// The copies of checkpoints that a fault has taken.
    pub(crate) damaged: BTreeSet<(usize, CheckpointId)>,
    /// The moves whose image went with its target's power.
    pub(crate) images_lost: BTreeSet<HandoverId>,
    /// What was wrong about an entry of the log.
    wrong: Option<String>,
    /// How far each agent's record has come: its life, and how many entries.
    applied: BTreeMap<usize, (u64, usize)>,
}

impl Ledger {
    /// A fault has taken something from somebody.
    pub(crate) fn excuse_all(&mut self) {
        self.loads.iter_mut().for_each(|load| load.excused = true);
    }
}

/// The log has another entry.
pub(crate) fn agreed(world: &mut World, excuse: &Excuse) {
    for load in &excuse.anew {
        world.ledger.loads[*load].excused = true;
    }
    world.tally_entry();
    if let Err(how) = nothing_lost::judge_choices(world) {
        world.ledger.wrong.get_or_insert(how);
    }
}

type Judge = fn(&mut World) -> Result<(), String>;

/// Judges what must hold at all times.
pub(crate) fn judge_now(world: &mut World) -> Result<(), Violation> {
    const JUDGES: [(Invariant, Judge); 6] = [
        (Invariant::AtMostOneRunning, at_most_one_running::judge),
        (Invariant::LeaseBeforeRun, lease_before_run::judge),
        (Invariant::NoTwoOwners, no_two_owners::judge),
        (Invariant::NothingLost, nothing_lost::judge),
        (Invariant::QueuedJobRuns, queued_job_runs::judge),
        (Invariant::RecordMonotone, record_monotone::judge),
    ];
    judge(world, &JUDGES)
}

/// Judges what must hold when everything has had its time.
pub(crate) fn judge_the_end(world: &mut World) -> Result<(), Violation> {
    const JUDGES: [(Invariant, Judge); 2] = [
        (Invariant::QueuedJobRuns, queued_job_runs::judge_the_end),
        (Invariant::EventuallySettled, eventually_settled::judge),
    ];
    judge(world, &JUDGES)
}

fn judge(world: &mut World, judges: &[(Invariant, Judge)]) -> Result<(), Violation> {
    for (invariant, judge) in judges {
        if world.only.is_none_or(|only| only == *invariant) {
            judge(world).map_err(|how| Violation { invariant: *invariant, how })?;
        }
    }
    Ok(())
}
