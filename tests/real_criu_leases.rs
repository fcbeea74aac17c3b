//! Leases, seen from outside: a workload whose node cannot keep its lease stands still before another node may begin it, goes on where none
//! has, and is dropped where one has. What runs where is read from a file on storage that all nodes share, in which every copy appends
//! when and where it runs: nobody's report has to be believed.

#![allow(clippy::unwrap_used)]

mod harness;

use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use harness::{Lab, PROGRAMS, binaries, eventually};
use migrate_proto::api::{Event, NodeState, NodeView, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The length of a lease, by default: a lease is over so long after the last renewal at the latest.
const LEASE_MS: f64 = 1500.0;
const NAME: &str = "beacon";

/// Three nodes that agree about a record and all vote: then any one may be away.
fn cluster() -> Lab {
    let lab = Lab::up_as(&["--cluster", "--nodes", "3"], &[]);
    let settled = || {
        ["node1", "node2", "node3"].iter().all(|asked| {
            let nodes = lab.members(asked);
            let voters = nodes.iter().filter(|node| node.voter && node.state == NodeState::Alive).count();
            voters == 3 && nodes.iter().filter(|node| node.leader).count() == 1
        })
    };
    assert!(eventually(settled), "{:?}", lab.members("node1"));
    lab
}

/// One line of the file.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Milliseconds since 1970.
    at: f64,
    /// On which node.
    place: u64,
    number: u64,
}

impl Lab {
    fn members(&self, asked: &str) -> Vec<NodeView> {
        serde_json::from_value(self.done(["--json", "--node", asked, "nodes"]).json()).unwrap()
    }

    fn shared(&self) -> PathBuf {
        self.place().join("shared")
    }

    /// Starts the workload, which says where it runs, on a node that does not lead. That node.
    fn shine(&self, options: &[&str]) -> String {
        let nodes = self.members("node1");
        let node = nodes.iter().find(|node| !node.leader).unwrap().name.to_string();
        self.shine_on(&node, options)
    }

    fn shine_on(&self, node: &str, options: &[&str]) -> String {
        std::fs::create_dir(self.shared()).unwrap();
        let (shared, file) = (self.shared().display().to_string(), self.shared().join("seen").display().to_string());
        let volume = format!("{shared}:{shared}");
        let options = [&["--volume", &*volume], options].concat();
        self.run_with(NAME, node, &options, &[&*format!("{PROGRAMS}/specimen"), "beacon", &file]);
        self.wait_for_more(3);
        node.to_owned()
    }

    /// All that was seen, in the order in which it was written.
    fn seen(&self) -> Vec<Seen> {
        let text = std::fs::read_to_string(self.shared().join("seen")).unwrap_or_default();
        let line = |line: &str| {
            let words: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
            Seen { at: words[0] as f64 / 1e6, place: words[1], number: words[2] }
        };
        // The last line may be half written.
        text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(line).collect()
    }

    /// Waits until it is seen to run, so many times from now on.
    fn wait_for_more(&self, more: usize) {
        let now = self.seen().len();
        assert!(eventually(|| self.seen().len() >= now + more), "it is not seen any more: {:?}", self.seen().last());
    }

    fn node(&self, name: &str) -> serde_json::Value {
        let status = self.status();
        status["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap().clone()
    }

    fn agent(&self, node: &str) -> Pid {
        Pid::from_raw(self.node(node)["agent_pid"].as_i64().unwrap() as i32)
    }

    /// What has happened to the workload, as one node has written it down.
    fn happened(&self, by: &str, kind: &str) -> Vec<Event> {
        let events = self.events_of(by).into_iter();
        let about = |event: &Event| event.workload.as_ref().is_none_or(|name| name.as_str() == NAME);
        events.filter(|event| event.node.as_str() == by && event.kind == kind && about(event)).collect()
    }

    /// Waits until the cluster has ended the lease of a node.
    fn wait_for_fence(&self, of: &str) {
        let fenced = || {
            let others = ["node1", "node2", "node3"].into_iter().filter(|node| *node != of);
            let mut all = others.flat_map(|node| self.happened(node, "fenced"));
            all.any(|event| event.message.contains(of))
        };
        assert!(eventually(fenced), "{of} was not fenced: {:?}", self.migrate(["events"]));
    }
}

fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as f64 / 1e6
}

