//! The phases of a migration: one name for each, everywhere.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A phase, in the order in which they come. Append only; the wire carries the position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The source offers, the target accepts.
    Negotiate,
    /// Would it work? Nothing has been touched.
    Preflight,
    /// The layer is copied and both CRIUs are started while the workload runs.
    Prepare,
    /// The workload is being stopped.
    Freeze,
    /// Memory and the layer's last changes cross.
    Transfer,
    /// The target compares every digest.
    Verify,
    /// The target rebuilds the processes, and holds them.
    Restore,
    /// The owner changes, durably.
    Commit,
    /// The target lets the workload run.
    Resume,
    /// Both sides remove what is no longer needed.
    CleanUp,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 10] = [
        Phase::Negotiate,
        Phase::Preflight,
        Phase::Prepare,
        Phase::Freeze,
        Phase::Transfer,
        Phase::Verify,
        Phase::Restore,
        Phase::Commit,
        Phase::Resume,
        Phase::CleanUp,
    ];

    /// Its name in logs, JSON and the terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Negotiate => "negotiate",
            Phase::Preflight => "preflight",
            Phase::Prepare => "prepare",
            Phase::Freeze => "freeze",
            Phase::Transfer => "transfer",
            Phase::Verify => "verify",
            Phase::Restore => "restore",
            Phase::Commit => "commit",
            Phase::Resume => "resume",
            Phase::CleanUp => "clean-up",
        }
    }

    /// Whether a failure in this phase leaves the workload on the source. From `Resume` on everything goes forward;
    /// in `Commit` the decision file says.
    pub fn failure_returns(self) -> bool {
        self < Phase::Commit
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
