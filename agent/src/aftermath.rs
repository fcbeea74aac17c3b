//! Whether a workload is itself again after CRIU was killed while it dumped it.
//!
//! CRIU stops every thread by `ptrace` and has code of its own, in a mapping of its own, run in it. The guard's tracer puts
//! everything back. A workload is itself when nobody traces it and no thread stands in such a mapping: that is looked at, not
//! believed.

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use migrate_sandbox::guard::criu_mappings;
use migrate_sandbox::process::Stat;

/// How long the code of CRIU may take to go.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Waits, not long, until no process of `tree` is in CRIU's hands any more; else says in whose it is. Blocks.
pub fn settle(tree: &[i32]) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match tree.iter().find_map(|pid| held(*pid)) {
            None => return Ok(()),
            Some(why) if Instant::now() >= deadline => return Err(why),
            Some(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Why a process is not itself; one that has ended is in nobody's hands.
fn held(pid: i32) -> Option<String> {
    let foreign = criu_mappings(&Path::new("/proc").join(pid.to_string()));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.into_iter().find_map(|thread| {
        let name = thread.file_name().to_string_lossy().into_owned();
        let why = held_thread(&thread.path(), &foreign)?;
        Some(format!("thread {name} of process {pid} {why}"))
    })
}

fn held_thread(thread: &Path, foreign: &[Range<u64>]) -> Option<String> {
    let read = |file: &str| String::from_utf8_lossy(&fs::read(thread.join(file)).unwrap_or_default()).into_owned();
    let status = read("status");
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).unwrap_or("0").trim();
    if tracer != "0" {
        return Some(format!("is traced by process {tracer}"));
    }
    let stands_at = stands_at(&read("syscall"))?;
    foreign.iter().any(|range| range.contains(&stands_at)).then(|| "is in code of CRIU".to_owned())
}

/// The instruction at which a thread waits in the kernel; `None` where it runs. CRIU's code waits, or is about to.
fn stands_at(syscall: &str) -> Option<u64> {
    let last = syscall.split_ascii_whitespace().last()?;
    u64::from_str_radix(last.strip_prefix("0x")?, 16).ok()
}

/// Whether a process is there and not about to be reaped.
pub fn is_alive(pid: i32) -> bool {
    Stat::read(pid).is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use nix::sys::ptrace;
    use nix::sys::wait::waitpid;
    use nix::unistd::Pid;

    use super::*;

    #[test]
    fn a_tracer_is_seen_until_it_has_gone() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_raw(child.id() as i32);
        ptrace::seize(pid, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(pid).unwrap();
        waitpid(pid, None).unwrap();
        assert!(settle(&[pid.as_raw()]).unwrap_err().contains("is traced by"));
        ptrace::detach(pid, None).unwrap();
        assert_eq!(settle(&[pid.as_raw()]), Ok(()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(settle(&[pid.as_raw()]), Ok(()));
        assert!(!is_alive(pid.as_raw()));
    }

    #[test]
    fn places_are_understood() {
        let at = stands_at("45 0x3 0x7f2100 0x10 0x0 0x0 0x0 0x7f2e00 0x7f2010\n");
        assert_eq!(at, Some(0x7f2010));
        assert_eq!(stands_at("running\n"), None);
        assert_eq!(stands_at("-1 0x7ffc 0x55d0\n"), Some(0x55d0));
    }
}
