//! The control groups of a workload, on hosts with v1 controllers, with v2, or with both.
//!
//! In every hierarchy that matters a workload has these, below `<prefix>/<name>`:
//!
//! ```text
//! held/             frozen by the lease: by init, and by nobody else
//!   load/           the workload           frozen by the guard and the agent, and limited
//!   beside/PID/     a command beside it    `beside` is frozen by the guard
//! side/             the sandbox's PID 1, guards, a dumping CRIU, who keeps a command beside
//! ```
//!
//! A group stands still while it or one above it is frozen, so the lease and the guard cannot undo each other, and neither
//! touches init. Freezing and killing are done by v2 (`cgroup.freeze`, `cgroup.kill`), which a v1 host offers as well when a
//! cgroup2 file system is mounted anywhere.
//!
//! Workloads that an older version has started are in `load`, and commands beside them in `side/beside`. They are left there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, SandboxError};

mod hierarchies;

use hierarchies::{Hierarchies, pass_controllers_down};

/// The group of everything that must not run without a lease.
const HELD: &str = "held";
/// The group of init and helpers.
const SIDE: &str = "side";
/// Where the workload was before there were leases.
const OLD_LOAD: &str = "load";

/// Where the groups are below a workload's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// As above.
    Held,
    /// As it was before there were leases.
    Old,
}

impl Layout {
    /// The old one where that is there: it is in use, for it goes with the sandbox.
    fn of(hierarchies: &Hierarchies, place: &Path) -> Layout {
        let is_old = hierarchies.roots().iter().any(|root| root.join(place).join(OLD_LOAD).is_dir());
        if is_old { Layout::Old } else { Layout::Held }
    }

    /// The workload's.
    fn load(self) -> &'static str {
        match self {
            Layout::Held => "held/load",
            Layout::Old => OLD_LOAD,
        }
    }

    /// Every command beside the workload has a group of its own below this one: all of them are frozen at once.
    fn beside(self) -> &'static str {
        match self {
            Layout::Held => "held/beside",
            Layout::Old => "side/beside",
        }
    }
}

/// What a workload may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// CPU, in thousandths of a core.
    pub cpu_milli: Option<u32>,
}

impl Limits {
    /// The controllers that they take and that this node does not have. Changes nothing.
    pub fn lacking(self) -> Result<Vec<&'static str>> {
        Ok(self.lacking_in(&Hierarchies::read()?))
    }

    fn lacking_in(self, hierarchies: &Hierarchies) -> Vec<&'static str> {
        let taken = [("memory", self.memory_bytes.is_some()), ("cpu", self.cpu_milli.is_some())];
        let lacks = |(controller, is_taken): (&'static str, bool)| {
            (is_taken && !hierarchies.has(controller)).then_some(controller)
        };
        taken.into_iter().filter_map(lacks).collect()
    }
}

/// What a workload has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory charged, in bytes.
    pub memory_bytes: u64,
}

/// The groups of one workload.
#[derive(Debug, Clone)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    /// `<prefix>/<name>` below each hierarchy's root.
    place: PathBuf,
    layout: Layout,
}

impl Cgroup {
    /// Makes the groups, or takes over those that are there.
    pub fn create(prefix: &str, name: &str) -> Result<Cgroup> {
        Cgroup::create_in(Hierarchies::read()?, Path::new(prefix).join(name))
    }

    fn create_in(hierarchies: Hierarchies, place: PathBuf) -> Result<Cgroup> {
        let layout = Layout::of(&hierarchies, &place);
        let group = Cgroup { hierarchies, place, layout };
        if let Some(root) = &group.hierarchies.unified {
            let above_load = group.place.join(layout.load());
            pass_controllers_down(root, above_load.parent().unwrap_or(&group.place));
        }
        for root in group.hierarchies.roots() {
            for part in [layout.load(), SIDE, layout.beside()] {
                let path = root.join(&group.place).join(part);
                fs::create_dir_all(&path).map_err(SandboxError::file("create", &path))?;
            }
        }
        Ok(group)
    }

    /// The `cgroup.procs` files that a process of the workload joins.
    pub fn load_procs(&self) -> Vec<PathBuf> {
        self.procs(self.layout.load())
    }

    /// The `cgroup.procs` files that PID 1 and helpers join.
    pub fn side_procs(&self) -> Vec<PathBuf> {
        self.procs(SIDE)
    }

