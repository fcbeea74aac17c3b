//! Commands with one question and one answer.

use serde_json::{Value, json};

use crate::command::{asking, migrate, said};
use crate::stand_in::{Answer, StandIn, problem, workload};

fn list() -> StandIn {
    StandIn::start(|what, _| match what {
        "GET /v1/workloads" => {
            Answer::Json(200, json!([workload("web", "node2", 3, "running"), workload("db", "node1", 1, "failed")]))
        }
        other => panic!("{other}"),
    })
}

#[test]
fn ps_is_a_table_for_people_and_the_api_for_programs() {
    let agent = list();
    let table = said(asking(&agent.socket(), &["ps"]));
    let lines: Vec<_> = table.stdout.lines().collect();
    assert!(lines[0].starts_with("NAME  STATE"), "{table:?}");
    assert!(lines[1].starts_with("db") && lines[2].starts_with("web"), "sorted: {table:?}");
    assert!(lines[2].contains("64.0 MiB") && lines[2].contains("node2"), "{table:?}");
    assert!(!table.stdout.contains('\x1b'), "no colour in a pipe");
    assert_eq!(table.stderr, "");

    let json = said(asking(&agent.socket(), &["ps", "--json", "web"])).json();
    assert_eq!(json, json!([workload("web", "node2", 3, "running")]));

    let coloured = said(asking(&agent.socket(), &["ps", "--color", "always"]));
    assert!(coloured.stdout.contains('\x1b'));
}

#[test]
fn a_name_that_is_not_there_is_a_usage_error() {
    let agent = list();
    let said = said(asking(&agent.socket(), &["ps", "web", "nope"]));
    assert_eq!(said.code, 2);
    assert!(said.stdout.contains("web"), "what is there is shown: {said:?}");
    assert!(said.stderr.contains("no workload named nope"), "{said:?}");
}

#[test]
fn run_prints_the_name_and_chooses_another_where_its_own_is_taken() {
    let agent = StandIn::start(|_, record| match record.asked().len() {
        1 => Answer::Json(409, problem("name-taken", "taken", "")),
        _ => Answer::Json(201, workload("sleep-1f2e", "node1", 1, "running")),
    });
    let done = said(asking(&agent.socket(), &["run", "--memory", "1GiB", "--", "sleep", "5"]));
    assert_eq!((done.code, done.stdout.as_str()), (0, "sleep-1f2e\n"), "{done:?}");
    let asked = agent.record.asked();
    let names: Vec<_> = asked.iter().map(|a| a.body["spec"]["name"].as_str().unwrap()).collect();
    assert!(names.iter().all(|name| name.starts_with("sleep-")) && names[0] != names[1], "{names:?}");
    assert_eq!(asked[0].body["spec"]["argv"], json!(["sleep", "5"]));
    assert_eq!(asked[0].body["spec"]["memory_bytes"], json!(1u64 << 30));
}

#[test]
fn a_refusal_is_told_with_its_hint_and_its_exit_code() {
    for (code, status, exit) in [("name-taken", 409, 2), ("no-memory", 507, 1), ("unknown", 500, 3)] {
        let agent = StandIn::start(move |_, _| Answer::Json(status, problem(code, "it\x1b[31m failed", "try again")));
        let said = said(asking(&agent.socket(), &["run", "--name", "web", "--", "true"]));
        assert_eq!(said.code, exit, "{code}");
        assert_eq!(said.stderr, "error: it\\u{1b}[31m failed\n  hint: try again\n", "{code}");
        assert_eq!(agent.record.asked().len(), 1, "a name that was given is not changed");
    }
}

#[test]
fn stop_start_and_rm_ask_for_exactly_that() {
    let agent = StandIn::start(|what, _| match what.starts_with("DELETE") {
        true => Answer::Nothing(204),
        false => Answer::Json(200, workload("web", "node1", 1, "stopped")),
    });
    for words in [
        &["stop", "web", "--grace", "1.5s"][..],
        &["stop", "web"],
        &["start", "web"],
        &["rm", "web"],
        &["rm", "-f", "web"],
    ] {
        assert_eq!(said(asking(&agent.socket(), words)).code, 0, "{words:?}");
    }
    let asked: Vec<_> = agent.record.asked().into_iter().map(|asked| asked.what).collect();
    assert_eq!(
        asked,
        [
            "POST /v1/workloads/web/stop?timeout_ms=1500",
            "POST /v1/workloads/web/stop",
            "POST /v1/workloads/web/start",
            "DELETE /v1/workloads/web?force=false",
            "DELETE /v1/workloads/web?force=true",
        ]
    );
}

