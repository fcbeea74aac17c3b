//! A lab with a witness, and what can be seen of it from outside.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use migrate_proto::api::WorkloadView;
use serde_json::Value;

use crate::harness::deadline::within;
use crate::harness::{Lab, PATIENCE, PROGRAMS, binaries, leftovers};
use crate::journal::Journal;

/// Memory of a witness.
const MIB: &str = "8";
/// Inside, where the journals are.
const SHARED: &str = "/shared";

/// The agents' limits: short, so that what does not end by itself soon does.
const LIMITS: &[(&str, &str)] = &[
    ("MIGRATE_LINK_TIMEOUT", "2s"),
    ("MIGRATE_STOP_TIMEOUT", "200ms"),
    ("MIGRATE_TALK_LIMIT", "4s/4s"),
    ("MIGRATE_PREPARE_LIMIT", "15s/5s"),
    ("MIGRATE_FREEZE_LIMIT", "4s/4s"),
    ("MIGRATE_TRANSFER_LIMIT", "8s/4s"),
    ("MIGRATE_VERIFY_LIMIT", "6s"),
    ("MIGRATE_RESTORE_LIMIT", "6s"),
    ("MIGRATE_COMMIT_REPEAT", "1s"),
    ("MIGRATE_RESUME_REPEAT", "1s"),
];

/// A lab for faults.
pub struct Stage {
    /// The lab itself.
    pub(crate) lab: Lab,
    id: String,
    begun: u32,
}

/// A process, as the host numbers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its PID.
    pub pid: i32,
    /// Its name.
    pub name: String,
    /// Its words.
    pub words: String,
    /// Its parent.
    pub parent: i32,
    /// The lab's node, from its control group.
    pub node: String,
    /// The workload, from its control group.
    pub workload: String,
}

/// A move that was ordered.
pub struct Ordered(Option<Child>);

impl Stage {
    /// A lab of so many nodes, with disks and limited memory.
    pub fn up(nodes: u8) -> Stage {
        Stage::up_as(nodes, &[])
    }

    /// The same as a cluster of three that all vote: its record decides about moves. The third node only votes.
    pub fn up_cluster() -> Stage {
        let stage = Stage::up_as(3, &["--cluster"]);
        let votes = |node: &Value| node["voter"] == true && node["state"] == "alive";
        let all_vote = |node: &str| {
            let said = stage.lab.migrate(["--json", "--node", node, "nodes"]);
            serde_json::from_str::<Vec<Value>>(&said.stdout)
                .is_ok_and(|nodes| nodes.iter().filter(|node| votes(node)).count() == 3)
        };
        assert!(soon(PATIENCE, || ["node1", "node2", "node3"].into_iter().all(all_vote)), "{}", stage.ps(""));
        stage
    }

