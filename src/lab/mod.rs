//! The lab: a cluster on one machine. Each node is a set of namespaces (PID, mount, network, UTS, IPC) with a supervisor as
//! PID 1 and a real agent under it; a switch in a network namespace of its own joins them. Nothing is in the host's network
//! namespace, and no namespace outlives the process that holds it.
//!
//! `layout` says what there is, `holder` finds the processes, `power` starts and ends them, `lifecycle` is `up` and `down`.

pub(crate) mod agent;
mod cgroups;
mod detach;
mod disk;
mod faults;
mod holder;
mod inside;
pub(crate) mod layout;
mod lifecycle;
mod lock;
mod log_tail;
mod loops;
mod memory;
mod network;
pub(crate) mod node;
mod power;
mod status;
mod supervisor;
pub(crate) mod switch;
mod tool;

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use migrate_proto::name::{InvalidName, NodeName};
use serde::Serialize;
use thiserror::Error;

use crate::cli::lab::LabCommand;
use crate::command::Session;
use crate::command::key::KeyError;
use crate::failure::Failure;
use crate::show::answer;
use layout::{Layout, lab_directory};
use lock::LabLock;
use log_tail::LogTail;
use node::NodeError;
use tool::ToolError;

/// How long agents may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a lab command failed.
#[derive(Debug, Error)]
pub(crate) enum LabError {
    #[error("only root can have a lab")]
    NotRoot,
    #[error("there is no lab in {}", directory.display())]
    NoLab { directory: PathBuf },
    #[error("there is a lab in {} already", directory.display())]
    AlreadyUp { directory: PathBuf },
    #[error("{} cannot hold a lab: {why}", directory.display())]
    Directory { directory: PathBuf, why: &'static str },
    #[error("the lab has no {name}; it has {}", known.iter().map(NodeName::as_str).collect::<Vec<_>>().join(", "))]
    UnknownNode { name: NodeName, known: Vec<NodeName> },
    #[error("{name} is off")]
    NotRunning { name: NodeName },
    #[error("{name} is running already")]
    AlreadyRunning { name: NodeName },
    #[error("a node's disk has at least {} MiB", disk::LEAST >> 20)]
    SmallDisk,
    #[error("{name} has no disk of its own that could be filled")]
    NoDisk { name: NodeName },
    #[error("{name} has no agent at the moment")]
    NoAgent { name: NodeName },
    #[error("there is no agent program at {}", path.display())]
    NoAgentProgram { path: PathBuf },
    #[error("the lab's switch is gone")]
    NoSwitch,
    #[error("cannot {doing} {}: {source}", path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not understood: {source}", path.display())]
    Layout { path: PathBuf, source: serde_json::Error },
    #[error("a process of the lab did not come up: {source}{log}")]
    Start { log: LogTail, source: io::Error },
    #[error("process {pid} cannot be signalled: {source}")]
    Signal { pid: i32, source: io::Error },
    #[error("process {pid} does not have a /proc of its own; nothing was signalled")]
    NotIsolated { pid: i32 },
    #[error("{name} (process {pid}) was killed and is not gone yet")]
    Undead { name: NodeName, pid: i32 },
    #[error("the namespaces of process {pid} cannot be entered: {source}")]
    Enter { pid: i32, source: io::Error },
    #[error("`{program}` cannot be run: {source}")]
    Exec { program: String, source: io::Error },
    #[error("the agent of {name} did not come up within {} s{log}", within.as_secs())]
    AgentSilent { name: NodeName, within: Duration, log: LogTail },
    #[error("the agent of {name} keeps dying{log}")]
    AgentDies { name: NodeName, log: LogTail },
    #[error(transparent)]
    Name(InvalidName),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl LabError {
    /// The exit code of `migrate`.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            LabError::NotRoot | LabError::NoLab { .. } | LabError::AlreadyUp { .. } | LabError::Directory { .. } => 2,
            LabError::UnknownNode { .. } | LabError::NotRunning { .. } | LabError::AlreadyRunning { .. } => 2,
            LabError::NoAgentProgram { .. } | LabError::Layout { .. } => 2,
            LabError::NoDisk { .. } | LabError::SmallDisk => 2,
            _ => 1,
        }
    }

