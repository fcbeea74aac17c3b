//! What is refused before anybody is asked: exit code 2, and a message that says why.

use crate::command::{migrate, said};

fn refused(words: &[&str], why: &str) {
    let said = said(migrate(words));
    assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{words:?}: {said:?}");
    assert!(said.stderr.contains(why), "{words:?}: {}", said.stderr);
}

#[test]
fn what_is_not_there_yet_says_so() {
    for words in [&["top"][..], &["simulate", "--interactive", "cpu"]] {
        refused(words, &format!("error: {} is not there yet", words[0]));
    }
}

#[test]
fn wrong_words_are_usage_errors() {
    refused(&["frobnicate"], "unrecognized subcommand");
    refused(&["ps", "UPPER"], "is not a name");
    refused(&["--timeout", "10", "ps"], "a duration is a number with a unit");
    refused(&["--to", "node2"], "--force");
    refused(&["--force", "web", "--mode", "magic"], "possible values: auto, stream, ahead");
}

#[test]
fn an_option_of_run_that_comes_later_is_never_ignored() {
    refused(&["run", "--ip", "10.0.0.1/24", "--", "true"], "run --ip is not there yet");
    refused(&["run", "--group", "a", "--", "true"], "run --group is not there yet");
}

#[test]
fn no_agent_is_exit_code_four() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("nobody.sock");
    let said = said(migrate(&["--socket", socket.to_str().unwrap(), "ps"]));
    assert_eq!(said.code, 4);
    assert!(said.stderr.starts_with("error: no agent answers at "), "{}", said.stderr);
    assert!(said.stderr.contains("hint: "), "{}", said.stderr);
}

#[test]
fn a_key_is_made_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cluster.key");
    let make = || said(migrate(&["key", "new", file.to_str().unwrap()]));
    assert_eq!(make().code, 0);
    let key = std::fs::read(&file).unwrap();
    let again = make();
    assert_eq!(again.code, 2);
    assert!(again.stderr.contains("never overwritten"), "{}", again.stderr);
    assert_eq!(std::fs::read(&file).unwrap(), key);
}
