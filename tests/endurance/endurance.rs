//! What only shows after a while: many workloads at once, many moves in a row, agents that come and go.

#![allow(clippy::unwrap_used)]

#[path = "../harness/mod.rs"]
mod harness;

mod census;

use migrate_proto::api::{Outcome, State};

use census::Census;
use harness::{Lab, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const NODES: [&str; 2] = ["node1", "node2"];

#[test]
fn ten_workloads_move_at_the_same_time() {
    let lab = Lab::up(2);
    let names: Vec<String> = (1..=10).map(|number| format!("count-{number}")).collect();
    for name in &names {
        lab.specimen(name, "node1", &["counter"]);
    }
    let reached: Vec<u64> = names.iter().map(|name| lab.wait_for_more_ok(name, 2)).collect();
    for to in ["node2", "node1"] {
        std::thread::scope(|scope| {
            for name in &names {
                scope.spawn(|| lab.force(name, to));
            }
        });
        for name in &names {
            lab.assert_runs_only_on(name, to);
        }
    }
    for (name, before) in names.iter().zip(reached) {
        assert!(lab.wait_for_more_ok(name, 2) > before);
        assert_eq!(lab.view(name).epoch.0, 3);
    }
    lab.assert_clean();
}

/// After some moves everything there is of agents and node is counted; after a hundred there is no more of it.
#[test]
fn a_hundred_moves_in_a_row() {
    const WARM_UP: usize = 10;
    const MOVES: usize = 100;
    let lab = Lab::up(2);
    lab.specimen("count", "node1", &["counter"]);
    lab.wait_for_more_ok("count", 2);
    let mut before = None;
    for number in 1..=MOVES {
        lab.force("count", NODES[number % 2]);
        if number == WARM_UP {
            before = Some(Census::at_rest(&lab));
        }
    }
    assert_eq!(lab.view("count").epoch.0, 1 + MOVES as u64);
    lab.assert_runs_only_on("count", NODES[MOVES % 2]);
    lab.wait_for_more_ok("count", 2);
    let before = before.unwrap();
    let settled = || Census::at_rest(&lab).growth_since(&before).is_empty();
    assert!(eventually(settled), "after {MOVES} moves there is more of:\n{}", {
        Census::at_rest(&lab).growth_since(&before).join("\n")
    });
    lab.assert_clean();
}

/// Attempts that fail must not leave more behind than those that succeed.
#[test]
fn thirty_refused_moves_in_a_row() {
    let lab = Lab::up(2);
    // What CRIU itself cannot dump: everything up to the dump is built and taken back.
    let shared = lab.place().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let outside = std::os::unix::net::UnixListener::bind(shared.join("socket")).unwrap();
    let volume = format!("{}:/shared", shared.display());
    let program = "import socket, itertools, time\n\
                   s = socket.socket(socket.AF_UNIX); s.connect('/shared/socket')\n\
                   for n in itertools.count(1): print('ok', n, flush=True); time.sleep(0.05)\n";
    lab.run_with("tied", "node1", &["--volume", &volume], &["python3", "-c", program]);
    let _connected = outside.accept().unwrap();
    let mut before = None;
    for number in 1..=30 {
        let (output, report) = lab.try_force("tied", "node2");
        assert_eq!(report.map(|report| report.outcome), Some(Outcome::Stayed), "{output:?}");
        if number == 5 {
            before = Some(Census::at_rest(&lab));
        }
    }
    let before = before.unwrap();
    let settled = || Census::at_rest(&lab).growth_since(&before).is_empty();
    assert!(eventually(settled), "after thirty refusals there is more of:\n{}", {
        Census::at_rest(&lab).growth_since(&before).join("\n")
    });
    lab.wait_for_more_ok("tied", 2);
    lab.assert_clean();
}

/// The agent of `node` is killed, and is back; the workload has not noticed.
fn crash_and_adopt(lab: &Lab, node: &str) {
    let before = lab.view("count");
    let reached = lab.assert_intact("count");
    lab.done(["lab", "crash", node]);
    assert!(eventually(|| {
        let views = lab.migrate(["--node", node, "--json", "ps", "count"]);
        views.status.success() && lab.ps().iter().any(|view| view.node.as_str() == node)
    }));
    let after = lab.view("count");
    assert_eq!((after.pid, after.epoch, after.state), (before.pid, before.epoch, State::Running), "{after:?}");
    assert_eq!(after.started, before.started);
    assert!(lab.wait_for_more_ok("count", 2) > reached);
    lab.assert_runs_only_on("count", node);
}

/// PID, state and logs are known to the new agent, and it can do all that the old one could.
#[test]
fn an_agent_is_killed_before_and_after_each_move() {
    let lab = Lab::up(2);
    lab.specimen("count", "node1", &["counter"]);
    lab.wait_for_more_ok("count", 2);
    for (from, to) in [("node1", "node2"), ("node2", "node1")] {
        crash_and_adopt(&lab, from);
        lab.force("count", to);
        crash_and_adopt(&lab, to);
        // The one from which it came has forgotten it.
        lab.done(["lab", "crash", from]);
        assert!(eventually(|| lab.migrate(["--node", from, "nodes"]).status.success()));
        lab.assert_runs_only_on("count", to);
    }
    // What an adopted workload is good for.
    assert_eq!(lab.done(["exec", "count", "--", "echo", "beside"]).stdout, "beside\n");
    lab.done(["stop", "count"]);
    assert_eq!(lab.view("count").state, State::Stopped);
    lab.assert_clean();
}

/// Without an agent a workload runs, ends and leaves its last words; the next agent finds how.
#[test]
fn a_workload_ends_while_there_is_no_agent() {
    let lab = Lab::up(1);
    let script = "trap 'echo told; exit 5' USR1; echo ready; while :; do sleep 0.02; done";
    lab.run("count", "node1", &["sh", "-c", script]);
    assert!(eventually(|| lab.logs("count") == "ready\n"));
    let pid = lab.view("count").pid.unwrap().to_string();
    // An agent that stands still hears of nothing; then it is killed.
    let agent = lab.status()["nodes"][0]["agent_pid"].as_i64().unwrap();
    kill(Pid::from_raw(i32::try_from(agent).unwrap()), Signal::SIGSTOP).unwrap();
    lab.done(["lab", "exec", "node1", "--", "kill", "-USR1", &pid]);
    let is_there =
        || lab.migrate(["lab", "exec", "node1", "--", "test", "-e", &format!("/proc/{pid}")]).status.success();
    assert!(eventually(|| !is_there()), "the workload does not end");
    lab.done(["lab", "crash", "node1"]);
    assert!(eventually(|| lab.migrate(["ps", "count"]).status.success() && lab.view("count").state == State::Stopped));
    assert_eq!(lab.view("count").exit, Some(migrate_proto::api::Exit::Code(5)));
    assert_eq!(lab.logs("count"), "ready\ntold\n");
    lab.assert_clean();
}
