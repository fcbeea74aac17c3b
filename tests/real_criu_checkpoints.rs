//! Checkpoints of running workloads with real CRIU: the workload goes on as if nothing had been, with its connections; what is brought back is what
//! it was; what is damaged is noticed and the one before it taken; a full disk and a killed agent leave it running.

#![allow(clippy::unwrap_used)]

mod harness;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use harness::vaults::flip_a_byte;
use harness::{Lab, eventually};
use migrate_proto::api::State;

impl Lab {
    fn happened(&self, kind: &str, words: &str) -> bool {
        self.events_of("node1").iter().any(|event| event.kind == kind && event.message.contains(words))
    }

    /// The highest `ok` that a workload had printed when it was last stopped, and that it goes on after what a checkpoint had.
    fn assert_goes_on_from(&self, name: &str, at_most: u64) {
        // Its log is a file of its own: it ends where the checkpoint was taken.
        let reached = self.assert_intact(name);
        assert!(self.wait_for_more_ok(name, 3) > reached);
        assert!(reached <= at_most + 1000, "{reached}");
    }
}

/// Each kind runs on through checkpoints, is ended, and goes on from the last of them with all of its state.
fn kept_and_brought_back(words: &[&str]) {
    let lab = Lab::up(1);
    lab.specimen("keeper", "node1", words);
    lab.wait_for_more_ok("keeper", 3);
    let pid = lab.view("keeper").pid;
    let first = lab.checkpoint("keeper");
    lab.wait_for_more_ok("keeper", 3);
    let second = lab.checkpoint("keeper");
    let at_checkpoint = lab.wait_for_more_ok("keeper", 3);
    assert_eq!(lab.view("keeper").pid, pid, "it is the same process");
    assert_eq!(lab.view("keeper").epoch.0, 1);
    let listed = lab.checkpoints("keeper");
    assert_eq!(listed.iter().map(|view| view.id).collect::<Vec<_>>(), [first.id, second.id]);
    assert!(listed.iter().all(|view| view.verified.is_some() && view.damaged.is_none()), "{listed:?}");
    assert_eq!(lab.view("keeper").last_checkpoint.unwrap().id, second.id);

    lab.done(["stop", "keeper"]);
    lab.done(["restore", "keeper"]);
    let view = lab.view("keeper");
    assert_eq!((view.state, view.epoch.0), (State::Running, 2), "{view:?}");
    lab.assert_goes_on_from("keeper", at_checkpoint);
    lab.assert_runs_only_on("keeper", "node1");
    assert!(lab.happened("restored", &second.id.to_string()[..12]));
    lab.assert_clean();
}

macro_rules! kept {
    ($($test:ident: $($word:literal)+;)+) => {$(
        #[test]
        fn $test() {
            kept_and_brought_back(&[$($word),+]);
        }
    )+};
}

kept! {
    counter: "counter";
    threads_and_futexes: "threads";
    process_tree_with_a_zombie: "tree";
    signals_timers_and_event_descriptors: "signals";
    shared_memory: "shm";
    file_locks: "locks";
    open_files: "files";
    files_with_odd_names_and_attributes: "tree-of-files";
    sockets: "sockets";
    memory: "memory" "--mib" "64" "--kind" "mixed";
    a_little_of_everything: "demo" "--mib" "64";
}

/// Answers each byte with the number of bytes so far.
const SERVER: &str = "import socket, sys\n\
    path = sys.argv[1]\n\
    s = socket.create_server(('127.0.0.1', int(path))) if path.isdigit() else None\n\
    print('ok 1', flush=True)\n\
    c, _ = s.accept()\n\
    n = 0\n\
    while True:\n\
    \x20 b = c.recv(1)\n\
    \x20 if not b: break\n\
    \x20 n += 1\n\
    \x20 c.sendall(n.to_bytes(4, 'little'))\n\
    print('ok 2', flush=True)\n\
    import time\n\
    time.sleep(1e6)\n";

