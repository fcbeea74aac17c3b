//! What is followed goes on: over moves, and over the deaths of the agents that it comes from. Nothing is missing, nothing comes twice.

#![allow(clippy::unwrap_used)]

mod harness;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use harness::{Lab, eventually};
use migrate_proto::api::Event;

/// A command that goes on until it is dropped, and what it has said.
struct Follower {
    child: Child,
    said: PathBuf,
}

impl Follower {
    fn start(lab: &Lab, words: &[&str]) -> Follower {
        let said = lab.place().join(words.join("-").replace('/', "_"));
        let child = lab.command(words).stdout(File::create(&said).unwrap()).stderr(Stdio::null()).spawn().unwrap();
        Follower { child, said }
    }

    /// Whole lines so far.
    fn lines(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.said).unwrap();
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned).collect()
    }

    fn events(&self) -> Vec<Event> {
        self.lines().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn goes_on(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn has(events: &[Event], node: &str, kind: &str, times: usize) -> bool {
    events.iter().filter(|event| event.node.as_str() == node && event.kind == kind).count() == times
}

#[test]
fn events_of_all_nodes_come_once_over_moves_and_deaths_of_agents() {
    let lab = Lab::up(3);
    lab.specimen("traveller", "node2", &["demo", "--mib", "4"]);
    let mut follower = Follower::start(&lab, &["--node", "node1", "--json", "events", "-f"]);
    lab.force("traveller", "node3");
    let both = |times| {
        let events = follower.events();
        has(&events, "node2", "moved", times) && has(&events, "node3", "arrived", times)
    };
    assert!(eventually(|| both(1)), "{:?}", follower.lines());

    // The agent that is asked dies, and one that it asks.
    for node in ["node1", "node3"] {
        lab.done(["lab", "crash", node]);
    }
    lab.force("traveller", "node2");
    lab.force("traveller", "node3");
    assert!(eventually(|| both(2)), "{:?}", follower.lines());
    assert!(follower.goes_on());

    // Each event that any node remembers came exactly once, in the node's order.
    let remembered: Vec<Event> =
        lab.done(["--json", "events"]).stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |events: &[Event]| -> BTreeMap<String, Vec<u64>> {
        let mut numbers = BTreeMap::<String, Vec<u64>>::new();
        for event in events {
            numbers.entry(event.node.to_string()).or_default().push(event.number);
        }
        numbers
    };
    let remembered = of(&remembered);
    assert_eq!(remembered.len(), 3);
    let all_came = || {
        let came = of(&follower.events());
        remembered.iter().all(|(node, numbers)| came.get(node).is_some_and(|came| came.starts_with(numbers)))
    };
    assert!(eventually(all_came), "remembered {remembered:?}\ncame {:?}", of(&follower.events()));
    drop(follower);
    lab.assert_clean();
}

#[test]
fn the_log_of_a_workload_comes_whole_over_moves_and_deaths_of_agents() {
    let lab = Lab::up(3);
    lab.specimen("traveller", "node2", &["demo", "--mib", "4"]);
    let mut follower = Follower::start(&lab, &["--node", "node1", "logs", "-f", "traveller"]);
    assert!(eventually(|| follower.lines().len() > 2));
    for (to, dies) in [("node3", "node1"), ("node1", "node3"), ("node2", "node2")] {
        lab.force("traveller", to);
        lab.done(["lab", "crash", dies]);
        let before = follower.lines().len();
        assert!(eventually(|| follower.lines().len() > before + 2), "after {to}: {:?}", follower.lines().last());
    }
    assert!(follower.goes_on());
    lab.done(["stop", "traveller"]);
    assert!(eventually(|| !follower.goes_on()), "it goes on although nothing more will come");
    let whole = lab.done(["logs", "traveller"]).stdout;
    let whole: Vec<&str> = whole.lines().collect();
    assert_eq!(follower.lines(), whole);
    drop(follower);
    lab.assert_clean();
}
