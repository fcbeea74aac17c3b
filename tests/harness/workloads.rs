//! Starting, moving and watching workloads in a lab.

use std::ffi::OsStr;

use migrate_proto::api::{CheckReport, CheckpointView, Event, MoveReport, Outcome, State, Verdict, WorkloadView};

use super::progress::{Follower, Progress};
use super::{Lab, Output, PROGRAMS, SCRIPTS, binaries, eventually};

/// Cycles that a workload has to get through before its first move and after each.
const SOME: u64 = 5;

impl Lab {
    /// What happened, as a node has it; oldest first.
    pub(crate) fn events_of(&self, by: &str) -> Vec<Event> {
        let lines = self.done(["--json", "--node", by, "events"]).stdout;
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Takes a checkpoint.
    pub(crate) fn checkpoint(&self, name: &str) -> CheckpointView {
        serde_json::from_value(self.done(["--json", "checkpoint", name]).json()).unwrap()
    }

    /// What there is of a workload.
    pub(crate) fn checkpoints(&self, name: &str) -> Vec<CheckpointView> {
        serde_json::from_value(self.done(["--json", "checkpoints", name]).json()).unwrap()
    }

    /// Starts a workload on `node`.
    pub(crate) fn run(&self, name: &str, node: &str, argv: &[&str]) {
        self.run_with(name, node, &[], argv);
    }

    /// The same, with more options of `migrate run`.
    pub(crate) fn run_with(&self, name: &str, node: &str, options: &[&str], argv: &[impl AsRef<OsStr>]) {
        let output = self.try_run(name, node, options, argv);
        assert!(output.status.success(), "run {name}: {output:?}");
    }

    /// The same; it may fail.
    pub(crate) fn try_run(&self, name: &str, node: &str, options: &[&str], argv: &[impl AsRef<OsStr>]) -> Output {
        let programs = format!("{}:{PROGRAMS}:ro", binaries().display());
        let scripts = format!("{}/tests/programs:{SCRIPTS}:ro", env!("CARGO_MANIFEST_DIR"));
        let mut command =
            self.command(["--node", node, "run", "--name", name, "--volume", &programs, "--volume", &scripts]);
        command.args(options).arg("--").args(argv).output().unwrap().into()
    }

    /// Starts a specimen: `["memory", "--mib", "64"]`.
    pub(crate) fn specimen(&self, name: &str, node: &str, words: &[&str]) {
        self.run(name, node, &[&[&*format!("{PROGRAMS}/specimen")], words].concat());
    }

    /// Moves it; it must have moved.
    pub(crate) fn force(&self, name: &str, to: &str) -> MoveReport {
        let (output, report) = self.try_force(name, to);
        let moved = report.filter(|report| output.status.success() && report.outcome == Outcome::Moved);
        moved.unwrap_or_else(|| panic!("{name} did not move to {to}: {output:?}"))
    }

    /// Moves it, or not; the report where there is one.
    pub(crate) fn try_force(&self, name: &str, to: &str) -> (Output, Option<MoveReport>) {
        let output = self.migrate(["--json", "--force", name, "--to", to]);
        let report = serde_json::from_str(&output.stdout).ok();
        (output, report)
    }

    /// Would it move? The answer; `None` where the question was refused.
    pub(crate) fn check(&self, name: &str, to: &str) -> (Output, Option<CheckReport>) {
        let output = self.migrate(["--json", "check", name, "--to", to]);
        let report: Option<CheckReport> = serde_json::from_str(&output.stdout).ok();
        if let Some(report) = &report {
            let expected = if report.verdict == Verdict::Yes { 0 } else { 1 };
            assert_eq!(output.code(), expected, "{output:?}");
        }
        (output, report)
    }

    /// `migrate check` says that it would move.
    pub(crate) fn assert_would_move(&self, name: &str, to: &str) -> CheckReport {
        let (output, report) = self.check(name, to);
        let report = report.unwrap_or_else(|| panic!("no report: {output:?}"));
        assert_eq!(report.verdict, Verdict::Yes, "{output:?}");
        assert!(report.predicted_downtime_ms < report.predicted_total_ms, "{output:?}");
        report
    }

    /// Moves it from node1, where it was started, to node2, node3 and back; `migrate check` says before that it would move. After every move it is on its new node, in one
    /// copy, under the next epoch, and goes on from the `ok` it had reached; `check` may ask more.
    pub(crate) fn carry_around(&self, name: &str, mut check: impl FnMut()) {
        let mut reached = self.wait_for_more_ok(name, SOME);
        self.assert_would_move(name, "node2");
        for (from, to, epoch) in [("node1", "node2", 2), ("node2", "node3", 3), ("node3", "node1", 4)] {
            let report = self.force(name, to);
            assert_eq!((report.from.as_str(), report.epoch.0), (from, epoch), "{report:?}");
            self.assert_runs_only_on(name, to);
            let now = self.wait_for_more_ok(name, SOME);
            assert!(now >= reached + SOME, "ok {reached} before the move to {to}, ok {now} after it");
            check();
            reached = now;
        }
        assert_eq!(self.view(name).epoch.0, 4);
    }

    /// What runs where, as all nodes say.
    pub(crate) fn ps(&self) -> Vec<WorkloadView> {
        serde_json::from_value(self.done(["--json", "ps"]).json()).unwrap()
    }

    /// The one workload of that name.
    pub(crate) fn view(&self, name: &str) -> WorkloadView {
        let mut views: Vec<_> = self.ps().into_iter().filter(|view| view.name.as_str() == name).collect();
        assert_eq!(views.len(), 1, "{name} must be there once: {views:?}");
        views.remove(0)
    }

    /// Everything it has printed on stdout.
    pub(crate) fn logs(&self, name: &str) -> String {
        self.done(["logs", name]).stdout
    }

    /// Waits until it has printed `more` further `ok` lines, each number one higher than the one before, and no `BAD`. The
    /// last number.
    pub(crate) fn wait_for_more_ok(&self, name: &str, more: u64) -> u64 {
        let begun = Progress::of(&self.logs(name)).last();
        let mut follower = Follower::start(self.command(["logs", "--follow", name]));
        let reached = follower.until(|progress| progress.last() >= begun + more);
        reached.unwrap_or_else(|why| panic!("{name} did not get from ok {begun} to ok {}: {why}", begun + more))
    }

    /// Waits for its log to have a line that begins with `beginning`; that line.
    pub(crate) fn wait_for_line(&self, name: &str, beginning: &str) -> String {
        let mut follower = Follower::start(self.command(["logs", "--follow", name]));
        let line = follower.line(|line| line.starts_with(beginning));
        line.unwrap_or_else(|why| panic!("{name} did not print a line '{beginning}…': {why}"))
    }

    /// Runs a command in its sandbox; it must succeed. What that printed.
    pub(crate) fn exec(&self, name: &str, argv: &[&str]) -> String {
        self.done([&["exec", name, "--"], argv].concat()).stdout
    }

    /// All it has printed since its start is `ok 1`, `ok 2`, … without a gap, and no `BAD`. The last number.
    pub(crate) fn assert_intact(&self, name: &str) -> u64 {
        Progress::of(&self.logs(name)).last()
    }

    /// It runs on `node`, as the lab says and as the machine's processes show, and nowhere else.
    pub(crate) fn assert_runs_only_on(&self, name: &str, node: &str) {
        let view = self.view(name);
        assert_eq!((view.node.as_str(), view.state), (node, State::Running), "{view:?}");
        for other in self.node_names() {
            let is_there = || !self.processes(&other, name).is_empty();
            let is_right = if other == node { is_there() } else { eventually(|| !is_there()) };
            assert!(is_right, "{name} runs on {node}; on {other} are processes {:?}", self.processes(&other, name));
        }
    }

    fn node_names(&self) -> Vec<String> {
        let status = self.status();
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect()
    }
}