#[test]
fn what_has_no_figures_to_show_answers_programs_in_json_too() {
    let agent = StandIn::start(|_, _| Answer::Nothing(204));
    let removed = said(asking(&agent.socket(), &["rm", "web", "--json"]));
    assert_eq!((removed.code, removed.json(), &*removed.stderr), (0, json!({"workload": "web", "removed": true}), ""));

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    let made = said(migrate(&["--json", "key", "new", file.to_str().unwrap()]));
    let answer = made.json();
    let name = answer["keys"][0].as_str().unwrap();
    assert_eq!((made.code, &answer["file"]), (0, &json!(file)));
    assert!(!name.is_empty() && !std::fs::read_to_string(&file).unwrap().contains(name), "the key's name: {answer}");

    for (words, why) in [(&["--json", "ps", "UPPER"][..], "UPPER"), (&["frobnicate", "--json"], "frobnicate")] {
        let misused = said(migrate(words));
        let error = misused.json()["error"].clone();
        assert_eq!((misused.code, &error["code"]), (2, &json!("usage")), "{misused:?}");
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    }
}

#[test]
fn a_node_that_is_no_lab_node_is_reached_through_the_agent() {
    let agent = StandIn::start(|_, _| Answer::Json(200, json!([])));
    assert_eq!(said(asking(&agent.socket(), &["ps", "--node", "far"])).code, 0);
    assert_eq!(agent.record.asked()[0].forward_to.as_deref(), Some("far"));
}

#[test]
fn nodes_without_figures_are_shown_all_the_same() {
    let node: Value = json!({
        "name": "node2", "address": "10.0.0.2:7700", "state": "suspect", "leader": false, "voter": false,
        "cpu_percent": null, "memory_used_bytes": null, "memory_total_bytes": null, "disk_free_bytes": null,
        "workloads": null, "agent_version": null, "criu_version": null, "keys": [],
    });
    let answer = json!([node]);
    let agent = StandIn::start(move |_, _| Answer::Json(200, answer.clone()));
    let table = said(asking(&agent.socket(), &["nodes"]));
    assert!(table.stdout.lines().nth(1).unwrap().starts_with("node2  suspect  -     10.0.0.2:7700  -"), "{table:?}");
    assert_eq!(said(asking(&agent.socket(), &["nodes", "--json"])).json(), json!([node]));
}

#[test]
fn check_answers_in_words_in_json_and_by_its_exit_code() {
    for (verdict, exit) in [("yes", 0), ("no", 1), ("unlikely", 1)] {
        let report = json!({
            "workload": "web", "to": "node2", "verdict": verdict,
            "reasons": [{"severity": "note", "what": "the kernels differ", "hint": "mind"}],
            "predicted_downtime_ms": 100.0, "predicted_total_ms": null,
        });
        let answer = report.clone();
        let agent = StandIn::start(move |_, _| Answer::Json(200, answer.clone()));
        let words = said(asking(&agent.socket(), &["check", "web", "--to", "node2"]));
        assert_eq!(words.code, exit, "{words:?}");
        assert!(words.stdout.starts_with(&format!("{verdict}: web would")), "{words:?}");
        assert!(words.stdout.contains("note      the kernels differ\n            hint: mind"), "{words:?}");
        let programs = said(asking(&agent.socket(), &["check", "web", "--json"]));
        assert_eq!((programs.code, programs.json()), (exit, report));
        let asked: Vec<_> = agent.record.asked().into_iter().map(|asked| asked.what).collect();
        assert_eq!(asked, ["GET /v1/workloads/web/check?to=node2", "GET /v1/workloads/web/check"]);
    }
    let agent = StandIn::start(|_, _| Answer::Json(404, problem("unknown-node", "there is no node node9", "")));
    assert_eq!(said(asking(&agent.socket(), &["check", "web", "--to", "node9"])).code, 2);
}

#[test]
fn why_answers_in_words_and_in_json() {
    let view = json!({
        "workload": "web", "node": "node2", "state": "running", "epoch": 2, "since": "2026-11-21T10:00:00.000Z",
        "came_from": "node1", "held": null, "unsettled": [], "history": [], "silent": [],
        "prediction": {"moves": 0, "downtime_error": null, "total_error": null},
    });
    let answer = view.clone();
    let agent = StandIn::start(move |_, _| Answer::Json(200, answer.clone()));
    let words = said(asking(&agent.socket(), &["why", "web"]));
    let expected = "web: running on node2 (epoch 2), came from node1 at 2026-11-21T10:00:00.000Z\n";
    assert_eq!((words.code, words.stdout.as_str()), (0, expected));
    assert_eq!(said(asking(&agent.socket(), &["why", "web", "--json"])).json(), view);
    assert_eq!(agent.record.asked()[0].what, "GET /v1/workloads/web/why");
}

#[test]
fn an_agent_that_does_not_answer_in_time_is_exit_code_four() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("deaf.sock");
    // It takes connections (the kernel does that) and never answers.
    let _deaf = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut command = migrate(&["--timeout", "200ms", "ps"]);
    command.arg("--socket").arg(&socket);
    let said = said(command);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.stderr.contains("did not answer within 200 ms"), "{said:?}");
}
