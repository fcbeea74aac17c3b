//! What a lab that is down must not have left on the machine.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Everything of the lab that is still there, one line each.
pub(crate) fn of_lab(id: &str, directory: &Path) -> Vec<String> {
    let group = format!("migrate-lab-{id}");
    let processes = processes().into_iter().filter(|pid| belongs(*pid, &group, directory)).map(describe);
    let mounts = processes_mounts(directory);
    let loops = fs::read_dir("/sys/block").into_iter().flatten().flatten().filter_map(|device| {
        let backing = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        backing
            .contains(directory.to_str()?)
            .then(|| format!("loop device {:?} of {}", device.file_name(), backing.trim()))
    });
    let files = directory.exists().then(|| format!("directory {}", directory.display()));
    processes.chain(mounts).chain(loops).chain(groups(&group)).chain(files).collect()
}

/// The processes whose control group lies at or below `path`.
pub(super) fn processes_in(path: &str) -> Vec<i32> {
    processes().into_iter().filter(|pid| in_group(*pid, path)).collect()
}

fn processes() -> Vec<i32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn in_group(pid: i32, path: &str) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(|group| Path::new(group).starts_with(path))
}

/// Whether a process that still runs is in the lab's groups, or names its directory. A zombie holds nothing.
fn belongs(pid: i32, group: &str, directory: &Path) -> bool {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let names_it = || {
        let command = read("cmdline");
        command.windows(directory.as_os_str().len()).any(|part| part == directory.as_os_str().as_bytes())
    };
    let is_zombie = || String::from_utf8_lossy(&read("stat")).rsplit(')').next().is_some_and(|s| s.starts_with(" Z"));
    (in_group(pid, &format!("/{group}")) || names_it()) && !is_zombie()
}

fn describe(pid: i32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!("process {pid}: {}", String::from_utf8_lossy(&command).replace('\0', " "))
}

/// Mounts that show the directory, in any mount namespace there is.
fn processes_mounts(directory: &Path) -> Vec<String> {
    let name = directory.to_str().unwrap();
    let mut mounts: Vec<String> = processes()
        .into_iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok())
        .flat_map(|mounts| mounts.lines().filter(|line| line.contains(name)).map(str::to_owned).collect::<Vec<_>>())
        .map(|line| format!("mount {line}"))
        .collect();
    mounts.sort();
    mounts.dedup();
    mounts
}

/// Control groups of that name, in whatever hierarchies there are.
fn groups(name: &str) -> Vec<String> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(&root).into_iter().flatten().flatten().map(|entry| entry.path());
    let places = hierarchies.chain([root.clone()]).map(|hierarchy| hierarchy.join(name));
    places.filter(|group| group.exists()).map(|group| format!("control group {}", group.display())).collect()
}
