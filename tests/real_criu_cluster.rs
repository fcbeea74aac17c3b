//! A cluster that finds its members, in a lab: who is there, who is suspected, dead, gone and back; who may not come in; and that
//! workloads move between members as they do between peers.

#![allow(clippy::unwrap_used)]

mod harness;

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use harness::{Lab, Output, binaries, eventually};
use migrate_proto::api::{Event, NodeState, NodeView, State};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a suspected node has to contradict, by default.
const SUSPICION_MS: u64 = 2000;

fn cluster(nodes: u8) -> Lab {
    let lab = Lab::up_as(&["--cluster", "--nodes", &nodes.to_string()], &[]);
    let all: Vec<String> = (1..=nodes).map(|number| format!("node{number}")).collect();
    for node in &all {
        let states = || all.iter().map(|other| lab.state(node, other)).collect::<Vec<_>>();
        assert!(eventually(|| states().iter().all(|state| *state == Some(NodeState::Alive))), "{node}: {:?}", states());
    }
    lab
}

impl Lab {
    /// `migrate nodes`, as this node has it.
    fn nodes(&self, asked: &str) -> Vec<NodeView> {
        serde_json::from_value(self.done(["--json", "--node", asked, "nodes"]).json()).unwrap()
    }

    /// How a node seems to be to another.
    fn state(&self, asked: &str, about: &str) -> Option<NodeState> {
        self.nodes(asked).into_iter().find(|view| view.name.as_str() == about).map(|view| view.state)
    }

    /// What a node has seen, of one kind, about one node; oldest first.
    fn seen(&self, by: &str, kind: &str, about: &str) -> Vec<Event> {
        let events = self.events_of(by).into_iter();
        let fits = |event: &Event| event.node.as_str() == by && event.kind == kind && event.message.contains(about);
        events.filter(fits).collect()
    }

    /// A further agent on a node, beside the lab's own: what it needs, apart.
    fn stranger(&self, on: &str, name: &str, key: &Path) -> Stranger {
        let place = self.place().join(format!("{name}-on-{on}"));
        std::fs::create_dir(&place).unwrap();
        let address =
            self.status()["nodes"].as_array().unwrap().iter().find(|node| node["name"] == on).unwrap()["address"]
                .as_str()
                .unwrap()
                .replace(":7700", ":7800");
        let mut command = self.command(["lab", "exec", on, "--"]);
        command.arg(binaries().join("migrate-agent"));
        // Below the lab's own, with which it goes.
        let cgroup = format!("migrate-lab-{}/stranger-{name}", self.status()["id"].as_str().unwrap());
        command.args(["--node", name, "--listen", &address, "--cgroup", &cgroup]);
        for (flag, file) in [("--state", "state"), ("--run", "run"), ("--socket", "agent.sock")] {
            command.arg(flag).arg(place.join(file));
        }
        command.arg("--key").arg(key);
        Stranger { command, socket: place.join("agent.sock") }
    }
}

/// An agent that is not one of the lab's.
struct Stranger {
    command: Command,
    socket: std::path::PathBuf,
}

/// It runs until this is dropped.
struct Running(Child);

impl Stranger {
    fn join(mut self, address: &str) -> Stranger {
        self.command.args(["--join", address]);
        self
    }

    fn start(&mut self) -> Running {
        Running(self.command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // `lab exec` waits for what it has started, which is its only child.
        let children = format!("/proc/{0}/task/{0}/children", self.0.id());
        for pid in std::fs::read_to_string(children).unwrap_or_default().split_whitespace() {
            let _ = kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGTERM);
        }
        let _ = self.0.wait();
    }
}

fn ms(event: &Event) -> u64 {
    let (date, time) = event.at.split_once('T').unwrap();
    let days: u64 = date.rsplit('-').next().unwrap().parse().unwrap();
    let time = time.trim_end_matches('Z');
    let mut parts = time.split([':', '.']).map(|part| part.parse::<u64>().unwrap());
    let mut next = || parts.next().unwrap();
    (((days * 24 + next()) * 60 + next()) * 60 + next()) * 1000 + next()
}

