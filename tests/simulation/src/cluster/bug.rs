//! Deliberate bugs: an executor, a node's agent or the log that does one thing wrongly. Each must be caught by an invariant.

use std::fmt;
use std::str::FromStr;

use super::invariants::Invariant;

macro_rules! bugs {
    ($($(#[$doc:meta])+ $name:ident = $word:literal is caught by $($invariant:ident at $seed:literal)|+;)+) => {
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

            /// The invariants that must notice it, each alone, and a history in which it did when that was last looked for.
            pub fn caught_by(self) -> &'static [(Invariant, u64)] {
                match self {
                    $(Bug::$name => &[$((Invariant::$invariant, $seed),)+],)+
                }
            }
        }
    };
}

bugs! {
    /// A workload is taken from an owner that is only suspected.
    ReassignWithoutFence = "reassign-without-fence" is caught by NoTwoOwners at 10 | AtMostOneRunning at 10;
    /// The record carries out a transfer whatever has become of the workload.
    TransferNotCompared = "transfer-not-compared" is caught by LeaseBeforeRun at 107;
    /// The record fences a node in whatever session it is.
    FenceIgnoresSession = "fence-ignores-session" is caught by NoTwoOwners at 2428 | LeaseBeforeRun at 86;
    /// The record fences by voters that do not vote any more.
    FenceIgnoresVoters = "fence-ignores-voters" is caught by LeaseBeforeRun at 26;
    /// A deadline runs from when the acknowledgement came.
    DeadlineFromReceipt = "deadline-from-receipt" is caught by LeaseBeforeRun at 76 | AtMostOneRunning at 220;
    /// A promise lasts as long as a lease, as if all clocks had one rate.
    PromiseWithoutDrift = "promise-without-drift" is caught by LeaseBeforeRun at 163;
    /// A voter that has just started answers as if it remembered.
    RestartedVoterAnswers = "restarted-voter-answers" is caught by LeaseBeforeRun at 8;
    /// A leader asks the voters of now alone.
    OldVotersNotAsked = "old-voters-not-asked" is caught by LeaseBeforeRun at 4;
    /// A holder that has lapsed goes on renewing, and hears the answers.
    LapsedHolderHears = "lapsed-holder-hears" is caught by LeaseBeforeRun at 14;
    /// Init lets its workload run in whatever session the page is.
    ThawWithoutSession = "thaw-without-session" is caught by LeaseBeforeRun at 2 | AtMostOneRunning at 2;
    /// Init begins to freeze at the deadline.
    LeashWithoutMargin = "leash-without-margin" is caught by LeaseBeforeRun at 0;
    /// A workload is started, and armed a moment later.
    ArmAfterStart = "arm-after-start" is caught by LeaseBeforeRun at 0;
    /// What is brought back from a checkpoint is not armed.
    RecoverWithoutArm = "recover-without-arm" is caught by LeaseBeforeRun at 0 | AtMostOneRunning at 56;
    /// A node opens a session without end although it is not alone.
    InfiniteLeaseInCompany = "infinite-lease-in-company" is caught by LeaseBeforeRun at 0;
    /// The guard of an aborted move sets going also what the lease holds.
    GuardThawsLease = "guard-thaws-lease" is caught by LeaseBeforeRun at 44;
    /// The source decides on a move without asking the record.
    DecisionBeforeRecord = "decision-before-record" is caught by LeaseBeforeRun at 0;
    /// The source of a move goes on while the record is asked.
    ResumeAtRecord = "resume-at-record" is caught by LeaseBeforeRun at 0 | AtMostOneRunning at 62;
    /// A target that is in doubt drops the image.
    DropHeldImage = "drop-held-image" is caught by NothingLost at 0;
    /// A node drops the files of the newest checkpoint, too.
    RetainDropsNewest = "retain-drops-newest" is caught by NothingLost at 0;
    /// A node that was fenced drops what it has before it asks whose that is.
    SalvageDroppedEarly = "salvage-dropped-early" is caught by NothingLost at 0;
    /// A checkpoint is told to the record before the peer has it.
    KeptBeforePeers = "kept-before-peers" is caught by NothingLost at 0;
    /// A leader brings back from the oldest checkpoint.
    OldestRestored = "oldest-restored" is caught by NothingLost at 0;
    /// A leader looks only at what was asked for since it leads.
    QueueForgotten = "queue-forgotten-by-new-leader" is caught by QueuedJobRuns at 649;
    /// A node that has lost power begins its jobs again, also those that have ended.
    EndedRunAgain = "ended-run-again" is caught by QueuedJobRuns at 8;
    /// A leader that has heard of a lapse fences every session after it, too.
    FenceRepeated = "fence-repeated" is caught by EventuallySettled at 0;
    /// A node asks for a session once.
    OpenSessionNotRetried = "open-session-not-retried" is caught by EventuallySettled at 0;
    /// A new leader does not go on with what the last one has only fenced.
    FencedForgotten = "fenced-forgotten-by-new-leader" is caught by EventuallySettled at 10;
    /// An agent acts on the record as it has found it on its disk.
    ReadyTooEarly = "ready-too-early" is caught by LeaseBeforeRun at 8651;
    /// One node writes into its record when it has heard of a command.
    ApplyUsesClock = "apply-uses-clock" is caught by RecordMonotone at 0;
    /// A node takes over an older record than it has.
    RecordGoesBack = "record-goes-back" is caught by RecordMonotone at 0;
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