/// A client on the node is connected before, through and after two checkpoints, and notices nothing but a pause.
#[test]
fn connections_stay_open() {
    let lab = Lab::up(1);
    lab.run("server", "node1", &["python3", "-c", SERVER, "8123"]);
    lab.wait_for_line("server", "ok 1");
    let client = "import socket, sys\n\
        c = socket.create_connection(('127.0.0.1', 8123), 30)\n\
        for line in sys.stdin:\n\
        \x20 c.sendall(b'x')\n\
        \x20 print(int.from_bytes(c.recv(4, socket.MSG_WAITALL), 'little'), flush=True)\n";
    let mut talking = lab.command(["lab", "exec", "node1", "--", "python3", "-c", client]);
    let mut talking = talking.stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut words = talking.stdin.take().unwrap();
    let mut answers = talking.stdout.take().unwrap();
    let mut say = |expected: &str| {
        words.write_all(b"\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\n") {
            let mut byte = [0];
            assert_eq!(answers.read(&mut byte).unwrap(), 1, "the client ended after {answer:?}");
            answer.push(byte[0]);
        }
        assert_eq!(String::from_utf8(answer).unwrap().trim(), expected);
    };
    say("1");
    lab.checkpoint("server");
    say("2");
    lab.checkpoint("server");
    say("3");
    drop(words);
    assert!(talking.wait().unwrap().success());
    lab.wait_for_line("server", "ok 2");
    lab.assert_clean();
}

/// What little changed is little on disk.
#[test]
fn the_second_checkpoint_of_a_quiet_workload_is_small() {
    let lab = Lab::up(1);
    lab.specimen("quiet", "node1", &["memory", "--mib", "64", "--kind", "random", "--quiet"]);
    lab.wait_for_more_ok("quiet", 3);
    let first = lab.checkpoint("quiet");
    assert!(first.bytes_stored > 64 << 20, "{first:?}");
    let second = lab.checkpoint("quiet");
    assert!(second.bytes > 64 << 20 && second.bytes_stored < 2 << 20, "{second:?}");
    // What is known of the first is read again after a restart of the agent.
    lab.done(["lab", "crash", "node1"]);
    assert!(eventually(|| lab.migrate(["ps"]).status.success()));
    let third = lab.checkpoint("quiet");
    assert!(third.bytes_stored < 2 << 20, "{third:?}");
    lab.assert_clean();
}

#[test]
fn a_damaged_checkpoint_is_told_and_the_one_before_it_is_taken() {
    let lab = Lab::up(1);
    lab.specimen("keeper", "node1", &["memory", "--mib", "8", "--kind", "random"]);
    lab.wait_for_more_ok("keeper", 2);
    let first = lab.checkpoint("keeper");
    let known = lab.segments("node1");
    lab.wait_for_more_ok("keeper", 2);
    let second = lab.checkpoint("keeper");
    lab.done(["stop", "keeper"]);
    lab.segments("node1").difference(&known).for_each(|new| flip_a_byte(new));
    lab.done(["restore", "keeper"]);
    assert!(lab.happened("warning", "is damaged"));
    assert!(lab.happened("restored", &first.id.to_string()[..12]));
    let listed = lab.checkpoints("keeper");
    assert!(listed.iter().any(|view| view.id == second.id && view.damaged.is_some()), "{listed:?}");
    lab.wait_for_more_ok("keeper", 3);

    // With none left it says so, and nothing has changed.
    lab.done(["stop", "keeper"]);
    for file in lab.segments("node1") {
        std::fs::write(file, b"nothing").unwrap();
    }
    let refused = lab.migrate(["restore", "keeper"]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("no checkpoint of keeper"), "{refused:?}");
    let view = lab.view("keeper");
    assert_eq!((view.state, view.epoch.0), (State::Stopped, 2), "{view:?}");
    // Its files are there: it starts afresh.
    lab.done(["start", "keeper"]);
    assert!(eventually(|| lab.logs("keeper").lines().filter(|line| line.starts_with("ok 2 ")).count() == 2));
    lab.assert_clean();
}

