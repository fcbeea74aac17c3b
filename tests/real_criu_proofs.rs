//! Checkpoints that are restored for a test, with real CRIU: it is said when and how long it took, the workload notices nothing, nothing of the test stays, also
//! where the agent dies in its middle; what would not come back is told.

#![allow(clippy::unwrap_used)]

mod harness;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use harness::vaults::{files, flip_a_byte};
use harness::{Lab, Output, eventually};
use migrate_proto::api::{CheckpointView, NodeState, NodeView, RecoveryTest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What a test has goes by this name.
const PROOF: &str = "@proof";

impl Lab {
    fn state(&self, node: &str) -> PathBuf {
        self.directory().join(node).join("state")
    }

    /// What there is of a test on a node.
    fn of_tests(&self, node: &str) -> Vec<String> {
        let place = self.state(node).join("proof");
        let loops = files(Path::new("/sys/block")).into_iter().filter_map(|device| {
            let backing = std::fs::read_to_string(device.join("loop/backing_file")).ok()?;
            backing.contains(place.to_str()?).then(|| format!("a loop device of {}", backing.trim()))
        });
        let processes = self.processes(node, PROOF).into_iter().map(|pid| format!("process {pid}"));
        let group =
            |root: PathBuf| root.join(format!("migrate-lab-{}", self.status()["id"].as_str().unwrap())).join(node);
        let hierarchies = files(Path::new("/sys/fs/cgroup")).into_iter().chain(["/sys/fs/cgroup".into()]);
        let groups = hierarchies.map(group).map(|group| group.join(PROOF)).filter(|group| group.exists());
        let sandboxes = self.done(["lab", "exec", node, "--", "find", "/run", "-maxdepth", "3", "-name", "@proof*"]);
        let sandboxes = sandboxes.stdout.lines().map(str::to_owned).collect::<Vec<_>>();
        let place = Some(place.clone()).filter(|place| place.exists());
        let paths = groups.chain(place).map(|path| path.display().to_string());
        loops.chain(processes).chain(paths).chain(sandboxes).collect()
    }

    fn assert_nothing_stays(&self, node: &str) {
        assert!(eventually(|| self.of_tests(node).is_empty()), "{:?}", self.of_tests(node));
    }

    fn prove(&self, name: &str) -> Output {
        self.migrate(["--json", "checkpoints", name, "--prove"])
    }

    fn proven(&self, name: &str) -> RecoveryTest {
        let output = self.prove(name);
        assert!(output.status.success(), "{output:?}");
        let views: Vec<CheckpointView> = serde_json::from_value(output.json()).unwrap();
        views.last().unwrap().tested.clone().unwrap_or_else(|| panic!("{output:?}"))
    }

    fn warned(&self, node: &str, words: &str) -> bool {
        self.events_of(node).iter().any(|event| event.kind == "warning" && event.message.contains(words))
    }
}

/// Has what only one can have in a network: ports of every address and of the node's own, a name without a file; and what leads to others.
const NETWORK: &str = "import fcntl, itertools, socket, struct, time\n\
    def address(name):\n\
    \x20 with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:\n\
    \x20   return socket.inet_ntoa(fcntl.ioctl(s, 0x8915, struct.pack('256s', name.encode()))[20:24])\n\
    own = next(address(name) for _, name in socket.if_nameindex() if name not in ('lo',))\n\
    everywhere = socket.create_server(('0.0.0.0', 8123))\n\
    here = socket.create_server((own, 8124))\n\
    hidden = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM); hidden.bind('\\0only-one'); hidden.listen()\n\
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); out.bind((own, 0)); out.connect((own[:own.rindex('.')] + '.250', 9))\n\
    c = socket.create_connection((own, 8124)); a, _ = here.accept()\n\
    for n in itertools.count(1):\n\
    \x20 c.sendall(b'x'); assert a.recv(1) == b'x'\n\
    \x20 print('ok', n, flush=True)\n\
    \x20 time.sleep(0.02)\n";

#[test]
fn it_is_proven_beside_the_workload_and_nothing_of_it_stays() {
    let lab = Lab::up(1);
    lab.run("server", "node1", &["python3", "-c", NETWORK]);
    lab.wait_for_more_ok("server", 3);
    let pid = lab.view("server").pid;
    let none = lab.prove("server");
    assert!(none.code() == 1 && none.stderr.contains("no checkpoint of server"), "{none:?}");
    lab.checkpoint("server");
    let test = lab.proven("server");
    assert!(test.failed.is_none() && test.took_ms > 0, "{test:?}");
    lab.assert_nothing_stays("node1");
    let view = lab.view("server");
    assert_eq!((view.pid, view.epoch.0), (pid, 1), "it is the same one");
    assert_eq!(view.last_checkpoint.unwrap().tested.unwrap().at, test.at);
    assert_eq!(lab.ps().len(), 1);
    lab.wait_for_more_ok("server", 3);
    lab.assert_runs_only_on("server", "node1");
    let table = lab.done(["checkpoints", "server"]).stdout;
    assert!(table.contains("recovery tested") && table.contains("took"), "{table}");

    // It is known after the agent, and of the checkpoint that it was.
    lab.done(["lab", "crash", "node1"]);
    assert!(eventually(|| lab.migrate(["ps"]).status.success()));
    assert_eq!(lab.checkpoints("server")[0].tested.as_ref().unwrap().at, test.at);
    lab.checkpoint("server");
    let tested: Vec<bool> = lab.checkpoints("server").iter().map(|view| view.tested.is_some()).collect();
    assert_eq!(tested, [true, false]);
    lab.assert_clean();
}

#[test]
fn every_kind_of_state_is_proven() {
    let lab = Lab::up(1);
    let kinds: [&[&str]; 7] =
        [&["threads"], &["tree"], &["shm"], &["locks"], &["files"], &["sockets"], &["demo", "--mib", "64"]];
    for words in kinds {
        let name = words[0];
        lab.specimen(name, "node1", words);
        lab.wait_for_more_ok(name, 3);
        lab.checkpoint(name);
        let test = lab.proven(name);
        assert_eq!(test.failed, None, "{name}");
        lab.wait_for_more_ok(name, 3);
        lab.assert_nothing_stays("node1");
        lab.done(["rm", "-f", name]);
    }
    lab.assert_clean();
}

#[test]
fn what_is_damaged_is_told() {
    let lab = Lab::up(1);
    lab.specimen("keeper", "node1", &["memory", "--mib", "8", "--kind", "random"]);
    lab.wait_for_more_ok("keeper", 2);
    let taken = lab.checkpoint("keeper");
    lab.segments("node1").iter().for_each(|segment| flip_a_byte(segment));
    let failed = lab.prove("keeper");
    let said = format!("recovery test of checkpoint {} of keeper failed on node1: ", &taken.id.to_string()[..12]);
    assert!(failed.code() == 1 && failed.stderr.contains(&said), "{failed:?}");
    assert!(lab.warned("node1", &said), "{:?}", lab.events_of("node1"));
    lab.assert_nothing_stays("node1");
    let listed = lab.checkpoints("keeper").remove(0);
    assert!(listed.damaged.is_some() && listed.tested.unwrap().failed.is_some());
    lab.wait_for_more_ok("keeper", 3);
    lab.assert_runs_only_on("keeper", "node1");
    lab.assert_clean();
}

/// The workload holds a lock, has a file open for writing, and bytes lie in a FIFO: a test that reached them would be noticed.
const SHARING: &str = "import array, fcntl, itertools, os, termios, time\n\
    f = open('/data/journal', 'r+'); fcntl.flock(f, fcntl.LOCK_EX)\n\
    os.mkfifo('/data/pipe'); p = os.open('/data/pipe', os.O_RDWR); os.write(p, b'one')\n\
    held = array.array('i', [0])\n\
    for n in itertools.count(1):\n\
    \x20 fcntl.ioctl(p, termios.FIONREAD, held)\n\
    \x20 print('ok' if held[0] == 3 else 'BAD', n, flush=True)\n\
    \x20 time.sleep(0.005)\n";

#[test]
fn volumes_are_not_reached() {
    let lab = Lab::up(1);
    let shared = lab.place().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("journal"), "as it was").unwrap();
    let volume = format!("{}:/data", shared.display());
    lab.run_with("writer", "node1", &["--volume", &volume], &["python3", "-c", SHARING]);
    lab.wait_for_more_ok("writer", 3);
    lab.checkpoint("writer");
    assert_eq!(lab.proven("writer").failed, None);
    lab.assert_nothing_stays("node1");
    assert_eq!(std::fs::read_to_string(shared.join("journal")).unwrap(), "as it was");
    assert_eq!(files(&shared).len(), 2);
    lab.wait_for_more_ok("writer", 3);

    // Too large for its imitation: that says nothing about the checkpoint.
    let large = std::fs::File::create(shared.join("large")).unwrap();
    large.set_len(80 << 20).unwrap();
    std::io::Write::write_all(&mut &large, &vec![1; 80 << 20]).unwrap();
    let script = "import itertools, time\n\
        f = open('/data/large', 'r+')\n\
        for n in itertools.count(1): print('ok', n, flush=True); time.sleep(0.02)\n";
    lab.run_with("large", "node1", &["--volume", &volume], &["python3", "-c", script]);
    lab.wait_for_more_ok("large", 3);
    lab.checkpoint("large");
    let refused = lab.prove("large");
    assert!(refused.code() == 1 && refused.stderr.contains("was not tested on node1"), "{refused:?}");
    assert!(lab.checkpoints("large")[0].tested.is_none());
    lab.assert_nothing_stays("node1");
    lab.wait_for_more_ok("large", 3);
    lab.assert_clean();
}

