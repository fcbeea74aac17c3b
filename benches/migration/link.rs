//! How a narrow link is used: text must cross faster than it could uncompressed, and what does not compress as fast as it can.
//!
//! Crossing is the transfer phase, which begins with the freeze and ends when the target has all. How fast the link is says a
//! plain TCP stream, in turns with the moves.

use anyhow::{Context, Result};
use migrate_proto::phase::Phase;

use crate::figure::{Bound, Figures, Unit, median};
use crate::lab::{self, Lab, Workload};
use crate::{tell, wire};

const RATE: &str = "1gbit";
const MIB: &str = "1024";
const PLAIN_BYTES: u64 = 256 << 20;

pub(crate) fn measure(lab: &Lab, runs: usize, figures: &mut Figures) -> Result<()> {
    // The way from node1 to the others and back: its link is the narrow one.
    lab.migrate(["lab", "slow", "node1", "--rate", RATE])?;
    let nodes = lab.nodes()?;
    let text = lab.specimen("text", &["pause", "--mib", MIB, "--kind", "text"])?;
    let random = lab.specimen("random", &["pause", "--mib", MIB, "--kind", "random"])?;
    text.observer()?;
    random.observer()?;
    let (mut plain, mut text_speed, mut random_speed, mut ratio) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // A link is slow and steady: fewer runs tell as much.
    for run in 0..runs.div_ceil(2) {
        let (from, to) = if run % 2 == 0 { (0, 1) } else { (1, 0) };
        let (from, to) = (nodes.get(from).context("no node1")?, nodes.get(to).context("no node2")?);
        plain.push(wire::speed(lab, &from.name, &to.name, &to.address, PLAIN_BYTES)?);
        let crossed = cross(&text, &to.name)?;
        text_speed.push(crossed.speed);
        ratio.push(crossed.ratio);
        random_speed.push(cross(&random, &to.name)?.speed);
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

struct Crossed {
    /// Of its memory, in megabytes a second.
    speed: f64,
    /// What was read for each byte that was sent.
    ratio: f64,
}

fn cross(workload: &Workload<'_>, node: &str) -> Result<Crossed> {
    let report = workload.move_to(node)?;
    let seconds = lab::phase(&report, Phase::Transfer) / 1e3;
    let read = report.bytes_memory + report.bytes_files;
    Ok(Crossed { speed: report.bytes_memory as f64 / 1e6 / seconds, ratio: read as f64 / report.bytes_sent as f64 })
}