/// The last time that it was seen before somebody stopped it, and after which it was not seen for the rest of the lease.
fn stood_still(lab: &Lab, since: f64) -> f64 {
    let last = lab.seen().last().unwrap().at;
    let after = last - since;
    assert!(after <= LEASE_MS, "it ran on for {after:.0} ms");
    eprintln!("it stood still {after:.0} ms after its node was lost; the lease is {LEASE_MS} ms");
    after
}

/// Nothing was lost and nothing done twice, all in one place.
fn assert_one_copy_went_on(lab: &Lab) {
    let seen = lab.seen();
    for two in seen.windows(2) {
        assert_eq!((two[1].place, two[1].number), (two[0].place, two[0].number + 1), "{two:?}");
    }
}

/// Where it ran, each time that this changed.
fn places(lab: &Lab) -> Vec<u64> {
    let mut seen = lab.seen();
    seen.sort_by(|one, other| one.at.total_cmp(&other.at));
    let mut places: Vec<u64> = seen.iter().map(|seen| seen.place).collect();
    places.dedup();
    places
}

/// A process that goes on when this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn stop(pid: Pid) -> Stopped {
        kill(pid, Signal::SIGSTOP).unwrap();
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

#[test]
fn a_stopped_agent_has_its_workload_frozen_and_later_it_goes_on() {
    let lab = cluster();
    let node = lab.shine(&[]);
    let stopped = Stopped::stop(lab.agent(&node));
    let since = now_ms();
    lab.wait_for_fence(&node);
    stood_still(&lab, since);
    let before = lab.seen().len();
    drop(stopped);
    assert!(eventually(|| lab.seen().len() > before + 3), "nobody took over, and it does not go on");
    assert_one_copy_went_on(&lab);
    assert!(eventually(|| lab.view(NAME).state == State::Running), "{:?}", lab.view(NAME));
    assert!(eventually(|| !lab.happened(&node, "thawed").is_empty()));
    lab.assert_clean();
}

#[test]
fn without_its_agent_a_workload_stands_still_and_with_the_next_one_it_goes_on() {
    let lab = cluster();
    let node = lab.shine(&[]);
    let agent = lab.agent(&node);
    // Who would start another one stands still meanwhile.
    let stopped = Stopped::stop(Pid::from_raw(lab.node(&node)["pid"].as_i64().unwrap() as i32));
    kill(agent, Signal::SIGKILL).unwrap();
    let since = now_ms();
    lab.wait_for_fence(&node);
    stood_still(&lab, since);
    let before = lab.seen().len();
    drop(stopped);
    assert!(eventually(|| lab.seen().len() > before + 3), "there is an agent again, and it does not go on");
    assert_one_copy_went_on(&lab);
    lab.assert_clean();
}

#[test]
fn an_agent_that_is_started_again_at_once_has_kept_its_lease() {
    let lab = cluster();
    let node = lab.shine(&[]);
    let (pid, began) = (lab.view(NAME).pid, lab.seen().len());
    lab.done(["lab", "crash", &node]);
    assert!(eventually(|| !lab.happened(&node, "adopted").is_empty()));
    lab.wait_for_more(200);
    assert_one_copy_went_on(&lab);
    assert_eq!(lab.view(NAME).pid, pid);
    let seen = lab.seen();
    let gap = seen[began..].windows(2).map(|two| two[1].at - two[0].at).fold(0.0, f64::max);
    let frozen = lab.happened(&node, "frozen").len();
    // How long a start takes on a machine that is busy is not what is asked here; that it goes on in the session that it finds is.
    let log = std::fs::read_to_string(lab.directory().join(&node).join("agent.log")).unwrap();
    let resumed = log.contains("this node goes on in the session of the agent before");
    eprintln!("longest time in which nothing was seen: {gap:.0} ms; resumed: {resumed}; frozen {frozen} times");
    assert!(resumed || gap > LEASE_MS / 2.0, "it was quick, and opened another session all the same");
    assert_eq!(frozen == 0, resumed, "who goes on in the same session is not frozen");
    lab.assert_clean();
}

