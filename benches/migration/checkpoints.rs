//! What a checkpoint costs of which little has changed: how much the owner sends to each of two other nodes, as its network interface
//! counts it, and how much more its store takes.

use std::path::Path;

use anyhow::{Context, Result};

use crate::Measure;
use crate::cluster::{Cluster, repeat};
use crate::figure::{Bound, Figures, Unit, median};
use crate::observer::wait;

const NAME: &str = "large";
const OWNER: &str = "node1";
const GIB: u64 = 1 << 30;
/// Those who get it.
const OTHERS: f64 = 2.0;

/// Random bytes; when it is told to, it writes one page of a hundred anew, anywhere.
const PROGRAM: &str = r"
import mmap, os, random, sys, time
place, size, page = sys.argv[1], 1 << 30, 4096
memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, size, 1 << 20):
    memory[at:at + (1 << 20)] = os.urandom(1 << 20)
open(place + '/changed0', 'w').close()
turn = 0
while True:
    turn += 1
    while not os.path.exists(f'{place}/change{turn}'):
        time.sleep(0.05)
    for which in random.sample(range(size // page), size // page // 100):
        memory[which * page:(which + 1) * page] = os.urandom(page)
    open(f'{place}/changed{turn}', 'w').close()
";

pub(crate) fn measure(options: &Measure, runs: usize, figures: &mut Figures) -> Result<()> {
    let cluster = Cluster::up(&options.place, &options.programs, 3, &[])?;
    let shared = cluster.shared().to_owned();
    let volume = format!("{}:/shared", shared.display());
    let words = ["--on", OWNER, "--volume", &volume, "--", "/usr/bin/python3", "-c", PROGRAM, "/shared"];
    cluster.lab.migrate_words(&[&["-q", "run", "--name", NAME], &words[..]].concat())?;
    wait_for(&shared.join("changed0"))?;
    cluster.checkpoint(NAME)?;
    let agent = cluster.lab.nodes()?.into_iter().find(|node| node.name == OWNER).and_then(|node| node.agent_pid);
    let agent = agent.context("the owner has no agent")?;
    let changed = (GIB / 100) as f64;
    let (mut shipped, mut stored) = (Vec::new(), Vec::new());
    repeat("a checkpoint of 1 GiB", runs, |run| {
        std::fs::write(shared.join(format!("change{}", run + 1)), "")?;
        wait_for(&shared.join(format!("changed{}", run + 1)))?;
        let before = sent(agent)?;
        let taken = cluster.checkpoint(NAME)?;
        shipped.push((sent(agent)? - before) as f64 / OTHERS / changed);
        stored.push(taken.bytes_stored as f64 / changed);
        Ok(())
    })?;
    for (what, samples) in [("sent to each of two nodes", &shipped), ("stored", &stored)] {
        let what = format!("checkpoint of 1 GiB, 1 % of its pages changed: {what}, of what had changed");
        figures.told(what.clone(), samples, Unit::Times);
        figures.bounded(format!("{what}, median"), median(samples), Unit::Times, Bound::AtMost(1.3));
    }
    cluster.down()
}

fn wait_for(file: &Path) -> Result<()> {
    wait(|| Ok(file.exists().then_some(()))).with_context(|| format!("{} did not come", file.display()))
}

/// What the interfaces of a node have sent, in bytes, loopback apart.
fn sent(agent: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{agent}/net/dev"))?;
    let lines = text.lines().filter_map(|line| line.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    // The ninth number is what was sent.
    let sent = lines.map(|(_, numbers)| numbers.split_whitespace().nth(8).and_then(|bytes| bytes.parse::<u64>().ok()));
    sent.sum::<Option<u64>>().context("the counters of a node's network are not understood")
}
