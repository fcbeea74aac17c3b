//! How long a workload is away whose node loses its power: with the usual settings, with the fast ones, and begun from nothing. And
//! how long a cluster has no leader.

use anyhow::{Context, Result};
use migrate_proto::api::NodeState;

use crate::Measure;
use crate::cluster::{Cluster, FAST, repeat};
use crate::figure::{Bound, Figures, Unit, percentile};
use crate::observer::wait;

const NAME: &str = "job";
const MIB: usize = 256;

pub(crate) fn measure(options: &Measure, runs: usize, figures: &mut Figures) -> Result<()> {
    let usual = killed(options, runs, "usual settings", &[], true)?;
    let fast = killed(options, runs, "fast settings", &FAST, true)?;
    let scratch = killed(options, runs.div_ceil(3), "from nothing", &[], false)?;
    for (what, samples, bound) in [("usual settings", &usual, 3000.0), ("fast settings", &fast, 1500.0)] {
        figures.told(
            format!("node killed, 256 MiB from a checkpoint, {what}: away"),
            &samples.away,
            Unit::Milliseconds,
        );
        let worst = percentile(&samples.away, 95);
        let name = format!("node killed, {what}: away, 95th percentile of {}", samples.away.len());
        figures.bounded(name, worst, Unit::Milliseconds, Bound::AtMost(bound));
        figures.told(format!("node killed, {what}: work lost"), &samples.lost, Unit::Milliseconds);
    }
    figures.told("node killed, begun from nothing (all work lost): away", &scratch.away, Unit::Milliseconds);
    leaders(options, runs, figures)
}

/// Milliseconds, one a run.
#[derive(Default)]
struct Samples {
    away: Vec<f64>,
    lost: Vec<f64>,
}

fn killed(options: &Measure, runs: usize, what: &str, settings: &[(&str, &str)], kept: bool) -> Result<Samples> {
    let cluster = Cluster::up(&options.place, &options.programs, 3, settings)?;
    let mut beacon = cluster.beacon(NAME, "node1", MIB, if kept { &[] } else { &["--restart", "always"] })?;
    let mut samples = Samples::default();
    repeat(&format!("a node is killed, {what}"), runs, |_| {
        if kept {
            cluster.checkpoint(NAME)?;
        }
        let owner = cluster.workload(NAME)?.node.to_string();
        let before = beacon.begin()?;
        beacon.shines()?;
        cluster.lab.migrate(["lab", "kill", &owner])?;
        let (away, first) = beacon.elsewhere(before.place)?;
        samples.away.push(away);
        if kept {
            // The line that the checkpoint's copy would have written next, as its first life wrote it.
            let then =
                beacon.all()?.into_iter().rfind(|seen| seen.place == before.place && seen.number == first.number);
            let last = beacon.seen()?.into_iter().rfind(|seen| seen.place == before.place);
            let (then, last) = (then.context("it goes on where it never was")?, last.context("it was not there")?);
            samples.lost.push(last.at - then.at);
        }
        cluster.lab.migrate(["lab", "start", &owner])?;
        cluster.wait_for_all()?;
        anyhow::ensure!(beacon.overlap()? == 0.0, "two copies ran");
        Ok(())
    })?;
    cluster.down()?;
    Ok(samples)
}

fn leaders(options: &Measure, runs: usize, figures: &mut Figures) -> Result<()> {
    let cluster = Cluster::up(&options.place, &options.programs, 4, &[])?;
    let (mut without, mut gaps) = (Vec::new(), Vec::new());
    repeat("a leader is killed", runs, |_| {
        let leader = cluster.leader()?;
        let others: Vec<String> =
            cluster.nodes()?.iter().map(|view| view.name.to_string()).filter(|name| *name != leader).collect();
        let mut beacon = cluster.beacon(NAME, &others[0], 0, &[])?;
        beacon.begin()?;
        let killed = std::time::Instant::now();
        cluster.lab.migrate(["lab", "kill", &leader])?;
        wait(|| {
            let views = cluster.nodes_by(&others[1])?;
            Ok(views.iter().any(|view| view.leader && view.name.as_str() != leader).then_some(()))
        })?;
        without.push(killed.elapsed().as_secs_f64() * 1000.0);
        wait(|| {
            let dead =
                |view: &migrate_proto::api::NodeView| view.name.as_str() == leader && view.state == NodeState::Dead;
            Ok(cluster.nodes_by(&others[1])?.iter().any(dead).then_some(()))
        })?;
        beacon.shines()?;
        gaps.push(beacon.longest_gap()?);
        cluster.lab.migrate(["rm", "-f", NAME])?;
        cluster.lab.migrate(["lab", "start", &leader])?;
        cluster.wait_for_all()
    })?;
    figures.told("leader killed: another leads", &without, Unit::Milliseconds);
    let worst = without.iter().copied().fold(0.0, f64::max);
    figures.bounded(
        format!("leader killed: another leads, at worst of {}", without.len()),
        worst,
        Unit::Milliseconds,
        Bound::AtMost(2000.0),
    );
    let worst = gaps.iter().copied().fold(0.0, f64::max);
    figures.bounded(
        "leader killed: a workload elsewhere stands still, at worst",
        worst,
        Unit::Milliseconds,
        Bound::AtMost(150.0),
    );
    cluster.down()
}
