#![allow(clippy::unwrap_used)]

use std::ffi::OsString;

use super::*;

/// No file but an empty one, these flags and variables, on the node `node1` unless they say another.
fn load(flags: &[&str], variables: &[(&str, &str)]) -> Result<Option<ClusterConfig>, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.toml");
    std::fs::write(&file, "").unwrap();
    let args = ["migrate-agent".into(), "--config".into(), file.into_os_string()];
    let args = args.into_iter().chain(flags.iter().map(OsString::from));
    let environment = variables.iter().map(|(name, value)| (name.into(), value.into()));
    let config = Config::from(args, environment, "node1".into());
    config.map(|config| config.cluster).map_err(|error| error.to_string())
}

#[test]
fn nobody_is_in_a_cluster_who_was_not_told_so() {
    assert_eq!(load(&[], &[]), Ok(None));
    assert_eq!(load(&["--peer", "node2=a:1", "--swim-period", "700ms", "--swim-suspicion", "3s"], &[]), Ok(None));
}

#[test]
fn node_id_and_members_in_the_environment_are_enough() {
    let told = load(&[], &[("NODE_ID", "b"), ("MEMBERS", "a=h:1,b=h:2")]).unwrap().unwrap();
    assert_eq!(told.members.iter().map(|member| member.node.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((told.listed(&"b".parse().unwrap()), told.join.len()), (Some("h:2"), 0));
    assert_eq!(told.swim, migrate_members::Settings::default());
    assert_eq!(told.terms, Terms::new(1_500_000_000, 10_000).unwrap());
}

#[test]
fn one_joins_through_any_member() {
    let told = load(&["--join", "h:1", "--join", "[::1]:2", "--advertise", "me:3"], &[]).unwrap().unwrap();
    assert_eq!((told.join, told.advertise), (vec!["h:1".to_owned(), "[::1]:2".to_owned()], Some("me:3".to_owned())));
}

#[test]
fn an_etcd_may_keep_the_record_and_leases_are_longer_there() {
    let etcd = ["--join", "h:1", "--ownership", "etcd://a:1,b:2/m"];
    let told = load(&etcd, &[]).unwrap().unwrap();
    assert_eq!(told.etcd.map(|etcd| etcd.to_string()), Some("etcd://a:1,b:2/m".to_owned()));
    assert_eq!(told.terms.lease(), 5_000_000_000);
    let said = [&etcd[..], &["--lease", "2s"]].concat();
    assert_eq!(load(&said, &[]).unwrap().unwrap().terms.lease(), 2_000_000_000);
    assert_eq!(load(&["--join", "h:1", "--ownership", "raft"], &[]).unwrap().unwrap().etcd, None);
}

#[test]
fn what_makes_no_sense_is_refused_with_a_sentence() {
    for (flags, said) in [
        (&["--join", "h"][..], "--join: 'join' is not HOST:PORT: h"),
        (&["--join", "h:1", "--peer", "b=h:2"], "--peer: 'peers' cannot be said together with 'join' or 'members'"),
        (&["--join", "h:1", "--member", "node1=h:2"], "--join: 'join' cannot be said together with 'members'"),
        (&["--member", "b=h:2"], "--member: 'members' does not name this node, node1"),
        (&["--member", "node1=h:1", "--member", "node1=h:2"], "--member: 'members' names node1 twice"),
        (&["--swim-period", "400ms"], "--swim-period: 'swim_period' does not fit: the period (400ms) must be at least"),
        (&["--swim-suspicion", "1s"], "--swim-suspicion: 'swim_suspicion' does not fit: the suspicion (1s) must"),
        (&["--lease", "200ms"], "--lease: 'lease' does not fit: a lease of 200 ms"),
        (&["--lease", "900ms"], "--lease: 'lease' does not fit: it must be at least twice 'swim_period'"),
        (&["--clock-bound", "6%"], "--clock-bound: 'clock_bound' does not fit: clocks whose rates are wrong"),
        (&["--clock-bound", "1"], "--clock-bound: 'clock_bound' must be a percentage"),
        (&["--raft-heartbeat", "200ms"], "the default: 'raft_election' does not fit: its first half must be more"),
        (&["--ownership", "etcd://h:1/m"], "--ownership: 'ownership' needs a cluster: say 'members' or 'join', too"),
        (
            &["--join", "h:1", "--ownership", "zookeeper"],
            "--ownership: 'ownership' is neither 'raft' nor an etcd: it must begin",
        ),
        (
            &["--join", "h:1", "--ownership", "etcds://h:1/m"],
            "--ownership: 'ownership' is neither 'raft' nor an etcd: TLS to etcd",
        ),
        (&["--raft-election", "600ms/400ms"], "--raft-election: 'raft_election' must be two durations"),
    ] {
        let error = load(flags, &[]).unwrap_err();
        assert!(error.starts_with(said), "{flags:?}: {error}");
    }
}

#[test]
fn a_percentage_has_up_to_four_decimals() {
    for (word, parts) in [("1%", 10_000), ("0.5%", 5_000), ("0.0001%", 1), ("0%", 0), ("4.25%", 42_500)] {
        assert_eq!(values::parts_per_million(word.into()).unwrap(), parts, "{word}");
    }
    for word in ["%", "1", ".5%", "1.%", "0.00001%", "-1%", "1e1%", "99999999999%"] {
        assert!(values::parts_per_million(word.into()).is_err(), "{word}");
    }
}