    /// The group below which a command beside the workload has its own; `None` on a host without control groups.
    pub fn beside(&self) -> Option<PathBuf> {
        Some(self.hierarchies.roots().first()?.join(&self.place).join(self.layout.beside()))
    }

    /// The `tasks` of a group in which a thread may run before all others: v1 forbids that to a new group. `None` where there
    /// is no such rule, or no such group.
    pub fn urgent(&self) -> Option<PathBuf> {
        Some(self.hierarchies.v1("cpu")?.join("tasks"))
    }

    fn procs(&self, part: &str) -> Vec<PathBuf> {
        self.hierarchies.roots().iter().map(|root| root.join(&self.place).join(part).join("cgroup.procs")).collect()
    }

    fn unified(&self, part: &str, file: &str) -> Option<PathBuf> {
        Some(self.hierarchies.unified.as_ref()?.join(&self.place).join(part).join(file))
    }

    /// A file of the workload's group.
    fn v2(&self, file: &str) -> Option<PathBuf> {
        self.unified(self.layout.load(), file)
    }

    fn v1(&self, controller: &str, file: &str) -> Option<PathBuf> {
        Some(self.hierarchies.v1(controller)?.join(&self.place).join(self.layout.load()).join(file))
    }

    /// Sets the limits; an absent limit lifts an earlier one.
    pub fn limit(&self, limits: Limits) -> Result<()> {
        const PERIOD_US: u64 = 100_000;
        let quota = limits.cpu_milli.map(|milli| u64::from(milli) * PERIOD_US / 1000);
        let memory_v2 = limits.memory_bytes.map_or("max".to_owned(), |bytes| bytes.to_string());
        let memory_v1 = limits.memory_bytes.map_or("-1".to_owned(), |bytes| bytes.to_string());
        let cpu_v2 = quota.map_or(format!("max {PERIOD_US}"), |quota| format!("{quota} {PERIOD_US}"));
        let cpu_v1 = quota.map_or("-1".to_owned(), |quota| quota.to_string());
        let wanted = [
            (limits.memory_bytes.is_some(), self.v1("memory", "memory.limit_in_bytes"), memory_v1),
            (limits.memory_bytes.is_some(), self.v2("memory.max"), memory_v2),
            (quota.is_some(), self.v1("cpu", "cpu.cfs_quota_us"), cpu_v1),
            (quota.is_some(), self.v2("cpu.max"), cpu_v2),
        ];
        for (pair, name) in wanted.chunks(2).zip(["memory", "cpu"]) {
            let required = pair[0].0;
            let files: Vec<(&PathBuf, &String)> = pair
                .iter()
                .filter_map(|(_, path, value)| Some((path.as_ref()?, value)))
                .filter(|(path, _)| path.exists())
                .collect();
            if required && files.is_empty() {
                return Err(SandboxError::Init {
                    step: format!("limit {name}"),
                    reason: format!("no {name} controller is available to this agent"),
                });
            }
            for (path, value) in files {
                fs::write(path, value).map_err(SandboxError::file("write", path))?;
            }
        }
        Ok(())
    }

    /// What has been used since the group was made.
    pub fn usage(&self) -> Usage {
        let number = |path: Option<PathBuf>| fs::read_to_string(path?).ok()?.trim().parse::<u64>().ok();
        let cpu_v2 = || {
            let text = fs::read_to_string(self.v2("cpu.stat")?).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
            Some(line.parse::<u64>().ok()? * 1000)
        };
        Usage {
            cpu_ns: number(self.v1("cpuacct", "cpuacct.usage")).or_else(cpu_v2).unwrap_or(0),
            memory_bytes: number(self.v1("memory", "memory.usage_in_bytes"))
                .or_else(|| number(self.v2("memory.current")))
                .unwrap_or(0),
        }
    }

    /// The workload's processes, as this namespace numbers them.
    pub fn pids(&self) -> Vec<i32> {
        self.load_procs().first().map(|path| read_pids(path)).unwrap_or_default()
    }

    /// The file that freezes every command beside the workload, those that are yet to come too; `None` where the host has no
    /// cgroup2.
    pub fn beside_freezer(&self) -> Option<PathBuf> {
        self.unified(self.layout.beside(), "cgroup.freeze").filter(|path| path.exists())
    }

