//! A workload that is root tries to reach what is not its own.

use std::collections::BTreeSet;
use std::path::Path;

use migrate_proto::api::State;

use crate::harness::{Lab, eventually};

/// Every attempt of `reach.py`: one that is no longer made would prove nothing.
const ATTEMPTS: [&str; 35] = [
    "abstract-socket",
    "agent-socket",
    "block-device",
    "character-device",
    "chroot",
    "control-groups",
    "core-pattern",
    "descriptor-from-init",
    "descriptors-of-init",
    "end-init",
    "environment-of-init",
    "file-by-handle",
    "init-namespace",
    "listed-socket",
    "loop-control",
    "memory-of-init",
    "mount-bind",
    "mount-namespace",
    "mount-new",
    "mount-writable",
    "node-clock",
    "node-memory",
    "other-devices",
    "other-layer",
    "other-name",
    "other-processes",
    "own-init-socket",
    "secret-anywhere",
    "secret-by-link",
    "secret-by-path",
    "shared-memory",
    "trace-init",
    "tree-of-mounts",
    "uncover",
    "user-namespace",
];
/// What it must be able to do, or it would find nothing anyway.
const CONTROLS: [&str; 2] = ["control-file", "control-socket"];

/// The option that shows tests/jail to a workload.
fn jail() -> String {
    format!("{}/tests/jail:/jail:ro", env!("CARGO_MANIFEST_DIR"))
}

/// Runs the intruder on node1, where another workload is, to its end.
fn intrude(lab: &Lab) -> String {
    let own = lab.directory();
    let at = |path: &str| own.join(path).to_str().unwrap().to_owned();
    let secrets = ["node1/cluster.key", "node1/state", "cluster.key", "node2", ""].map(at).join(":") + ":/run/migrate";
    let sockets = at("node1/agent.sock") + ":/run/migrate/agent.sock";
    let argv = ["python3", "/jail/reach.py", &secrets, &sockets, "bystander"];
    lab.run_with("intruder", "node1", &["--volume", &jail()], &argv);
    assert!(eventually(|| lab.view("intruder").state != State::Running));
    lab.logs("intruder")
}

fn names<'a>(log: &'a str, verdict: &str) -> BTreeSet<&'a str> {
    let lines = log.lines().filter_map(|line| line.strip_prefix(verdict));
    lines.filter_map(|rest| rest.split_whitespace().next()).collect()
}

#[test]
fn root_in_a_sandbox_reaches_nothing_that_is_not_its_own() {
    let lab = Lab::up(2);
    lab.specimen("bystander", "node1", &["counter"]);
    let log = intrude(&lab);
    assert!(log.ends_with("end\n"), "{log}");
    assert_eq!(names(&log, "REACHED "), CONTROLS.into(), "{log}");
    assert_eq!(names(&log, "kept "), ATTEMPTS.into(), "{log}");
    // Nothing that it did has touched the other one, or the agent.
    lab.wait_for_more_ok("bystander", 3);
    lab.assert_clean();
}

/// What `reach.py` would find, it finds: the same program outside a sandbox, on the node itself.
#[test]
fn the_intruder_is_no_dud() {
    let lab = Lab::up(1);
    lab.specimen("bystander", "node1", &["counter"]);
    let key = lab.directory().join("node1/cluster.key");
    let socket = lab.directory().join("node1/agent.sock");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jail/reach.py");
    let words = ["lab", "exec", "node1", "--", "python3"].map(Path::new).into_iter();
    let only = ["bystander", "agent-socket,secret-by-path,listed-socket"].map(Path::new);
    let found = lab.done(words.chain([&*program, &*key, &*socket]).chain(only));
    assert_eq!(
        names(&found.stdout, "REACHED "),
        ["agent-socket", "listed-socket", "secret-by-path"].into(),
        "{found:?}"
    );
    lab.assert_clean();
}

/// What is restored on another node comes from CRIU and nobody else, although the socket is within the workload's reach.
#[test]
fn a_workload_does_not_speak_in_criu_s_place() {
    let lab = Lab::up(2);
    lab.run_with("thief", "node1", &["--volume", &jail()], &["python3", "/jail/thief.py"]);
    lab.wait_for_more_ok("thief", 1);
    lab.force("thief", "node2");
    lab.assert_runs_only_on("thief", "node2");
    lab.wait_for_line("thief", "connected");
    lab.wait_for_line("thief", "refused");
    lab.wait_for_more_ok("thief", 1);
    lab.assert_clean();
}
