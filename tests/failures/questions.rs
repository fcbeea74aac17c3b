//! Moves that cannot be meant: nothing is asked of any other node, nothing changes.

use migrate_proto::api::Verdict;

use crate::harness::Lab;
use crate::refusal::Refusal;

fn counting() -> Lab {
    let lab = Lab::up(2);
    lab.specimen("count", "node1", &["counter"]);
    lab.wait_for_more_ok("count", 1);
    lab
}

#[test]
fn unknown_workload() {
    let lab = counting();
    for words in [
        &["--force", "nobody", "--to", "node2"][..],
        &["move", "nobody"],
        &["stop", "nobody"],
        &["start", "nobody"],
        &["rm", "-f", "nobody"],
        &["logs", "nobody"],
        &["exec", "nobody", "--", "true"],
        &["ps", "nobody"],
        &["check", "nobody"],
        &["why", "nobody"],
    ] {
        let output = lab.migrate(words);
        assert_eq!(output.code(), 2, "{words:?}: {output:?}");
        assert!(output.stderr.starts_with("error: there is no workload"), "{words:?}: {output:?}");
        assert!(output.stderr.contains("nobody") && output.stderr.contains("hint: "), "{words:?}: {output:?}");
    }
    lab.assert_goes_on("count", "node1");
    lab.assert_clean();
}

/// `--json` says for programs what stderr says for people.
#[test]
fn unknown_workload_in_json() {
    let lab = counting();
    let output = lab.migrate(["--json", "--force", "nobody", "--to", "node2"]);
    assert_eq!(output.code(), 2, "{output:?}");
    assert_eq!(output.json()["error"]["code"], "unknown-workload", "{output:?}");
    lab.assert_clean();
}

#[test]
fn unknown_node() {
    let lab = counting();
    lab.assert_stays(
        "count",
        "node1",
        "node9",
        &Refusal { code: "unknown-node", exit: 2, says: &["there is no node node9"], hint: "node2" },
    );
    lab.assert_clean();
}

#[test]
fn moving_to_itself() {
    let lab = counting();
    lab.assert_stays(
        "count",
        "node1",
        "node1",
        &Refusal { code: "same-node", exit: 2, says: &["count is on node1 already"], hint: "--to" },
    );
    lab.assert_clean();
}

#[test]
fn a_name_that_is_none() {
    let lab = counting();
    for words in [&["--force", "count", "--to", "Node 2"][..], &["--force", "../count", "--to", "node2"]] {
        let output = lab.migrate(words);
        assert_eq!(output.code(), 2, "{output:?}");
        assert!(output.stderr.contains("is not a name"), "{output:?}");
    }
    lab.assert_goes_on("count", "node1");
    lab.assert_clean();
}

#[test]
fn a_name_that_is_taken() {
    let lab = counting();
    // On the same node, and on another one.
    for node in ["node1", "node2"] {
        let output = lab.try_run("count", node, &[], &["/bin/true"]);
        assert_eq!(output.code(), 2, "{output:?}");
        assert!(output.stderr.contains("error: there is a workload count on node1 already"), "{output:?}");
        assert!(output.stderr.contains("hint: "), "{output:?}");
    }
    lab.assert_goes_on("count", "node1");
    lab.assert_clean();
}

/// Two nodes that cannot see each other may both have been given the name; then neither copy can come to the other.
#[test]
fn a_name_that_is_taken_on_the_target() {
    let lab = counting();
    lab.done(["lab", "cut", "node1:node2"]);
    lab.specimen("count", "node2", &["counter"]);
    lab.done(["lab", "heal"]);
    assert_eq!(lab.ps().len(), 2);
    let asked = lab.migrate(["--json", "--node", "node1", "check", "count", "--to", "node2"]);
    assert_eq!((asked.code(), &asked.json()["verdict"]), (1, &"no".into()), "{asked:?}");
    let output = lab.migrate(["--json", "--node", "node1", "--force", "count", "--to", "node2"]);
    assert_eq!(output.code(), 2, "{output:?}");
    assert_eq!(output.json()["error"]["code"], "name-taken", "{output:?}");
    assert!(output.stderr.contains("error: node2 has a workload count of its own"), "{output:?}");
    assert!(output.stderr.contains("hint: "), "{output:?}");
    for node in ["node1", "node2"] {
        assert!(!lab.processes(node, "count").is_empty(), "the copy on {node} is gone");
    }
    lab.assert_clean();
}

#[test]
fn what_does_not_run_does_not_move() {
    let lab = counting();
    lab.done(["stop", "count"]);
    let asked = lab.check("count", "node2").1.unwrap();
    assert_eq!((asked.verdict, asked.predicted_total_ms), (Verdict::No, None), "{asked:?}");
    let output = lab.migrate(["--json", "--force", "count", "--to", "node2"]);
    assert_eq!(output.code(), 1, "{output:?}");
    assert_eq!(output.json()["error"]["code"], "wrong-state", "{output:?}");
    assert!(output.stderr.contains("count does not run on node1"), "{output:?}");
    assert!(output.stderr.contains("hint: `migrate start count` starts it"), "{output:?}");
    lab.assert_clean();
}
