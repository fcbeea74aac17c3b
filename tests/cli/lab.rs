//! The lab with real namespaces, networks and signals. Its agents are stand-ins: this test program again, as [`be_agent`].
//! Each test has a lab of its own, which is gone at the test's end, whatever happened.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::{Said, migrate, said};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much the stand-in sends to whoever connects.
const GREETING: usize = 1 << 20;

/// The agent's part of a stand-in: answers health, and greets whoever connects over the lab's network.
#[test]
#[ignore = "not a test: a lab starts it as its agent"]
fn be_agent() {
    let (Ok(node), Ok(socket), Ok(listen)) =
        (std::env::var("STAND_IN_NODE"), std::env::var("STAND_IN_SOCKET"), std::env::var("STAND_IN_LISTEN"))
    else {
        return;
    };
    let _ = std::fs::remove_file(&socket);
    let health = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let network = TcpListener::bind(&listen).unwrap();
    std::thread::spawn(move || {
        for stream in network.incoming() {
            let _ = stream.unwrap().write_all(&vec![7; GREETING]);
        }
    });
    let body = format!(r#"{{"node":"{node}","version":"0","criu_version":null,"ready":true}}"#);
    for stream in health.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let length = body.len();
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    }
}

/// Says how long it took to hear the whole greeting of the agent at $STAND_IN_PEER, or that nothing was heard.
#[test]
#[ignore = "not a test: it is run on a lab's node"]
fn be_visitor() {
    let Ok(peer) = std::env::var("STAND_IN_PEER") else { return };
    let begun = Instant::now();
    let heard = TcpStream::connect_timeout(&peer.parse().unwrap(), Duration::from_secs(2)).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        std::io::copy(&mut stream, &mut std::io::sink())
    });
    match heard {
        Ok(bytes) if bytes == GREETING as u64 => println!("heard in {} ms", begun.elapsed().as_millis()),
        other => println!("unheard: {other:?}"),
    }
}

/// A lab of stand-ins.
struct Lab {
    directory: tempfile::TempDir,
}

impl Lab {
    /// A place for a lab, whose agents do `agent`: a shell script that has the stand-in's variables.
    fn place(agent: &str) -> Lab {
        let directory = tempfile::tempdir().unwrap();
        let script = format!(
            "#!/bin/sh\n\
             while [ $# -gt 1 ]; do\n\
               case $1 in\n\
                 --node) export STAND_IN_NODE=\"$2\";;\n\
                 --socket) export STAND_IN_SOCKET=\"$2\";;\n\
                 --listen) export STAND_IN_LISTEN=\"$2\";;\n\
               esac\n\
               shift 2\n\
             done\n\
             {agent}\n"
        );
        let path = directory.path().join("agent");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Lab { directory }
    }

    /// A running lab of two nodes.
    fn up() -> Lab {
        Lab::up_with(&[])
    }

    /// The same, with these options.
    fn up_with(options: &[&str]) -> Lab {
        let lab = Lab::place(&format!("exec {} --ignored --exact lab::be_agent --nocapture", own_program()));
        let up = lab.say(&[&["up", "--nodes", "2"], options].concat());
        assert_eq!(up.code, 0, "{up:?}");
        lab
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = migrate(&[&["lab"], words].concat());
        command.env("MIGRATE_LAB", self.directory.path().join("lab"));
        command.env("MIGRATE_AGENT_BIN", self.directory.path().join("agent"));
        command
    }

    fn say(&self, words: &[&str]) -> Said {
        said(self.command(words))
    }

    fn done(&self, words: &[&str]) {
        let said = self.say(words);
        assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{words:?}");
    }

    /// `lab status` of one node.
    fn node(&self, name: &str) -> Value {
        let status = self.say(&["--json", "status"]).json();
        status["nodes"].as_array().unwrap().iter().find(|node| node["name"] == name).unwrap().clone()
    }

