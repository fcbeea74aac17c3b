//! What the agents at both ends take while they move much, above what they take idle; and what they keep of it afterwards.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::figure::{Bound, Figures, Unit};
use crate::lab::Lab;
use crate::resident::{Resident, Watch};
use crate::tell;

const GIB: usize = 4;
const MOST: Bound = Bound::AtMost(128.0);
/// After this an agent that has moved something is idle again.
const SETTLED: Duration = Duration::from_secs(3);

pub(crate) fn measure(lab: &Lab, figures: &mut Figures) -> Result<()> {
    let nodes = lab.nodes()?;
    let agent = |at: usize| nodes.get(at).and_then(|node| node.agent_pid).context("a node has no agent");
    let (source, target) = (agent(0)?, agent(1)?);
    let mib = (GIB * 1024).to_string();
    // All of it compressible or not, so that every buffer is used.
    let workload = lab.specimen("large", &["pause", "--mib", &mib, "--kind", "mixed"])?;
    workload.observer()?;
    tell(format_args!("moving {GIB} GiB"));
    let idle = [Resident::of(source)?, Resident::of(target)?];
    let watches = [Watch::begin(source), Watch::begin(target)];
    let report = workload.move_to("node2")?;
    let [source_peak, target_peak] = watches.map(Watch::end);
    let (source_peak, target_peak) = (source_peak?, target_peak?);
    workload.remove()?;
    std::thread::sleep(SETTLED);
    let after = Resident::of(source)?.all.max(Resident::of(target)?.all);
    let what = format!("moving {GIB} GiB");
    figures.told(format!("{what}: total"), &[report.total_ms], Unit::Milliseconds);
    figures.bounded(
        format!("{what}: memory of the source's agent above idle"),
        source_peak.own - idle[0].own,
        Unit::Mebibytes,
        MOST,
    );
    figures.bounded(
        format!("{what}: memory of the target's agent above idle, beyond the image"),
        target_peak.own - idle[1].own,
        Unit::Mebibytes,
        MOST,
    );
    figures.bounded("idle again: memory, the larger of both agents", after, Unit::Mebibytes, Bound::AtMost(40.0));
    Ok(())
}
