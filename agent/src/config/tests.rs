#![allow(clippy::unwrap_used)]

use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use migrate_proto::handover::Budget;
use tempfile::TempDir;

use super::settings::SETTINGS;
use super::*;

struct Case {
    dir: TempDir,
    args: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    host: OsString,
}

impl Case {
    /// No flags, no variables, and a file of this content.
    fn file(content: &str) -> Case {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("agent.toml");
        std::fs::write(&path, content).unwrap();
        let args = vec!["migrate-agent".into(), "--config".into(), path.into_os_string()];
        Case { dir, args, environment: Vec::new(), host: "host7".into() }
    }

    fn flags(mut self, flags: &[&str]) -> Case {
        self.args.extend(flags.iter().map(OsString::from));
        self
    }

    fn variable(mut self, name: &str, value: impl Into<OsString>) -> Case {
        self.environment.push((name.into(), value.into()));
        self
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::from(self.args.clone(), self.environment.clone(), self.host.clone())
    }

    /// The message, with the directory of the file left out.
    fn error(&self) -> String {
        self.load().unwrap_err().to_string().replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn peer(node: &str, address: &str) -> Peer {
    Peer { node: node.parse().unwrap(), address: address.to_owned() }
}

#[test]
fn defaults_are_those_of_the_table() {
    let config = Case::file("").load().unwrap();
    let expected = Config {
        node: "host7".parse().unwrap(),
        listen: "0.0.0.0:7700".parse().unwrap(),
        peers: vec![],
        cluster: None,
        state: "/var/lib/migrate".into(),
        run: "/run/migrate".into(),
        socket: "/run/migrate/agent.sock".into(),
        key: "/etc/migrate/cluster.key".into(),
        cgroup: "migrate".into(),
        hide: vec![],
        criu: "criu".into(),
        stop_timeout: Duration::from_secs(10),
        link_timeout: Duration::from_secs(10),
        shutdown_timeout: Duration::from_secs(10),
        budgets: Budgets::default(),
        keeping: Keeping::default(),
        prove_every: None,
        drains: crate::drain::Settings { on_terminate: None, notices: vec![], deadline: Duration::from_secs(30) },
        depots: vec![],
        depot_credentials: None,
        halts: None,
        log_level: Level::INFO,
        log_format: Format::Human,
    };
    assert_eq!(config, expected);
}

#[test]
fn the_environment_overrides_the_file_and_flags_override_both() {
    let case = Case::file("node = \"file\"\n").load().unwrap();
    assert_eq!(case.node.as_str(), "file");
    let case = Case::file("node = \"file\"\n").variable("NODE_ID", "environment");
    assert_eq!(case.load().unwrap().node.as_str(), "environment");
    assert_eq!(case.flags(&["--node", "flag"]).load().unwrap().node.as_str(), "flag");
}

#[test]
fn every_setting_can_be_said_in_all_three_places_and_is_checked_in_each() {
    for setting in SETTINGS {
        // Nothing is also wrong for each of them, so the origin in the message shows who was heard.
        let file = match setting.list {
            Some(_) => format!("\n{} = [\"\"]\n", setting.key),
            None => format!("\n{} = \"\"\n", setting.key),
        };
        let key = setting.key;
        assert!(Case::file(&file).error().starts_with(&format!("line 2 of agent.toml: '{key}' ")), "{key}");
        let flag = format!("--{}=", setting.flag);
        assert!(Case::file("").flags(&[&flag]).error().starts_with(&format!("--{}: '{key}' ", setting.flag)), "{key}");
        for name in setting.env {
            let error = Case::file("").variable(name, "\u{1}=/../\u{1}").error();
            assert!(error.starts_with(&format!("the variable {name}: '{key}' ")), "{key}: {error}");
        }
    }
}

#[test]
fn the_first_variable_of_a_setting_wins_and_an_empty_one_is_none() {
    let case = Case::file("").variable("NODE_ID", "general").variable("MIGRATE_NODE", "");
    assert_eq!(case.load().unwrap().node.as_str(), "general");
    assert_eq!(case.variable("MIGRATE_NODE", "own").load().unwrap().node.as_str(), "own");
}

#[test]
fn lists_are_arrays_repeated_flags_or_parted_variables() {
    let (two, three) = (peer("node2", "a.example:1"), peer("node3", "[::1]:2"));
    let both = vec![two.clone(), three];
    let file = "peers = [\"node2=a.example:1\",\n \"node3=[::1]:2\"]\nhide = [\"/a\", \"/b,c\"]";
    assert_eq!(Case::file(file).load().unwrap().peers, both);
    assert_eq!(Case::file(file).load().unwrap().hide, [Path::new("/a"), Path::new("/b,c")]);
    let environment = Case::file("")
        .variable("MIGRATE_PEERS", "node2=a.example:1, node3=[::1]:2,")
        .variable("MIGRATE_HIDE", "/a:/b,c");
    assert_eq!(environment.load().unwrap().peers, both);
    assert_eq!(environment.load().unwrap().hide, [Path::new("/a"), Path::new("/b,c")]);
    let flags = Case::file("").flags(&["--peer", "node2=a.example:1", "--peer=node3=[::1]:2"]);
    assert_eq!(flags.load().unwrap().peers, both);
    let replaced = Case::file(file).flags(&["--peer", "node2=a.example:1"]);
    assert_eq!(replaced.load().unwrap().peers, [two]);
}

#[test]
fn a_node_is_not_its_own_peer_and_no_peer_comes_twice() {
    let listed = Case::file("").variable("MIGRATE_PEERS", "node1=a:1,node2=b:2").flags(&["--node", "node1"]);
    assert_eq!(listed.load().unwrap().peers, [peer("node2", "b:2")]);
    let twice = Case::file("").flags(&["--peer", "n=a:1", "--peer", "n=b:1"]);
    assert_eq!(twice.error(), "--peer: 'peers' names n twice");
}

#[test]
fn mistakes_in_the_file_are_shown_with_their_line() {
    let error = Case::file("node = \"a\"\nlisten_on = \"x\"\n").error();
    assert!(
        error.starts_with("line 2 of agent.toml: there is no setting 'listen_on'; there are node, listen,"),
        "{error}"
    );
    assert_eq!(Case::file("# x\nnode = 7\n").error(), "line 2 of agent.toml: 'node' must be a string, not an integer");
    assert_eq!(
        Case::file("peers = \"a=b:1\"").error(),
        "line 1 of agent.toml: 'peers' must be an array of strings, not a string"
    );
    assert_eq!(
        Case::file("hide = [\n\"/a\",\n1]").error(),
        "line 3 of agent.toml: 'hide' must be an array of strings, not an integer"
    );
    assert!(Case::file("\n\nnode = \n").error().starts_with("line 3 of agent.toml: "));
    assert!(
        Case::file("[node]\nname = \"a\"")
            .error()
            .starts_with("line 1 of agent.toml: 'node' must be a string, not a table")
    );
}

#[test]
fn recovery_is_tested_by_the_clock_only_where_that_is_said() {
    let every = |word: &str| Case::file(&format!("prove_every = \"{word}\"")).load().map(|config| config.prove_every);
    assert_eq!(Case::file("").load().unwrap().prove_every, None);
    assert_eq!(every("10m").unwrap(), Some(Duration::from_secs(600)));
    assert!(
        Case::file("prove_every = \"999ms\"").error().contains("'prove_every' is '999ms', and must be at least 1s")
    );
    assert!(every("often").is_err());
}

#[test]
fn a_named_file_must_be_there() {
    let case = Case::file("");
    std::fs::remove_file(case.dir.path().join("agent.toml")).unwrap();
    assert!(case.error().starts_with("cannot read the configuration agent.toml: "));
}

#[test]
fn the_file_can_be_named_by_a_variable() {
    let mut case = Case::file("node = \"named\"");
    let path = case.args.pop().unwrap();
    case.args.pop();
    assert_eq!(case.variable("MIGRATE_CONFIG", path).load().unwrap().node.as_str(), "named");
}

#[test]
fn the_host_s_name_is_used_up_to_its_dot_or_refused_with_advice() {
    let mut case = Case::file("");
    case.host = "Web-3.example.org".into();
    assert_eq!(case.load().unwrap().node.as_str(), "web-3");
    case.host = "my_host".into();
    assert!(case.error().contains("my_host") && case.error().contains("--node"), "{}", case.error());
}

#[test]
fn the_socket_lies_in_the_run_directory_unless_said() {
    let config = Case::file("run = \"/tmp/r\"").load().unwrap();
    assert_eq!(config.socket, Path::new("/tmp/r/agent.sock"));
    let long = format!("/{}", "r".repeat(100));
    assert!(Case::file("").flags(&["--run", &long]).error().contains("too long for a socket"));
}

#[test]
fn paths_may_be_any_bytes() {
    let odd = OsString::from_vec(b"/srv/\xff".to_vec());
    let config = Case::file("").variable("MIGRATE_STATE", odd.clone()).load().unwrap();
    assert_eq!(config.state.into_os_string(), odd);
}

#[test]
fn wrong_values_are_refused() {
    for (flag, bad) in [
        ("--node", "A"),
        ("--listen", "localhost:1"),
        ("--listen", "1.2.3.4"),
        ("--peer", "n"),
        ("--peer", "n=host"),
        ("--peer", "n=host:0"),
        ("--peer", "n=host:+1"),
        ("--peer", "n=::1:5"),
        ("--peer", "=host:1"),
        ("--state", "relative"),
        ("--hide", "/a/../b"),
        ("--cgroup", "/migrate"),
        ("--cgroup", "../migrate"),
        ("--criu", "bin/criu"),
        ("--stop-timeout", "10"),
        ("--stop-timeout", "0s"),
        ("--stop-timeout", "99999999999999999h"),
        ("--freeze-limit", "1s/2s"),
        ("--freeze-limit", "1s/"),
        ("--freeze-limit", "1s/1s/1s"),
        ("--commit-repeat", "0s"),
        ("--halts", "here"),
        ("--checkpoint-keep", "0"),
        ("--checkpoint-keep", "many"),
        ("--checkpoint-age", "0s"),
        ("--checkpoint-max-bytes", "12"),
        ("--checkpoint-max-bytes", "0GiB"),
        ("--checkpoint-max-bytes", "99999999999TiB"),
        ("--log-level", "loud"),
        ("--log-format", "xml"),
    ] {
        let error = Case::file("").flags(&[flag, bad]).error();
        assert!(error.starts_with(flag), "{flag} {bad}: {error}");
    }
}

#[test]
fn unknown_flags_are_errors_and_help_names_every_setting() {
    let exit_code = |flag| match Case::file("").flags(&[flag]).load() {
        Err(ConfigError::Arguments(error)) => error.exit_code(),
        other => panic!("{other:?}"),
    };
    assert_eq!((exit_code("--nodes=x"), exit_code("--help"), exit_code("--version")), (2, 0, 0));
    let help = Case::file("").flags(&["--help"]).error();
    for setting in SETTINGS {
        assert!(help.contains(&format!("--{} <{}>", setting.flag, setting.value)), "{}", setting.flag);
        assert!(setting.env.iter().all(|name| help.contains(name)), "{}", setting.key);
    }
}

#[test]
fn the_limits_of_a_phase_are_one_duration_or_two() {
    let config = Case::file("restore_limit = \"5s\"").flags(&["--freeze-limit", "2m/250ms"]).load().unwrap();
    assert_eq!(config.budgets.restore, Budget { total: 5000, stall: 5000 });
    assert_eq!(config.budgets.freeze, Budget { total: 120_000, stall: 250 });
}

#[test]
fn the_documented_example_is_a_configuration() {
    let config = Case::file(docs::EXAMPLE).load().unwrap();
    assert_eq!(config.peers.len(), 2);
}