    /// What a shell on a node says.
    fn on(&self, node: &str, script: &str) -> String {
        let said = self.say(&["exec", node, "--", "sh", "-c", script]);
        assert_eq!(said.code, 0, "{said:?}");
        said.stdout.trim().to_owned()
    }

    /// How long `node` takes to hear `peer`; `None` where it hears nothing.
    fn hears(&self, node: &str, peer: &str) -> Option<u64> {
        let address = self.node(peer)["address"].as_str().unwrap().to_owned();
        let mut command = self.command(&[
            "exec",
            node,
            "--",
            &own_program(),
            "--ignored",
            "--exact",
            "lab::be_visitor",
            "--nocapture",
        ]);
        command.env("STAND_IN_PEER", address);
        let heard = said(command);
        let line =
            heard.stdout.lines().find_map(|line| line.split_once("heard")).unwrap_or_else(|| panic!("{heard:?}"));
        line.1.strip_prefix(" in ")?.strip_suffix(" ms")?.parse().ok()
    }

    fn is_gone(&self) -> bool {
        !self.directory.path().join("lab").exists()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.is_gone() {
            let down = self.say(&["down"]);
            assert!(std::thread::panicking() || (down.code == 0 && self.is_gone()), "{down:?}");
        }
    }
}

fn own_program() -> String {
    std::env::current_exe().unwrap().to_str().unwrap().to_owned()
}

fn pid(value: &Value) -> i64 {
    value.as_i64().unwrap_or_else(|| panic!("{value} is no PID"))
}

/// The state of a process as /proc has it; `None` where it is gone.
fn state_of(pid: &str) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The PIDs, as we see them, of processes with this argument.
fn processes_with(argument: &str) -> BTreeSet<String> {
    let has = |pid: &str| {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|b| *b == 0).any(|word| word == argument.as_bytes())
    };
    let names = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.bytes().all(|b| b.is_ascii_digit()) && has(name)).collect()
}

/// An argument that no other process has.
fn mark(lab: &Lab, word: &str) -> String {
    format!("{word}-{}", lab.directory.path().file_name().unwrap().to_str().unwrap())
}