#[test]
fn a_node_without_power_is_suspected_then_dead_and_comes_back_in_another_life() {
    let lab = cluster(3);
    for view in lab.nodes("node1") {
        assert!(view.memory_total_bytes > Some(0) && view.agent_version.is_some(), "{view:?}");
    }
    let lives = |lab: &Lab| lab.seen("node1", "node-joined", "node3 is there").len();
    assert_eq!(lives(&lab), 1);
    lab.done(["lab", "kill", "node3"]);
    for node in ["node1", "node2"] {
        assert!(eventually(|| lab.state(node, "node3") == Some(NodeState::Dead)), "{:?}", lab.nodes(node));
        // How full it was is known all the same.
        let dead = lab.nodes(node).into_iter().find(|view| view.name.as_str() == "node3").unwrap();
        assert!(dead.memory_total_bytes > Some(0), "{dead:?}");
    }
    let died = &lab.seen("node1", "node-dead", "node3")[0];
    let suspected = lab.seen("node1", "node-suspect", "node3");
    let suspected = suspected.iter().rfind(|event| event.at <= died.at).unwrap();
    let had = ms(died) - ms(suspected);
    // Not before it had its time to contradict. A node that hears of a suspicion from another counts from then.
    assert!(had >= SUSPICION_MS * 9 / 10, "it had {had} ms");
    eprintln!("node3 was dead {had} ms after it was suspected");
    lab.done(["lab", "start", "node3"]);
    for node in ["node1", "node2", "node3"] {
        assert!(
            eventually(|| lab.nodes(node).iter().all(|view| view.state == NodeState::Alive)),
            "{:?}",
            lab.nodes(node)
        );
    }
    let joined = lab.seen("node1", "node-joined", "node3 is there");
    let generation = |event: &Event| event.message.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    assert!(joined.len() >= 2 && generation(&joined[0]) < generation(&joined[joined.len() - 1]), "{joined:?}");
    lab.assert_clean();
}

#[test]
fn a_node_that_says_goodbye_has_left_and_is_not_taken_for_dead() {
    let lab = cluster(3);
    let first = lab.status()["nodes"][1]["pid"].as_i64().unwrap();
    // The node is shut down: its PID 1 passes it on to the agent.
    kill(Pid::from_raw(first as i32), Signal::SIGTERM).unwrap();
    for node in ["node1", "node3"] {
        assert!(eventually(|| lab.state(node, "node2") == Some(NodeState::Left)), "{:?}", lab.nodes(node));
        assert!(lab.seen(node, "node-dead", "node2").is_empty());
        assert_eq!(lab.seen(node, "node-left", "node2").len(), 1);
    }
    let refused = lab.migrate(["--node", "node1", "run", "--on", "node2", "--", "true"]);
    assert!(refused.stderr.contains("node2 has left"), "{refused:?}");
    assert!(eventually(|| lab.status()["nodes"][1]["state"] == "off"));
    lab.done(["lab", "start", "node2"]);
    assert!(eventually(|| lab.state("node1", "node2") == Some(NodeState::Alive)), "{:?}", lab.nodes("node1"));
    lab.assert_clean();
}

#[test]
fn a_name_that_is_taken_is_refused_and_its_owner_not_disturbed() {
    let lab = cluster(2);
    let key = lab.directory().join("node2").join("cluster.key");
    let mut second = lab.stranger("node2", "node1", &key).join("10.77.0.2:7700");
    second.command.args(["--swim-suspicion", "1500ms"]);
    let refused = Output::from(second.command.output().unwrap());
    assert_eq!(refused.code(), 2, "{refused:?}");
    assert!(refused.stderr.contains("there is a node node1 in the cluster already, at 10.77.0.1:7700"), "{refused:?}");
    assert!(refused.stderr.contains("hint: give this one another name"), "{refused:?}");
    assert!(lab.seen("node2", "node-suspect", "node1").is_empty());
    assert_eq!(lab.seen("node2", "node-joined", "node1 is there").len(), 1);
    lab.assert_clean();
}

#[test]
fn one_joins_through_any_member_and_not_with_another_key() {
    let lab = cluster(2);
    let key = lab.directory().join("node2").join("cluster.key");
    let mut third = lab.stranger("node2", "third", &key).join("10.77.0.2:7700");
    let running = third.start();
    for node in ["node1", "node2"] {
        assert!(eventually(|| lab.state(node, "third") == Some(NodeState::Alive)), "{:?}", lab.nodes(node));
    }
    drop(running);
    assert!(eventually(|| lab.state("node1", "third") == Some(NodeState::Left)), "{:?}", lab.nodes("node1"));

    let foreign = lab.place().join("foreign.key");
    lab.done([Path::new("key"), Path::new("new"), &foreign]);
    let mut stranger = lab.stranger("node1", "stranger", &foreign).join("10.77.0.2:7700");
    let running = stranger.start();
    let shown = || lab.seen("node2", "warning", "another cluster's key came from 10.77.0.1");
    assert!(eventually(|| !shown().is_empty()));
    let told = || {
        let events = lab.command(["--socket"]).arg(&stranger.socket).arg("events").output().unwrap();
        String::from_utf8_lossy(&events.stdout).contains("10.77.0.2:7700 is not of this cluster")
    };
    assert!(eventually(told));
    assert_eq!(lab.state("node2", "stranger"), None);
    drop(running);
    lab.assert_clean();
}

#[test]
fn workloads_move_between_members() {
    let lab = cluster(3);
    lab.specimen("traveller", "node1", &["demo", "--mib", "8"]);
    lab.carry_around("traveller", || ());
    // Without a target: one that lives is chosen.
    lab.done(["lab", "kill", "node3"]);
    assert!(eventually(|| lab.state("node1", "node3") == Some(NodeState::Dead)));
    let report = lab.done(["--json", "--force", "traveller"]).json();
    assert_eq!(report["to"], "node2", "{report}");
    lab.wait_for_more_ok("traveller", 3);
    assert_eq!(lab.view("traveller").state, State::Running);
    lab.assert_clean();
}

