//! The control groups of a workload, on hosts with v1 controllers, with v2, or with both.
//!
//! In every hierarchy that matters a workload has a group of its own, `<prefix>/<name>/load`, and its sandbox's PID 1 and
//! whatever runs beside it are in `<prefix>/<name>/side`: freezing or killing the workload never touches its init. Freezing
//! and killing are done by v2 (`cgroup.freeze`, `cgroup.kill`), which a v1 host offers as well when a cgroup2 file system is
//! mounted anywhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Result, SandboxError};

/// The v1 controllers that we use.
const V1_CONTROLLERS: [&str; 4] = ["memory", "cpu", "cpuacct", "pids"];

/// The group of those who were in the root of a container.
const CLEARED_OUT: &str = "migrate-agent";

/// The group, below that of helpers, in which every command beside the workload has its own: all of them are frozen at once.
const BESIDE: &str = "beside";

/// Where the hierarchies are mounted on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Hierarchies {
    /// The cgroup2 mount.
    unified: Option<PathBuf>,
    /// The v1 mount of each of [`V1_CONTROLLERS`].
    v1: Vec<(&'static str, PathBuf)>,
}

impl Hierarchies {
    fn read() -> Result<Hierarchies> {
        let path = "/proc/self/mounts";
        Ok(Hierarchies::parse(&fs::read_to_string(path).map_err(SandboxError::file("read", path))?))
    }

    fn parse(mounts: &str) -> Hierarchies {
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

    fn v1(&self, controller: &str) -> Option<&Path> {
        self.v1.iter().find(|(name, _)| *name == controller).map(|(_, path)| path.as_path())
    }

    /// Whether a group can have this controller: it is mounted for v1, or v2's root has it to hand down.
    fn has(&self, controller: &str) -> bool {
        let unified = || fs::read_to_string(self.unified.as_ref()?.join("cgroup.controllers")).ok();
        self.v1(controller).is_some()
            || unified().is_some_and(|all| all.split_whitespace().any(|one| one == controller))
    }

    fn roots(&self) -> Vec<PathBuf> {
        let mut roots: Vec<PathBuf> = self.unified.iter().cloned().collect();
        for (_, path) in &self.v1 {
            if !roots.contains(path) {
                roots.push(path.clone());
            }
        }
        roots
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
}

impl Cgroup {
    /// Makes the groups, or takes over those that are there.
    pub fn create(prefix: &str, name: &str) -> Result<Cgroup> {
        Cgroup::create_in(Hierarchies::read()?, Path::new(prefix).join(name))
    }

    fn create_in(hierarchies: Hierarchies, place: PathBuf) -> Result<Cgroup> {
        let group = Cgroup { hierarchies, place };
        if let Some(root) = &group.hierarchies.unified {
            pass_controllers_down(root, &group.place);
        }
        for root in group.hierarchies.roots() {
            for part in ["load", "side"] {
                let path = root.join(&group.place).join(part);
                fs::create_dir_all(&path).map_err(SandboxError::file("create", &path))?;
            }
            let beside = root.join(&group.place).join("side").join(BESIDE);
            fs::create_dir_all(&beside).map_err(SandboxError::file("create", &beside))?;
        }
        Ok(group)
    }

    /// The `cgroup.procs` files that a process of the workload joins.
    pub fn load_procs(&self) -> Vec<PathBuf> {
        self.procs("load")
    }

    /// The `cgroup.procs` files that PID 1 and helpers join.
    pub fn side_procs(&self) -> Vec<PathBuf> {
        self.procs("side")
    }

    fn procs(&self, part: &str) -> Vec<PathBuf> {
        self.hierarchies.roots().iter().map(|root| root.join(&self.place).join(part).join("cgroup.procs")).collect()
    }

    fn unified(&self, file: &str) -> Option<PathBuf> {
        Some(self.hierarchies.unified.as_ref()?.join(&self.place).join("load").join(file))
    }

    fn v1(&self, controller: &str, file: &str) -> Option<PathBuf> {
        Some(self.hierarchies.v1(controller)?.join(&self.place).join("load").join(file))
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
            (limits.memory_bytes.is_some(), self.unified("memory.max"), memory_v2),
            (quota.is_some(), self.v1("cpu", "cpu.cfs_quota_us"), cpu_v1),
            (quota.is_some(), self.unified("cpu.max"), cpu_v2),
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
            let text = fs::read_to_string(self.unified("cpu.stat")?).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
            Some(line.parse::<u64>().ok()? * 1000)
        };
        Usage {
            cpu_ns: number(self.v1("cpuacct", "cpuacct.usage")).or_else(cpu_v2).unwrap_or(0),
            memory_bytes: number(self.v1("memory", "memory.usage_in_bytes"))
                .or_else(|| number(self.unified("memory.current")))
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
        let side = self.hierarchies.unified.as_ref()?.join(&self.place).join("side");
        Some(side.join(BESIDE).join("cgroup.freeze")).filter(|path| path.exists())
    }

    /// The file that freezes the workload when "1" is written to it; `None` where the host has no cgroup2.
    pub fn freezer(&self) -> Option<PathBuf> {
        self.unified("cgroup.freeze").filter(|path| path.exists())
    }

    /// Freezes or thaws the workload; thaws commands beside it as well.
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
        if let Some(path) = self.unified("cgroup.kill") {
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
            remove_groups_below(&group.join("side").join(BESIDE));
            remove_groups_below(&group.join("side"));
            for path in [group.join("load"), group.join("side"), group.clone()] {
                remove_group(&path)?;
            }
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
    /// Makes one below the group that has this `cgroup.procs`, named after the caller.
    pub(crate) fn create(side: &Path) -> Result<Beside> {
        let dir = side.with_file_name(BESIDE).join(std::process::id().to_string());
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

/// v2 hands a controller to a child only where the parent says so. Failing is fine: then there are no limits of that kind,
/// and [`Cgroup::limit`] says so.
fn pass_controllers_down(root: &Path, place: &Path) {
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