#[test]
fn nodes_are_machines_of_their_own() {
    let lab = Lab::up();
    assert_eq!(lab.on("node2", "hostname; cat /proc/1/comm; ls -A /run | wc -l"), "node2\nmigrate\n0");
    assert_eq!(
        lab.on("node1", "ls /sys/class/net >/dev/null; ip -o -4 addr show eth0 | awk '{print $4}'"),
        "10.77.0.1/24"
    );
    assert!(lab.hears("node1", "node2").is_some() && lab.hears("node2", "node1").is_some());
    let key = lab.directory.path().join("lab/cluster.key");
    assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
    let code = lab.say(&["exec", "node1", "--", "sh", "-c", "exit 42"]).code;
    assert_eq!(code, 42);
    assert_eq!(lab.say(&["up"]).code, 2, "one lab in one directory");
    assert_eq!(lab.say(&["kill", "node9"]).code, 2);
    let holders = processes_with(lab.directory.path().join("lab").to_str().unwrap());
    assert!(holders.len() >= 3, "{holders:?}");
    lab.done(&["down"]);
    assert!(lab.is_gone());
    let left = processes_with(lab.directory.path().join("lab").to_str().unwrap());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_full_disk_is_one_nodes_own_and_outlives_its_power() {
    let lab = Lab::up_with(&["--disk", "128MiB"]);
    let state = |node: &str| lab.directory.path().join("lab").join(node).join("state/x").display().to_string();
    let writes = |node: &str| {
        let script = format!("head -c 8192 /dev/zero >{} && echo room", state(node));
        lab.say(&["exec", node, "--", "sh", "-c", &script]).stdout.trim() == "room"
    };
    assert!(writes("node1") && writes("node2"));
    lab.on("node1", &format!("rm {}", state("node1")));
    lab.done(&["fill", "node1"]);
    assert!(!writes("node1") && writes("node2"));
    assert_eq!(lab.node("node1")["faults"], serde_json::json!(["disk full"]));
    // A program is told what the lab is like after each command.
    let states = ["kill", "start"].map(|word| lab.say(&["--json", word, "node1"]).json()["nodes"][0]["state"].clone());
    assert_eq!(states, ["off", "running"]);
    assert!(!writes("node1"));
    lab.done(&["heal"]);
    assert!(writes("node1"));
    assert_eq!(lab.say(&["--json", "down"]).json()["removed"], true);
    assert!(lab.is_gone());
}

#[test]
fn what_all_nodes_share_is_not_filled() {
    let lab = Lab::up();
    let said = lab.say(&["fill", "node1"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stderr.contains("no disk of its own") && said.stderr.contains("--disk"), "{said:?}");
    lab.done(&["down"]);
}

#[test]
fn memory_is_limited_for_everything_on_a_node() {
    let lab = Lab::up_with(&["--memory", "64MiB"]);
    let script = "head -c 134217728 /dev/zero | tail -c 134217728 | wc -c";
    let own = lab.say(&["exec", "node1", "--", "cat", "/proc/1/cgroup"]).stdout;
    assert!(own.contains("/node1/node.own"), "{own}");
    // What is started there belongs to the group of who started it: the agent's children to the node's.
    let group = own.lines().find_map(|line| line.rsplit_once(":/")?.1.ends_with("node.own").then_some(line)).unwrap();
    let path = group.rsplit_once(":/").unwrap().1;
    let procs = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(|root| format!("{root}/{path}/cgroup.procs"));
    let procs = procs.into_iter().find(|path| std::path::Path::new(path).exists()).unwrap();
    let inside = format!("echo $$ >{procs} && {script}");
    let said = lab.say(&["exec", "node1", "--", "sh", "-c", &inside]);
    assert_ne!(said.stdout.trim(), "134217728", "{said:?}");
    let said = lab.say(&["exec", "node2", "--", "sh", "-c", script]);
    assert_eq!(said.stdout.trim(), "134217728", "{said:?}");
    lab.done(&["down"]);
    assert!(lab.is_gone());
}

#[test]
fn power_loss_takes_everything_and_a_boot_brings_the_agent_back() {
    let lab = Lab::up();
    let mark = mark(&lab, "worker");
    lab.on("node1", &format!("setsid sh -c 'sleep 1000; exit' {mark} >/dev/null 2>&1 </dev/null & sleep 0"));
    eventually("the worker runs", || !processes_with(&mark).is_empty());
    lab.done(&["kill", "node1"]);
    assert!(processes_with(&mark).is_empty(), "gone when `kill` returns");
    assert_eq!(lab.node("node1")["state"], "off");
    assert_eq!(lab.hears("node2", "node1"), None);
    assert_eq!(lab.say(&["crash", "node1"]).code, 2);
    lab.done(&["start", "node1"]);
    assert_eq!(lab.node("node1")["state"], "running");
    // Peers that had given it up may need a moment to find it again, as on any network.
    eventually("it is heard again", || lab.hears("node2", "node1").is_some());
    assert_eq!(lab.say(&["start", "node1"]).code, 2);
}

/// The files that freeze the group `name`, with what freezes it, one for each hierarchy that can.
fn freezers(name: &str) -> Vec<(PathBuf, &'static str)> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let freezer = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let group = Path::new(before.split(' ').nth(4)?).join(name);
        match after.split(' ').next()? {
            "cgroup2" => Some((group.join("cgroup.freeze"), "1")),
            "cgroup" if after.split([' ', ',']).any(|word| word == "freezer") => {
                Some((group.join("freezer.state"), "FROZEN"))
            }
            _ => None,
        }
    };
    mounts.lines().filter_map(freezer).collect()
}

#[test]
fn power_loss_takes_the_frozen_too() {
    let lab = Lab::up();
    let id = lab.say(&["--json", "status"]).json()["id"].as_str().unwrap().to_owned();
    let freezers = freezers(&format!("migrate-lab-{id}/node1/frozen"));
    assert!(!freezers.is_empty());
    for (file, word) in freezers {
        // It stands still because of a group above its own.
        let group = &file.parent().unwrap().join("below");
        std::fs::create_dir_all(group).unwrap();
        let mark = mark(&lab, word);
        let script = format!("sh -c 'echo $$ >{}/cgroup.procs; while :; do sleep 1000; done' {mark}", group.display());
        lab.on("node1", &format!("setsid {script} >/dev/null 2>&1 </dev/null & sleep 0"));
        let members = || std::fs::read_to_string(group.join("cgroup.procs")).unwrap().lines().count();
        eventually("it is in its group", || members() >= 2);
        std::fs::write(&file, word).unwrap();
        lab.done(&["kill", "node1"]);
        assert!(processes_with(&mark).is_empty(), "{}", file.display());
        lab.done(&["start", "node1"]);
    }
    let all = freezers_of_the_lab(&id);
    lab.done(&["down"]);
    assert!(all.iter().all(|group| !group.exists()), "{all:?}");
}

fn freezers_of_the_lab(id: &str) -> Vec<PathBuf> {
    freezers(&format!("migrate-lab-{id}")).iter().map(|(file, _)| file.parent().unwrap().to_owned()).collect()
}

#[test]
fn a_crashed_agent_comes_back_and_nothing_else_ends() {
    let lab = Lab::up();
    let before = lab.node("node1");
    lab.done(&["crash", "node1"]);
    assert_eq!(state_of(&before["agent_pid"].to_string()).filter(|state| *state != 'Z'), None);
    let mut after = Value::Null;
    eventually("another agent", || {
        after = lab.node("node1");
        after["agent_pid"].is_i64()
    });
    assert_eq!(pid(&after["pid"]), pid(&before["pid"]));
    assert_ne!(pid(&after["agent_pid"]), pid(&before["agent_pid"]));
}

#[test]
fn a_paused_node_stands_still_with_all_namespaces_in_it() {
    let lab = Lab::up();
    let mark = mark(&lab, "nested");
    lab.on(
        "node1",
        &format!(
            "unshare --pid --fork sh -c 'while :; do sleep 1000; done' {mark} >/dev/null 2>&1 </dev/null & sleep 0"
        ),
    );
    eventually("unshare and its child run", || processes_with(&mark).len() == 2);
    let worker = || processes_with(&mark);
    lab.done(&["pause", "node1"]);
    assert_eq!(lab.node("node1")["state"], "paused");
    let agent = lab.node("node1")["agent_pid"].to_string();
    eventually("all of it is stopped", || worker().iter().chain([&agent]).all(|pid| state_of(pid) == Some('T')));
    assert_ne!(state_of(&lab.node("node2")["agent_pid"].to_string()), Some('T'));
    lab.done(&["resume", "node1"]);
    assert_eq!(lab.node("node1")["state"], "running");
    eventually("all of it goes on", || worker().iter().chain([&agent]).all(|pid| state_of(pid) != Some('T')));
}

#[test]
fn partitions_outlive_a_boot_and_heal() {
    let lab = Lab::up();
    for cut in ["node1:node2", "node2"] {
        lab.done(&["cut", cut]);
        assert_eq!(lab.hears("node1", "node2"), None, "{cut}");
        assert_eq!(lab.hears("node2", "node1"), None, "{cut}");
        lab.done(&["kill", "node2"]);
        lab.done(&["start", "node2"]);
        assert_eq!(lab.hears("node2", "node1"), None, "{cut} after a boot");
        lab.done(&["heal"]);
        eventually("both hear each other", || {
            lab.hears("node1", "node2").is_some() && lab.hears("node2", "node1").is_some()
        });
    }
}

#[test]
fn a_narrow_link_is_narrow_until_healed() {
    let lab = Lab::up();
    lab.done(&["slow", "node1", "--rate", "10mbit"]);
    assert_eq!(lab.node("node1")["faults"][0], "10 Mbit/s");
    // 1 MiB less the 128 KiB that pass at once is 0.73 s at 10 Mbit/s: slower machines only make it longer.
    let narrow = lab.hears("node2", "node1").unwrap();
    assert!(narrow >= 600, "{narrow} ms");
    lab.done(&["heal"]);
    assert!(lab.node("node1")["faults"].as_array().unwrap().is_empty());
    assert!(lab.hears("node2", "node1").unwrap() < narrow);
}

#[test]
fn a_link_that_drops_loses_some_of_what_the_node_sends() {
    let lab = Lab::up();
    let received = |from: &str, to: &str| {
        let address = lab.node(to)["address"].as_str().unwrap().split(':').next().unwrap().to_owned();
        // With room for all of them (SO_RCVBUFFORCE): one that listens late must not lose any.
        let listen = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20); s.bind(('', 0)); s.settimeout(60)
print(s.getsockname()[1], flush=True)
seen = 0
while int(s.recv(16)) < 400: seen += 1
print(seen, flush=True)";
        let send = "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(600): s.sendto(b'%d' % number, (sys.argv[1], int(sys.argv[2])))";
        let mut listener = lab.command(&["exec", to, "--", "python3", "-c", listen]);
        let mut listener = listener.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(listener.stdout.take().unwrap()).lines();
        let port = said.next().unwrap().unwrap();
        lab.done(&["exec", from, "--", "python3", "-c", send, &address, &port]);
        let seen = said.next().unwrap().unwrap().parse::<u32>().unwrap();
        assert!(listener.wait().unwrap().success());
        seen
    };
    assert_eq!(received("node1", "node2"), 400);
    lab.done(&["drop", "node1", "--percent", "50"]);
    assert_eq!(lab.node("node1")["faults"][0], "loses 50 %");
    let seen = received("node1", "node2");
    assert!((100..300).contains(&seen), "{seen} of 400");
    assert_eq!(received("node2", "node1"), 400, "what it hears is another matter");
    lab.done(&["heal"]);
    assert_eq!(received("node1", "node2"), 400);
}