/// At whatever point it dies.
#[test]
fn a_killed_agent_leaves_nothing_of_it() {
    let lab = Lab::up(1);
    lab.specimen("keeper", "node1", &["memory", "--mib", "96", "--kind", "random", "--quiet"]);
    lab.wait_for_more_ok("keeper", 2);
    lab.checkpoint("keeper");
    let place = lab.state("node1").join("proof");
    let layer = || place.join("layer.img").exists();
    // PID 1 first; then CRIU, and what it restores.
    let processes = |count: usize| lab.processes("node1", PROOF).len() >= count;
    let mut in_the_middle = 0;
    for (when, is_so) in
        [("layer", &layer as &dyn Fn() -> bool), ("sandbox", &|| processes(1)), ("restoring", &|| processes(4))]
    {
        let mut proving = lab.command(["checkpoints", "keeper", "--prove"]).spawn().unwrap();
        assert!(eventually(|| is_so() || proving.try_wait().unwrap().is_some()), "{when}");
        lab.done(["lab", "crash", "node1"]);
        in_the_middle += u32::from(!proving.wait_with_output().unwrap().status.success());
        assert!(eventually(|| lab.migrate(["ps"]).status.success()));
        lab.assert_nothing_stays("node1");
        lab.wait_for_more_ok("keeper", 3);
    }
    assert!(in_the_middle > 0, "each of them was over before its agent was killed");
    assert_eq!(lab.proven("keeper").failed, None);
    lab.assert_runs_only_on("keeper", "node1");
    lab.assert_clean();
}

