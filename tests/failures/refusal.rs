//! How a refused move looks: to a person on stderr, to a program in JSON. Nothing of the workload changes.

use migrate_proto::api::{CheckReport, Outcome, Reason, Verdict};
use migrate_proto::error::{Code, Problem};
use migrate_proto::message::Severity;
use serde_json::Value;

use crate::harness::{Lab, Output};

/// What a move that does not take place must say.
pub(crate) struct Refusal<'a> {
    /// `error.code` in JSON.
    pub(crate) code: &'a str,
    /// The exit code.
    pub(crate) exit: i32,
    /// What failed, in words.
    pub(crate) says: &'a [&'a str],
    /// What the hint says.
    pub(crate) hint: &'a str,
}

/// `migrate check` has foretold it: for the same reason, or as something that only CRIU can know.
fn agrees(checked: &CheckReport, refusal: &Problem, asked: &Output) {
    match checked.verdict {
        Verdict::Yes => panic!("it said yes: {asked:?}"),
        Verdict::Unlikely => assert!(checked.reasons.iter().any(|reason| reason.severity == Severity::Unlikely)),
        Verdict::No => {
            let why: Vec<&Reason> = checked.reasons.iter().filter(|reason| reason.severity == Severity::No).collect();
            // For how long it was tried to reach a peer is no part of the reason.
            let unreachable = |why: &Reason| refusal.code == Code::PeerDown && why.hint == refusal.hint;
            let is_the_same = |why: &&Reason| refusal.message.contains(&why.what) || unreachable(why);
            assert!(why.iter().any(is_the_same), "'{refusal}' is not among {asked:?}");
            assert!(why.iter().all(|why| !why.hint.is_empty()), "{asked:?}");
        }
    }
}

impl Lab {
    /// `migrate --force NAME --to TO` is refused, to a person and to a program, and the workload runs on at `node`.
    pub(crate) fn assert_stays(&self, name: &str, node: &str, to: &str, expected: &Refusal) {
        let before = self.view(name);
        let (asked, checked) = self.check(name, to);
        let output = self.migrate(["--force", name, "--to", to]);
        assert_eq!(output.status.code(), Some(expected.exit), "{output:?}");
        assert_eq!(output.stdout, "", "{output:?}");
        let (what, rest) = output.stderr.split_once('\n').unwrap_or((&output.stderr, ""));
        assert!(what.starts_with("error: "), "{output:?}");
        for word in expected.says {
            assert!(what.contains(word), "`{word}` is missing: {output:?}");
        }
        assert!(rest.contains(&format!("{name}: stayed on {node} (epoch {})", before.epoch)), "{output:?}");
        let hint = rest.lines().find_map(|line| line.trim_start().strip_prefix("hint: ")).unwrap_or("");
        assert!(!hint.is_empty() && hint.contains(expected.hint), "hint `{}`: {output:?}", expected.hint);

        let (output, report) = self.try_force(name, to);
        let report = report.unwrap_or_else(|| panic!("no report: {output:?}"));
        let error = report.error.unwrap_or_else(|| panic!("no error: {output:?}"));
        assert_eq!((report.outcome, output.status.code()), (Outcome::Stayed, Some(expected.exit)), "{output:?}");
        assert_eq!(serde_json::to_value(error.code).unwrap(), Value::from(expected.code), "{output:?}");
        assert_eq!(report.epoch, before.epoch, "{output:?}");
        match checked {
            // The question itself was wrong.
            None => assert_eq!((asked.code(), expected.exit), (2, 2), "{asked:?}"),
            Some(checked) => agrees(&checked, &error, &asked),
        }

        let after = self.view(name);
        assert_eq!((after.pid, after.epoch), (before.pid, before.epoch), "another process: {after:?}");
        self.assert_goes_on(name, node);
    }

    /// Exactly one copy runs, at `node`, and it goes on counting.
    pub(crate) fn assert_goes_on(&self, name: &str, node: &str) {
        self.assert_runs_only_on(name, node);
        self.wait_for_more_ok(name, 3);
    }
}
