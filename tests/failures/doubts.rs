//! Moves that nobody can settle for a while, because the node that knows is away; and what a person can do about them.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use migrate_proto::api::{Outcome, State, WhyView};
use migrate_proto::error::Code;
use migrate_proto::phase::Phase;
use tempfile::TempDir;

use crate::harness::{Lab, eventually};
use crate::stage::Watched;

/// A lab whose moves can be made to wait.
struct Rehearsal {
    lab: Lab,
    halts: TempDir,
}

impl Rehearsal {
    fn up() -> Rehearsal {
        let halts = tempfile::tempdir().unwrap();
        let environment: [(&str, &OsStr); 2] =
            [("MIGRATE_HALTS", halts.path().as_os_str()), ("MIGRATE_LINK_TIMEOUT", OsStr::new("2s"))];
        Rehearsal { lab: Lab::up_with(2, &environment), halts }
    }

    fn halt(&self, name: &str) -> PathBuf {
        let path = self.halts.path().join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        path
    }

    /// node2 holds `count`, restored; node1, which had it, loses its power.
    fn lose_the_source_before_it_decides(&self) {
        let lab = &self.lab;
        lab.specimen("count", "node1", &["counter"]);
        let halt = self.halt("target-commit");
        let move_ = Watched::begin(lab, "node1", "count", "node2");
        harm(&halt, || drop(lab.done(["lab", "kill", "node1"])));
        assert!(move_.report().is_none(), "its agent is gone");
    }
}

/// Returns when a move waits at the halt; does the harm, then lets it go on.
fn harm(halt: &Path, harm: impl FnOnce()) {
    let held = OpenOptions::new().write(true).open(halt).unwrap();
    std::fs::remove_file(halt).unwrap();
    harm();
    drop(held);
}

/// The source has committed and ended its copy, the target loses its power: what is left are the files, and both say so.
#[test]
fn a_target_that_loses_its_power_after_the_commit_keeps_the_files() {
    let rehearsal = Rehearsal::up();
    let lab = &rehearsal.lab;
    lab.specimen("count", "node1", &["counter"]);
    lab.exec("count", &["sh", "-c", "echo kept > /work/file; sync"]);
    let halt = rehearsal.halt("target-resume-begun");
    let reached = lab.wait_for_more_ok("count", 3);
    let move_ = Watched::begin(lab, "node1", "count", "node2");
    harm(&halt, || drop(lab.done(["lab", "kill", "node2"])));
    // The source waits, and says for whom.
    assert!(eventually(|| lab.view("count").state == State::Frozen), "{:?}", lab.view("count"));
    let why = lab.done(["why", "count"]).stdout;
    assert!(why.contains("node2") && why.contains("rm -f count"), "{why}");
    lab.done(["lab", "start", "node2"]);
    let report = move_.report().unwrap();
    assert_eq!((report.outcome, report.epoch.0), (Outcome::Moved, 2), "it is the target's: {report:?}");
    let error = report.error.expect("it does not run there, and the report has to say so");
    assert_eq!(error.code, Code::Lost, "{error:?}");
    assert!(error.message.contains("node2") && error.hint.contains("migrate start count"), "{error:?}");
    let view = lab.view("count");
    assert_eq!((view.state, view.node.as_str(), view.epoch.0), (State::Lost, "node2", 2), "{view:?}");
    // Its log is one of its files. Nothing will be added to it.
    assert!(lab.assert_intact("count") >= reached, "{}", lab.logs("count"));
    assert_eq!(lab.done(["logs", "-f", "count"]).stdout, lab.logs("count"));
    assert_eq!(lab.view("count").state, State::Lost);
    lab.done(["start", "count"]);
    assert_eq!(lab.exec("count", &["cat", "/work/file"]), "kept\n");
    lab.assert_runs_only_on("count", "node2");
    rehearsal.lab.assert_clean();
}

