//! Requests with the header `x-migrate-node`.

use super::super::*;
use super::fake::{Fake, ask, request};

fn two_nodes() -> (Arc<Fake>, Arc<Fake>) {
    let second = Fake::new("node2");
    (Fake::with_other("node1", Some(second.router())), second)
}

const TO_NODE2: [(&str, &str); 1] = [(NODE_HEADER, "node2")];

#[tokio::test]
async fn another_node_answers_with_its_status_and_type() {
    let (first, second) = two_nodes();
    let router = first.router();
    for (method, path, body, status, content_type) in [
        ("GET", "/v1/health", "", 200, "application/json"),
        ("POST", "/v1/workloads", r#"{"spec": {"name": "web", "argv": ["a"]}}"#, 201, "application/json"),
        ("POST", "/v1/workloads/web/stop?timeout_ms=1", "", 200, "application/json"),
        ("POST", "/v1/workloads/missing/start", "", 404, "application/json"),
        ("GET", "/v1/workloads/web/logs?tail=1", "", 200, "application/x-ndjson"),
        ("GET", "/v1/workloads/missing/logs", "", 404, "application/json"),
        ("POST", "/v1/workloads/web/exec", "{\"argv\": [\"cat\"]}\nin", 200, "application/x-ndjson"),
    ] {
        let answered = ask(&router, request(method, path, &TO_NODE2, body)).await;
        assert_eq!((answered.status.as_u16(), &*answered.content_type), (status, content_type), "{path}");
        assert_eq!(first.calls().last().unwrap(), &format!("forward node2 {method} {path}"));
        // Not its own answer: `node1` would have been asked more than to forward.
        let direct = ask(&second.router(), request(method, path, &[], body)).await;
        assert_eq!(answered.body, direct.body, "{path}");
    }
    assert!(first.calls().iter().all(|call| call.starts_with("forward ")));
    assert_eq!(second.calls()[0], "health");
}

#[tokio::test]
async fn a_node_answers_for_itself() {
    let (first, second) = two_nodes();
    let answered = ask(&first.router(), request("GET", "/v1/health", &[(NODE_HEADER, "node1")], "")).await;
    assert_eq!(answered.json()["node"], "node1");
    assert_eq!((first.calls(), second.calls()), (vec!["health".to_owned()], vec![]));
}

#[tokio::test]
async fn nodes_that_are_unknown_or_no_names_are_refused() {
    let (first, _) = two_nodes();
    let unknown = ask(&first.router(), request("GET", "/v1/health", &[(NODE_HEADER, "node9")], "")).await;
    assert_eq!((unknown.status.as_u16(), unknown.problem().code), (404, Code::UnknownNode));
    let no_name = ask(&first.router(), request("GET", "/v1/health", &[(NODE_HEADER, "Node 9")], "")).await;
    assert_eq!((no_name.status.as_u16(), no_name.problem().code), (400, Code::Usage));
    assert!(no_name.problem().message.contains("x-migrate-node: 'Node 9' is not a name"));
    assert_eq!(first.calls(), ["forward node9 GET /v1/health"]);
}

#[tokio::test]
async fn what_no_agent_has_is_not_forwarded() {
    let (first, _) = two_nodes();
    assert_eq!(ask(&first.router(), request("GET", "/v1/nothing", &TO_NODE2, "")).await.status.as_u16(), 404);
    assert_eq!(first.calls(), [""; 0]);
}

#[tokio::test]
async fn a_large_body_is_refused_there_too() {
    let (first, second) = two_nodes();
    let answered =
        ask(&first.router(), request("POST", "/v1/workloads", &TO_NODE2, " ".repeat(LARGEST_JSON + 1))).await;
    assert!(answered.status.is_client_error(), "{answered:?}");
    assert_eq!(second.calls(), [""; 0]);
}

#[tokio::test]
async fn a_client_that_goes_cancels_a_move_on_the_other_node() {
    let (first, second) = two_nodes();
    let asked = request("POST", "/v1/workloads/web/move", &TO_NODE2, "{}");
    let Ok(response) = first.router().oneshot(asked).await;
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(*second.cancelled.borrow(), 0);
    drop(response);
    let mut cancelled = second.cancelled.subscribe();
    tokio::time::timeout(super::fake::LONG, cancelled.wait_for(|count| *count == 1)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_path_that_is_none_is_answered_not_followed() {
    let body = futures_util::stream::empty().boxed();
    let request = ForwardedRequest { method: axum::http::Method::GET, path: "/a b\n".to_owned(), body };
    assert_eq!(answer(&Fake::new("node2").router(), request).await.status.as_u16(), 400);
}
