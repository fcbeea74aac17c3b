//! Commands beside a workload, and workloads with a user of their own.

#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use house::{House, command, wait_until};
use migrate_proto::spec::User;
use migrate_sandbox::cgroup::Cgroup;
use migrate_sandbox::control::Command;

const SOMEBODY: Option<User> = Some(User { uid: 1234, gid: 4321 });

/// A sandbox in which something runs.
fn busy(name: &str) -> House {
    let house = House::new(name);
    house.start(&command(&["sleep", "1000"]));
    house
}

fn pids_beside(cgroup: &Cgroup) -> Vec<String> {
    let groups = std::fs::read_dir(cgroup.beside().unwrap())
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_type().unwrap().is_dir());
    let procs = groups.filter_map(|group| std::fs::read_to_string(group.path().join("cgroup.procs")).ok());
    procs.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn a_workload_with_a_user_can_write_where_it_works() {
    let house = House::new("user");
    let script = "id -u; id -g; echo x > file && stat -c %u:%g . /.migrate/layer/log/std*; echo again >> /dev/stdout";
    house.start(&Command { user: SOMEBODY, ..command(&["/bin/sh", "-c", script]) });
    house.sandbox.wait().unwrap();
    assert_eq!(house.output(), "1234\n4321\n1234:4321\n1234:4321\n1234:4321\nagain\n");
}

#[test]
fn what_somebody_made_there_stays_theirs() {
    let house = House::new("user-later");
    assert_eq!(house.run(&["/bin/sh", "-c", "echo x > file"]), migrate_proto::api::Exit::Code(0));
    house.start(&Command { user: SOMEBODY, ..command(&["/bin/sh", "-c", "stat -c %u . file"]) });
    house.sandbox.wait().unwrap();
    assert_eq!(house.output(), "0\n0\n");
}

#[test]
fn a_command_may_be_long() {
    let house = busy("long");
    let word = "x".repeat(100_000);
    let mut argv = vec!["/bin/sh", "-c", "echo $# ${#3}; exit 9", "sh"];
    argv.extend([word.as_str(); 8]);
    let (mut helper, letter) = house.beside(command(&argv));
    let output = helper.output().unwrap();
    drop(letter);
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"8 100000\n"[..], Some(9)), "{output:?}");
}

#[test]
fn a_command_leaves_nothing_behind() {
    let house = busy("leftovers");
    // It holds the output open, too: without an end of it this would wait for a long time.
    let (mut helper, _letter) = house.beside(command(&["/bin/sh", "-c", "setsid sleep 1000 & echo done; kill -40 $$"]));
    let output = helper.output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"done\n"[..], Some(128 + 40)), "{output:?}");
    assert_eq!(pids_beside(&house.cgroup), Vec::<String>::new());
}

#[test]
fn a_command_ends_with_its_helper() {
    for user in [None, SOMEBODY] {
        let house = busy("helper");
        let asked = Command { user, ..command(&["/bin/sh", "-c", "sleep 1000 & echo $$; exec sleep 1000"]) };
        let (mut helper, _letter) = house.beside(asked);
        let mut helper = helper.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(helper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let inner: i32 = line.trim().parse().unwrap();
        assert!(house.sandbox.outer_pid(inner).is_some() || !pids_beside(&house.cgroup).is_empty());
        helper.kill().unwrap();
        helper.wait().unwrap();
        wait_until("the command and its child end", || pids_beside(&house.cgroup).is_empty());
    }
}