/// It runs on the target, which has not said so yet: each side has a journal, and who asks either hears of both.
#[test]
fn why_tells_what_is_not_settled_on_either_side() {
    let rehearsal = Rehearsal::up();
    let lab = &rehearsal.lab;
    lab.specimen("count", "node1", &["counter"]);
    let halt = rehearsal.halt("target-clean-up");
    let move_ = Watched::begin(lab, "node1", "count", "node2");
    let mut told = Vec::new();
    let why = |node: &str| -> WhyView {
        serde_json::from_value(lab.done(["--json", "--node", node, "why", "count"]).json()).unwrap()
    };
    harm(&halt, || told.extend(["node1", "node2"].map(why)));
    for view in told {
        let mut sides: Vec<_> = view.unsettled.iter().map(|one| (one.on.as_str(), one.leaves, one.phase)).collect();
        sides.sort_unstable();
        assert_eq!(sides, [("node1", true, Phase::Resume), ("node2", false, Phase::Resume)], "{view:?}");
    }
    let report = move_.report().unwrap();
    assert_eq!((report.outcome, report.error), (Outcome::Moved, None));
    let settled = || why("node2").unsettled.is_empty();
    assert!(eventually(settled), "{:?}", why("node2"));
    lab.assert_runs_only_on("count", "node2");
    rehearsal.lab.assert_clean();
}

/// The source is gone for good while the target holds the workload: a person ends the doubt.
#[test]
fn a_person_removes_what_is_held_for_a_source_that_does_not_come_back() {
    let rehearsal = Rehearsal::up();
    let lab = &rehearsal.lab;
    rehearsal.lose_the_source_before_it_decides();
    let held = || lab.migrate(["--node", "node2", "ps"]).stdout.contains("frozen");
    assert!(eventually(held), "{:?}", lab.migrate(["--node", "node2", "ps"]));
    let why = lab.done(["--node", "node2", "why", "count"]).stdout;
    assert!(why.contains("node1"), "{why}");
    let refused = lab.migrate(["--node", "node2", "start", "count"]);
    assert_eq!(refused.code(), 3, "{refused:?}");
    lab.done(["--node", "node2", "rm", "-f", "count"]);
    assert!(eventually(|| lab.processes("node2", "count").is_empty()));
    lab.done(["lab", "start", "node1"]);
    // It finds a move that was never decided, and then that nothing is left to go on with.
    assert!(eventually(|| lab.view("count").state == State::Lost), "{:?}", lab.view("count"));
    rehearsal.lab.assert_clean();
}

/// A source that comes back with an empty state directory remembers nothing, and must not say that it kept the workload.
#[test]
fn a_source_that_lost_its_state_does_not_answer() {
    let rehearsal = Rehearsal::up();
    let lab = &rehearsal.lab;
    rehearsal.lose_the_source_before_it_decides();
    std::fs::remove_dir_all(lab.directory().join("node1/state/workloads")).unwrap();
    std::fs::remove_file(lab.directory().join("node1/state/mark.json")).unwrap();
    lab.done(["lab", "start", "node1"]);
    let told = || lab.done(["events"]).stdout.contains("has another state directory");
    assert!(eventually(told), "{}", lab.done(["events"]).stdout);
    let view = lab.view("count");
    assert_eq!((view.state, view.node.as_str()), (State::Frozen, "node2"), "the last copy: {view:?}");
    assert!(!lab.processes("node2", "count").is_empty());
    lab.done(["rm", "-f", "count"]);
    rehearsal.lab.assert_clean();
}

/// An agent that finds another state directory than the one that its sandboxes belong to ends nothing.
#[test]
fn an_agent_that_cannot_find_its_records_leaves_what_runs_alone() {
    let lab = Lab::up(1);
    lab.specimen("count", "node1", &["counter"]);
    lab.wait_for_more_ok("count", 1);
    let running = lab.processes("node1", "count");
    let (records, aside) = (lab.directory().join("node1/state/workloads"), lab.directory().join("node1/state/aside"));
    std::fs::rename(&records, &aside).unwrap();
    lab.done(["lab", "crash", "node1"]);
    let told = || lab.migrate(["events"]).stdout.contains("no record in");
    assert!(eventually(told), "{:?}", lab.migrate(["events"]));
    assert_eq!(lab.processes("node1", "count"), running);
    let _ = std::fs::remove_dir(&records);
    std::fs::rename(&aside, &records).unwrap();
    lab.done(["lab", "crash", "node1"]);
    let is_back = || lab.migrate(["ps", "--json"]).stdout.contains("\"running\"");
    assert!(eventually(is_back), "{:?}", lab.migrate(["ps"]));
    lab.wait_for_more_ok("count", 2);
    lab.assert_runs_only_on("count", "node1");
    lab.assert_clean();
}
