//! Targets that cannot take a workload: down, strange, without CRIU, without room, with other files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::harness::{Lab, PROGRAMS, binaries};
use crate::refusal::Refusal;

fn counting() -> Lab {
    let lab = Lab::up(2);
    lab.specimen("count", "node1", &["counter"]);
    lab.wait_for_more_ok("count", 1);
    lab
}

#[test]
fn a_peer_without_power() {
    let lab = counting();
    lab.done(["lab", "kill", "node2"]);
    lab.assert_stays(
        "count",
        "node1",
        "node2",
        &Refusal { code: "peer-down", exit: 1, says: &["node2 could not be reached"], hint: "is its agent running" },
    );
    lab.done(["lab", "start", "node2"]);
    lab.force("count", "node2");
    lab.assert_goes_on("count", "node2");
    lab.assert_clean();
}

#[test]
fn a_peer_that_is_cut_off() {
    let lab = counting();
    lab.done(["lab", "cut", "node2"]);
    lab.assert_stays(
        "count",
        "node1",
        "node2",
        &Refusal { code: "peer-down", exit: 1, says: &["node2 could not be reached"], hint: "is its agent running" },
    );
    lab.done(["lab", "heal"]);
    lab.force("count", "node2");
    lab.assert_goes_on("count", "node2");
    lab.assert_clean();
}

/// Where the one node that has it cannot be seen, "there is no such workload" would not be the whole truth.
#[test]
fn a_workload_behind_a_cut() {
    let lab = counting();
    lab.done(["lab", "cut", "node1:node2"]);
    let output = lab.migrate(["--node", "node2", "--force", "count", "--to", "node2"]);
    assert_ne!(output.code(), 0, "{output:?}");
    assert!(output.stderr.contains("hint: ") && output.stderr.contains("does not answer: node1"), "{output:?}");
    lab.done(["lab", "heal"]);
    lab.assert_goes_on("count", "node1");
    lab.assert_clean();
}

#[test]
fn a_peer_with_another_key() {
    let lab = counting();
    lab.done(["lab", "kill", "node2"]);
    let key = lab.directory().join("node2/cluster.key");
    fs::remove_file(&key).unwrap();
    lab.done(["key", "new", key.to_str().unwrap()]);
    lab.done(["lab", "start", "node2"]);
    lab.assert_stays(
        "count",
        "node1",
        "node2",
        &Refusal { code: "peer-untrusted", exit: 1, says: &["another cluster key"], hint: "the same cluster key" },
    );
    lab.assert_clean();
}

/// Boots node2 with a CRIU of the test's own.
fn with_criu(criu: &Path) -> Lab {
    let lab = counting();
    lab.done(["lab", "kill", "node2"]);
    let started = lab.command(["lab", "start", "node2"]).env("MIGRATE_CRIU", criu).status().unwrap();
    assert!(started.success());
    lab
}

