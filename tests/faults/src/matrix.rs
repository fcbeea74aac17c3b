//! The matrix: what breaks × in which phase × on which side.

use std::fmt;
use std::str::FromStr;

use migrate_proto::phase::Phase;
use serde::{Deserialize, Serialize};

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// SIGKILL to the side's agent; it is started again at once.
    AgentKilled,
    /// The side's agent does nothing for five seconds.
    AgentStopped,
    /// The side's node loses power, and gets it back.
    PowerLoss,
    /// The two nodes lose each other for longer than the budget.
    LinkCut,
    /// The two nodes lose each other for less than the budget.
    LinkHealed,
    /// The side's disk is full.
    DiskFull,
    /// Bits of what crosses the link are flipped.
    CorruptBytes,
    /// SIGKILL to the side's CRIU.
    CriuKilled,
    /// The side's CRIU does nothing any more.
    CriuHangs,
    /// The target's memory is full, while the side is in the phase.
    OutOfMemory,
}

impl Fault {
    /// All of them.
    pub const ALL: [Fault; 10] = [
        Fault::AgentKilled,
        Fault::AgentStopped,
        Fault::PowerLoss,
        Fault::LinkCut,
        Fault::LinkHealed,
        Fault::DiskFull,
        Fault::CorruptBytes,
        Fault::CriuKilled,
        Fault::CriuHangs,
        Fault::OutOfMemory,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::AgentKilled => "agent-killed",
            Fault::AgentStopped => "agent-stopped",
            Fault::PowerLoss => "power-loss",
            Fault::LinkCut => "link-cut",
            Fault::LinkHealed => "link-healed",
            Fault::DiskFull => "disk-full",
            Fault::CorruptBytes => "corrupt-bytes",
            Fault::CriuKilled => "criu-killed",
            Fault::CriuHangs => "criu-hangs",
            Fault::OutOfMemory => "out-of-memory",
        }
    }

    /// Whether it is about CRIU, which is not there in every phase.
    pub fn needs_criu(self) -> bool {
        matches!(self, Fault::CriuKilled | Fault::CriuHangs)
    }
}

/// Whose phase it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The node that gives the workload away.
    Source,
    /// The node that gets it.
    Target,
}

impl Side {
    /// Both.
    pub const ALL: [Side; 2] = [Side::Source, Side::Target];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Target => "target",
        }
    }
}

/// Where in the phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// Before its first command.
    Entered,
    /// After its first commands were given.
    Begun,
}

impl Moment {
    /// Both.
    pub const ALL: [Moment; 2] = [Moment::Entered, Moment::Begun];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Moment::Entered => "entered",
            Moment::Begun => "begun",
        }
    }
}

/// One of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cell {
    /// What breaks.
    pub fault: Fault,
    /// In which phase.
    pub phase: Phase,
    /// Of whom.
    pub side: Side,
    /// Where in it.
    pub moment: Moment,
}

impl Cell {
    /// Whether a move may go by without this moment: the target does not freeze, and a phase that is left with the same step in
    /// which it is entered has no moment after its first commands. Where it does come, it counts.
    pub fn may_be_missing(&self) -> bool {
        matches!(
            (self.side, self.phase, self.moment),
            (Side::Target, Phase::Freeze, _)
                | (Side::Target, Phase::Negotiate, Moment::Begun)
                | (Side::Source, Phase::CleanUp, Moment::Begun)
        )
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cell { fault, phase, side, moment } = self;
        f.pad(&format!("{} {phase} {} {}", side.as_str(), moment.as_str(), fault.as_str()))
    }
}

macro_rules! by_name {
    ($($kind:ty),+) => {$(
        impl FromStr for $kind {
            type Err = String;

            fn from_str(name: &str) -> Result<Self, String> {
                let known = Self::ALL.map(Self::as_str);
                let found = Self::ALL.into_iter().find(|one| one.as_str() == name);
                found.ok_or_else(|| format!("there are {}", known.join(", ")))
            }
        }
    )+};
}

by_name!(Fault, Side, Moment);

/// A phase of that name.
pub fn phase(name: &str) -> Result<Phase, String> {
    let known = Phase::ALL.map(Phase::as_str).join(", ");
    Phase::ALL.into_iter().find(|phase| phase.as_str() == name).ok_or_else(|| format!("there are {known}"))
}

/// The cells of all these at that moment, in the order of a move. Where a side has no moment after a phase's first commands, the
/// one before them is meant.
pub fn cells(faults: &[Fault], phases: &[Phase], sides: &[Side], moment: Moment) -> Vec<Cell> {
    let mut all = Vec::new();
    for &fault in faults {
        for &phase in phases {
            for &side in sides {
                let cell = Cell { fault, phase, side, moment };
                let moment = if cell.may_be_missing() { Moment::Entered } else { moment };
                all.push(Cell { moment, ..cell });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_read_back() {
        assert!(Fault::ALL.iter().all(|fault| fault.as_str().parse() == Ok(*fault)));
        assert!(Side::ALL.iter().all(|side| side.as_str().parse() == Ok(*side)));
        assert!(Phase::ALL.iter().all(|known| phase(known.as_str()) == Ok(*known)));
        assert!("flood".parse::<Fault>().unwrap_err().contains("disk-full"));
    }

    #[test]
    fn the_matrix_is_complete() {
        let all = cells(&Fault::ALL, &Phase::ALL, &Side::ALL, Moment::Begun);
        assert_eq!(all.len(), 200);
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 200);
    }
}
