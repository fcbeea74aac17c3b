//! A lab node: `migrate lab-node`. The first of its two processes makes the namespaces; the second is PID 1 in them, sets the
//! node up and then supervises its agent.

use std::path::{Path, PathBuf};
use std::process::Command;

use migrate_proto::name::NodeName;
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use thiserror::Error;

use super::layout::Layout;
use super::supervisor::Supervisor;
use super::tool::ToolError;
use super::{LabError, detach, disk, holder, memory, network};

/// Why a node did not come up; it ends up in the node's log.
#[derive(Debug, Error)]
pub(crate) enum NodeError {
    #[error("{doing}: {source}")]
    System { doing: &'static str, source: std::io::Error },
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("the node is PID {pid}, not 1, in its namespace")]
    NotFirst { pid: i32 },
}

fn system<E: Into<std::io::Error>>(doing: &'static str) -> impl Fn(E) -> NodeError {
    move |source| NodeError::System { doing, source: source.into() }
}

/// A node's directory in the lab's.
pub(crate) fn directory(lab: &Path, name: &NodeName) -> PathBuf {
    lab.join(name.as_str())
}

/// Makes the namespaces and starts PID 1 in them.
pub(crate) fn enter(lab: &Path, name: &NodeName) -> Result<(), LabError> {
    detach::keep_descriptors_to_ourselves().map_err(system("cannot keep descriptors back"))?;
    let namespaces = CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    nix::sched::unshare(namespaces).map_err(system("cannot make namespaces"))?;
    let program = std::env::current_exe().map_err(system("cannot find this program"))?;
    Command::new(program)
        .args(["lab-node", "--inside", "--name", name.as_str(), "--lab"])
        .arg(lab)
        .spawn()
        .map_err(system("cannot start the node's PID 1"))?;
    Ok(())
}

/// Is PID 1 of the node; returns when it is told to end.
pub(crate) fn be_node(lab: &Path, name: &NodeName) -> Result<(), LabError> {
    let pid = std::process::id().cast_signed();
    if pid != 1 {
        return Err(NodeError::NotFirst { pid }.into());
    }
    let layout = Layout::load(lab)?;
    layout.node(name)?;
    nix::unistd::setsid().map_err(system("cannot begin a session"))?;
    set_up(name)?;
    disk::mount(lab, &layout, name)?;
    if let Some(bytes) = layout.memory {
        memory::confine(&layout.cgroup(name), bytes)?;
    }
    let _held = holder::hold(&directory(lab, name))?;
    detach::report_held().map_err(system("not told to go on"))?;
    Supervisor::new(lab, &layout, name).run()
}

/// What a machine does when it boots.
fn set_up(name: &NodeName) -> Result<(), NodeError> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(system("cannot make mounts private"))?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), quiet, none).map_err(system("cannot mount /proc"))?;
    let options = Some("mode=0755");
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, options)
        .map_err(system("cannot mount /run"))?;
    nix::unistd::sethostname(name.as_str()).map_err(system("cannot set the host name"))?;
    // Faults are made for IPv4: leave no other way from node to node.
    kernel_setting("net/ipv6/conf/default/disable_ipv6", "1")?;
    // Peers that have given the node up hear of it when it boots.
    kernel_setting("net/ipv4/conf/default/arp_notify", "1")?;
    Ok(network::bring_loopback_up()?)
}

/// Sets what the kernel has under /proc/sys; a kernel without it needs no setting.
fn kernel_setting(name: &'static str, value: &str) -> Result<(), NodeError> {
    match std::fs::write(Path::new("/proc/sys").join(name), value) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(system(name)),
    }
}
