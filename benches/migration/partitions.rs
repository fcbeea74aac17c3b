//! Whether two copies of a workload ever run: the owner is cut off, the leader, one half from the other; the owner's agent is stopped.
//! Seen on storage that all nodes share. And whether anybody is taken for dead who is not, on busy processors and bad links.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::Measure;
use crate::beacon::Beacon;
use crate::cluster::{Cluster, repeat};
use crate::figure::{Bound, Figures, Unit};
use crate::observer::wait;

const NAME: &str = "job";
/// How long a fault lasts: some leases.
const LASTS: Duration = Duration::from_secs(5);

/// What is done to a cluster.
#[derive(Clone, Copy)]
enum Fault {
    OwnerAlone,
    LeaderAlone,
    Halves,
    AgentStopped,
}

impl Fault {
    const ALL: [Fault; 4] = [Fault::OwnerAlone, Fault::LeaderAlone, Fault::Halves, Fault::AgentStopped];

    fn words(self) -> &'static str {
        match self {
            Fault::OwnerAlone => "owner cut off",
            Fault::LeaderAlone => "leader cut off",
            Fault::Halves => "halves cut from each other",
            Fault::AgentStopped => "owner's agent stopped",
        }
    }
}

pub(crate) fn measure(options: &Measure, runs: usize, figures: &mut Figures) -> Result<()> {
    let cluster = Cluster::up(&options.place, &options.programs, 4, &[])?;
    let mut beacon = cluster.beacon(NAME, "node1", 16, &[])?;
    let mut seen: Vec<Vec<f64>> = vec![Vec::new(); Fault::ALL.len()];
    let mut moved = 0_usize;
    repeat("a partition", runs, |run| {
        let kind = run % Fault::ALL.len();
        let went = once(&cluster, &mut beacon, Fault::ALL[kind])?;
        moved += usize::from(went);
        seen[kind].push(beacon.overlap()?);
        Ok(())
    })?;
    for (fault, overlaps) in Fault::ALL.iter().zip(&seen).filter(|(_, overlaps)| !overlaps.is_empty()) {
        let worst = overlaps.iter().copied().fold(0.0, f64::max);
        let what = format!("{}: two copies at once, at worst of {}", fault.words(), overlaps.len());
        figures.bounded(what, worst, Unit::Milliseconds, Bound::AtMost(0.0));
    }
    // Without that nothing was put to the test.
    figures.bounded(
        "partitions in which it was brought back elsewhere",
        moved as f64,
        Unit::Count,
        Bound::AtLeast(1.0),
    );
    cluster.down()
}

/// One fault, and its end. Says whether the workload went on elsewhere.
fn once(cluster: &Cluster, beacon: &mut Beacon, fault: Fault) -> Result<bool> {
    cluster.checkpoint(NAME)?;
    let owner = cluster.workload(NAME)?.node.to_string();
    let leader = cluster.leader()?;
    let before = beacon.begin()?;
    beacon.shines()?;
    let mut stopped = None;
    match fault {
        Fault::OwnerAlone => drop(cluster.lab.migrate(["lab", "cut", &owner])?),
        Fault::LeaderAlone => drop(cluster.lab.migrate(["lab", "cut", &leader])?),
        Fault::Halves => {
            let all: Vec<String> = cluster.lab.nodes()?.into_iter().map(|node| node.name).collect();
            let (one, other) = all.split_at(all.len() / 2);
            for pair in one.iter().flat_map(|one| other.iter().map(move |other| format!("{one}:{other}"))) {
                cluster.lab.migrate(["lab", "cut", &pair])?;
            }
        }
        Fault::AgentStopped => {
            let agent = cluster.lab.nodes()?.into_iter().find(|node| node.name == owner);
            let agent = agent.and_then(|node| node.agent_pid).context("the owner has no agent")?;
            stopped = Some(Stopped::stop(agent)?);
        }
    }
    std::thread::sleep(LASTS);
    drop(stopped);
    cluster.lab.migrate(["lab", "heal"])?;
    cluster.wait_for_all()?;
    beacon.shines()?;
    // What an old copy could do yet it would have done by now.
    std::thread::sleep(Duration::from_secs(1));
    Ok(beacon.seen()?.iter().any(|seen| seen.place != before.place))
}

/// A process that stands still until this is dropped.
struct Stopped(nix::unistd::Pid);

impl Stopped {
    fn stop(pid: i32) -> Result<Stopped> {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP)?;
        Ok(Stopped(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(self.0, nix::sys::signal::Signal::SIGCONT);
    }
}

/// Programs that use a processor each, until this is dropped.
struct Busy(Vec<Child>);

impl Busy {
    fn begin(count: usize) -> Result<Busy> {
        let mut busy = Busy(Vec::new());
        for _ in 0..count {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            busy.0.push(shell.spawn()?);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Bad links and busy processors, and nobody is dead.
pub(crate) fn endure(options: &Measure, minutes: u64, figures: &mut Figures) -> Result<()> {
    let cluster = Cluster::up(&options.place, &options.programs, 3, &[])?;
    let mut beacon = cluster.beacon(NAME, "node1", 0, &[])?;
    beacon.begin()?;
    let known = cluster.events()?.len();
    for node in cluster.lab.nodes()? {
        cluster.lab.migrate(["lab", "drop", &node.name, "--percent", "20"])?;
    }
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let busy = Busy::begin(2 * processors)?;
    let begun = Instant::now();
    repeat("minutes of bad links", usize::try_from(minutes)?, |minute| {
        let until = Duration::from_secs(60 * (minute as u64 + 1));
        std::thread::sleep(until.saturating_sub(begun.elapsed()));
        Ok(())
    })?;
    drop(busy);
    cluster.lab.migrate(["lab", "heal"])?;
    cluster.wait_for_all()?;
    let events: Vec<_> = wait(|| Ok(cluster.events().ok()))?.split_off(known);
    let count = |kinds: &[&str]| events.iter().filter(|event| kinds.contains(&&*event.kind)).count() as f64;
    let what = format!("{minutes} min of 20 % loss, {} loops on {processors} processors", 2 * processors);
    figures.bounded(format!("{what}: nodes taken for dead"), count(&["node-dead"]), Unit::Count, Bound::AtMost(0.0));
    let taken = count(&["recovered", "recovering"]);
    figures.bounded(format!("{what}: workloads taken from their node"), taken, Unit::Count, Bound::AtMost(0.0));
    figures.told(format!("{what}: suspicions, all contradicted"), &[count(&["node-suspect"])], Unit::Count);
    figures.told(format!("{what}: other leaders"), &[count(&["leader"])], Unit::Count);
    figures.told(
        format!("{what}: longest time that the workload stood still"),
        &[beacon.longest_gap()?],
        Unit::Milliseconds,
    );
    cluster.down()
}