#[test]
fn a_node_that_is_cut_off_freezes_its_workload_and_goes_on_with_it_when_it_is_back() {
    let lab = cluster();
    let node = lab.shine(&[]);
    lab.done(["lab", "cut", &node]);
    let since = now_ms();
    lab.wait_for_fence(&node);
    stood_still(&lab, since);
    let shown = || lab.done(["--json", "--node", &node, "ps"]).stdout;
    assert!(eventually(|| shown().contains("\"frozen\"")), "{}", shown());
    assert!(shown().contains(&format!("the lease of {node} is over")), "{}", shown());
    lab.done(["lab", "heal"]);
    lab.wait_for_more(3);
    assert_one_copy_went_on(&lab);
    assert!(eventually(|| lab.view(NAME).state == State::Running), "{:?}", lab.view(NAME));
    lab.assert_clean();
}

#[test]
fn what_was_begun_elsewhere_is_dropped_where_it_was_and_two_never_ran() {
    let lab = cluster();
    // It may begin from nothing.
    let node = lab.shine(&["--restart", "always"]);
    lab.done(["lab", "cut", &node]);
    let home = lab.seen()[0].place;
    assert!(eventually(|| lab.seen().last().unwrap().place != home), "nobody has begun it");
    lab.done(["lab", "heal"]);
    assert!(eventually(|| lab.processes(&node, NAME).is_empty()), "its old copy is still there");
    lab.wait_for_more(50);
    let (places, view) = (places(&lab), lab.view(NAME));
    assert_eq!(places.len(), 2, "it went on where it had been before: {places:?}");
    assert!(view.node.as_str() != node && view.epoch.0 == 2, "{view:?}");
    lab.assert_clean();
}

/// A second agent on the lab's only node, which joins; it runs until this is dropped.
struct Company(Child);

impl Company {
    fn comes_to(lab: &Lab) -> Company {
        let node = lab.node("node1");
        let (place, address) = (lab.place().join("company"), node["address"].as_str().unwrap().to_owned());
        std::fs::create_dir(&place).unwrap();
        let mut command = lab.command(["lab", "exec", "node1", "--"]);
        command.arg(binaries().join("migrate-agent")).args(["--node", "company", "--join", &address]);
        command.args(["--listen", &address.replace(":7700", ":7800")]);
        command.args(["--cgroup", &format!("migrate-lab-{}/company", lab.status()["id"].as_str().unwrap())]);
        for (flag, file) in [("--state", "state"), ("--run", "run"), ("--socket", "agent.sock")] {
            command.arg(flag).arg(place.join(file));
        }
        command.arg("--key").arg(lab.directory().join("node1").join("cluster.key"));
        Company(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Company {
    fn drop(&mut self) {
        // `lab exec` waits for what it has started, which is its only child.
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        for pid in std::fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            let _ = kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

#[test]
fn what_runs_without_end_on_a_node_alone_obeys_a_lease_as_soon_as_there_is_company() {
    let lab = Lab::up_as(&["--cluster", "--nodes", "1"], &[]);
    let node = lab.shine_on("node1", &[]);
    let stopped = Stopped::stop(lab.agent(&node));
    // Longer than any lease.
    let (since, lease) = (now_ms(), LEASE_MS);
    assert!(
        eventually(|| lab.seen().last().unwrap().at > since + 2.0 * lease),
        "it was frozen, and nobody else is there"
    );
    drop(stopped);
    let company = Company::comes_to(&lab);
    let binds =
        || std::fs::read_to_string(lab.directory().join(&node).join("agent.log")).unwrap().contains("finite=true");
    assert!(eventually(binds), "it did not open a session that ends");
    lab.wait_for_more(200);
    assert!(lab.happened(&node, "frozen").is_empty(), "it was disturbed: {:?}", lab.happened(&node, "frozen"));
    let stopped = Stopped::stop(lab.agent(&node));
    let since = now_ms();
    // It is not seen for half a lease: it stands still.
    let still = || now_ms() - lab.seen().last().unwrap().at > LEASE_MS / 2.0;
    assert!(eventually(still), "it runs on without a lease");
    stood_still(&lab, since);
    drop(stopped);
    lab.wait_for_more(3);
    assert_one_copy_went_on(&lab);
    drop(company);
    lab.assert_clean();
}
