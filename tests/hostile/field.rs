//! The battlefield: a lab on whose network the attacker has the address after the last node's, or the last node's own.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use tokio::sync::watch;

use crate::harness::{Lab, PATIENCE, eventually};

/// Where the attacker stands: node3's address, whether or not the others know a node3.
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
/// Where agents listen.
pub(crate) const PORT: u16 = 7700;
/// What is moved to and fro while an attack goes on.
const HONEST: &str = "honest";
const SAMPLE: Duration = Duration::from_millis(50);
/// How long an attack may take to come to its height: far more than any needs.
const CLIMB: Duration = PATIENCE.saturating_mul(4);
const MIB: u64 = 1 << 20;

pub(crate) struct Field {
    pub(crate) lab: Lab,
    switch: i32,
    agents: [i32; 2],
    honest_on: AtomicU64,
}

/// How the attacker tells that the attack is on, and hears that it may end.
pub(crate) struct Hold {
    begun: mpsc::Sender<()>,
    over: watch::Receiver<bool>,
}

impl Hold {
    /// The attack is at its height: holds it until honest moves have happened.
    pub(crate) async fn here(&mut self) {
        self.begun();
        self.over().await;
    }

    /// The attack is at its height.
    pub(crate) fn begun(&self) {
        let _ = self.begun.send(());
    }

    /// Resolves when it may end.
    pub(crate) async fn over(&mut self) {
        let _ = self.over.wait_for(|over| *over).await;
    }
}

impl Field {
    /// A lab of node1 and node2, and a place for the attacker beside them.
    pub(crate) fn open() -> Field {
        Field::in_lab(Lab::up(2))
    }

    /// The same with a node3 that the others know and that has no power: the attacker can be what they find in its place.
    pub(crate) fn with_a_place_to_take() -> Field {
        let lab = Lab::up(3);
        lab.done(["lab", "kill", "node3"]);
        let field = Field::in_lab(lab);
        // The kernel takes the dead node's port away by itself, but later: until then it answers in the attacker's place.
        assert!(eventually(|| !field.has_port("node3")), "node3 still has a port");
        for node in ["node1", "node2"] {
            // They remember who had the address.
            field.lab.done(["lab", "exec", node, "--", "ip", "neighbour", "flush", "dev", "eth0"]);
        }
        field
    }

    fn in_lab(lab: Lab) -> Field {
        let status = lab.status();
        let pid = |value: &serde_json::Value| i32::try_from(value.as_i64().unwrap()).unwrap();
        let agents = [0, 1].map(|node| pid(&status["nodes"][node]["agent_pid"]));
        let field = Field { lab, switch: pid(&status["switch_pid"]), agents, honest_on: AtomicU64::new(1) };
        // What the attacker says to itself goes that way.
        field.ip(&["link", "set", "lo", "up"]);
        field.take_address(HERE);
        field
    }

    /// Starts what moves honestly, and lets it, so that what a first move needs is there already.
    pub(crate) fn with_honest_moves(self) -> Field {
        self.lab.specimen(HONEST, "node1", &["memory", "--mib", "8"]);
        self.lab.wait_for_more_ok(HONEST, 1);
        (0..2).for_each(|_| self.move_honestly());
        self
    }

    /// One more address on the lab's network is the attacker's.
    pub(crate) fn take_address(&self, address: Ipv4Addr) {
        self.ip(&["address", "add", &format!("{address}/24"), "dev", "switch0"]);
    }

    fn has_port(&self, node: &str) -> bool {
        self.try_ip(&["link", "show", node]).status.success()
    }

    fn ip(&self, words: &[&str]) {
        let done = self.try_ip(words);
        assert!(done.status.success(), "{words:?}: {done:?}");
    }

    /// `ip` on the lab's network.
    fn try_ip(&self, words: &[&str]) -> Output {
        let network = format!("--net=/proc/{}/ns/net", self.switch);
        Command::new("nsenter").args([&network, "ip"]).args(words).output().unwrap()
    }