    /// The file that freezes the workload when "1" is written to it; `None` where the host has no cgroup2.
    pub fn freezer(&self) -> Option<PathBuf> {
        self.v2("cgroup.freeze").filter(|path| path.exists())
    }

    /// The file that freezes the workload and every command beside it, whatever [`Cgroup::freezer`] says: only init writes it,
    /// for the lease. `None` where the host has no cgroup2, and where an older version has started the workload.
    pub fn held_freezer(&self) -> Option<PathBuf> {
        let held = matches!(self.layout, Layout::Held).then_some(HELD)?;
        self.unified(held, "cgroup.freeze").filter(|path| path.exists())
    }

    /// Freezes or thaws the workload; thaws commands beside it as well. What the lease holds stays held.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let Some(path) = self.freezer() else {
            return Err(SandboxError::Init { step: "freeze".into(), reason: "the host has no cgroup2 mount".into() });
        };
        fs::write(&path, if frozen { "1" } else { "0" }).map_err(SandboxError::file("write", &path))?;
        match self.beside_freezer() {
            Some(path) if !frozen => fs::write(&path, "0").map_err(SandboxError::file("write", &path)),
            _ => Ok(()),
        }
    }

    /// Ends every process of the workload, frozen or not.
    pub fn kill(&self) {
        if let Some(path) = self.v2("cgroup.kill") {
            let _ = fs::write(path, "1");
        }
        for pid in self.pids() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }

    /// Removes the groups; they must be empty. An empty `<prefix>` goes too.
    pub fn remove(&self) -> Result<()> {
        for root in self.hierarchies.roots() {
            let group = root.join(&self.place);
            remove_groups_below(&group.join(self.layout.beside()));
            for part in [self.layout.load(), self.layout.beside(), HELD, SIDE] {
                remove_group(&group.join(part))?;
            }
            remove_group(&group)?;
            // The prefix goes with the last workload.
            let _ = group.parent().map(fs::remove_dir);
        }
        Ok(())
    }
}

/// What commands beside the workload left, where nobody was left to do so.
fn remove_groups_below(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = remove_group(&entry.path());
        }
    }
}

/// The group of one command beside a workload: what the command started ends with it.
#[derive(Debug)]
pub(crate) struct Beside {
    dir: PathBuf,
}

impl Beside {
    /// Makes one below [`Cgroup::beside`], named after the caller.
    pub(crate) fn create(beside: &Path) -> Result<Beside> {
        let dir = beside.join(std::process::id().to_string());
        fs::create_dir_all(&dir).map_err(SandboxError::file("create", &dir))?;
        Ok(Beside { dir })
    }

    /// What the command joins.
    pub(crate) fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// Ends everything in it. A group without `cgroup.kill` is of v1: then some may be born while others are ended, and it
    /// is done again until none is left.
    pub(crate) fn end(self) {
        for _ in 0..100 {
            if fs::write(self.dir.join("cgroup.kill"), "1").is_err() {
                for pid in read_pids(&self.procs()) {
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
                }
            }
            match fs::remove_dir(&self.dir) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                _ => return,
            }
        }
    }
}

fn read_pids(procs: &Path) -> Vec<i32> {
    let text = fs::read_to_string(procs).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

/// A group whose last process is just leaving is still busy for a moment.
fn remove_group(path: &Path) -> Result<()> {
    for attempt in 0.. {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && attempt < 100 => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(SandboxError::file("remove", path)(error));
            }
            _ => break,
        }
    }
    Ok(())
}

/// Usage between two looks, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuShare {
    /// CPU time at the last look.
    pub cpu_ns: u64,
    /// When that was, monotonic, in nanoseconds.
    pub at_ns: u64,
}

impl CpuShare {
    /// Percent of one core since the last look; remembers this look.
    pub fn percent(&mut self, cpu_ns: u64, now_ns: u64) -> f64 {
        let before = std::mem::replace(self, CpuShare { cpu_ns, at_ns: now_ns });
        let elapsed = now_ns.saturating_sub(before.at_ns);
        if before.at_ns == 0 || elapsed == 0 {
            return 0.0;
        }
        100.0 * cpu_ns.saturating_sub(before.cpu_ns) as f64 / elapsed as f64
    }
}

#[cfg(test)]
mod tests;