#[test]
fn an_agent_that_keeps_dying_fails_the_start_and_leaves_nothing() {
    let lab = Lab::place("echo 'the disk is missing' >&2; exit 3");
    let up = lab.say(&["up", "--nodes", "2"]);
    assert_eq!(up.code, 1, "{up:?}");
    assert!(up.stderr.contains("keeps dying") && up.stderr.contains("the disk is missing"), "{up:?}");
    assert!(lab.is_gone());
}

#[test]
fn down_clears_up_after_processes_that_were_killed() {
    let lab = Lab::up();
    let status = lab.say(&["--json", "status"]).json();
    for pid in [&status["switch_pid"], &status["nodes"][0]["pid"]] {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self::pid(pid)).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    eventually("they are gone", || lab.node("node1")["state"] == "off");
    lab.done(&["down"]);
    assert!(lab.is_gone());
}

#[test]
fn a_directory_that_is_used_otherwise_is_left_alone() {
    let lab = Lab::place("exit 1");
    let directory = lab.directory.path().join("lab");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("precious"), "x").unwrap();
    assert_eq!(lab.say(&["up"]).code, 2);
    assert_eq!(lab.say(&["down"]).code, 2);
    assert!(directory.join("precious").exists());
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn commands_go_to_the_lab_and_pass_over_a_node_that_is_off() {
    let lab = Lab::up();
    lab.done(&["kill", "node1"]);
    // The stand-in answers everything with its health, which is no list: that it was asked is what counts.
    let mut command = migrate(&["--node", "node1", "--json", "ps"]);
    command.env("MIGRATE_LAB", lab.directory.path().join("lab"));
    let told = said(command);
    assert!(told.stderr.contains("asking node2 instead"), "{told:?}");
    assert!(Path::new(&lab.node("node1")["socket"].as_str().unwrap()).exists());
}
