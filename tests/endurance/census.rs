//! Counts what a lab's nodes consist of, so that two counts can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::harness::{Lab, eventually};

/// By how much an agent's resident memory may grow between two counts: allocators keep some of what they had.
const MEMORY_SLACK: u64 = 24 << 20;

/// What there is of each kind of thing.
#[derive(Debug, PartialEq)]
pub(crate) struct Census {
    counts: BTreeMap<String, u64>,
    /// Resident bytes of each node's agent.
    memory: BTreeMap<String, u64>,
}

impl Census {
    /// Counts, once two counts in a row are alike: what a move leaves to be done afterwards is done then.
    /// To be compared where the workloads are on the same nodes.
    pub(crate) fn at_rest(lab: &Lab) -> Census {
        let mut last = Census::take(lab);
        let is_at_rest = || {
            let now = Census::take(lab);
            let alike = now.counts == last.counts;
            last = now;
            alike
        };
        assert!(eventually(is_at_rest), "the lab does not come to rest");
        last
    }

    fn take(lab: &Lab) -> Census {
        let status = lab.status();
        let (mut counts, mut memory) = (BTreeMap::new(), BTreeMap::new());
        for node in status["nodes"].as_array().unwrap() {
            let name = node["name"].as_str().unwrap();
            let (first, agent) = (node["pid"].as_i64().unwrap(), node["agent_pid"].as_i64().unwrap());
            let processes = processes_of(first);
            let mut count = |what: &str, number: usize| counts.insert(format!("{name}: {what}"), number as u64);
            count("processes", processes.len());
            count("descriptors of the agent", entries(&format!("/proc/{agent}/fd")));
            count("mounts", lines(&format!("/proc/{first}/mountinfo")));
            // Of its own tmpfs, and on the disk.
            count("files in /run", files(Path::new(&format!("/proc/{first}/root/run"))));
            count("files in its directory", files(&lab.directory().join(name)));
            memory.insert(name.to_owned(), resident(agent));
        }
        let mut count = |what: &str, number: usize| counts.insert(what.to_owned(), number as u64);
        count("loop devices", loop_devices(lab.directory().to_str().unwrap()));
        count("control groups", control_groups(status["id"].as_str().unwrap()));
        Census { counts, memory }
    }

    /// What there is more of than there was, one line each.
    pub(crate) fn growth_since(&self, before: &Census) -> Vec<String> {
        let more = self.counts.iter().filter_map(|(what, now)| {
            let then = before.counts.get(what).copied().unwrap_or(0);
            (*now > allowed(what, then)).then(|| format!("{what}: {then}, now {now}"))
        });
        let memory = self.memory.iter().filter_map(|(node, now)| {
            let then = before.memory[node];
            (*now > then + MEMORY_SLACK)
                .then(|| format!("{node}: resident memory of the agent: {} MiB, now {} MiB", then >> 20, now >> 20))
        });
        more.chain(memory).collect()
    }
}

/// Connections between agents come and go; all else stays as it is.
fn allowed(what: &str, then: u64) -> u64 {
    if what.ends_with("descriptors of the agent") { then + 4 } else { then }
}

/// PID 1 of a node and everything below it: there is nothing else on a node.
fn processes_of(first: i64) -> Vec<i64> {
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let parents: Vec<(i64, i64)> = all.filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![first];
    let mut looked_at = 0;
    while let Some(pid) = found.get(looked_at).copied() {
        found.extend(parents.iter().filter(|(_, parent)| *parent == pid).map(|(child, _)| child));
        looked_at += 1;
    }
    found
}

fn parent(pid: i64) -> Option<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
}

fn entries(directory: &str) -> usize {
    fs::read_dir(directory).map_or(0, Iterator::count)
}

fn lines(file: &str) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

fn files(directory: &Path) -> usize {
    let found = fs::read_dir(directory).into_iter().flatten().flatten();
    found
        .map(|entry| 1 + if entry.file_type().is_ok_and(|kind| kind.is_dir()) { files(&entry.path()) } else { 0 })
        .sum()
}

fn loop_devices(directory: &str) -> usize {
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let backing = devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    backing.filter(|file| file.contains(directory)).count()
}

/// In all hierarchies together.
fn control_groups(id: &str) -> usize {
    let name = format!("migrate-lab-{id}");
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    hierarchies.chain(["/sys/fs/cgroup".into()]).map(|hierarchy| directories(&hierarchy.join(&name))).sum()
}

fn directories(directory: &Path) -> usize {
    let found = fs::read_dir(directory).into_iter().flatten().flatten();
    found
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| 1 + directories(&entry.path()))
        .sum()
}

fn resident(pid: i64) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}
