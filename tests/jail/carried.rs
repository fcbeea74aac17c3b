//! What the processes of a node carry with them. Looked at while a move stands still, with CRIU, its guard and its tracer on both sides.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::path::Path;

use nix::sys::stat::Mode;

use crate::harness::Lab;

/// SYS_MODULE SYS_RAWIO SYS_PACCT SYS_BOOT SYS_TTY_CONFIG MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
/// PERFMON BPF: what nothing of migrate has.
const UNUSED: [u32; 13] = [16, 17, 20, 22, 26, 32, 33, 34, 35, 36, 37, 38, 39];
/// In the environment of the agents, and of nothing that they start.
const OF_THE_AGENT: &str = "OF_THE_AGENT_ALONE";

/// A process of a node, as the machine shows it.
#[derive(Debug)]
struct Seen {
    role: String,
    environment: Vec<String>,
    descriptors: BTreeMap<u32, String>,
    core_limit: String,
    capabilities: Vec<u64>,
}

impl Seen {
    fn look(pid: i32) -> Seen {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap();
        let words = |file: &str| -> Vec<String> {
            let bytes = read(file);
            let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
            words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
        };
        let text = |file: &str| String::from_utf8_lossy(&read(file)).into_owned();
        let command = words("cmdline");
        let name = Path::new(&command[0]).file_name().unwrap().to_str().unwrap().to_owned();
        let role = match (name.as_str(), text("comm").trim_end()) {
            (_, "migrate-tracer") => "tracer".to_owned(),
            ("migrate-init", _) => command[1].clone(),
            _ => name,
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().map(|entry| {
            let leads_to = fs::read_link(entry.path()).unwrap_or_default().to_string_lossy().into_owned();
            (entry.file_name().to_str().unwrap().parse().unwrap(), leads_to)
        });
        let status = text("status");
        let sets = status.lines().filter(|line| line.starts_with("Cap"));
        Seen {
            role,
            environment: words("environ"),
            descriptors: descriptors.collect(),
            core_limit: text("limits").lines().find(|line| line.starts_with("Max core")).unwrap().to_owned(),
            capabilities: sets
                .map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap())
                .collect(),
        }
    }

    /// Its descriptors beside the standard ones, without their numbers.
    fn holds(&self) -> Vec<String> {
        let beyond = self.descriptors.iter().filter(|(number, _)| **number > 2).map(|(_, leads_to)| leads_to);
        let mut kinds: Vec<String> = beyond.map(|leads_to| leads_to.split(":[").next().unwrap().to_owned()).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }
}

/// The agent of a node: the only process of it that listens for others under this name.
fn agent(lab: &Lab, node: &str) -> i32 {
    let own = lab.directory().join(node).join("agent.sock");
    let processes =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_it = |pid: &i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = command.split(|byte| *byte == 0);
        words.next().is_some_and(|name| name.ends_with(b"/migrate-agent"))
            && words.any(|word| word == own.to_str().unwrap().as_bytes())
    };
    processes.into_iter().find(is_it).unwrap()
}

fn all(lab: &Lab, node: &str) -> Vec<Seen> {
    lab.processes(node, "mover").into_iter().map(Seen::look).collect()
}

#[test]
fn nothing_carries_what_it_was_not_given() {
    let halts = tempfile::tempdir_in("/var/tmp").unwrap();
    let fifo = halts.path().join("source-freeze");
    nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let secret = OsStr::new("secret");
    let lab = Lab::up_with(2, &[("MIGRATE_HALTS", halts.path().as_os_str()), (OF_THE_AGENT, secret)]);
    lab.specimen("mover", "node1", &["counter"]);
    let mut moving = lab.command(["--force", "mover", "--to", "node2"]).spawn().unwrap();
    // Opens when the move stands still, before the freeze: CRIU is held at its first hook here, and at its first question there.
    let standing = OpenOptions::new().write(true).open(&fifo).unwrap();
    let agents = ["node1", "node2"].map(|node| Seen::look(agent(&lab, node)));
    let seen: Vec<Seen> = ["node1", "node2"].into_iter().flat_map(|node| all(&lab, node)).collect();
    fs::remove_file(&fifo).unwrap();
    drop(standing);
    assert!(moving.wait().unwrap().success());
    lab.assert_runs_only_on("mover", "node2");
    let restored = all(&lab, "node2");
    lab.assert_clean();

    assert!(agents.iter().all(|agent| agent.environment.iter().any(|word| word.starts_with(OF_THE_AGENT))));
    let roles = |role: &str| seen.iter().filter(|process| process.role == role).count();
    let counted = ["init", "guard", "tracer", "criu", "specimen"].map(roles);
    assert_eq!(counted, [2, 2, 2, 2, 1], "{seen:#?}");
    for process in seen.iter().chain(&restored) {
        let environment: Vec<&str> = process.environment.iter().map(|word| word.split('=').next().unwrap()).collect();
        let (given, held): (&[&str], &[&str]) = match process.role.as_str() {
            "init" => (&["MIGRATE_DESCRIPTORS"], &["/", "anon_inode", "socket"]),
            "guard" => (&["MIGRATE_DESCRIPTORS"], &["anon_inode", "socket"]),
            "tracer" => (&["MIGRATE_DESCRIPTORS"], &["anon_inode", "socket"]),
            "criu" => (&["PATH", "MIGRATE_TRACER", "LD_PRELOAD"], &[]),
            "gate" => (&["PATH", "CRTOOLS_IMAGE_DIR", "CRTOOLS_SCRIPT_ACTION", "CRTOOLS_INIT_PID"], &["socket"]),
            "specimen" => (&["PATH", "HOME", "LANG", "MIGRATE_NAME", "MIGRATE_EPOCH_FILE"], &["pipe"]),
            other => panic!("what is {other}? {process:#?}"),
        };
        assert_eq!(environment, given, "{process:#?}");
        // A guard holds its own directory, where its last words go; CRIU whatever it needs. PID 1 holds the freezer by which it obeys
        // the lease, and the file whose time says when the workload gave its last sign of life.
        let is_known = |kind: &String| {
            held.contains(&kind.as_str())
                || (process.role == "guard" && kind.contains("/mover"))
                || (process.role == "init"
                    && (kind.ends_with("/mover/held/cgroup.freeze") || kind == "/.migrate/run/heard"))
                || process.role == "criu"
        };
        assert!(process.holds().iter().all(is_known), "{:?} {process:#?}", process.holds());
        for leads_to in process.descriptors.values() {
            assert!(!leads_to.contains("cluster.key") && !leads_to.contains("agent"), "{process:#?}");
        }
        assert_eq!(process.core_limit, agents[0].core_limit, "the node's own: {process:#?}");
    }
    for process in seen.iter().chain(&restored).chain(&agents) {
        for set in &process.capabilities {
            assert!(UNUSED.iter().all(|bit| set & (1 << bit) == 0), "{process:#?}");
        }
    }
    // The same workload before and after, whoever started it.
    let workload = |list: &[Seen]| list.iter().find(|process| process.role == "specimen").unwrap().capabilities.clone();
    assert_eq!(workload(&seen), workload(&restored));
}
