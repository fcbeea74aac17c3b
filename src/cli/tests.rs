//! What is typed and what comes of it.

#![allow(clippy::unwrap_used)]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::{CommandFactory, Parser};

use super::*;
use crate::cli::lab::{Cut, LabCommand};

fn parse(words: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("migrate").chain(words.split_whitespace()))
}

fn run_options(words: &str) -> Box<run::RunOptions> {
    match parse(words).unwrap().command {
        Some(Command::Run(options)) => options,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn who_is_asked_and_what_it_is_asked_for_are_two_things() {
    for words in ["drain", "undrain", "nodes forget"] {
        let cli = parse(&format!("--node node1 {words} node2")).unwrap();
        assert_eq!(cli.everywhere.node.unwrap().as_str(), "node1", "{words}");
        assert!(format!("{:?}", cli.command).contains("node2"), "{words}: {:?}", cli.command);
    }
}

#[test]
fn force_is_a_flag_whose_name_may_be_left_out() {
    let cli = parse("--force web --to node2 --mode stream").unwrap();
    assert_eq!(cli.forced.force.unwrap().unwrap().as_str(), "web");
    assert_eq!(cli.forced.to.unwrap().as_str(), "node2");
    assert_eq!(cli.forced.mode, Some(ModeName::Stream));
    assert_eq!(parse("--force --to node2").unwrap().forced.force, Some(None));
    assert_eq!(parse("ps").unwrap().forced.force, None);
    assert!(parse("--to node2").is_err());
    assert!(parse("--force Web").is_err());
}

#[test]
fn what_comes_later_is_known_with_whatever_it_is_given() {
    for words in ["check web --to node2", "drain node1 --deadline 5m", "top", "why web"] {
        assert!(parse(words).is_ok(), "{words}");
    }
    assert!(parse("no-such-command").is_err());
}

#[test]
fn cuts_are_of_one_node_or_of_two_different_ones() {
    let cut = |what: &str| match parse(&format!("lab cut {what}")) {
        Ok(Cli { command: Some(Command::Lab(LabCommand::Cut { what })), .. }) => Some(what),
        _ => None,
    };
    let (one, two) = ("node1".parse::<NodeName>().unwrap(), "node2".parse::<NodeName>().unwrap());
    assert_eq!(cut("node1"), Some(Cut::Node(one.clone())));
    assert_eq!(cut("node1:node2"), Some(Cut::Pair(one, two)));
    assert_eq!(cut("node1:node1"), None);
    assert_eq!(cut("node1:"), None);
}

#[test]
fn run_carries_every_option() {
    let words = "run --name web --on node2 --user 7:8 --env A=b=c --env E= --dir /srv --volume /a:/b --volume /c:/d:ro \
                 --memory 512MiB --cpus 1.5 --root /images/web.tar --restart no --net host --replicas 3 -- prog -x --name no";
    let request = run_options(words).request(None, "1f").unwrap();
    let json = serde_json::to_value(&request).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "on": "node2",
            "root": "/images/web.tar",
            "replicas": 3,
            "spec": {
                "name": "web", "argv": ["prog", "-x", "--name", "no"], "env": [["A", "b=c"], ["E", ""]], "dir": "/srv",
                "user": {"uid": 7, "gid": 8},
                "volumes": [
                    {"source": "/a", "target": "/b", "read_only": false},
                    {"source": "/c", "target": "/d", "read_only": true},
                ],
                "own_root": false, "memory_bytes": 536_870_912, "cpu_milli": 1500, "layer_bytes": 8_589_934_592_u64,
            }
        })
    );
}

#[test]
fn an_unnamed_workload_is_named_after_its_program_and_runs_where_asked() {
    let node = "node3".parse().unwrap();
    let request = run_options("run -- /usr/bin/Python3.11 x.py").request(Some(&node), "1f").unwrap();
    assert_eq!(request.spec.name.as_str(), "python3-11-1f");
    assert_eq!(request.on.unwrap().as_str(), "node3");
    assert_eq!(run_options("run -- ...").request(None, "1f").unwrap().spec.name.as_str(), "workload-1f");
}

#[test]
fn odd_bytes_arrive_unharmed() {
    let odd = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let words = [odd(b"migrate"), odd(b"run"), odd(b"--env"), odd(b"K=\xff"), odd(b"--"), odd(b"sh"), odd(b"\xfe\n'")];
    let cli = Cli::try_parse_from(words).unwrap();
    let Some(Command::Run(options)) = cli.command else { panic!() };
    let spec = options.request(None, "x").unwrap().spec;
    assert_eq!(spec.argv[1].as_bytes(), b"\xfe\n'");
    assert_eq!(spec.env[0].1.as_bytes(), b"\xff");
}

#[test]
fn options_that_come_later_are_refused_by_name_and_never_ignored() {
    for option in ["--net own", "--ip 10.0.0.1/24", "--group a"] {
        let refused = run_options(&format!("run {option} -- true")).request(None, "x").unwrap_err();
        let expected = format!("run {} is not there yet", option.split(' ').next().unwrap());
        assert_eq!(refused.to_string(), expected);
    }
}

#[test]
fn nonsense_is_refused_before_anybody_is_asked() {
    for option in ["--net none", "--env X", "--env =x", "--volume a:/b", "--volume /a:/b:rw", "--dir x"] {
        assert!(run_options(&format!("run {option} -- true")).request(None, "x").is_err(), "{option}");
    }
    for words in [
        "run true",
        "run --",
        "run --user root -- x",
        "run --memory 5 -- x",
        "run --user 4294967295 -- x",
        "run --restart maybe -- x",
    ] {
        assert!(parse(words).is_err(), "{words}");
    }
}
