//! `--force` and `move`: the summary, the exit code, and that it always ends by saying where the workload is.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::command::{Said, asking, said};
use crate::stand_in::{Answer, Record, StandIn, problem, workload};

const MOVE: &str = "POST /v1/workloads/web/move";

fn report(outcome: &str, error: Value) -> Value {
    json!({
        "workload": "web", "from": "node1", "to": "node2", "outcome": outcome, "mode": "stream", "downtime_ms": 182.0,
        "total_ms": 1240.0, "rounds": 0, "bytes_memory": 67_108_864, "bytes_files": 0, "bytes_sent": 16_777_216, "epoch": 2, "predicted_downtime_ms": null, "predicted_total_ms": 900.0,
        "phases": [{"name": "freeze", "ms": 20.0}, {"name": "transfer", "ms": 80.0}], "error": error,
    })
}

fn progress() -> Value {
    json!({"progress": {"phase": "transfer", "bytes": 1, "bytes_sent": 1, "bytes_expected": 10, "elapsed_ms": 5}})
}

/// An agent with `web` on node1; a move is answered by `moving`, and then `after` is where the workload is.
fn agent(
    moving: impl Fn() -> Answer + Send + Sync + 'static,
    after: impl Fn(&Record) -> Value + Send + Sync + 'static,
) -> StandIn {
    StandIn::start(move |what, record| match what {
        MOVE => moving(),
        "GET /v1/workloads" if record.asked().iter().any(|asked| asked.what == MOVE) => {
            Answer::Json(200, json!([after(record)]))
        }
        _ => Answer::Json(200, json!([workload("web", "node1", 1, "running")])),
    })
}

fn reporting(outcome: &'static str, error: Value) -> StandIn {
    let lines = vec![progress(), json!({"report": report(outcome, error)})];
    agent(move || Answer::Lines(lines.clone()), |_| workload("web", "node1", 1, "running"))
}

#[test]
fn a_move_is_one_line_in_a_pipe_and_a_timeline_with_v() {
    let moved = reporting("moved", Value::Null);
    let done = said(asking(&moved.socket(), &["--force", "web", "--to", "node2", "--mode", "stream"]));
    assert_eq!(
        (done.code, done.stdout.as_str(), done.stderr.as_str()),
        (0, "web: moved from node1 to node2 in 1.24 s, paused for 182 ms\n", "")
    );
    let asked = moved.record.asked();
    assert_eq!(asked.len(), 2, "a report needs no second look: {asked:?}");
    assert_eq!(asked[1].body, json!({"to": "node2", "mode": "stream", "force": true}));
    let verbose = said(asking(&moved.socket(), &["-v", "move", "web"]));
    assert!(verbose.stdout.contains("  transfer       80 ms  ██"), "{verbose:?}");
    assert_eq!(moved.record.asked().last().unwrap().body, json!({"to": null, "mode": "auto", "force": false}));
    assert_eq!(said(asking(&moved.socket(), &["--force", "web", "--json"])).json(), report("moved", Value::Null));
}

#[test]
fn a_failure_says_what_failed_where_it_runs_and_what_to_do() {
    let error = problem("no-memory", "node2 has no room", "free 2 GiB there")["error"].clone();
    let stayed = reporting("stayed", error.clone());
    let told = said(asking(&stayed.socket(), &["--force", "web"]));
    assert_eq!((told.code, told.stdout.as_str()), (1, ""));
    assert_eq!(told.stderr, "error: node2 has no room\n  web: stayed on node1 (epoch 2)\n  hint: free 2 GiB there\n");
    let json = said(asking(&stayed.socket(), &["--force", "web", "--json"]));
    assert_eq!((json.code, json.json()), (1, report("stayed", error)));
}

#[test]
fn what_moved_and_does_not_run_is_a_failure_for_a_person() {
    let error = problem("lost", "node2 lost its power", "`migrate start web` starts it afresh")["error"].clone();
    let lost = reporting("moved", error.clone());
    let told = said(asking(&lost.socket(), &["--force", "web"]));
    assert_eq!((told.code, told.stdout.as_str()), (3, ""));
    let expected = "error: node2 lost its power\n  web: moved from node1 to node2, where it is lost (epoch 2)\n  \
                    hint: `migrate start web` starts it afresh\n";
    assert_eq!(told.stderr, expected);
    let json = said(asking(&lost.socket(), &["--force", "web", "--json"]));
    assert_eq!((json.code, json.json()), (3, report("moved", error)));
}

