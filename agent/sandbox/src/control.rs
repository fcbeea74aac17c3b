//! What an agent asks of a sandbox's PID 1, and what it answers.

use migrate_proto::api::Exit;
use migrate_proto::cluster::lease::Nanos;
use migrate_proto::spec::User;
use migrate_proto::text::Text;
use serde::{Deserialize, Serialize};

/// A workload's command, ready to be executed inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Program and arguments.
    pub argv: Vec<Text>,
    /// The whole environment.
    pub env: Vec<(Text, Text)>,
    /// Working directory.
    pub dir: Text,
    /// Who it runs as.
    pub user: Option<User>,
    /// The host name it sees.
    pub hostname: String,
}

/// A request; what travels beside it as descriptors is said at each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Mount the layer and what lies upon it. One descriptor: the loop device.
    AttachLayer,
    /// Start the workload. Descriptors: the `cgroup.procs` files that it joins.
    Start(Command),
    /// A process that CRIU restored is the workload now.
    Adopt {
        /// Its PID inside.
        pid: i32,
    },
    /// Send a signal to the workload's first process.
    Signal {
        /// Which.
        signal: i32,
    },
    /// The next process gets the PID after this one.
    SetLastPid {
        /// The PID.
        pid: i32,
    },
    /// What is the workload doing?
    Status,
    /// Answer [`Reply::Status`] once the workload has ended.
    Watch,
    /// From now on the workload may run in this session only, until `margin` nanoseconds before the deadline in the lease page.
    /// Answered with [`Reply::Leash`] when that is obeyed.
    Arm {
        /// Which; see [`migrate_proto::cluster::lease`] for the two that need no page.
        session: u64,
        /// How long it may take to stop what runs.
        margin: u64,
    },
    /// Does the lease let the workload run? Answered with [`Reply::Leash`].
    Leash,
    /// The same, and again at every change.
    Follow,
}

/// What the workload is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// There is none yet.
    Empty,
    /// It runs, or is stopped.
    Running {
        /// Its first process, inside.
        pid: i32,
    },
    /// Its first process ended.
    Ended(Exit),
}

/// Whether the lease lets the workload run, as its init obeys it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Leash {
    /// Whatever the lease page says.
    Unlimited,
    /// It may run.
    Running {
        /// In this session.
        session: u64,
    },
    /// Nothing of it runs.
    Frozen {
        /// Until this session has a deadline that is far enough away; with [`NEVER`](migrate_proto::cluster::lease::NEVER), until it
        /// is armed with another.
        session: u64,
        /// Since when, on the clock of [`lease::now`](crate::lease::now).
        since: Nanos,
    },
}

/// An answer. That of [`Request::Status`] is as it was before there were leases: inits outlive agents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// Done.
    Done,
    /// See there.
    Status(Status),
    /// See there.
    Leash(Leash),
    /// Not now: the lease holds the workload, and what was to be started would stand still before its first instruction.
    Held,
    /// The command could not be executed; nothing runs.
    CannotExecute {
        /// Why.
        reason: String,
    },
    /// It did not work.
    Failed {
        /// What was being done.
        step: String,
        /// Why it failed.
        reason: String,
    },
}
