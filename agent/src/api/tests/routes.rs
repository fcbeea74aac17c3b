//! Every route, and what it says to requests that are wrong.

use migrate_proto::api::ErrorBody;
use serde_json::json;

use super::super::*;
use super::fake::{Answered, Fake, ask, request};

async fn asked(method: &str, path: &str, body: &str) -> (Answered, Vec<String>) {
    let fake = Fake::new("node1");
    let answered = ask(&fake.router(), request(method, path, &[], body.to_owned())).await;
    (answered, fake.calls())
}

const RUN: &str = r#"{"spec": {"name": "web", "argv": ["sleep", [255]]}}"#;

#[tokio::test]
async fn answers_of_one_value() {
    for (method, path, body, status, call) in [
        ("GET", "/v1/health", "", 200, "health"),
        ("GET", "/v1/nodes", "", 200, "nodes Cluster"),
        ("GET", "/v1/nodes?scope=node", "", 200, "nodes Node"),
        ("POST", "/v1/keys/reload", "", 200, "reload keys"),
        ("POST", "/v1/drain?deadline_ms=30000", "", 200, "drain None Some(30s)"),
        ("GET", "/v1/workloads", "", 200, "list Cluster"),
        ("GET", "/v1/workloads?scope=cluster", "", 200, "list Cluster"),
        ("GET", "/v1/workloads?scope=node", "", 200, "list Node"),
        ("POST", "/v1/workloads", RUN, 201, "run web [\"sleep\", \"\u{fffd}\"]"),
        ("POST", "/v1/workloads/web/stop", "", 200, "stop web None"),
        ("POST", "/v1/workloads/web/stop?timeout_ms=250", "", 200, "stop web Some(250ms)"),
        ("POST", "/v1/workloads/web/start", "", 200, "start web"),
        ("POST", "/v1/workloads/web/restore", "{}", 200, "restore web None None"),
        (
            "POST",
            "/v1/workloads/web/restore",
            r#"{"checkpoint": "ab", "as": "new"}"#,
            200,
            "restore web Some(\"ab\") Some(new)",
        ),
    ] {
        let (answered, calls) = asked(method, path, body).await;
        assert_eq!((answered.status.as_u16(), &*answered.content_type), (status, "application/json"), "{path}");
        assert_eq!(calls, [call], "{path}");
        let value = answered.json();
        let first = if value.is_array() { value[0].clone() } else { value };
        assert!(first["name"] == "web" || first["node"] == "node1" || first["name"] == "node1", "{path}: {first}");
    }
}

#[tokio::test]
async fn checkpoints_are_taken_and_listed() {
    for (method, path, call) in [
        ("POST", "/v1/workloads/web/checkpoint", "checkpoint web"),
        ("GET", "/v1/checkpoints?workload=web", "checkpoints Some(web) Cluster"),
        ("GET", "/v1/checkpoints?workload=web&scope=node", "checkpoints Some(web) Node"),
        ("POST", "/v1/checkpoints/prove?workload=web", "prove web Cluster"),
        ("POST", "/v1/checkpoints/prove?workload=web&scope=node", "prove web Node"),
    ] {
        let (answered, calls) = asked(method, path, "").await;
        assert_eq!((answered.status.as_u16(), calls), (200, vec![call.to_owned()]), "{path}");
        let value = answered.json();
        let first = if value.is_array() { value[0].clone() } else { value };
        assert_eq!((&first["workload"], &first["kind"]), (&json!("web"), &json!("asked")), "{path}");
    }
    assert_eq!(asked("GET", "/v1/checkpoints", "").await.0.json(), json!([]));
    let (refused, calls) = asked("POST", "/v1/checkpoints/prove", "").await;
    assert_eq!((&refused.json()["error"]["code"], calls.len()), (&json!("usage"), 0));
}

#[tokio::test]
async fn health_is_what_the_contract_says() {
    let (answered, _) = asked("GET", "/v1/health", "").await;
    assert_eq!(answered.json(), json!({"node": "node1", "version": "1", "criu_version": null, "ready": true}));
}

#[tokio::test]
async fn removing_answers_nothing() {
    for (path, call) in [("/v1/workloads/web", "remove web false"), ("/v1/workloads/web?force=true", "remove web true")]
    {
        let (answered, calls) = asked("DELETE", path, "").await;
        assert_eq!((answered.status.as_u16(), &*answered.body), (204, ""));
        assert_eq!(calls, [call]);
    }
}

#[tokio::test]
async fn a_node_that_takes_workloads_again_answers_nothing() {
    let (answered, calls) = asked("POST", "/v1/undrain", "").await;
    assert_eq!((answered.status.as_u16(), &*answered.body), (204, ""));
    assert_eq!(calls, ["undrain None"]);
}

