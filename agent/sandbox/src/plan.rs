//! What a sandbox is to look like: everything PID 1 needs to know before it leaves the node's root.

use std::path::PathBuf;

use migrate_proto::spec::Volume;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;

/// Where the workload's root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Root {
    /// The node's own, read-only.
    Node,
    /// A root file system of the workload's own, which is part of the layer and writable.
    Layer,
}

/// How to build a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The sandbox's directory on the node; must exist and be empty.
    pub dir: PathBuf,
    /// The root.
    pub root: Root,
    /// Shared storage.
    pub volumes: Vec<Volume>,
    /// Nobody outside notices what is in it: its network is its own, in which every address is its own and nothing comes out; and what is done
    /// to volumes is done to an imitation.
    pub alone: bool,
    /// Paths of the node that nothing in the sandbox may see: state, keys, other sandboxes.
    pub hide: Vec<PathBuf>,
    /// CRIU's private prefix; visible inside at the same path.
    pub criu_prefix: Option<PathBuf>,
    /// `cgroup.procs` files that PID 1 joins.
    pub side_cgroup: Vec<PathBuf>,
    /// What PID 1 holds the workload by.
    pub lease: Lease,
}

/// What PID 1 needs for holding the workload by its node's lease. A new sandbox is held until it is armed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The node's lease page. Without one no session has a deadline.
    pub page: Option<PathBuf>,
    /// [`Cgroup::held_freezer`](crate::cgroup::Cgroup::held_freezer). Without one the workload is stopped by signals.
    pub freezer: Option<PathBuf>,
    /// [`Cgroup::urgent`](crate::cgroup::Cgroup::urgent).
    pub urgent: Option<PathBuf>,
}

impl Lease {
    /// For a workload in these groups, on a node with this lease page.
    pub fn of(cgroup: &Cgroup, page: Option<PathBuf>) -> Lease {
        Lease { page, freezer: cgroup.held_freezer(), urgent: cgroup.urgent() }
    }
}

/// Directories of the layer and where they appear inside, with their modes.
pub const LAYER_DIRS: [LayerDir; 5] = [
    LayerDir { name: "work", target: WORK, mode: 0o755 },
    LayerDir { name: "tmp", target: "/tmp", mode: 0o1777 },
    LayerDir { name: "var-tmp", target: "/var/tmp", mode: 0o1777 },
    LayerDir { name: "run", target: "/run", mode: 0o755 },
    LayerDir { name: "shm", target: "/dev/shm", mode: 0o1777 },
];

/// A directory of the layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerDir {
    /// Its name in the layer.
    pub name: &'static str,
    /// Where the workload sees it.
    pub target: &'static str,
    /// Its mode when new.
    pub mode: u32,
}

/// Where a workload works unless it says otherwise.
pub const WORK: &str = "/work";
/// Where in the layer an own root file system is.
pub const OWN_ROOT: &str = "root";
/// Where the layer itself appears inside.
pub const LAYER_MOUNT: &str = "/.migrate/layer";
/// What a workload writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Its output.
    Stdout,
    /// Its errors.
    Stderr,
}

impl Output {
    /// The file, inside.
    pub fn path(self) -> &'static str {
        match self {
            Output::Stdout => "/.migrate/layer/log/stdout",
            Output::Stderr => "/.migrate/layer/log/stderr",
        }
    }
}
/// The working directory of CRIU calls, inside.
pub const RUN: &str = "/.migrate/run";
/// CRIU's hook, inside.
pub const GATE: &str = "/.migrate/bin/gate";
/// The PID of a workload's first process, inside.
pub const MAIN_PID: i32 = 100;
