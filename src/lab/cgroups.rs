//! Control groups that a lab's workloads were in, in every hierarchy: found, thawed, removed. Works for version 1 and 2.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::LabError;
use super::holder::Process;

/// How long the kernel may take to let go of a group whose last process has ended.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the hierarchies are mounted.
pub(crate) fn mounts() -> Result<Vec<PathBuf>, LabError> {
    let path = Path::new("/proc/self/mountinfo");
    let mounts = std::fs::read_to_string(path).map_err(|source| LabError::File {
        doing: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok(mounts.lines().filter_map(cgroup_mount).map(Path::to_owned).collect())
}

/// Every directory of the group `name`: one below the root of each hierarchy that has it.
fn directories(name: &str) -> Result<BTreeSet<PathBuf>, LabError> {
    let candidates = mounts()?.into_iter().map(|mount| mount.join(name));
    Ok(candidates.filter(|directory| directory.is_dir()).collect())
}

/// The mount point of a line of mountinfo, if it is a hierarchy.
fn cgroup_mount(line: &str) -> Option<&Path> {
    let (before, after) = line.split_once(" - ")?;
    let kind = after.split(' ').next()?;
    matches!(kind, "cgroup" | "cgroup2").then(|| before.split(' ').nth(4).map(Path::new)).flatten()
}

/// A group and everything below it, deepest first.
fn with_descendants(group: &Path) -> Vec<PathBuf> {
    let below = std::fs::read_dir(group).into_iter().flatten().flatten();
    let directories = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut all: Vec<_> = directories.flat_map(|entry| with_descendants(&entry.path())).collect();
    all.push(group.to_owned());
    all
}

/// Dooms every process of the group `name` that is frozen, then thaws them, so that they end without running again.
pub(crate) fn kill_frozen(name: &str) -> Result<(), LabError> {
    for group in directories(name)?.iter().flat_map(|group| with_descendants(group)) {
        let is_frozen =
            |file: &str, word: &str| std::fs::read_to_string(group.join(file)).is_ok_and(|state| state.trim() == word);
        let (thaw, word) = if is_frozen("freezer.state", "FROZEN") || is_frozen("freezer.state", "FREEZING") {
            ("freezer.state", "THAWED")
        } else if is_frozen("cgroup.freeze", "1") {
            ("cgroup.freeze", "0")
        } else {
            continue;
        };
        // Whoever is below stands still as well, and would go on, too.
        with_descendants(&group).iter().try_for_each(|below| kill_members(below))?;
        let path = group.join(thaw);
        std::fs::write(&path, word).map_err(|source| LabError::File { doing: "write", path, source })?;
    }
    Ok(())
}

/// SIGKILL to the members of one group. They are frozen: none can end, and no PID can change hands, in between.
fn kill_members(group: &Path) -> Result<(), LabError> {
    let path = group.join("cgroup.procs");
    let members = std::fs::read_to_string(&path).unwrap_or_default();
    for pid in members.lines().filter_map(|line| Pid::from_raw(line.trim().parse().ok()?)) {
        if let Some(process) = Process::open(pid, &path)? {
            process.signal(Signal::KILL)?;
        }
    }
    Ok(())
}

/// Removes the group `name` from every hierarchy. Its processes must have ended.
pub(crate) fn remove(name: &str) -> Result<(), LabError> {
    for group in directories(name)?.iter().flat_map(|group| with_descendants(group)) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match std::fs::remove_dir(&group) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(source) => return Err(LabError::File { doing: "remove", path: group, source }),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn hierarchies_of_both_versions_are_recognised() {
        let old = "37 31 0:31 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer";
        let new = "41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(cgroup_mount(old), Some(Path::new("/sys/fs/cgroup/freezer")));
        assert_eq!(cgroup_mount(new), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup_mount("22 27 0:21 / /proc rw,relatime - proc proc rw"), None);
    }

    #[test]
    fn the_deepest_come_first() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        assert_eq!(
            with_descendants(root.path()),
            [root.path().join("a/b"), root.path().join("a"), root.path().to_owned()]
        );
    }
}