#[tokio::test]
async fn answers_of_lines() {
    let log = json!([{"stdout": "YQo="}, {"stderr": "Ygo="}]);
    let echo = json!([{"stdout": "aW4="}, {"exit": {"code": 7}}]);
    for (method, path, body, call, lines) in [
        ("GET", "/v1/workloads/web/logs", "", "logs web First false", log.clone()),
        ("GET", "/v1/workloads/web/logs?tail=5&follow=false", "", "logs web Lines(5) false", log.clone()),
        ("GET", "/v1/workloads/web/logs?from=7,8", "", "logs web Bytes(7, 8) false", log),
        ("POST", "/v1/workloads/web/exec", "{\"argv\": [\"cat\"]}\nin", "exec web [\"cat\"]", echo),
        (
            "POST",
            "/v1/workloads/web/exec",
            "{\"argv\": [\"cat\"]}",
            "exec web [\"cat\"]",
            json!([{"exit": {"code": 7}}]),
        ),
    ] {
        let (answered, calls) = asked(method, path, body).await;
        assert_eq!((answered.status.as_u16(), &*answered.content_type), (200, "application/x-ndjson"), "{path}");
        assert_eq!(calls, [call]);
        assert_eq!(json!(answered.lines()), lines, "{path}");
    }
    let (answered, calls) = asked("GET", "/v1/events?since_ms=1500", "").await;
    assert_eq!(calls, ["events Some(1.5s) false Cluster"]);
    let (_, calls) = asked("GET", "/v1/events?scope=node&follow=false&after=node1:7,b:8&workload=web", "").await;
    assert_eq!(calls, ["events None false Node web after b:8,node1:7"]);
    assert_eq!(answered.lines()[0]["message"], "mind");
    let (answered, calls) = asked("POST", "/v1/workloads/web/move", r#"{"to": "node2", "force": true}"#).await;
    assert_eq!(calls, ["move web MoveRequest { to: Some(node2), mode: Auto, force: true }"]);
    assert_eq!(answered.lines()[0]["progress"]["phase"], "negotiate");
    assert_eq!(answered.lines()[1]["report"]["outcome"], "moved");
}

#[tokio::test]
async fn what_the_core_refuses_is_an_error_body() {
    for (method, path, body) in [
        ("POST", "/v1/workloads/missing/start", ""),
        ("POST", "/v1/workloads/missing/stop", ""),
        ("DELETE", "/v1/workloads/missing", ""),
        ("GET", "/v1/workloads/missing/logs", ""),
        ("POST", "/v1/workloads/missing/exec", "{\"argv\": [\"a\"]}\n"),
        ("POST", "/v1/workloads/missing/move", "{}"),
    ] {
        let (answered, _) = asked(method, path, body).await;
        let expected = Problem::new(Code::UnknownWorkload, "there is no missing").hint("migrate ps");
        assert_eq!((answered.status.as_u16(), answered.problem()), (404, expected), "{path}");
    }
}

#[tokio::test]
async fn requests_that_are_wrong_reach_nobody_and_say_why() {
    let too_large = format!("{}{RUN}", " ".repeat(LARGEST_JSON));
    for (method, path, body, status, says) in [
        ("GET", "/v1/nothing", "", 404, "has no /v1/nothing"),
        ("GET", "/", "", 404, "has no /"),
        ("PUT", "/v1/workloads", "", 405, "/v1/workloads does not take PUT"),
        ("GET", "/v1/workloads/web/stop", "", 405, "does not take GET"),
        ("POST", "/v1/workloads/Web/start", "", 400, "'Web' is not a name"),
        ("POST", "/v1/workloads/%2e%2e/start", "", 400, "'..' is not a name"),
        ("POST", "/v1/workloads/%ff/start", "", 400, "path"),
        ("GET", "/v1/workloads?scope=all", "", 400, "scope"),
        ("GET", "/v1/workloads?scop=node", "", 400, "`scop`"),
        ("DELETE", "/v1/workloads/web?force=1", "", 400, "force"),
        ("POST", "/v1/workloads/web/stop?timeout_ms=-1", "", 400, "timeout_ms"),
        ("GET", "/v1/workloads/web/logs?tail=x", "", 400, "tail"),
        ("GET", "/v1/workloads/web/logs?from=7", "", 400, "from"),
        ("GET", "/v1/workloads/web/logs?from=7,8&tail=1", "", 400, "tail"),
        ("GET", "/v1/events?follow=yes", "", 400, "follow"),
        ("GET", "/v1/events?after=node1", "", 400, "node1:17,node2:4"),
        ("POST", "/v1/workloads", "", 400, "line 1 column 0"),
        ("POST", "/v1/workloads", "{\n \"spec\": }", 400, "line 2 column 10"),
        ("POST", "/v1/workloads", r#"{"spec": {"name": "A b", "argv": []}}"#, 400, "spec.name: 'A b' is not a name"),
        ("POST", "/v1/workloads", r#"{"spec": {"name": "a", "argv": ["a\u0000"]}}"#, 400, "spec.argv[0]: a NUL byte"),
        ("POST", "/v1/workloads", r#"{"spec": {"name": "a", "argv": [], "x": 1}}"#, 400, "unknown field `x`"),
        ("POST", "/v1/workloads", &too_large, 413, "larger than 16777216 bytes"),
        ("POST", "/v1/workloads/web/move", r#"{"mode": "teleport"}"#, 400, "mode: unknown variant `teleport`"),
        ("POST", "/v1/workloads/web/exec", "cat\n", 400, "line 1 column 1"),
        ("POST", "/v1/workloads/web/exec", &too_large, 413, "larger than 16777216 bytes"),
    ] {
        let (answered, calls) = asked(method, path, body).await;
        let problem = serde_json::from_str::<ErrorBody>(&answered.body).unwrap().error;
        assert_eq!((answered.status.as_u16(), problem.code), (status, Code::Usage), "{method} {path}: {problem}");
        assert!(problem.message.contains(says), "{method} {path}: {problem}");
        assert_eq!(calls, [""; 0], "{method} {path}");
    }
}

#[test]
fn statuses_tell_whose_fault_it_is() {
    for (code, status) in [
        (Code::Usage, 400),
        (Code::UnknownNode, 404),
        (Code::NameTaken, 409),
        (Code::WrongState, 409),
        (Code::Busy, 409),
        (Code::PeerDown, 502),
        (Code::TimedOut, 504),
        (Code::Internal, 500),
        (Code::Unknown, 500),
    ] {
        assert_eq!(Failure::from(Problem::new(code, "")).status.as_u16(), status, "{code:?}");
    }
}
