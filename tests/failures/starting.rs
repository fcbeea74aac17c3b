//! `run` with what cannot be run: the reason is told, and nothing is left of it.

use std::fs;

use crate::harness::{Lab, Output};

/// The command is refused with these words, and no workload is left.
fn assert_refused(lab: &Lab, output: &Output, exit: i32, says: &[&str]) {
    assert_eq!(output.code(), exit, "{output:?}");
    assert!(output.stderr.starts_with("error: ") && output.stderr.contains("hint: "), "{output:?}");
    for word in says {
        assert!(output.stderr.contains(word), "`{word}` is missing: {output:?}");
    }
    assert_eq!(lab.ps(), [], "{output:?}");
}

#[test]
fn a_command_that_cannot_be_executed() {
    let lab = Lab::up(1);
    let own = lab.place().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("plain"), "text").unwrap();
    let volume = format!("{}:/own:ro", own.display());
    for (program, reason) in [
        ("/no/such/program", "No such file"),
        ("no-such-program", "No such file"),
        ("/own/plain", "Permission denied"),
        ("/own", "Permission denied"),
    ] {
        let output = lab.try_run("doomed", "node1", &["--volume", &volume], &[program, "argument"]);
        assert_refused(&lab, &output, 1, &["doomed was not started: cannot execute", program, reason]);
    }
    let output = lab.try_run("doomed", "node1", &[], &[""]);
    assert_eq!(output.code(), 2, "{output:?}");
    lab.assert_clean();
}

#[test]
fn a_command_that_cannot_be_executed_in_json() {
    let lab = Lab::up(1);
    let output = lab.migrate(["--json", "run", "--name", "doomed", "--", "/no/such/program"]);
    assert_eq!((output.code(), &output.json()["error"]["code"]), (1, &"cannot-execute".into()), "{output:?}");
    lab.assert_clean();
}

/// What has the mark of a program but is none.
#[test]
fn a_program_of_no_known_kind() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::up(1);
    let own = lab.place().join("own");
    fs::create_dir(&own).unwrap();
    fs::write(own.join("noise"), [0x7f, 1, 2, 3]).unwrap();
    fs::set_permissions(own.join("noise"), fs::Permissions::from_mode(0o755)).unwrap();
    let volume = format!("{}:/own:ro", own.display());
    let output = lab.try_run("doomed", "node1", &["--volume", &volume], &["/own/noise"]);
    assert_refused(&lab, &output, 1, &["cannot execute /own/noise", "Exec format error"]);
    lab.assert_clean();
}

#[test]
fn a_working_directory_that_is_missing() {
    let lab = Lab::up(1);
    let output = lab.try_run("doomed", "node1", &["--dir", "/no/such/place"], &["/bin/sleep", "1"]);
    assert_refused(&lab, &output, 1, &["doomed was not started", "/no/such/place", "No such file"]);
    lab.assert_clean();
}

#[test]
fn a_volume_that_is_missing() {
    let lab = Lab::up(1);
    let output = lab.try_run("doomed", "node1", &["--volume", "/no/such/place:/data"], &["/bin/sleep", "1"]);
    assert_refused(&lab, &output, 2, &["the volume /no/such/place does not exist"]);
    lab.assert_clean();
}

#[test]
fn a_root_that_is_missing() {
    let lab = Lab::up(1);
    let output = lab.try_run("doomed", "node1", &["--root", "/no/such/root"], &["/bin/sleep", "1"]);
    assert_refused(&lab, &output, 2, &["/no/such/root"]);
    lab.assert_clean();
}

#[test]
fn a_node_that_is_unknown_or_off() {
    let lab = Lab::up(2);
    let output = lab.migrate(["run", "--name", "doomed", "--on", "node9", "--", "/bin/true"]);
    assert_refused(&lab, &output, 2, &["there is no node node9"]);
    lab.done(["lab", "kill", "node2"]);
    let output = lab.migrate(["run", "--name", "doomed", "--on", "node2", "--", "/bin/true"]);
    assert_refused(&lab, &output, 1, &["node2"]);
    lab.assert_clean();
}

/// What an unreachable agent has to be told apart from: nothing was done, and nobody was asked.
#[test]
fn no_agent_answers() {
    let lab = Lab::up(1);
    lab.specimen("count", "node1", &["counter"]);
    lab.done(["lab", "kill", "node1"]);
    let output = lab.migrate(["--json", "--force", "count", "--to", "node2"]);
    assert_eq!(output.code(), 4, "{output:?}");
    assert!(output.stderr.contains("error: no agent answers") && output.stderr.contains("hint: "), "{output:?}");
    lab.assert_clean();
}
