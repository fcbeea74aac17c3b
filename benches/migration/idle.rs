//! What agents cost that have nothing to do but to know of each other and of a workload.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::figure::{Bound, Figures, Unit};
use crate::lab::Lab;
use crate::resident::{Resident, processor_time};
use crate::tell;

const WATCHED: Duration = Duration::from_secs(20);
/// What starting costs is not what idling costs.
const SETTLED: Duration = Duration::from_secs(3);

pub(crate) fn measure(lab: &Lab, figures: &mut Figures) -> Result<()> {
    let _workload = lab.specimen("idle", &["counter", "--pause-ms", "1000"])?;
    std::thread::sleep(SETTLED);
    tell(format_args!("idle agents, for {} s", WATCHED.as_secs()));
    let agents: Vec<i32> =
        lab.nodes()?.iter().map(|node| node.agent_pid.context("a node has no agent")).collect::<Result<_>>()?;
    let times = || agents.iter().map(|pid| processor_time(*pid)).collect::<Result<Vec<_>>>();
    let (begun, before) = (Instant::now(), times()?);
    std::thread::sleep(WATCHED);
    let (after, seconds) = (times()?, begun.elapsed().as_secs_f64());
    let shares = before.iter().zip(&after).map(|(before, after)| (after - before) / seconds * 100.0);
    let busiest = shares.fold(0.0, f64::max);
    let resident = agents.iter().map(|pid| Resident::of(*pid)).collect::<Result<Vec<_>>>()?;
    let largest = resident.iter().map(|resident| resident.all).fold(0.0, f64::max);
    figures.bounded("idle agent: memory, the largest of three", largest, Unit::Mebibytes, Bound::AtMost(40.0));
    figures.bounded("idle agent: share of a core, the busiest of three", busiest, Unit::Percent, Bound::AtMost(1.0));
    Ok(())
}
