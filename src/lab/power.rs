//! Power for nodes: booting them, cutting them off, and whether they have any.

use std::path::Path;
use std::time::{Duration, Instant};

use migrate_proto::name::NodeName;
use rustix::process::Signal;

use super::detach::Starting;
use super::holder::{self, Process};
use super::layout::{LabNode, Layout};
use super::log_tail::LogTail;
use super::{LabError, cgroups, disk, faults, network, node, switch};

/// How long a node may take to be gone after SIGKILL when nothing in it is frozen.
const PROMPT: Duration = Duration::from_millis(500);

/// How long it may take at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// The switch; it must be there.
pub(crate) fn running_switch(lab: &Path) -> Result<Process, LabError> {
    holder::find(&switch::directory(lab))?.ok_or(LabError::NoSwitch)
}

/// PID 1 of a node that must be running.
pub(crate) fn running(lab: &Path, layout: &Layout, name: &NodeName) -> Result<Process, LabError> {
    layout.node(name)?;
    holder::find(&node::directory(lab, name))?.ok_or_else(|| LabError::NotRunning { name: name.clone() })
}

/// Starts the switch.
pub(crate) fn start_switch(lab: &Path) -> Result<(), LabError> {
    let directory = switch::directory(lab);
    super::make_directory(&directory)?;
    let log = directory.join("switch.log");
    let args = ["lab-switch".as_ref(), "--lab".as_ref(), lab.as_os_str()];
    let starting = Starting::start(&args, &log)?;
    starting.go().map_err(|source| LabError::Start { log: LogTail::of(&log), source })
}

/// Ends the switch, where there is one. It has nothing to lose.
pub(crate) fn end_switch(lab: &Path) -> Result<(), LabError> {
    let Some(switch) = holder::find(&switch::directory(lab))? else { return Ok(()) };
    switch.signal(Signal::KILL)?;
    switch.ended_by(Instant::now() + PATIENCE).map(drop)
}

/// Boots a node: namespaces, network with the faults in force, then its agent. Does not wait for the agent.
pub(crate) fn boot(lab: &Path, layout: &Layout, identity: &LabNode) -> Result<(), LabError> {
    let directory = node::directory(lab, &identity.name);
    super::make_directory(&directory)?;
    if holder::find(&directory)?.is_some() {
        return Err(LabError::AlreadyRunning { name: identity.name.clone() });
    }
    let switch = running_switch(lab)?;
    let log = directory.join("node.log");
    let args = ["lab-node", "--name", identity.name.as_str(), "--lab"].map(AsRef::as_ref);
    // Of an earlier boot; whoever waits for the agent must not take it for this one's.
    let gave_up = directory.join(super::supervisor::GAVE_UP_FILE);
    match std::fs::remove_file(&gave_up) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(LabError::File { doing: "remove", path: gave_up, source });
        }
        _ => {}
    }
    disk::make(lab, layout, &identity.name)?;
    let starting = Starting::start(&[&args[..], &[lab.as_os_str()]].concat(), &log)?;
    let first = running(lab, layout, &identity.name)?;
    network::plug(switch.pid(), first.pid(), identity)?;
    faults::apply_to(lab, layout, &identity.name)?;
    starting.go().map_err(|source| LabError::Start { log: LogTail::of(&log), source })
}

/// Power loss: kills PID 1, and with it the kernel kills everything in its namespace. Returns when all of it is gone.
pub(crate) fn cut(layout: &Layout, name: &NodeName, first: &Process) -> Result<(), LabError> {
    first.signal(Signal::KILL)?;
    if first.ended_by(Instant::now() + PROMPT)? {
        return Ok(());
    }
    // Version 1 of control groups does not let the frozen die. They are doomed first, then thawed, so that none runs again.
    cgroups::kill_frozen(&layout.cgroup(name))?;
    match first.ended_by(Instant::now() + PATIENCE)? {
        true => Ok(()),
        false => Err(LabError::Undead { name: name.clone(), pid: first.pid() }),
    }
}
