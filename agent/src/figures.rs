//! How full this node is: what `migrate nodes` shows, and what a target's room is judged by.
//!
//! A look costs a few small files of /proc and one statvfs(2); no process is looked at. In a container /proc speaks of the
//! whole machine, so where the control group that holds all workloads allows less memory, that counts.

use std::fs;
use std::path::{Path, PathBuf};

use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// How full a node is. What cannot be found out is 0, which is no room.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HostFigures {
    /// CPU use of all cores since the last look but at least 200 ms ago; 0 to 100.
    pub cpu_percent: f64,
    /// Memory that cannot be had without swapping.
    pub memory_used_bytes: u64,
    /// Memory there is.
    pub memory_total_bytes: u64,
    /// Memory that could be had.
    pub memory_available_bytes: u64,
    /// Free space where the state is kept.
    pub disk_free_bytes: u64,
}

/// What is kept between looks: CPU use is a difference.
pub struct Figures {
    /// `None` where /proc cannot be read.
    system: Option<System>,
    hierarchies: Vec<Hierarchy>,
}

impl Default for Figures {
    fn default() -> Figures {
        Figures::new()
    }
}

impl Figures {
    /// Takes the first look, from which the next counts.
    pub fn new() -> Figures {
        let what = RefreshKind::nothing()
            .with_cpu(CpuRefreshKind::nothing().with_usage())
            .with_memory(MemoryRefreshKind::nothing().with_ram());
        let hierarchies = vec![Hierarchy::v2("/sys/fs/cgroup".into()), Hierarchy::v1("/sys/fs/cgroup/memory".into())];
        Figures { system: System::new_with_specifics(what).ok(), hierarchies }
    }

    /// How full the node is now. `state_dir` is where layers live.
    pub fn look(&mut self, state_dir: &Path) -> HostFigures {
        let (cpu_percent, machine) = self.machine().unwrap_or((0.0, Memory { total: 0, available: 0 }));
        let memory = self.hierarchies.iter().filter_map(Hierarchy::memory).fold(machine, Memory::within);
        HostFigures {
            cpu_percent,
            memory_used_bytes: memory.total.saturating_sub(memory.available),
            memory_total_bytes: memory.total,
            memory_available_bytes: memory.available,
            disk_free_bytes: disk_free(state_dir),
        }
    }

    fn machine(&mut self) -> Option<(f64, Memory)> {
        let system = self.system.as_mut()?;
        system.refresh_cpu_usage();
        system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
        let memory = Memory { total: system.total_memory(), available: system.available_memory() };
        Some((f64::from(system.global_cpu_usage()).clamp(0.0, 100.0), memory))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    total: u64,
    available: u64,
}

impl Memory {
    /// The limit's own figures where it allows less than there is; it cannot make memory either way.
    fn within(self, limit: Memory) -> Memory {
        if limit.total >= self.total {
            return self;
        }
        Memory { total: limit.total, available: limit.available.min(self.available) }
    }
}

/// The root of a control group hierarchy, as it is visible here: in a container, the container's own group.
struct Hierarchy {
    root: PathBuf,
    limit: &'static str,
    usage: &'static str,
    reclaimable: &'static str,
}

impl Hierarchy {
    fn v1(root: PathBuf) -> Hierarchy {
        let (limit, usage) = ("memory.limit_in_bytes", "memory.usage_in_bytes");
        Hierarchy { root, limit, usage, reclaimable: "total_inactive_file" }
    }

    fn v2(root: PathBuf) -> Hierarchy {
        Hierarchy { root, limit: "memory.max", usage: "memory.current", reclaimable: "inactive_file" }
    }

    /// `None` where there is no limit. Cached files count as used there, but make room when it is needed.
    fn memory(&self) -> Option<Memory> {
        let total = self.number(self.limit)?;
        let statistics = fs::read_to_string(self.root.join("memory.stat")).unwrap_or_default();
        let mut lines = statistics.lines().filter_map(|line| line.split_once(' '));
        let reclaimable = lines.find(|(name, _)| *name == self.reclaimable).and_then(|(_, value)| value.parse().ok());
        let used = self.number(self.usage)?.saturating_sub(reclaimable.unwrap_or(0));
        Some(Memory { total, available: total.saturating_sub(used) })
    }

    /// `max` is no number, and no limit.
    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.root.join(file)).ok()?.trim().parse().ok()
    }
}

/// Free space for files in `dir`: a directory that is yet to be made will lie in the nearest one that exists.
pub fn disk_free(dir: &Path) -> u64 {
    let found = dir.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok());
    found.map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GIB: u64 = 1 << 30;
    const MACHINE: Memory = Memory { total: 8 * GIB, available: 2 * GIB };

    fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        dir
    }

    #[test]
    fn the_figures_fit_together() {
        let dir = tempfile::tempdir().unwrap();
        let seen = Figures::new().look(dir.path());
        assert!(seen.memory_total_bytes > 0 && seen.memory_available_bytes > 0);
        assert_eq!(seen.memory_used_bytes, seen.memory_total_bytes - seen.memory_available_bytes);
        assert!((0.0..=100.0).contains(&seen.cpu_percent));
        assert!(seen.disk_free_bytes > 0);
        assert!(disk_free(&dir.path().join("not/made/yet")) > 0);
    }

    #[test]
    fn a_lower_limit_counts_and_caches_make_room() {
        let v2 = group(&[
            ("memory.max", "1073741824\n"),
            ("memory.current", "1000000000\n"),
            ("memory.stat", "anon 1\ninactive_file 900000000\nactive_file 7\n"),
        ]);
        let limited = Hierarchy::v2(v2.path().into()).memory().unwrap();
        assert_eq!(MACHINE.within(limited), Memory { total: GIB, available: GIB - 100_000_000 });

        let v1 = group(&[("memory.limit_in_bytes", "4096\n"), ("memory.usage_in_bytes", "8192\n")]);
        let limited = Hierarchy::v1(v1.path().into()).memory().unwrap();
        assert_eq!(MACHINE.within(limited), Memory { total: 4096, available: 0 });
    }

    #[test]
    fn no_limit_is_no_limit() {
        let v2 = group(&[("memory.max", "max\n"), ("memory.current", "5\n")]);
        assert_eq!(Hierarchy::v2(v2.path().into()).memory(), None);
        assert_eq!(Hierarchy::v2(v2.path().join("nothing")).memory(), None);
        // How v1 writes that there is none.
        let v1 = group(&[("memory.limit_in_bytes", "9223372036854771712\n"), ("memory.usage_in_bytes", "1\n")]);
        assert_eq!(MACHINE.within(Hierarchy::v1(v1.path().into()).memory().unwrap()), MACHINE);
    }
}
