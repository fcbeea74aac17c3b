//! How a narrow link is used: text must cross faster than it could uncompressed, and what does not compress as fast as it can.
//!
//! How fast the link is says a plain TCP stream, in turns with the moves.

use anyhow::{Context, Result};

use crate::crossing::Crossing;
use crate::figure::{Bound, Figures, Unit, median};
use crate::lab::{Lab, Node, Workload};
use crate::{tell, wire};

const RATE: &str = "1gbit";
const MIB: u64 = 1024;
const PLAIN_BYTES: u64 = 256 << 20;

pub(crate) fn measure(lab: &Lab, runs: usize, figures: &mut Figures) -> Result<()> {
    // The way from node1 to the others and back: its link is the narrow one.
    lab.migrate(["lab", "slow", "node1", "--rate", RATE])?;
    let nodes = lab.nodes()?;
    let mib = MIB.to_string();
    let text = lab.specimen("text", &["pause", "--mib", &mib, "--kind", "text"])?;
    let random = lab.specimen("random", &["pause", "--mib", &mib, "--kind", "random"])?;
    text.observer()?;
    random.observer()?;
    let (mut plain, mut text_speed, mut random_speed, mut ratio) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // A link is slow and steady: fewer runs tell as much.
    for run in 0..runs.div_ceil(2) {
        let (from, to) = if run % 2 == 0 { (0, 1) } else { (1, 0) };
        let (from, to) = (nodes.get(from).context("no node1")?, nodes.get(to).context("no node2")?);
        plain.push(wire::speed(lab, &from.name, &to.name, &to.address, PLAIN_BYTES)?);
        let crossed = cross(&text, from, to)?;
        text_speed.push(crossed.speed);
        ratio.push(crossed.ratio);
        random_speed.push(cross(&random, from, to)?.speed);
        tell(format_args!(
            "{RATE}, run {}: plain TCP {:.0} MB/s, text {:.0} MB/s, random {:.0} MB/s",
            run + 1,
            plain[run],
            text_speed[run],
            random_speed[run]
        ));
    }
    let link = figures.told(format!("{RATE} link: a plain TCP stream"), &plain, Unit::MegabytesPerSecond);
    figures.told("    1 GiB of text crosses with", &text_speed, Unit::MegabytesPerSecond);
    figures.told("    which was compressed to 1 :", &ratio, Unit::Times);
    figures.told("    1 GiB random crosses with", &random_speed, Unit::MegabytesPerSecond);
    let (text, random) = (median(&text_speed) / link, median(&random_speed) / link);
    figures.bounded(format!("{RATE} link: text / plain TCP"), text, Unit::Times, Bound::AtLeast(2.5));
    figures.bounded(format!("{RATE} link: random / plain TCP"), random, Unit::Times, Bound::AtLeast(0.95));
    Ok(())
}

/// How the memory of a workload crossed.
struct Speed {
    /// Megabytes of memory in a second, from the first byte of anything to the last.
    speed: f64,
    /// Bytes of memory for each byte on the link.
    ratio: f64,
}

fn cross(workload: &Workload<'_>, from: &Node, to: &Node) -> Result<Speed> {
    let crossing = Crossing::watch(from.agent_pid.context("a node has no agent")?);
    workload.move_to(&to.name)?;
    let crossed = crossing.end()?;
    let memory = (MIB << 20) as f64;
    Ok(Speed { speed: memory / 1e6 / crossed.time.as_secs_f64(), ratio: memory / crossed.bytes as f64 })
}
