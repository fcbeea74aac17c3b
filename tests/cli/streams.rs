//! logs, exec and events: answers that are streams.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::command::{Said, asking, said};
use crate::stand_in::{Answer, StandIn, problem};

fn bytes(stream: &str, bytes: &[u8]) -> Value {
    json!({stream: BASE64_STANDARD.encode(bytes)})
}

#[test]
fn logs_are_the_bytes_that_the_workload_wrote() {
    let agent = StandIn::start(|_, _| Answer::Lines(vec![bytes("stdout", b"out\xff\x1b["), bytes("stderr", b"err\n")]));
    let output = asking(&agent.socket(), &["logs", "--tail", "5", "web"]).output().unwrap();
    assert_eq!(
        (output.status.code(), &output.stdout[..], &output.stderr[..]),
        (Some(0), &b"out\xff\x1b["[..], &b"err\n"[..])
    );
    assert_eq!(agent.record.asked()[0].what, "GET /v1/workloads/web/logs?follow=false&tail=5");
}

#[test]
fn exec_speaks_both_ways_at_once_and_ends_with_the_commands_code() {
    let agent = StandIn::start(|_, _| Answer::Echo(json!({"exit": {"code": 7}})));
    let mut command = asking(&agent.socket(), &["exec", "web", "--", "cat", "-"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for word in ["one\n", "two\n"] {
        stdin.write_all(word.as_bytes()).unwrap();
        let mut answered = String::new();
        stdout.read_line(&mut answered).unwrap();
        assert_eq!(answered, word, "answered before the input's end");
    }
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(7));
    assert_eq!(agent.record.asked()[0].body, json!({"argv": ["cat", "-"]}));
}

#[test]
fn exec_says_how_it_ended_as_a_shell_would() {
    for (line, code) in [
        (json!({"exit": {"code": 0}}), 0),
        (json!({"exit": {"signal": 9}}), 137),
        (json!({"error": problem("cannot-execute", "no such program", "")["error"]}), 1),
        (bytes("stdout", b"and then nothing"), 4),
    ] {
        let lines = vec![line.clone()];
        let agent = StandIn::start(move |_, _| Answer::Lines(lines.clone()));
        let said = said(asking(&agent.socket(), &["exec", "-n", "web", "--", "true"]));
        assert_eq!(said.code, code, "{line}: {said:?}");
        let agent = StandIn::start(move |_, _| Answer::Lines(vec![line.clone()]));
        let said = self::said(asking(&agent.socket(), &["--json", "exec", "-n", "web", "--", "true"]));
        let answers: Vec<Value> = said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            answers.iter().filter(|answer| answer["error"].is_object()).count(),
            usize::from(code == 1 || code == 4)
        );
    }
}

#[test]
fn an_exec_that_has_ended_does_not_wait_for_its_input() {
    let agent = StandIn::start(|_, _| Answer::Lines(vec![json!({"exit": {"code": 0}})]));
    let mut command = asking(&agent.socket(), &["exec", "web", "--", "true"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // Its input stays open all the while.
    let held = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(held);
}

#[test]
fn events_are_lines_and_a_reader_that_leaves_is_no_failure() {
    let event = |n: u32| {
        json!({"at": "2026-11-21T10:00:00.000Z", "node": "node1", "workload": "web", "kind": "moved", "phase": "resume",
               "message": format!("number {n}")})
    };
    let agent = StandIn::start(move |_, _| Answer::Lines((0..2).map(event).collect()));
    let words = said(asking(&agent.socket(), &["events", "--since", "5m"]));
    assert_eq!(
        words.stdout.lines().next(),
        Some("2026-11-21T10:00:00.000Z  node1  web  moved [resume]  number 0"),
        "{words:?}"
    );
    assert_eq!(agent.record.asked()[0].what, "GET /v1/events?follow=false&since_ms=300000");
    let json = said(asking(&agent.socket(), &["events", "--json"]));
    let lines: Vec<Value> = json.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, [event(0), event(1)]);

    let many = StandIn::start(move |_, _| Answer::Lines((0..20_000).map(event).collect()));
    let mut child = asking(&many.socket(), &["events"]).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut String::new()).unwrap();
    drop(reader);
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
}