/// What says that it is CRIU of this version, and can do nothing else. Nothing is moved by it.
fn criu_of_version(lab_place: &Path, version: &str) -> PathBuf {
    let path = lab_place.join("criu");
    fs::write(&path, format!("#!/bin/sh\n[ \"$1\" = --version ] && echo 'Version: {version}' || echo 'Looks good.'\n"))
        .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Takes the memory controller from a node, whichever version of control groups it has it from.
const NO_MEMORY_CONTROLLER: &str = "set -e
    awk '$3 == \"cgroup\" && $4 ~ /(^|,)memory(,|$)/ { print $2 }' /proc/mounts | xargs -r umount -l
    unified=$(awk '$3 == \"cgroup2\" { print $2; exit }' /proc/mounts)
    mount --bind /dev/null \"$unified/cgroup.controllers\"";

#[test]
fn a_peer_that_cannot_keep_it_within_its_limits() {
    let lab = Lab::up(2);
    lab.run_with("count", "node1", &["--memory", "64MiB"], &[&*format!("{PROGRAMS}/specimen"), "counter"]);
    lab.wait_for_more_ok("count", 1);
    lab.assert_would_move("count", "node2");
    lab.done(["lab", "exec", "node2", "--", "sh", "-c", NO_MEMORY_CONTROLLER]);
    let says = &["node2 cannot limit the memory of count"];
    let refusal = Refusal { code: "incompatible", exit: 1, says, hint: "delegate the controllers" };
    lab.assert_stays("count", "node1", "node2", &refusal);
    let begun = lab.try_run("other", "node2", &["--memory", "64MiB"], &["true"]);
    assert_eq!(begun.code(), 1, "{begun:?}");
    assert!(begun.stderr.contains("node2 cannot limit the memory of other"), "{begun:?}");
    lab.run("other", "node2", &["true"]);
    lab.assert_clean();
}

#[test]
fn a_peer_without_criu() {
    let lab = with_criu(Path::new("/nowhere/criu"));
    lab.assert_stays(
        "count",
        "node1",
        "node2",
        &Refusal { code: "criu-missing", exit: 1, says: &["node2", "/nowhere/criu"], hint: "scripts/setup" },
    );
    lab.assert_clean();
}

#[test]
fn a_peer_with_a_criu_that_is_too_old() {
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let lab = with_criu(&criu_of_version(place.path(), "4.0"));
    lab.assert_stays(
        "count",
        "node1",
        "node2",
        &Refusal { code: "criu-missing", exit: 1, says: &["node2", "4.0"], hint: "scripts/setup" },
    );
    lab.assert_clean();
}

#[test]
fn a_peer_with_an_older_criu() {
    let place = tempfile::tempdir_in("/var/tmp").unwrap();
    let lab = with_criu(&criu_of_version(place.path(), "4.2"));
    lab.assert_stays(
        "count",
        "node1",
        "node2",
        &Refusal { code: "incompatible", exit: 1, says: &["CRIU 4.2.0 is older", "node1"], hint: "scripts/setup" },
    );
    lab.assert_clean();
}

#[test]
fn a_peer_with_too_little_disk() {
    let lab = counting();
    let state = lab.directory().join("node2/state");
    lab.done([
        "lab",
        "exec",
        "node2",
        "--",
        "mount",
        "-t",
        "tmpfs",
        "-o",
        "size=16m",
        "small",
        state.to_str().unwrap(),
    ]);
    lab.assert_stays(
        "count",
        "node1",
        "node2",
        &Refusal { code: "no-disk", exit: 1, says: &["node2 has too little disk", "node1"], hint: "another node" },
    );
    lab.assert_clean();
}

#[test]
fn a_peer_with_too_little_memory() {
    let lab = counting();
    // A machine's memory cannot be taken away from it; what its kernel says can.
    let small = lab.place().join("meminfo");
    fs::write(&small, "MemTotal: 65536 kB\nMemFree: 32768 kB\nMemAvailable: 32768 kB\n").unwrap();
    lab.done(["lab", "exec", "node2", "--", "mount", "--bind", small.to_str().unwrap(), "/proc/meminfo"]);
    lab.assert_stays(
        "count",
        "node1",
        "node2",
        &Refusal { code: "no-memory", exit: 1, says: &["node2 has too little memory", "32 MiB"], hint: "another node" },
    );
    lab.assert_clean();
}

/// A lab whose workload has a program mapped that the test may hide on node2.
fn with_a_program_of_its_own() -> (Lab, String) {
    let lab = Lab::up(2);
    let own = lab.place().join("own");
    fs::create_dir(&own).unwrap();
    fs::copy(binaries().join("specimen"), own.join("specimen")).unwrap();
    let volume = format!("{}:/own:ro", own.display());
    lab.run_with("count", "node1", &["--volume", &volume], &["/own/specimen", "counter"]);
    lab.wait_for_more_ok("count", 1);
    (lab, own.to_str().unwrap().to_owned())
}

#[test]
fn a_mapped_file_is_missing() {
    let (lab, own) = with_a_program_of_its_own();
    lab.done(["lab", "exec", "node2", "--", "mount", "-t", "tmpfs", "empty", &own]);
    lab.assert_stays(
        "count",
        "node1",
        "node2",
        &Refusal { code: "file-mismatch", exit: 1, says: &["/own/specimen is missing"], hint: "same versions" },
    );
    lab.done(["lab", "exec", "node2", "--", "umount", &own]);
    lab.force("count", "node2");
    lab.assert_goes_on("count", "node2");
    lab.assert_clean();
}

#[test]
fn a_mapped_file_is_another() {
    let (lab, own) = with_a_program_of_its_own();
    let (program, other) = (format!("{own}/specimen"), binaries().join("migrate-init"));
    lab.done(["lab", "exec", "node2", "--", "mount", "--bind", other.to_str().unwrap(), &program]);
    lab.assert_stays(
        "count",
        "node1",
        "node2",
        &Refusal { code: "file-mismatch", exit: 1, says: &["/own/specimen has"], hint: "same versions" },
    );
    lab.assert_clean();
}

/// The same size, another build: only what is inside tells.
#[test]
fn a_mapped_file_has_other_content() {
    let (lab, own) = with_a_program_of_its_own();
    let other = lab.place().join("other");
    let mut bytes = fs::read(binaries().join("specimen")).unwrap();
    // The head of the note with the build's identity: name of 4 bytes, 20 bytes, type 3.
    let head = [&[4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0][..], b"GNU\0"].concat();
    let note = bytes.windows(head.len()).position(|part| part == head).expect("a program with a build-id");
    bytes[note + head.len()] ^= 1;
    fs::write(&other, bytes).unwrap();
    lab.done(["lab", "exec", "node2", "--", "mount", "--bind", other.to_str().unwrap(), &format!("{own}/specimen")]);
    lab.assert_stays(
        "count",
        "node1",
        "node2",
        &Refusal { code: "file-mismatch", exit: 1, says: &["/own/specimen is another build"], hint: "same versions" },
    );
    lab.assert_clean();
}

#[test]
fn a_volume_is_missing() {
    let lab = Lab::up(2);
    let shared = lab.place().join("shared");
    let data = shared.join("data");
    fs::create_dir_all(&data).unwrap();
    let volume = format!("{}:/data", data.display());
    lab.run_with("count", "node1", &["--volume", &volume], &["/programs/specimen", "counter"]);
    lab.wait_for_more_ok("count", 1);
    lab.done(["lab", "exec", "node2", "--", "mount", "-t", "tmpfs", "empty", shared.to_str().unwrap()]);
    lab.assert_stays(
        "count",
        "node1",
        "node2",
        &Refusal {
            code: "incompatible",
            exit: 1,
            says: &["the volume", data.to_str().unwrap(), "does not exist on the target"],
            hint: "mount the shared storage there",
        },
    );
    lab.assert_clean();
}
