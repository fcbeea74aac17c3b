//! A cluster's key is replaced on three nodes, one by one, while a workload moves around; at the end the old one is of no use.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Lab, Output, eventually};

const NODES: [&str; 3] = ["node1", "node2", "node3"];

fn file(lab: &Lab, node: &str) -> PathBuf {
    lab.directory().join(node).join("cluster.key")
}

/// `migrate key rotate` on a node, with these words.
fn rotate(lab: &Lab, node: &str, words: &[&str]) -> Output {
    let file = file(lab, node);
    let words = [&["--json", "--node", node, "key", "rotate"], words, &[file.to_str().unwrap()]].concat();
    lab.migrate(words)
}

fn rotated(lab: &Lab, node: &str, words: &[&str]) -> Vec<String> {
    let output = rotate(lab, node, words);
    assert_eq!(output.code(), 0, "{words:?} on {node}: {output:?}");
    serde_json::from_value(output.json()["keys"].clone()).unwrap()
}

/// The keys that are in force on a node, as it says itself.
fn in_force(lab: &Lab, node: &str) -> Vec<String> {
    let nodes = lab.done(["--node", node, "--json", "nodes"]).json();
    let own = nodes.as_array().unwrap().iter().find(|view| view["name"] == node).unwrap();
    serde_json::from_value(own["keys"].clone()).unwrap()
}

/// Every node is heard by every other.
fn assert_all_hear_each_other(lab: &Lab) {
    for node in NODES {
        let nodes = lab.done(["--node", node, "--json", "nodes"]).json();
        let alive = |view: &Value| view["state"] == "alive";
        assert!(nodes.as_array().unwrap().iter().all(alive), "as {node} sees it: {nodes}");
    }
}

/// A workload that has moved on after every step, and where it is.
struct Traveller<'a> {
    lab: &'a Lab,
    at: usize,
}

impl Traveller<'_> {
    fn moves_on(&mut self) {
        assert_all_hear_each_other(self.lab);
        let reached = self.lab.assert_intact("traveller");
        self.at = (self.at + 1) % NODES.len();
        self.lab.force("traveller", NODES[self.at]);
        self.lab.assert_runs_only_on("traveller", NODES[self.at]);
        assert!(self.lab.wait_for_more_ok("traveller", 2) > reached);
    }
}

#[test]
fn a_key_is_replaced_while_a_workload_moves_around() {
    let lab = Lab::up(3);
    lab.specimen("traveller", "node1", &["counter"]);
    let mut traveller = Traveller { lab: &lab, at: 0 };
    fs::copy(file(&lab, "node3"), lab.place().join("old")).unwrap();
    let keys = rotated(&lab, "node1", &["--add"]);
    let [old, new] = &keys[..] else { panic!("{keys:?}") };
    traveller.moves_on();
    let too_early = rotate(&lab, "node1", &["--promote", new]);
    assert_eq!(too_early.code(), 1, "{too_early:?}");
    assert!(too_early.stderr.contains("node2, node3") && too_early.stderr.contains("hint: copy"), "{too_early:?}");
    for node in ["node2", "node3"] {
        // As scp or a person would; the agent finds out by itself.
        fs::copy(file(&lab, "node1"), file(&lab, node)).unwrap();
        assert!(eventually(|| in_force(&lab, node) == keys), "{node} has {:?}", in_force(&lab, node));
        traveller.moves_on();
    }
    for (number, node) in NODES.iter().enumerate() {
        assert_eq!(rotated(&lab, node, &["--promote", new]), [new.as_str(), old]);
        traveller.moves_on();
        if number < NODES.len() - 1 {
            let too_early = rotate(&lab, node, &["--retire", old]);
            assert_eq!(too_early.code(), 1, "{too_early:?}");
            assert!(too_early.stderr.contains("still prove themselves"), "{too_early:?}");
        }
    }
    for node in NODES {
        assert_eq!(rotated(&lab, node, &["--retire", old]), [new.as_str()]);
        traveller.moves_on();
    }
    assert_the_old_key_is_useless(&lab);
    lab.assert_clean();
}

/// A node that still has only the old key hears nobody, and nobody hears it; with the new one it is back.
fn assert_the_old_key_is_useless(lab: &Lab) {
    let current = fs::read(file(lab, "node3")).unwrap();
    lab.done(["lab", "kill", "node3"]);
    fs::copy(lab.place().join("old"), file(lab, "node3")).unwrap();
    lab.done(["lab", "start", "node3"]);
    for (node, others) in [("node3", ["node1", "node2"]), ("node1", ["node3", "node3"])] {
        let nodes = lab.done(["--node", node, "--json", "nodes"]).json();
        for view in nodes.as_array().unwrap().iter().filter(|view| others.iter().any(|other| view["name"] == *other)) {
            assert_eq!(view["state"], "suspect", "{node} must not hear {}: {nodes}", view["name"]);
        }
    }
    fs::write(file(lab, "node3"), current).unwrap();
    assert!(eventually(|| in_force(lab, "node3") == in_force(lab, "node1")));
    assert_all_hear_each_other(lab);
}

/// What cannot be used changes nothing, is said, and is not repeated.
#[test]
fn a_key_file_that_cannot_be_used_changes_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::up(2);
    let (key, keys) = (file(&lab, "node1"), in_force(&lab, "node1"));
    let good = fs::read(&key).unwrap();
    let secret = "5ec4e75ec4e7";
    let spoilt: [(&str, &dyn Fn()); 3] = [
        ("not 64 hexadecimal digits", &|| fs::write(&key, secret).unwrap()),
        ("mode 0644", &|| {
            fs::write(&key, &good).unwrap();
            fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        }),
        ("is gone", &|| fs::remove_file(&key).unwrap()),
    ];
    for (said, spoil) in spoilt {
        spoil();
        assert!(eventually(|| lab.done(["--node", "node1", "events"]).stdout.contains(said)), "{said}");
        assert_eq!(in_force(&lab, "node1"), keys);
    }
    for node in ["node1", "node2"] {
        let log = fs::read(lab.directory().join(node).join("agent.log")).unwrap();
        let told = [log, fs::read(lab.directory().join(node).join("state/events.ndjson")).unwrap_or_default()].concat();
        for word in [secret, std::str::from_utf8(&good[..12]).unwrap()] {
            assert!(!told.windows(word.len()).any(|part| part == word.as_bytes()), "{node} repeats {word}");
        }
    }
    lab.assert_clean();
}