    fn up_as(nodes: u8, more: &[&str]) -> Stage {
        let place = Lab::find_place();
        let (halts, shared) = (place.path().join("halts"), place.path().join("shared"));
        for directory in [&halts, &shared] {
            std::fs::create_dir(directory).unwrap();
        }
        let environment = environment(&halts);
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_os_str())).collect();
        let nodes = nodes.to_string();
        let options = [&["--nodes", &*nodes, "--disk", "512MiB", "--memory", "4GiB"], more].concat();
        let lab = Lab::up_in(place, &options, &environment);
        let id = lab.status()["id"].as_str().unwrap().to_owned();
        Stage { lab, id, begun: 0 }
    }

    /// Where halts are looked for.
    pub fn halts(&self) -> PathBuf {
        self.lab.place().join("halts")
    }

    /// What its agents have said, to be kept after a failure.
    pub fn log_of(&self, node: &str) -> PathBuf {
        self.lab.directory().join(node).join("agent.log")
    }

    /// The lab's directory.
    pub fn directory(&self) -> PathBuf {
        self.lab.directory()
    }

    /// `migrate` with these words; it must succeed.
    pub fn done(&self, words: &[&str]) {
        // A node that boots again gets its settings from whoever boots it.
        let mut command = self.lab.command(words);
        let output = command.envs(environment(&self.halts())).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    /// Its control group, below the root of each hierarchy.
    pub fn group(&self, node: &str) -> String {
        format!("migrate-lab-{}/{node}", self.id)
    }

    // ---- the witness ---------------------------------------------------------------------------------------------

    /// Starts a witness on `node`, and waits until it has written some lines; its name. One that is `still` leaves its own file
    /// as it is.
    pub fn begin_witness(&mut self, node: &str, still: bool) -> String {
        self.begun += 1;
        let name = format!("witness{}", self.begun);
        let programs = format!("{}:{PROGRAMS}:ro", binaries().display());
        let shared = format!("{}:{SHARED}", self.shared().display());
        let files = ["journal", "acknowledged"].map(|kind| format!("{SHARED}/{name}.{kind}"));
        let program = format!("{PROGRAMS}/witness");
        let mut words = vec!["--node", node, "run", "--name", &name, "--volume", &programs, "--volume", &shared, "--"];
        words.extend([&*program, &files[0], &files[1], MIB]);
        words.extend(still.then_some("still"));
        self.done(&words);
        assert!(self.goes_on(&name, 10), "the witness does not begin");
        name
    }

    /// What a witness has written.
    pub fn journal(&self, name: &str) -> Journal {
        Journal::of(&self.shared(), name)
    }

    /// Whether it writes so many more lines, soon.
    pub fn goes_on(&self, name: &str, more: u64) -> bool {
        let journal = self.journal(name);
        let wanted = journal.length() + more;
        soon(PATIENCE, || journal.length() >= wanted)
    }

    fn shared(&self) -> PathBuf {
        self.lab.place().join("shared")
    }

    /// Orders a move.
    pub fn order_move(&self, name: &str, to: &str) -> Ordered {
        Ordered(Some(self.lab.command(["--json", "--force", name, "--to", to]).spawn().unwrap()))
    }

    /// Removes a workload wherever it is; that it is gone is as good.
    pub fn remove(&self, name: &str) {
        for node in self.nodes().keys() {
            self.lab.migrate(["--node", node, "rm", "--force", name]);
        }
    }

    /// What the nodes say about a workload; `None` where somebody does not answer.
    pub fn views(&self, name: &str) -> Option<Vec<WorkloadView>> {
        let (nodes, listed) = (self.lab.migrate(["--json", "nodes"]), self.lab.migrate(["--json", "ps", name]));
        if !nodes.status.success() {
            return None;
        }
        let all_answer = nodes.json().as_array()?.iter().all(|node| node["state"] == "alive");
        // Nobody has it: a list of none, and an error.
        let views = serde_json::from_str(&listed.stdout).unwrap_or_default();
        all_answer.then_some(views)
    }

    /// `ps`, as a person reads it.
    pub fn ps(&self, name: &str) -> String {
        let said = self.lab.migrate(["ps", name]);
        said.stdout + &said.stderr
    }

    // ---- looking -------------------------------------------------------------------------------------------------

    /// Every process in the lab's groups.
    pub fn processes(&self) -> Vec<Process> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| self.process(entry.file_name().to_str()?.parse().ok()?)).collect()
    }

    fn process(&self, pid: i32) -> Option<Process> {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let prefix = format!("/migrate-lab-{}/", self.id);
        let paths = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)?.strip_prefix(&prefix));
        // Of all hierarchies the one that says most: a node's own processes are in a group of it in one only.
        let place = paths.max_by_key(|path| path.split('/').count())?.to_owned();
        let mut parts = place.split('/').map(str::to_owned);
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = stat.rsplit_once(") ")?;
        let mut fields = tail.split(' ');
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(Process {
            pid,
            name: head.split_once('(')?.1.to_owned(),
            words: String::from_utf8_lossy(&words).replace('\0', " ").trim().to_owned(),
            parent: fields.next()?.parse().ok()?,
            node: parts.next()?,
            workload: parts.next().unwrap_or_default(),
        })
    }

    /// The witness's copies: node and PID of each.
    pub fn copies(&self, name: &str) -> Vec<Process> {
        self.processes().into_iter().filter(|one| one.workload == name && one.name == "witness").collect()
    }

    /// CRIU on a node.
    pub fn criu(&self, node: &str) -> Option<Process> {
        self.all_criu().into_iter().find(|one| one.node == node)
    }

    /// CRIU itself wherever it runs, not the processes that it is about to restore.
    pub fn all_criu(&self) -> Vec<Process> {
        let all = self.processes();
        let is_guard = |pid: i32| all.iter().any(|one| one.pid == pid && one.words.ends_with("guard"));
        all.iter().filter(|one| one.name == "criu" && is_guard(one.parent)).cloned().collect()
    }

    /// `lab status`, by node.
    pub fn nodes(&self) -> BTreeMap<String, Value> {
        let status = self.lab.status();
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().map(|node| (node["name"].as_str().unwrap().to_owned(), node.clone())).collect()
    }

    /// A PID of a node, of `pid` (its first process) or `agent_pid`.
    pub fn pid(&self, node: &str, which: &str) -> Option<i32> {
        self.nodes()[node][which].as_i64().map(|pid| pid as i32)
    }

    /// What there is on the nodes that is of no use, where witnesses are at home on these nodes and nowhere else.
    pub fn remains(&self, homes: &[(&str, &str)]) -> Vec<String> {
        let mut found: Vec<_> = self.processes().into_iter().filter_map(|one| surplus_process(&one, homes)).collect();
        for (node, status) in self.nodes() {
            let Some(first) = status["pid"].as_i64() else { continue };
            let root = PathBuf::from(format!("/proc/{first}/root"));
            let state = self.lab.directory().join(&node).join("state/workloads");
            let state = root.join(state.strip_prefix("/").unwrap());
            let here: Vec<&str> = homes.iter().filter(|(_, home)| *home == node).map(|(name, _)| *name).collect();
            let sandbox_of = |dir: &str| dir.rsplit_once('.').map(|(name, _)| name.to_owned()).unwrap_or_default();
            let mut surplus = |what: &str, dir: &Path, is_wanted: &dyn Fn(&str) -> bool| {
                found.extend(
                    names_in(dir).filter(|name| !is_wanted(name)).map(|name| format!("{what} {name} on {node}")),
                );
            };
            surplus("image", &root.join("run/migrate/images"), &|_| false);
            surplus("sandbox", &root.join("run/migrate/sandboxes"), &|dir| here.contains(&&*sandbox_of(dir)));
            surplus("workload", &state, &|dir| here.contains(&dir));
            for name in &here {
                let own = ["workload.json", "layer.img"];
                surplus("journal", &state.join(name), &|file| own.contains(&file) || file.starts_with("output"));
            }
        }
        found
    }
}