#[test]
fn doubt_is_exit_code_three() {
    let told = said(asking(&reporting("unknown", Value::Null).socket(), &["--force", "web"]));
    assert_eq!(told.code, 3);
    assert!(told.stderr.contains("not known which of node1 and node2 may run it"), "{told:?}");
}

#[test]
fn the_name_may_be_left_out_where_there_is_one_workload() {
    let one = reporting("moved", Value::Null);
    assert_eq!(said(asking(&one.socket(), &["--force", "--to", "node2"])).code, 0);
    let asked: Vec<_> = one.record.asked().into_iter().map(|asked| asked.what).collect();
    assert_eq!(asked, ["GET /v1/workloads?scope=node", MOVE]);

    let two = json!([workload("web", "node1", 1, "running"), workload("db", "node1", 1, "running")]);
    for (answer, why) in [(two, "there are 2 workloads on node1: web, db"), (json!([]), "no workload on node1")] {
        let agent = StandIn::start(move |_, _| Answer::Json(200, answer.clone()));
        let told = said(asking(&agent.socket(), &["--force"]));
        assert_eq!(told.code, 2);
        assert!(told.stderr.contains(why), "{told:?}");
    }
}

#[test]
fn an_unknown_workload_is_not_ordered_to_move() {
    let agent = StandIn::start(|_, _| Answer::Json(200, json!([])));
    let told = said(asking(&agent.socket(), &["--json", "--force", "web"]));
    assert_eq!((told.code, told.json()["error"]["code"].as_str()), (2, Some("unknown-workload")));
    assert!(!agent.record.asked().iter().any(|asked| asked.what == MOVE));
}

/// Interrupts a move that would never end; afterwards the workload is as `after` says.
fn interrupted(after: impl Fn(&Record) -> Value + Send + Sync + 'static) -> Said {
    let agent = agent(|| Answer::LinesWithoutEnd(vec![progress()]), after);
    let child = asking(&agent.socket(), &["--force", "web", "--to", "node2"]).spawn().unwrap();
    agent.record.wait_for(MOVE);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    Said::from(child.wait_with_output().unwrap())
}

#[test]
fn ctrl_c_cancels_waits_for_the_outcome_and_says_where_it_runs() {
    let told = interrupted(|record| {
        let state = if record.is_abandoned() { "running" } else { "migrating" };
        workload("web", "node1", 1, state)
    });
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.stderr.contains("error: cancelled by ^C\n  web: stayed on node1 (epoch 1)\n"), "{told:?}");
}

#[test]
fn ctrl_c_too_late_is_a_move() {
    let told = interrupted(|_| workload("web", "node2", 2, "running"));
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stdout.starts_with("web: moved from node1 to node2"), "{told:?}");
}

#[test]
fn ctrl_c_in_doubt_needs_a_person() {
    let told = interrupted(|_| workload("web", "node1", 1, "frozen"));
    assert_eq!(told.code, 3, "{told:?}");
    assert!(told.stderr.contains("hint: "), "{told:?}");
}

#[test]
fn a_lost_agent_is_not_taken_for_an_outcome() {
    for moving in [|| Answer::LinesThenCut(vec![progress()]), || Answer::Lines(vec![progress()])] {
        let agent = agent(moving, |_| workload("web", "node2", 2, "running"));
        let told = said(asking(&agent.socket(), &["--force", "web", "--json"]));
        assert_eq!((told.code, &told.json()["outcome"], &told.json()["to"]), (0, &json!("moved"), &json!("node2")));
    }
}

#[test]
fn a_time_limit_cancels() {
    let agent = agent(|| Answer::LinesWithoutEnd(vec![]), |_| workload("web", "node1", 1, "running"));
    let told = said(asking(&agent.socket(), &["--timeout", "500ms", "--force", "web"]));
    assert_eq!(told.code, 1, "{told:?}");
    assert!(told.stderr.contains("longer than --timeout"), "{told:?}");
}
