//! Deliberate bugs: a wrong executor, or a wrapper around a machine. Each must be caught by an invariant.

use std::fmt;
use std::str::FromStr;

use crate::invariants::Invariant;

macro_rules! bugs {
    ($($(#[$doc:meta])+ $name:ident = $word:literal is caught by $($invariant:ident)|+;)+) => {
        /// One thing that is done wrongly.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$doc])+ $name,)+
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Bug] = &[$(Bug::$name,)+];

            /// Its name on the command line.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Bug::$name => $word,)+
                }
            }

            /// The invariants that must notice it.
            pub fn caught_by(self) -> &'static [Invariant] {
                match self {
                    $(Bug::$name => &[$(Invariant::$invariant,)+],)+
                }
            }
        }
    };
}

bugs! {
    /// A target that is in doubt lets its copy go.
    TargetRunsInDoubt = "target-runs-in-doubt" is caught by AtMostOneRunning | NoResumeAfterCommit;
    /// A target that is in doubt drops what it has.
    TargetDropsInDoubt = "target-drops-in-doubt" is caught by NothingLost;
    /// The target does not write down that it is in doubt.
    DoubtNotJournalled = "doubt-not-journalled" is caught by NothingLost;
    /// The target writes that it is in doubt without syncing it.
    DoubtNotSynced = "doubt-not-synced" is caught by NothingLost | EventuallySettled;
    /// The last entries of an arrival are written without syncing them, and the record is not asked.
    LateEntriesNotSynced = "late-entries-not-synced" is caught by NothingLost;
    /// A restarted target restores again although the workload has been let go.
    RolledBack = "rolled-back" is caught by NothingLost;
    /// The source ends its copy when it asks for the decision.
    SourceEndsUndecided = "source-ends-undecided" is caught by NothingLost;
    /// The source forgets the handover when it has said `Commit`.
    SourceForgetsAtCommit = "source-forgets-at-commit" is caught by NothingLost;
    /// A decision that is asked for late is made although the handover is over.
    LateDecision = "late-decision" is caught by NothingLost;
    /// A restarted agent answers questions before it knows its journals.
    AnsweredTooEarly = "answered-too-early" is caught by NothingLost;
    /// The source sets the workload going while it asks whether it may.
    SourceResumesUndecided = "source-resumes-undecided" is caught by NoResumeAfterCommit;
    /// The guard sets the workload going without writing that down.
    GuardDoesNotDecide = "guard-does-not-decide" is caught by AtMostOneRunning | NoResumeAfterCommit;
    /// A restarted source takes it for granted that nothing was committed.
    DecisionGuessed = "decision-guessed" is caught by NothingLost;
    /// The decision is acted upon before it is on the platter.
    DecisionNotSynced = "decision-not-synced" is caught by EventuallySettled;
    /// A restarted source acts upon a decision that the agent before it had not synced yet.
    FoundDecisionNotSynced = "found-decision-not-synced" is caught by NothingLost;
    /// The target adopts the workload in the source's epoch.
    EpochNotRaised = "epoch-not-raised" is caught by EpochsOnlyRise;
    /// The target does not write down that it is the owner.
    OwnerNotWritten = "owner-not-written" is caught by EpochsOnlyRise;
    /// Nobody repeats anything: time does not pass for the machines.
    NothingRepeated = "nothing-repeated" is caught by EventuallySettled;
    /// A target from which the workload has moved on does not answer `Commit`.
    CommitUnanswered = "commit-unanswered" is caught by EventuallySettled;
    /// One handover that nobody understands silences the node about all others.
    SilentAboutAll = "silent-about-all" is caught by EventuallySettled;
    /// A source that lost power does not write down that the workload is lost.
    LossNotRecorded = "loss-not-recorded" is caught by EventuallySettled;
    /// A target whose image went with the power tries to restore it for ever.
    LostImageRetried = "lost-image-retried" is caught by EventuallySettled;
    /// A target that has lost the workload says that it runs.
    LossUntold = "loss-untold" is caught by EventuallySettled;
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(word: &str) -> Result<Bug, String> {
        let known = || Bug::ALL.iter().map(|bug| bug.as_str()).collect::<Vec<_>>().join(", ");
        let found = Bug::ALL.iter().find(|bug| bug.as_str() == word);
        found.copied().ok_or_else(|| format!("there is no bug '{word}'; there are {}", known()))
    }
}
