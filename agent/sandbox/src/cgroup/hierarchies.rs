//! Which hierarchies of control groups this node has, and how controllers get down to a workload's group.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::read_pids;
use crate::error::{Result, SandboxError};

/// The v1 controllers that we use.
const V1_CONTROLLERS: [&str; 4] = ["memory", "cpu", "cpuacct", "pids"];

/// The group of those who were in the root of a container.
const CLEARED_OUT: &str = "migrate-agent";

/// Where the hierarchies are mounted on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    /// The cgroup2 mount.
    pub(super) unified: Option<PathBuf>,
    /// The v1 mount of each of [`V1_CONTROLLERS`].
    pub(super) v1: Vec<(&'static str, PathBuf)>,
}

impl Hierarchies {
    pub(super) fn read() -> Result<Hierarchies> {
        let path = "/proc/self/mounts";
        Ok(Hierarchies::parse(&fs::read_to_string(path).map_err(SandboxError::file("read", path))?))
    }

    pub(super) fn parse(mounts: &str) -> Hierarchies {
        let mut found = Hierarchies::default();
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [_, target, kind, options, ..] = fields[..] else { continue };
            match kind {
                "cgroup2" if found.unified.is_none() => found.unified = Some(target.into()),
                "cgroup" => {
                    for controller in V1_CONTROLLERS {
                        let known = found.v1.iter().any(|(name, _)| *name == controller);
                        if !known && options.split(',').any(|option| option == controller) {
                            found.v1.push((controller, target.into()));
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }

    pub(super) fn v1(&self, controller: &str) -> Option<&Path> {
        self.v1.iter().find(|(name, _)| *name == controller).map(|(_, path)| path.as_path())
    }

    /// Whether a group can have this controller: it is mounted for v1, or v2's root has it to hand down.
    pub(super) fn has(&self, controller: &str) -> bool {
        let unified = || fs::read_to_string(self.unified.as_ref()?.join("cgroup.controllers")).ok();
        self.v1(controller).is_some()
            || unified().is_some_and(|all| all.split_whitespace().any(|one| one == controller))
    }

    pub(super) fn roots(&self) -> Vec<PathBuf> {
        let mut roots: Vec<PathBuf> = self.unified.iter().cloned().collect();
        for (_, path) in &self.v1 {
            if !roots.contains(path) {
                roots.push(path.clone());
            }
        }
        roots
    }
}

/// v2 hands a controller to a child only where the parent says so. Failing is fine: then there are no limits of that kind,
/// and [`Cgroup::limit`] says so.
pub(super) fn pass_controllers_down(root: &Path, place: &Path) {
    let mut at = root.to_owned();
    for part in std::iter::once(Path::new("")).chain(place.components().map(|c| Path::new(c.as_os_str()))) {
        at.push(part);
        let _ = fs::create_dir(&at);
        for controller in ["+memory", "+cpu", "+pids"] {
            let passed = fs::write(at.join("cgroup.subtree_control"), controller);
            if at == *root && passed.is_err_and(|error| error.kind() == io::ErrorKind::ResourceBusy) {
                clear_out(root);
                let _ = fs::write(at.join("cgroup.subtree_control"), controller);
            }
        }
    }
}

/// A group of v2 either has processes or hands controllers down; only the machine's root may do both. In a container the
/// agent's own group is the root of what it sees, so that all who are in it, the agent among them, go into a group beside
/// the workloads'. That is what other programs that keep groups inside of containers do as well.
fn clear_out(root: &Path) {
    // The machine's root has no type.
    if !root.join("cgroup.type").exists() {
        return;
    }
    let aside = root.join(CLEARED_OUT);
    let _ = fs::create_dir(&aside);
    // One may be born while others go: until none is left, or none can go.
    for _ in 0..10 {
        let here = read_pids(&root.join("cgroup.procs"));
        let gone = here.iter().filter(|pid| fs::write(aside.join("cgroup.procs"), pid.to_string()).is_ok()).count();
        if gone == 0 {
            return;
        }
    }
}