/// An agent that is told to end takes its test along.
#[test]
fn a_test_gives_way_to_the_end_of_its_agent() {
    let lab = Lab::up(1);
    lab.specimen("keeper", "node1", &["memory", "--mib", "96", "--kind", "random", "--quiet"]);
    lab.wait_for_more_ok("keeper", 2);
    lab.checkpoint("keeper");
    let mut proving = lab.command(["checkpoints", "keeper", "--prove"]).spawn().unwrap();
    let begun = || !lab.processes("node1", PROOF).is_empty();
    assert!(eventually(|| begun() || proving.try_wait().unwrap().is_some()));
    let agent = lab.status()["nodes"][0]["agent_pid"].as_i64().unwrap();
    kill(Pid::from_raw(agent as i32), Signal::SIGTERM).unwrap();
    let _ = proving.wait_with_output().unwrap();
    assert!(eventually(|| lab.status()["nodes"][0]["agent_pid"].as_i64() != Some(agent)));
    lab.assert_nothing_stays("node1");
    lab.assert_clean();
}

#[test]
fn a_workload_that_comes_goes_before_a_test() {
    let lab = Lab::up(2);
    lab.specimen("keeper", "node1", &["memory", "--mib", "96", "--kind", "random", "--quiet"]);
    lab.wait_for_more_ok("keeper", 2);
    lab.checkpoint("keeper");
    assert!(eventually(|| lab.checkpoints("keeper")[0].nodes.len() == 2));
    let mut proving = lab.command(["--node", "node2", "checkpoints", "keeper", "--prove"]).spawn().unwrap();
    let begun = || !lab.processes("node2", PROOF).is_empty();
    assert!(eventually(|| begun() || proving.try_wait().unwrap().is_some()));
    lab.force("keeper", "node2");
    let proven = proving.wait_with_output().unwrap();
    if !proven.status.success() {
        let said = String::from_utf8_lossy(&proven.stderr).into_owned();
        assert!(said.contains("was not tested on node2") && said.contains("gave way"), "{said}");
    }
    lab.assert_nothing_stays("node2");
    lab.assert_runs_only_on("keeper", "node2");
    lab.wait_for_more_ok("keeper", 3);
    lab.assert_clean();
}

#[test]
fn by_the_clock_on_a_node_that_does_not_own_it() {
    let environment: [(&str, &OsStr); 1] = [("MIGRATE_PROVE_EVERY", OsStr::new("6s"))];
    let lab = Lab::up_as(&["--cluster", "--nodes", "3"], &environment);
    let nodes = || -> Vec<NodeView> {
        serde_json::from_value(lab.done(["--json", "--node", "node1", "nodes"]).json()).unwrap()
    };
    let alive = |node: &NodeView| node.voter && node.state == NodeState::Alive;
    assert!(eventually(|| nodes().iter().filter(|node| alive(node)).count() == 3), "{:?}", nodes());
    lab.specimen("keeper", "node1", &["memory", "--mib", "16", "--kind", "random"]);
    lab.wait_for_more_ok("keeper", 3);
    lab.checkpoint("keeper");
    // The owner hears of it through the record.
    let tested = || lab.view("keeper").last_checkpoint.and_then(|last| last.tested);
    assert!(eventually(|| tested().is_some()), "{:?}", lab.migrate(["events"]));
    let first = tested().unwrap();
    assert_eq!(first.failed, None);
    assert!(eventually(|| tested().unwrap().at > first.at), "and again");
    let by_itself = |node: &str| lab.state(node).join("tested.json").exists();
    assert!(!by_itself("node1") && (by_itself("node2") || by_itself("node3")));
    lab.wait_for_more_ok("keeper", 3);
    lab.assert_runs_only_on("keeper", "node1");
    assert_eq!(lab.view("keeper").epoch.0, 1);
    lab.assert_clean();
}
