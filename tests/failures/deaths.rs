//! Agents and nodes that die on the way. Before the commit the workload goes on where it was; from then on it may also
//! have arrived. Never does it run twice, and always can it be moved afterwards.

use migrate_proto::api::{Outcome, State, WorkloadView};
use migrate_proto::phase::Phase;

use crate::harness::{Lab, eventually};
use crate::stage::{BULKY, Watched};

/// What dies.
#[derive(Clone, Copy, PartialEq)]
enum Death {
    SourceAgent,
    TargetAgent,
    TargetNode,
}

/// The phases in which bytes move over a narrow link: a death in one of them is certainly before its end.
fn is_long(phase: Phase) -> bool {
    matches!(phase, Phase::Prepare | Phase::Transfer)
}

fn dies(death: Death, phase: Phase) {
    let lab = Lab::up(2);
    lab.specimen("bulk", "node1", BULKY);
    lab.wait_for_more_ok("bulk", 2);
    if phase == Phase::Prepare {
        lab.give_files("bulk");
    }
    let before = lab.view("bulk");
    if is_long(phase) {
        lab.narrow("node2");
    }
    let mut watched = Watched::begin(&lab, "node1", "bulk", "node2");
    watched.until(phase);
    let words = match death {
        Death::SourceAgent => ["lab", "crash", "node1"],
        Death::TargetAgent => ["lab", "crash", "node2"],
        Death::TargetNode => ["lab", "kill", "node2"],
    };
    lab.done(words);
    let report = watched.report();
    lab.done(["lab", "heal"]);
    if death == Death::TargetNode {
        lab.done(["lab", "start", "node2"]);
    }
    if let Some(report) = &report {
        assert_ne!(report.outcome, Outcome::Unknown, "{report:?}");
        let has_reason = report.error.as_ref().is_some_and(|error| error.message.contains("node1"));
        assert!(report.outcome == Outcome::Moved || has_reason, "it does not say where the workload is: {report:?}");
    }
    let node = settled(&lab, "bulk");
    if is_long(phase) {
        assert_eq!(node, "node1", "a failure during {phase} goes back");
    }
    if let Some(report) = report {
        let expected = if report.outcome == Outcome::Moved { "node2" } else { "node1" };
        assert_eq!(node, expected, "{report:?}");
    }
    let after = lab.view("bulk");
    if node == "node1" {
        assert_eq!((after.pid, after.epoch), (before.pid, before.epoch), "it was never to be touched");
    } else {
        assert_eq!(after.epoch, before.epoch.next());
    }
    lab.assert_goes_on("bulk", &node);
    // What was left of the attempt is out of the way.
    let to = if node == "node1" { "node2" } else { "node1" };
    assert!(eventually(|| lab.migrate(["--force", "bulk", "--to", to]).status.success()), "it does not move any more");
    lab.assert_goes_on("bulk", to);
    lab.assert_clean();
}

/// Waits until the workload runs, on one node only, and all agents are back; where that is.
pub(crate) fn settled(lab: &Lab, name: &str) -> String {
    let runs = || {
        let all_answer =
            |nodes: &serde_json::Value| nodes.as_array().unwrap().iter().all(|node| node["state"] == "alive");
        let (nodes, listed) = (lab.migrate(["--json", "nodes"]), lab.migrate(["--json", "ps", name]));
        // For a moment there may be no agent that answers.
        if !nodes.status.success() || !listed.status.success() || !all_answer(&nodes.json()) {
            return false;
        }
        let views: Vec<WorkloadView> = serde_json::from_value(listed.json()).unwrap();
        views.len() == 1 && views[0].state == State::Running
    };
    assert!(eventually(runs), "{name} is in doubt: {:?}", lab.migrate(["ps"]));
    lab.view(name).node.to_string()
}

macro_rules! deaths {
    ($($test:ident: $death:ident $phase:ident;)+) => {$(
        #[test]
        fn $test() {
            dies(Death::$death, Phase::$phase);
        }
    )+};
}

deaths! {
    target_agent_dies_in_negotiate: TargetAgent Negotiate;
    target_agent_dies_in_preflight: TargetAgent Preflight;
    target_agent_dies_in_prepare: TargetAgent Prepare;
    target_agent_dies_in_freeze: TargetAgent Freeze;
    target_agent_dies_in_transfer: TargetAgent Transfer;
    target_agent_dies_in_verify: TargetAgent Verify;
    target_agent_dies_in_restore: TargetAgent Restore;
    target_agent_dies_in_commit: TargetAgent Commit;
    target_agent_dies_in_resume: TargetAgent Resume;
    target_node_dies_in_prepare: TargetNode Prepare;
    target_node_dies_in_transfer: TargetNode Transfer;
    source_agent_dies_in_negotiate: SourceAgent Negotiate;
    source_agent_dies_in_preflight: SourceAgent Preflight;
    source_agent_dies_in_prepare: SourceAgent Prepare;
    source_agent_dies_in_freeze: SourceAgent Freeze;
    source_agent_dies_in_transfer: SourceAgent Transfer;
    source_agent_dies_in_verify: SourceAgent Verify;
    source_agent_dies_in_restore: SourceAgent Restore;
    source_agent_dies_in_commit: SourceAgent Commit;
    source_agent_dies_in_resume: SourceAgent Resume;
}

/// Both at once: nobody is left who knows, except what is written down.
#[test]
fn both_agents_die_in_transfer() {
    let lab = Lab::up(2);
    lab.specimen("bulk", "node1", BULKY);
    lab.wait_for_more_ok("bulk", 2);
    lab.narrow("node2");
    let mut watched = Watched::begin(&lab, "node1", "bulk", "node2");
    watched.until_sent(1 << 20);
    lab.done(["lab", "crash", "node1"]);
    lab.done(["lab", "crash", "node2"]);
    assert!(watched.report().is_none());
    lab.done(["lab", "heal"]);
    assert_eq!(settled(&lab, "bulk"), "node1");
    lab.assert_goes_on("bulk", "node1");
    lab.assert_clean();
}

/// An agent that dies between removing what a move had written down and removing its decision leaves the latter.
#[test]
fn a_decision_whose_move_is_over_does_not_stay() {
    let lab = Lab::up(1);
    lab.specimen("count", "node1", &["counter"]);
    lab.wait_for_more_ok("count", 1);
    let decision = lab.directory().join("node1/state/workloads/count/dump");
    std::fs::create_dir(&decision).unwrap();
    std::fs::write(decision.join("decision"), "abort\n").unwrap();
    lab.done(["lab", "crash", "node1"]);
    assert!(eventually(|| !decision.exists()), "the next agent left it");
    lab.wait_for_more_ok("count", 1);
    lab.assert_clean();
}
