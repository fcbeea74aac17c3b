//! Processes as /proc shows them. A PID alone names nobody for long; with its start time it does.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

/// A process that cannot be mistaken for a later one with the same PID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// As this namespace numbers it.
    pub pid: i32,
    /// Clock ticks since boot, field 22 of `stat`.
    pub start: u64,
    /// Which boot that was. Unknown for what an older version wrote down.
    #[serde(default)]
    pub boot: Option<Boot>,
}

/// One boot of a machine, by the kernel's random number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot(u64, u64);

impl Boot {
    /// The number, in two halves.
    pub(crate) fn halves(self) -> [u64; 2] {
        [self.0, self.1]
    }

    /// The present one.
    pub(crate) fn now() -> io::Result<Boot> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let digits = text.trim().replace('-', "");
        let half = |range| digits.get(range).and_then(|half: &str| u64::from_str_radix(half, 16).ok());
        let boot = half(0..16).zip(half(16..32)).map(|(high, low)| Boot(high, low));
        boot.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unreadable boot_id"))
    }
}

impl Identity {
    /// Who has this PID now.
    pub fn of(pid: i32) -> io::Result<Identity> {
        Ok(Identity { pid, start: Stat::read(pid)?.start, boot: Some(Boot::now()?) })
    }

    /// Whether it is gone for certain: ended (a zombie has), or its PID is somebody else's. An error where that could not be
    /// seen, and says nothing about it.
    pub fn is_gone(self) -> io::Result<bool> {
        if let Some(boot) = self.boot
            && boot != Boot::now()?
        {
            return Ok(true);
        }
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

/// A figure that grows while any of these processes does anything: computes, or waits for memory that comes from a disk.
pub fn activity(pids: &[i32]) -> u64 {
    pids.iter().flat_map(|pid| threads(*pid)).filter_map(activity_of).sum()
}

/// Waits for the end of a process, which is there as a descriptor. Says whether it came in that time.
pub(crate) fn ends_within(process: &OwnedFd, time: Duration) -> bool {
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(_) if left.is_zero() => return false,
            Ok(0) | Err(_) => {}
            Ok(_) => return true,
        }
    }
}

/// Whether somebody holds a process by ptrace.
pub fn is_traced(pid: i32) -> bool {
    let status = fs::read(format!("/proc/{pid}/status")).unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    status.lines().find_map(|line| line.strip_prefix("TracerPid:")).is_some_and(|tracer| tracer.trim() != "0")
}

fn threads(pid: i32) -> Vec<PathBuf> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    tasks.into_iter().flatten().flatten().map(|task| task.path()).collect()
}

fn activity_of(task: PathBuf) -> Option<u64> {
    let text = fs::read(task.join("stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_ascii_whitespace().collect();
    // Minor and major faults, ticks in user mode and in the kernel.
    [7, 9, 11, 12].iter().map(|field| fields.get(*field)?.parse::<u64>().ok()).sum()
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
        let Boot(high, low) = me.boot.unwrap();
        assert!(Identity { boot: Some(Boot(high, !low)), ..me }.is_gone().unwrap());
        let old: Identity = serde_json::from_str(&format!("{{\"pid\":{},\"start\":{}}}", me.pid, me.start)).unwrap();
        assert!(!old.is_gone().unwrap(), "as an older version wrote it");
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
    fn who_does_something_is_active_and_who_waits_is_not() {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "read x; while :; do :; done"]).stdin(std::process::Stdio::piped());
        let mut child = shell.spawn().unwrap();
        let pid = child.id() as i32;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let wait_for = |what: &dyn Fn() -> bool| {
            while !what() {
                assert!(std::time::Instant::now() < deadline);
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        };
        // It waits for a line in `read`: system call 0.
        wait_for(&|| fs::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|text| text.starts_with("0 0x0 ")));
        let before = activity(&[pid]);
        assert!(before > 0 && !is_traced(pid));
        assert_eq!(activity(&[pid]), before);
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"go\n").unwrap();
        wait_for(&|| activity(&[pid]) > before + 5);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(activity(&[pid]), 0);
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