#[test]
fn a_running_workload_is_not_replaced_but_can_have_a_second() {
    let lab = Lab::up(1);
    lab.specimen("first", "node1", &["counter"]);
    lab.wait_for_more_ok("first", 3);
    let checkpoint = lab.checkpoint("first");
    let refused = lab.migrate(["restore", "first"]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("first runs on node1") && refused.stderr.contains("--as"), "{refused:?}");
    let unknown = lab.migrate(["restore", "first", "--checkpoint", "0000", "--as", "second"]);
    assert_eq!(unknown.code(), 2, "{unknown:?}");
    let taken = lab.migrate(["restore", "first", "--as", "first"]);
    assert_eq!(taken.code(), 2, "{taken:?}");

    let id = checkpoint.id.to_string();
    lab.done(["restore", "first", "--checkpoint", &id[..16], "--as", "second"]);
    lab.wait_for_more_ok("second", 3);
    lab.wait_for_more_ok("first", 3);
    lab.assert_runs_only_on("first", "node1");
    assert_eq!(lab.view("second").epoch.0, 1);
    lab.done(["rm", "-f", "first"]);
    assert!(lab.checkpoints("first").is_empty());
    lab.wait_for_more_ok("second", 3);
    lab.assert_clean();
}

#[test]
fn a_full_disk_leaves_it_running() {
    let lab = Lab::up_as(&["--nodes", "1", "--disk", "512MiB"], &[]);
    lab.specimen("keeper", "node1", &["memory", "--mib", "16", "--kind", "random"]);
    lab.wait_for_more_ok("keeper", 2);
    let first = lab.checkpoint("keeper");
    // There is room for what the workload writes, and none for checkpoints.
    let state = lab.directory().join("node1/state");
    let leave = "fallocate -l $(($(df --output=avail -B1 $0 | tail -n1) - 100000000)) $0/ballast";
    lab.done(["lab", "exec", "node1", "--", "sh", "-c", leave, state.to_str().unwrap()]);
    let refused = lab.migrate(["checkpoint", "keeper"]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(refused.stderr.contains("full") && refused.stderr.contains("keeper runs on on node1"), "{refused:?}");
    lab.wait_for_more_ok("keeper", 3);
    assert_eq!(lab.checkpoints("keeper").iter().map(|view| view.id).collect::<Vec<_>>(), [first.id]);
    lab.assert_clean();
}

/// At whatever point it dies.
#[test]
fn a_killed_agent_leaves_it_running() {
    let lab = Lab::up(1);
    lab.specimen("keeper", "node1", &["memory", "--mib", "64", "--kind", "random"]);
    lab.wait_for_more_ok("keeper", 2);
    for wait_for in ["checkpoint/guard.sock", "checkpoint/decision", "checkpoint"] {
        let dir = lab.directory().join("node1/state/workloads/keeper");
        let taking = lab.command(["checkpoint", "keeper"]).spawn().unwrap();
        let begun = eventually(|| dir.join(wait_for).exists() || lab.checkpoints("keeper").len() > 1);
        assert!(begun, "{wait_for}");
        lab.done(["lab", "crash", "node1"]);
        let _ = taking.wait_with_output().unwrap();
        assert!(eventually(|| lab.migrate(["ps"]).status.success()));
        lab.wait_for_more_ok("keeper", 3);
        assert!(eventually(|| !dir.join("checkpoint").exists()), "nothing of it stays");
        lab.checkpoint("keeper");
        lab.wait_for_more_ok("keeper", 3);
    }
    lab.assert_runs_only_on("keeper", "node1");
    lab.assert_clean();
}

/// Either nothing has changed, or it runs.
#[test]
fn a_killed_agent_takes_a_restore_back_or_ends_it() {
    let lab = Lab::up(1);
    lab.specimen("keeper", "node1", &["memory", "--mib", "48", "--kind", "random"]);
    lab.wait_for_more_ok("keeper", 2);
    lab.checkpoint("keeper");
    lab.done(["stop", "keeper"]);
    let dir = lab.directory().join("node1/state/workloads/keeper");
    for wait_for in ["restoring.json", "layer.restored", "layer.before"] {
        let epoch = lab.view("keeper").epoch.0;
        let restoring = lab.command(["restore", "keeper"]).spawn().unwrap();
        assert!(eventually(|| dir.join(wait_for).exists() || lab.view("keeper").epoch.0 > epoch), "{wait_for}");
        lab.done(["lab", "crash", "node1"]);
        let _ = restoring.wait_with_output().unwrap();
        assert!(eventually(|| lab.migrate(["ps"]).status.success()));
        assert!(eventually(|| ["restoring.json", "layer.restored", "layer.before"]
            .iter()
            .all(|file| !dir.join(file).exists())));
        let view = lab.view("keeper");
        match view.state {
            State::Stopped => {
                assert_eq!(view.epoch.0, epoch, "{view:?}");
                lab.done(["restore", "keeper"]);
            }
            _ => assert_eq!((view.state, view.epoch.0), (State::Running, epoch + 1), "{view:?}"),
        }
        lab.wait_for_more_ok("keeper", 3);
        lab.assert_runs_only_on("keeper", "node1");
        lab.done(["stop", "keeper"]);
    }
    lab.assert_clean();
}

/// Counts and gives signs of life, until there is a file that is not in the checkpoint.
const PATIENT: &str = "import itertools, os, time\n\
    for n in itertools.count(1):\n\
    \x20 print('ok', n, flush=True)\n\
    \x20 while os.path.exists('/work/hang'): time.sleep(0.05)\n\
    \x20 os.utime(os.environ['MIGRATE_PULSE'])\n\
    \x20 time.sleep(0.05)\n";

#[test]
fn what_hangs_comes_back_from_its_checkpoint() {
    let lab = Lab::up(1);
    let options = ["--restart", "always", "--pulse", "1s", "--health-grace", "1s"];
    lab.run_with("patient", "node1", &options, &["python3", "-c", PATIENT]);
    lab.wait_for_more_ok("patient", 5);
    let checkpoint = lab.checkpoint("patient");
    lab.wait_until_well_after("node1", "patient", 1);
    lab.exec("patient", &["touch", "/work/hang"]);
    assert!(eventually(|| lab.happened("restored", &checkpoint.id.to_string()[..12])));
    assert!(lab.happened("unhealthy", ""));
    let view = lab.view("patient");
    assert_eq!((view.epoch.0, view.restarts), (2, 1), "{view:?}");
    // Afresh it would have begun at 1 again.
    assert!(lab.assert_intact("patient") >= 5);
    lab.wait_for_more_ok("patient", 3);
    lab.assert_clean();
}

/// Nobody has noticed yet that it hangs when a checkpoint is taken of it. It has the file in it that makes it hang.
#[test]
fn a_checkpoint_that_was_taken_while_it_hung_already_does_not_count() {
    let lab = Lab::up(1);
    let options = ["--restart", "always", "--pulse", "8s", "--health-grace", "1s"];
    lab.run_with("patient", "node1", &options, &["python3", "-c", PATIENT]);
    lab.wait_for_more_ok("patient", 5);
    let well = lab.checkpoint("patient");
    lab.wait_until_well_after("node1", "patient", 1);
    lab.exec("patient", &["touch", "/work/hang"]);
    let hangs = lab.checkpoint("patient");
    assert!(hangs.healthy, "as far as anybody knows");
    assert!(eventually(|| lab.happened("restored", &well.id.to_string()[..12])), "{:?}", lab.events_of("node1"));
    assert!(lab.happened("unhealthy", "checkpoints without a sign of life after them do not count: 1"));
    assert!(!lab.happened("restored", &hangs.id.to_string()[..12]));
    lab.wait_for_more_ok("patient", 3);
    assert!(lab.assert_intact("patient") >= 5);
    let healthy: Vec<bool> = lab.checkpoints("patient").iter().map(|view| view.healthy).collect();
    assert_eq!(healthy, [true, false]);
    // It is distrusted for ever, also by an agent that comes later: who is well now was not well then.
    lab.checkpoint("patient");
    lab.wait_until_well_after("node1", "patient", 3);
    lab.done(["lab", "crash", "node1"]);
    assert!(eventually(|| lab.migrate(["ps"]).status.success()));
    lab.exec("patient", &["touch", "/work/hang"]);
    assert!(eventually(|| lab.view_of("patient").is_some_and(|view| view.restarts == 2)));
    lab.wait_for_more_ok("patient", 3);
    assert!(!lab.happened("restored", &hangs.id.to_string()[..12]));
    lab.assert_clean();
}

impl Lab {
    fn view_of(&self, name: &str) -> Option<migrate_proto::api::WorkloadView> {
        let ps = self.migrate(["--json", "ps"]).stdout;
        let views: Vec<migrate_proto::api::WorkloadView> = serde_json::from_str(&ps).ok()?;
        views.into_iter().find(|view| view.name.as_str() == name)
    }
}

#[test]
fn a_move_comes_first() {
    let lab = Lab::up(2);
    lab.specimen("keeper", "node1", &["memory", "--mib", "96", "--kind", "random"]);
    lab.wait_for_more_ok("keeper", 2);
    let dir = lab.directory().join("node1/state/workloads/keeper/checkpoint");
    let taking = lab.command(["checkpoint", "keeper"]).spawn().unwrap();
    assert!(eventually(|| dir.exists() || !lab.checkpoints("keeper").is_empty()));
    lab.force("keeper", "node2");
    lab.assert_runs_only_on("keeper", "node2");
    let taken = taking.wait_with_output().unwrap();
    if !taken.status.success() {
        let said = String::from_utf8_lossy(&taken.stderr).into_owned();
        assert!(said.contains("gave way"), "{said}");
    }
    lab.wait_for_more_ok("keeper", 3);
    // And it can be checkpointed there.
    lab.checkpoint("keeper");
    assert!(lab.checkpoints("keeper").iter().any(|view| view.nodes.iter().any(|node| node.as_str() == "node2")));
    lab.assert_clean();
}

#[test]
fn by_the_clock_and_not_more_than_are_kept() {
    let lab = Lab::up(1);
    let argv = ["/programs/specimen", "counter"];
    lab.run_with("keeper", "node1", &["--checkpoint-every", "1s"], &argv);
    let newest = || lab.checkpoints("keeper").last().map(|view| view.id);
    let mut seen = std::collections::BTreeSet::new();
    assert!(eventually(|| {
        seen.extend(newest());
        assert!(lab.checkpoints("keeper").len() <= 4, "one more while the oldest goes");
        seen.len() > 5
    }));
    assert!(lab.checkpoints("keeper").iter().all(|view| serde_json::to_value(view.kind).unwrap() == "periodic"));
    lab.wait_for_more_ok("keeper", 3);
    lab.assert_clean();
}

#[test]
fn a_socket_of_the_agent_is_not_needed() {
    // Who asked for a checkpoint may go away: it is taken all the same.
    let lab = Lab::up(1);
    lab.specimen("keeper", "node1", &["counter"]);
    lab.wait_for_more_ok("keeper", 2);
    let mut socket = UnixStream::connect(lab.directory().join("node1/agent.sock")).unwrap();
    write!(socket, "POST /v1/workloads/keeper/checkpoint HTTP/1.0\r\nhost: lab\r\ncontent-length: 0\r\n\r\n").unwrap();
    assert!(eventually(|| lab.directory().join("node1/state/workloads/keeper/checkpoint").exists()
        || !lab.checkpoints("keeper").is_empty()));
    let _ = socket.shutdown(Shutdown::Both);
    drop(socket);
    assert!(eventually(|| lab.checkpoints("keeper").iter().any(|view| view.verified.is_some())));
    lab.wait_for_more_ok("keeper", 3);
    lab.assert_clean();
}