/// A process that should not be there: of a witness that is not at home, or of CRIU.
fn surplus_process(one: &Process, homes: &[(&str, &str)]) -> Option<String> {
    let is_home = homes.contains(&(&*one.workload, &*one.node));
    let is_wanted = is_home && one.name != "criu" && !one.words.ends_with("guard");
    let is_own = one.workload == "node.own";
    (!is_own && !is_wanted).then(|| format!("process {} ({}) of {} on {}", one.pid, one.name, one.workload, one.node))
}

fn names_in(dir: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// What the agents inherit.
fn environment(halts: &Path) -> Vec<(&'static str, OsString)> {
    let limits = LIMITS.iter().map(|(name, value)| (*name, OsString::from(value)));
    limits.chain([("MIGRATE_HALTS", halts.into())]).collect()
}

impl Ordered {
    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        self.0.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// What it said; one that has not ended is killed.
    pub fn end(mut self) -> String {
        let Some(mut child) = self.0.take() else { return String::new() };
        let _ = child.kill();
        child.wait_with_output().map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    }
}

impl Drop for Ordered {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What there is on this machine of a lab of that number in that directory, one line each.
pub fn traces(id: &str, directory: &Path) -> Vec<String> {
    leftovers::of_lab(id, directory)
}

/// Whether `holds` comes true within `patience`.
pub fn soon(patience: Duration, holds: impl FnMut() -> bool) -> bool {
    within(patience, holds)
}
