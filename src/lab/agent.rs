//! The agent of a node: which process it is, killing it, and waiting until it answers.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use migrate_proto::name::NodeName;
use rustix::process::{Pid, Signal};

use super::holder::Process;
use super::layout::Layout;
use super::log_tail::LogTail;
use super::supervisor::{GAVE_UP_FILE, PID_FILE};
use super::{LabError, node};
use crate::client::Client;

/// How often to ask an agent that does not answer yet.
const LOOK: Duration = Duration::from_millis(50);

/// How long SIGKILL may take.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// The socket of a node's agent.
pub(crate) fn socket(lab: &Path, name: &NodeName) -> PathBuf {
    node::directory(lab, name).join("agent.sock")
}

/// The agent's process; `None` where there is none at the moment.
pub(super) fn process(lab: &Path, name: &NodeName, first: &Process) -> Result<Option<Process>, LabError> {
    let path = node::directory(lab, name).join(PID_FILE);
    let noted = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<i32>().ok());
    let Some(inner) = noted else { return Ok(None) };
    let Some(pid) = children(first.pid()).into_iter().find(|pid| inner_pid(*pid) == Some(inner)) else {
        return Ok(None);
    };
    let Some(process) = Pid::from_raw(pid).map(|pid| Process::open(pid, &path)).transpose()?.flatten() else {
        return Ok(None);
    };
    // Now that it is held by a descriptor: is it still the one that was looked at, and not one that waits to be reaped?
    let is_same = inner_pid(pid) == Some(inner) && same_namespace(first.pid(), pid);
    let is_alive = !process.ended_by(Instant::now())?;
    Ok((is_same && is_alive).then_some(process))
}

/// The children of a process, as we see them.
fn children(pid: i32) -> Vec<i32> {
    let is_child = |other: &i32| status_field(*other, "PPid:").is_some_and(|parent| parent == [pid]);
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_child).collect()
}

/// The PID that a process has in its innermost namespace.
fn inner_pid(pid: i32) -> Option<i32> {
    status_field(pid, "NSpid:")?.last().copied()
}

fn status_field(pid: i32, field: &str) -> Option<Vec<i32>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().map(|number| number.parse().ok()).collect()
}

fn same_namespace(one: i32, other: i32) -> bool {
    let namespace = |pid| std::fs::metadata(format!("/proc/{pid}/ns/pid")).map(|found| found.ino()).ok();
    namespace(one).is_some_and(|ino| Some(ino) == namespace(other))
}

/// SIGKILL to the agent; returns when it is gone. PID 1 starts it again.
pub(super) fn crash(lab: &Path, name: &NodeName, first: &Process) -> Result<(), LabError> {
    let agent = process(lab, name, first)?.ok_or_else(|| LabError::NoAgent { name: name.clone() })?;
    agent.signal(Signal::KILL)?;
    match agent.ended_by(Instant::now() + KILL_PATIENCE)? {
        true => Ok(()),
        false => Err(LabError::Undead { name: name.clone(), pid: agent.pid() }),
    }
}

/// Whether PID 1 has stopped starting it again.
pub(super) fn gave_up(lab: &Path, name: &NodeName) -> bool {
    node::directory(lab, name).join(GAVE_UP_FILE).exists()
}

/// Waits until the agents of all these nodes answer.
pub(super) async fn wait_for<'a>(
    lab: &Path,
    nodes: impl Iterator<Item = &'a NodeName>,
    deadline: Instant,
) -> Result<(), LabError> {
    let begun = Instant::now();
    for name in nodes {
        let log = node::directory(lab, name).join("agent.log");
        let client = Client { socket: socket(lab, name), forward_to: None, limit: None };
        while client.health().await.is_err() {
            if gave_up(lab, name) {
                return Err(LabError::AgentDies { name: name.clone(), log: LogTail::of(&log) });
            }
            if Instant::now() >= deadline {
                return Err(LabError::AgentSilent {
                    name: name.clone(),
                    within: begun.elapsed(),
                    log: LogTail::of(&log),
                });
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}

/// The agent's program: $MIGRATE_AGENT_BIN, or the one beside this program.
pub(super) fn program() -> Result<PathBuf, LabError> {
    let named = std::env::var_os("MIGRATE_AGENT_BIN").filter(|path| !path.is_empty()).map(PathBuf::from);
    let path = match named {
        Some(path) => std::path::absolute(&path),
        None => std::env::current_exe().map(|own| own.with_file_name("migrate-agent")),
    };
    let path = path.map_err(|source| LabError::File { doing: "find", path: "migrate-agent".into(), source })?;
    if path.is_file() { Ok(path) } else { Err(LabError::NoAgentProgram { path }) }
}

/// Whether sockets of all nodes fit into an address.
pub(super) fn sockets_fit(lab: &Path, layout: &Layout) -> bool {
    const LONGEST: usize = 107;
    layout.nodes.iter().all(|identity| socket(lab, &identity.name).as_os_str().len() <= LONGEST)
}