    /// A directory for a fake node's sockets.
    pub(crate) fn run_directory(&self, name: &str) -> PathBuf {
        let directory = self.lab.place().join(name);
        fs::create_dir_all(&directory).unwrap();
        directory
    }

    /// Runs the attacker on the lab's network: on a thread of its own, which alone is there.
    pub(crate) fn attack<T: Send>(&self, attack: impl AsyncFnOnce() -> T + Send) -> T {
        let network = File::open(format!("/proc/{}/ns/net", self.switch)).unwrap();
        let on_the_network = || {
            setns(network, CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(attack())
        };
        std::thread::scope(|scope| match scope.spawn(on_the_network).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Runs an attack, and two honest moves while it is at its height. Neither agent may grow by more than `bound` MiB.
    pub(crate) fn hold<T: Send>(&self, name: &str, bound: u64, attack: impl AsyncFnOnce(&mut Hold) -> T + Send) -> T {
        let (begun, at_height) = mpsc::channel();
        let (end, over) = watch::channel(false);
        let before = self.resident();
        let (result, peak) = std::thread::scope(|scope| {
            // Dropped however this ends: the attack must not wait for ever.
            let end = end;
            let attacking = scope.spawn(move || {
                let mut hold = Hold { begun, over };
                self.attack(async move || attack(&mut hold).await)
            });
            let mut peak = before;
            let begun = at_height.recv_timeout(CLIMB);
            if begun.is_ok() {
                let moving = scope.spawn(|| (0..2).for_each(|_| self.move_honestly()));
                while !moving.is_finished() {
                    peak = grown(peak, self.resident());
                    std::thread::sleep(SAMPLE);
                }
                moving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
            let _ = end.send(true);
            let result = attacking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            assert!(
                begun.is_ok(),
                "{name}: the attack was over, or time was, before its height: nobody moved honestly"
            );
            (result, grown(peak, self.resident()))
        });
        let growth = [0, 1].map(|agent| peak[agent].saturating_sub(before[agent]) / MIB);
        println!("| {name} | {} → {} MiB |", before[1] / MIB, peak[1] / MIB);
        assert!(growth.iter().all(|growth| *growth <= bound), "{name}: the agents grew by {growth:?} MiB");
        self.assert_honest();
        result
    }

    fn move_honestly(&self) {
        let to = 3 - self.honest_on.load(Ordering::Relaxed);
        self.lab.force(HONEST, &format!("node{to}"));
        self.honest_on.store(to, Ordering::Relaxed);
    }

    /// What moved honestly runs once, its state intact, in agents that were never restarted.
    pub(crate) fn assert_honest(&self) {
        self.lab.assert_runs_only_on(HONEST, &format!("node{}", self.honest_on.load(Ordering::Relaxed)));
        self.lab.wait_for_more_ok(HONEST, 1);
        self.lab.assert_intact(HONEST);
        let status = self.lab.status();
        for (node, pid) in self.agents.iter().enumerate() {
            assert_eq!(status["nodes"][node]["agent_pid"].as_i64(), Some((*pid).into()), "an agent died: {status}");
        }
    }

    /// What the agents of node1 and node2 take of memory, in bytes.
    fn resident(&self) -> [u64; 2] {
        self.agents.map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
        })
    }

    /// What a node's agent has logged.
    pub(crate) fn log(&self, node: &str) -> String {
        let log = fs::read(self.lab.directory().join(node).join("agent.log")).unwrap();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Waits until a node's agent has logged something that contains `words`.
    pub(crate) fn assert_logged(&self, node: &str, words: &str) {
        assert!(eventually(|| self.log(node).contains(words)), "{node} did not log `{words}`");
    }

    /// Waits until the events of node2, as `migrate events` shows them, contain `words`.
    pub(crate) fn assert_told(&self, words: &str) {
        let told = || self.lab.done(["--node", "node2", "events"]).stdout;
        assert!(eventually(|| told().contains(words)), "no event says `{words}`:\n{}", told());
    }
}

fn grown(one: [u64; 2], other: [u64; 2]) -> [u64; 2] {
    [one[0].max(other[0]), one[1].max(other[1])]
}
