//! Real software at work, each moved node1 → node2 → node3 → node1 by real CRIU. The programs, and how each checks itself, are
//! in tests/programs.

#![allow(clippy::unwrap_used)]

mod harness;

use std::path::Path;

use harness::{Lab, SCRIPTS};
use migrate_proto::api::{Exit, State};

/// The places that a workload's PATH names, and scripts/setup looks into.
const STANDARD_PLACES: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Where key-store.py finds its server, in the workload's directory.
const REDIS: &str = "redis-server --port 0 --unixsocket redis.sock --save ''";
const MEMCACHED: &str = "memcached -s memcached.sock -m 256 -u root";

/// A lab for workloads that need these programs.
fn lab_with(programs: &[&str]) -> Lab {
    let missing: Vec<_> = programs.iter().filter(|program| !is_installed(program)).collect();
    assert!(missing.is_empty(), "{missing:?} not found: run scripts/setup --tests");
    Lab::up(3)
}

fn is_installed(program: &str) -> bool {
    STANDARD_PLACES.iter().any(|place| Path::new(place).join(program).exists())
}

/// Moves what a shell makes of `script` once around a lab.
fn around(programs: &[&str], script: &str) {
    let lab = lab_with(programs);
    lab.run("software", "node1", &["bash", "-c", script]);
    lab.carry_around("software", || ());
    lab.assert_clean();
}

#[test]
fn redis_and_its_client() {
    around(&["redis-server", "python3"], &with_client(REDIS, "redis"));
}

#[test]
fn memcached_and_its_client() {
    around(&["memcached", "python3"], &with_client(MEMCACHED, "memcached"));
}

/// A server, and a client in the same workload that talks to it without end. The server's own output goes to a file.
fn with_client(server: &str, protocol: &str) -> String {
    format!("{server} >server.log 2>&1 & exec python3 {SCRIPTS}/key-store.py {protocol} {protocol}.sock")
}

/// A server alone, that listens on TCP too; clients come and go between its moves, and find every key as it was.
#[test]
fn redis_alone() {
    let lab = lab_with(&["redis-server", "redis-cli", "python3"]);
    let server = REDIS.replace("--port 0", "--port 6379");
    lab.run("redis", "node1", &["sh", "-c", &format!("exec {server}")]);
    let check = || {
        lab.exec("redis", &["python3", &format!("{SCRIPTS}/key-store.py"), "redis", "redis.sock", "--once"]);
        assert_eq!(lab.exec("redis", &["redis-cli", "dbsize"]).trim(), "100001");
    };
    check();
    lab.assert_would_move("redis", "node2");
    for to in ["node2", "node3", "node1"] {
        lab.force("redis", to);
        lab.assert_runs_only_on("redis", to);
        check();
    }
    lab.assert_clean();
}

#[test]
fn node_program() {
    let lab = lab_with(&["node"]);
    lab.run("server", "node1", &["node", &format!("{SCRIPTS}/server.js")]);
    lab.carry_around("server", || {
        let answer = lab.exec("server", &["node", &format!("{SCRIPTS}/check-server.js")]);
        assert!(answer.starts_with("ok "), "{answer}");
    });
    lab.assert_clean();
}

#[test]
fn java_program() {
    let script = format!("javac -d . {SCRIPTS}/Counter.java && exec java -Xmx128m -cp . Counter");
    around(&["java", "javac"], &script);
}

#[test]
fn sqlite_with_a_write_ahead_log() {
    sqlite("wal", |_, _| ());
}

#[test]
fn sqlite_with_a_rollback_journal() {
    sqlite("delete", found_sound_by_another_process);
}

/// The writer keeps a record lock on a file that it has mapped.
#[test]
#[ignore = "CRIU loses the lock of a mapped file: tests/specimen/NOT_CARRIED.md"]
fn sqlite_with_a_write_ahead_log_that_others_open() {
    sqlite("wal", found_sound_by_another_process);
}

/// A writer that never rests, under `check` after each move, and at the end by its own.
fn sqlite(mode: &str, check: fn(&Lab, &str)) {
    let lab = lab_with(&["python3", "sqlite3"]);
    lab.run("writer", "node1", &["python3", &format!("{SCRIPTS}/sqlite-writer.py"), mode]);
    lab.wait_for_more_ok("writer", 1);
    let reasons = lab.assert_would_move("writer", "node2").reasons;
    // The lock that CRIU loses is one on the shared memory of the log, which the writer has mapped.
    assert_eq!(reasons.iter().any(|reason| reason.what.contains("record locks")), mode == "wal", "{reasons:?}");
    lab.carry_around("writer", || check(&lab, &format!("/work/writer-{mode}.db")));
    lab.exec("writer", &["touch", "/work/stop"]);
    lab.wait_for_line("writer", "done ");
    assert!(harness::eventually(|| lab.view("writer").state == State::Stopped), "{:?}", lab.view("writer"));
    assert_eq!(lab.view("writer").exit, Some(Exit::Code(0)));
    lab.assert_clean();
}

fn found_sound_by_another_process(lab: &Lab, database: &str) {
    let question = ["sqlite3", "-cmd", ".timeout 30000", database, "PRAGMA integrity_check"];
    assert_eq!(lab.exec("writer", &question).trim(), "ok");
}

#[test]
fn shell_pipeline() {
    around(&["bash", "awk", "seq"], &format!("exec bash {SCRIPTS}/pipeline.sh"));
}

#[test]
fn compiler_at_work() {
    around(&["bash", "gcc"], &format!("exec bash {SCRIPTS}/compile.sh"));
}