/// Who leads, where these nodes agree about it.
fn leader(lab: &Lab, asked: &[&str]) -> Option<String> {
    let leads = |node: &&str| lab.nodes(node).into_iter().find(|view| view.leader).map(|view| view.name.to_string());
    let said: Vec<Option<String>> = asked.iter().map(leads).collect();
    said.iter().all(|one| *one == said[0]).then(|| said[0].clone()).flatten()
}

#[test]
fn another_leads_when_the_leader_has_died_and_no_workload_notices() {
    let lab = cluster(3);
    let all = ["node1", "node2", "node3"];
    assert!(eventually(|| leader(&lab, &all).is_some()), "{:?}", lab.nodes("node1"));
    let voters = |node: &str| lab.nodes(node).iter().filter(|view| view.voter).count();
    // Voters are not changed sooner than ten seconds after the last change.
    assert!(eventually(|| all.iter().all(|node| voters(node) == 3)), "{:?}", lab.nodes("node1"));
    let old = leader(&lab, &all).unwrap();
    let others: Vec<&str> = all.into_iter().filter(|node| *node != old).collect();
    for node in &others {
        lab.specimen(&format!("on-{node}"), node, &["counter"]);
        lab.wait_for_more_ok(&format!("on-{node}"), 2);
    }
    let pids: Vec<_> = others.iter().map(|node| lab.view(&format!("on-{node}")).pid).collect();
    lab.done(["lab", "kill", &old]);
    let killed = Instant::now();
    assert!(eventually(|| leader(&lab, &others).is_some_and(|new| new != old)), "{:?}", lab.nodes(others[0]));
    eprintln!(
        "another leads {} ms after the leader lost its power, as seen from outside",
        killed.elapsed().as_millis()
    );
    for (node, pid) in others.iter().zip(pids) {
        let name = format!("on-{node}");
        lab.wait_for_more_ok(&name, 2);
        lab.assert_intact(&name);
        assert_eq!(lab.view(&name).pid, pid);
    }
    // The one that was away does not lead when it comes back, and follows.
    let new = leader(&lab, &others).unwrap();
    lab.done(["lab", "start", &old]);
    assert!(eventually(|| leader(&lab, &all).as_ref() == Some(&new)), "{:?}", lab.nodes(&old));
    lab.assert_clean();
}

#[test]
fn of_two_nodes_of_one_name_that_meet_after_a_partition_the_newer_ends() {
    let lab = cluster(3);
    assert!(eventually(|| leader(&lab, &["node1", "node2"]).is_some()));
    lab.done(["lab", "cut", "node3"]);
    assert!(eventually(|| lab.state("node3", "node2") == Some(NodeState::Dead)), "{:?}", lab.nodes("node3"));
    // To node3 the name is free.
    let key = lab.directory().join("node3").join("cluster.key");
    let mut second = lab.stranger("node3", "node2", &key).join("10.77.0.3:7700");
    let mut running = Running(second.command.spawn().unwrap());
    let came = || lab.seen("node3", "node-joined", "node2 is there, at 10.77.0.3:7800");
    assert!(eventually(|| !came().is_empty()));
    lab.done(["lab", "heal"]);
    assert!(eventually(|| running.0.try_wait().unwrap().is_some()));
    let ended = running.0.wait().unwrap();
    let mut said = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(ended.code(), Some(2), "{said}");
    assert!(said.contains("there is another node node2 in the cluster, which was there before"), "{said}");
    assert!(eventually(|| !lab.seen("node1", "warning", "two nodes are named node2").is_empty()));
    let at_home = || {
        lab.nodes("node1").into_iter().any(|view| view.address == "10.77.0.2:7700" && view.state == NodeState::Alive)
    };
    assert!(eventually(at_home), "{:?}", lab.nodes("node1"));
    lab.assert_clean();
}

#[test]
fn a_damaged_store_is_said_and_the_node_goes_on() {
    let lab = cluster(3);
    assert!(eventually(|| leader(&lab, &["node1", "node2", "node3"]).is_some()));
    lab.specimen("count", "node3", &["counter"]);
    let store = lab.directory().join("node3/state/cluster/record.redb");
    assert!(store.exists());
    lab.done([
        "lab",
        "exec",
        "node3",
        "--",
        "dd",
        "if=/dev/urandom",
        &format!("of={}", store.display()),
        "bs=64k",
        "count=4",
    ]);
    lab.done(["lab", "crash", "node3"]);
    let said = || lab.seen("node3", "warning", "does not keep the cluster's record");
    assert!(
        eventually(|| lab.state("node1", "node3") == Some(NodeState::Alive) && !said().is_empty()),
        "{:?}",
        lab.nodes("node1")
    );
    assert!(said()[0].message.contains("record.redb"), "{:?}", said());
    lab.wait_for_more_ok("count", 3);
    assert!(leader(&lab, &["node1", "node2"]).is_some());
    lab.assert_clean();
}
