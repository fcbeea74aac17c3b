//! Processes as /proc shows them. A PID alone names nobody for long; with its start time it does.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one with the same PID (on one boot of the machine).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// As this namespace numbers it.
    pub pid: i32,
    /// Clock ticks since boot, field 22 of `stat`.
    pub start: u64,
}

impl Identity {
    /// Who has this PID now.
    pub fn of(pid: i32) -> io::Result<Identity> {
        Ok(Identity { pid, start: Stat::read(pid)?.start })
    }

    /// Whether it is gone for certain: ended (a zombie has), or its PID is somebody else's. An error where that could not be
    /// seen, and says nothing about it.
    pub fn is_gone(self) -> io::Result<bool> {
        match Stat::read(self.pid) {
            Ok(stat) => Ok(stat.start != self.start || matches!(stat.state, 'Z' | 'X')),
            // The second where it ended while it was being read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// What matters of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// R, S, D, T, t, Z, X …
    pub state: char,
    /// The parent.
    pub parent: i32,
    /// Clock ticks since boot.
    pub start: u64,
}

impl Stat {
    /// Reads it.
    pub fn read(pid: i32) -> io::Result<Stat> {
        let text = fs::read(format!("/proc/{pid}/stat"))?;
        Stat::parse(&String::from_utf8_lossy(&text))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable /proc/PID/stat"))
    }

    fn parse(text: &str) -> Option<Stat> {
        // The command's name may hold anything, also ") Z 1"; it ends at the last parenthesis.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Stat {
            state: fields.first()?.chars().next()?,
            parent: fields.get(1)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
        })
    }
}

/// The direct children of a process, all its threads' together.
pub fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<i32>>())
        .collect()
}

/// A process and all its descendants.
pub fn tree(root: i32) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let more = children(found[next]);
        found.extend(more.into_iter().filter(|pid| *pid > 0));
        next += 1;
    }
    found
}

/// The PID that a process has in its innermost namespace.
pub fn inner_pid(pid: i32) -> Option<i32> {
    // A program's name may be any bytes, and stands here too.
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    line.split_ascii_whitespace().last()?.parse().ok()
}

/// The child of `init` (any depth) that has this PID inside its namespace.
pub fn find_inside(init: i32, inner: i32) -> Option<i32> {
    tree(init).into_iter().skip(1).find(|pid| inner_pid(*pid) == Some(inner))
}

/// Resident memory in bytes.
pub fn resident(pid: i32) -> u64 {
    let pages = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("statm"))
        .ok()
        .and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_full_of_parentheses_does_not_confuse() {
        let tail = (4..=21).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let stat = Stat::parse(&format!("7 (a) Z 1 (b) S 3 {tail} 99")).unwrap();
        assert_eq!(stat, Stat { state: 'S', parent: 3, start: 21 });
    }

    #[test]
    fn a_pid_that_came_back_is_somebody_else() {
        let me = Identity::of(std::process::id() as i32).unwrap();
        assert!(!me.is_gone().unwrap());
        assert!(Identity { start: me.start + 1, ..me }.is_gone().unwrap());
    }

    #[test]
    fn who_has_ended_is_gone_before_and_after_it_is_reaped() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let identity = Identity::of(child.id() as i32).unwrap();
        nix::sys::wait::waitid(
            nix::sys::wait::Id::Pid(nix::unistd::Pid::from_raw(identity.pid)),
            nix::sys::wait::WaitPidFlag::WEXITED | nix::sys::wait::WaitPidFlag::WNOWAIT,
        )
        .unwrap();
        assert!(identity.is_gone().unwrap());
        child.wait().unwrap();
        assert!(identity.is_gone().unwrap());
    }

    #[test]
    fn a_child_is_in_the_tree() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let seen = tree(std::process::id() as i32).contains(&(child.id() as i32));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seen);
    }
}
