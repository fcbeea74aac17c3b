//! Answers that go on, through a real socket: both directions at once, and clients that leave.

use axum::http::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::convert::Infallible;
use tokio::sync::mpsc;

use super::super::*;
use super::fake::{Fake, LONG, request};
use super::server::Running;

/// The next line of an answer; `None` at its end. Every line is a frame of its own.
async fn line(response: &mut Response<Incoming>) -> Option<Value> {
    let frame = tokio::time::timeout(LONG, response.body_mut().frame()).await.unwrap()?.unwrap();
    Some(serde_json::from_slice(frame.data_ref().unwrap()).unwrap())
}

/// A body that is written while the answer is read.
fn written() -> (mpsc::UnboundedSender<&'static str>, Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let chunks = stream::unfold(receiver, |mut receiver| async move {
        let chunk: &str = receiver.recv().await?;
        Some((Ok::<_, Infallible>(Bytes::from_static(chunk.as_bytes())), receiver))
    });
    (sender, Body::from_stream(chunks))
}

fn echoed(text: &str) -> Option<Value> {
    Some(json!({ "stdout": STANDARD.encode(text) }))
}

const HOST: [(&str, &str); 1] = [("host", "agent")];

#[tokio::test]
async fn exec_flows_in_both_directions_at_once() {
    let running = Running::start(LONG);
    let mut client = running.client().await;
    let (input, body) = written();
    // The first line comes in pieces, and with it the first of the input.
    input.send("{\"argv\": ").unwrap();
    input.send("[\"cat\"]}\nfirst").unwrap();
    let mut answer = client.send_request(request("POST", "/v1/workloads/web/exec", &HOST, body)).await.unwrap();
    assert_eq!(line(&mut answer).await, echoed("first"));
    // Each piece is sent only when the one before has come back.
    for piece in ["second", "\n\n", "third\n"] {
        input.send(piece).unwrap();
        assert_eq!(line(&mut answer).await, echoed(piece));
    }
    drop(input);
    assert_eq!(line(&mut answer).await, Some(json!({"exit": {"code": 7}})));
    assert_eq!(line(&mut answer).await, None);
    assert_eq!(running.fake.calls(), ["exec web [\"cat\"]"]);
}

#[tokio::test]
async fn an_answer_begins_before_there_is_any_input() {
    let running = Running::start(LONG);
    let mut client = running.client().await;
    let (input, body) = written();
    input.send("{\"argv\": [\"cat\"]}\n").unwrap();
    let asked = client.send_request(request("POST", "/v1/workloads/web/exec", &HOST, body));
    let mut answer = tokio::time::timeout(LONG, asked).await.unwrap().unwrap();
    drop(input);
    assert_eq!(line(&mut answer).await, Some(json!({"exit": {"code": 7}})));
}

#[tokio::test]
async fn input_that_breaks_off_is_not_taken_for_its_end() {
    let broken = stream::iter([Ok("{\"argv\": [\"cat\"]}\nhalf"), Err(std::io::Error::other("the line went dead"))]);
    let asked = request("POST", "/v1/workloads/web/exec", &[], Body::from_stream(broken));
    let lines = super::fake::ask(&Fake::new("node1").router(), asked).await.lines();
    assert_eq!(lines[0], json!({"stdout": STANDARD.encode("half")}));
    assert_eq!(lines[1]["error"]["code"], "cancelled");
}

async fn until_cancelled(fake: &Fake) {
    let mut cancelled = fake.cancelled.subscribe();
    tokio::time::timeout(LONG, cancelled.wait_for(|count| *count == 1)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_goes_cancels_its_move() {
    let running = Running::start(LONG);
    let mut client = running.client().await;
    let mut answer = client.send_request(request("POST", "/v1/workloads/web/move", &HOST, "{}")).await.unwrap();
    assert_eq!(line(&mut answer).await.unwrap()["progress"]["phase"], "negotiate");
    assert_eq!(*running.fake.cancelled.borrow(), 0);
    drop((answer, client));
    until_cancelled(&running.fake).await;
}

#[tokio::test]
async fn a_client_that_goes_before_the_answer_cancels_its_move_too() {
    let running = Running::start(LONG);
    let mut client = running.client().await;
    let asking = client.send_request(request("POST", "/v1/workloads/stuck/move", &HOST, "{}"));
    let begun = async { running.fake.begun.subscribe().wait_for(|begun| *begun == 1).await.map(|_| ()) };
    tokio::select! {
        answer = asking => panic!("{answer:?}"),
        begun = begun => begun.unwrap(),
    }
    drop(client);
    until_cancelled(&running.fake).await;
}

#[tokio::test]
async fn what_follows_ends_with_the_agent() {
    for path in ["/v1/events?follow=true", "/v1/workloads/web/logs?follow=true"] {
        let running = Running::start(LONG);
        let mut client = running.client().await;
        let mut answer = client.send_request(request("GET", path, &HOST, "")).await.unwrap();
        assert!(line(&mut answer).await.is_some());
        running.closing.cancel();
        while line(&mut answer).await.is_some() {}
        running.ended().await;
    }
}