    /// What to do.
    pub(crate) fn hint(&self) -> String {
        match self {
            LabError::NoLab { .. } => "migrate lab up starts one; $MIGRATE_LAB names another directory",
            LabError::AlreadyUp { .. } => "migrate lab down ends it; $MIGRATE_LAB names another directory",
            LabError::NoSwitch | LabError::Undead { .. } => "migrate lab down cleans up",
            LabError::NotRunning { .. } => "migrate lab start boots it",
            LabError::NoDisk { .. } => "migrate lab up --disk 512MiB gives every node one",
            LabError::NoAgentProgram { .. } => "$MIGRATE_AGENT_BIN names it",
            LabError::Tool(ToolError::Start { .. }) => "iproute2 and util-linux are needed",
            _ => "",
        }
        .to_owned()
    }
}

/// Makes a directory for root only; that it is there already is fine.
fn make_directory(path: &Path) -> Result<(), LabError> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(LabError::File { doing: "make", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Makes the lab's directory, or takes an empty one that is root's.
fn take_directory(directory: &Path) -> Result<(), LabError> {
    make_directory(directory)?;
    let failed = |source| LabError::File { doing: "look at", path: directory.to_owned(), source };
    let found = std::fs::symlink_metadata(directory).map_err(failed)?;
    let unfit = |why| LabError::Directory { directory: directory.to_owned(), why };
    // In a directory where everybody may write somebody else could have made it.
    if !found.is_dir() || found.uid() != 0 {
        return Err(unfit("it is not a directory of root"));
    }
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).map_err(failed)
}

/// Does one of the lab's commands.
pub(crate) fn run(session: &Session, command: LabCommand) -> Result<u8, Failure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::NotRoot.into());
    }
    let lab = std::path::absolute(lab_directory()).map_err(|source| LabError::File {
        doing: "find",
        path: lab_directory(),
        source,
    })?;
    let deadline = Instant::now() + session.everywhere.timeout.unwrap_or(PATIENCE);
    match command {
        LabCommand::Up(up) => {
            lifecycle::up(session, &lab, &up, deadline)?;
            status::show(session, &lab)
        }
        LabCommand::Down => {
            lifecycle::down(&lab)?;
            if session.everywhere.json {
                answer::json_document(&Removed { directory: &lab, removed: true })?;
            }
            Ok(0)
        }
        LabCommand::Status => status::show(session, &lab),
        LabCommand::Exec { node, argv } => {
            let first = power::running(&lab, &Layout::load(&lab)?, &node)?;
            Ok(inside::exec(&first, &argv)?)
        }
        LabCommand::Start { node } => {
            lifecycle::start(session, &lab, &node, deadline)?;
            done(session, &lab)
        }
        changing => {
            let lock = LabLock::take(&lab)?;
            change(&lab, &mut Layout::load(&lab)?, changing)?;
            drop(lock);
            done(session, &lab)
        }
    }
}

/// People need not be told that what they asked for was done; programs get the lab as it is now.
fn done(session: &Session, lab: &Path) -> Result<u8, Failure> {
    if session.everywhere.json { status::show(session, lab) } else { Ok(0) }
}

/// The JSON of `lab down`.
#[derive(Serialize)]
struct Removed<'a> {
    directory: &'a Path,
    removed: bool,
}

/// The commands that change what is running, under the lab's lock.
fn change(lab: &Path, layout: &mut Layout, command: LabCommand) -> Result<(), LabError> {
    match command {
        LabCommand::Kill { node } => power::cut(layout, &node, &power::running(lab, layout, &node)?),
        LabCommand::Crash { node } => agent::crash(lab, &node, &power::running(lab, layout, &node)?),
        LabCommand::Pause { node } => faults::pause(&power::running(lab, layout, &node)?),
        LabCommand::Resume { node } => faults::resume(&power::running(lab, layout, &node)?),
        LabCommand::Cut { what } => faults::cut(lab, layout, what),
        LabCommand::Heal => faults::heal(lab, layout),
        LabCommand::Slow { node, rate } => faults::slow(lab, layout, &node, rate),
        LabCommand::Drop { node, percent } => faults::drop_some(lab, layout, &node, percent),
        LabCommand::Fill { node } => faults::fill(lab, layout, &node),
        _ => Ok(()),
    }
}
