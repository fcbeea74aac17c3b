//! What is built around a workload's processes: its control groups with their limits, and the plan of its sandbox.

use migrate_proto::error::{Code, Problem};
use migrate_proto::spec::WorkloadSpec;
use migrate_sandbox::cgroup::{Cgroup, Limits};
use migrate_sandbox::lease::LeasePage;
use migrate_sandbox::plan::Lease;
use migrate_sandbox::{Plan, Root};

use crate::host::Host;
use crate::preflight;

/// The lease page's name in the agent's run directory.
const LEASE_PAGE: &str = "lease";

/// Makes the control groups `name` and the directory of a sandbox for what `spec` asks for, and says how to build that. Blocks.
pub(crate) fn plan(host: &Host, name: &str, spec: &WorkloadSpec, alone: bool) -> Result<(Cgroup, Plan), Problem> {
    let failed = |action: &str, error: &dyn std::fmt::Display| {
        Problem::new(Code::Internal, format!("cannot {action} {name}: {error}"))
    };
    if let Some(problem) = preflight::missing_controllers(spec, host.node()) {
        return Err(problem);
    }
    let cgroup = host.cgroup(name)?;
    cgroup
        .limit(Limits { memory_bytes: spec.memory_bytes, cpu_milli: spec.cpu_milli })
        .map_err(|error| failed("limit", &error))?;
    let page = host.config.run.join(LEASE_PAGE);
    LeasePage::create(&page).map_err(|error| failed("make a lease page for", &error))?;
    let plan = Plan {
        dir: host.sandbox_dir(name).map_err(Problem::internal)?,
        root: if spec.own_root { Root::Layer } else { Root::Node },
        volumes: spec.volumes.clone(),
        alone,
        hide: host.hidden(),
        criu_prefix: host.criu_prefix(),
        side_cgroup: cgroup.side_procs(),
        lease: Lease::of(&cgroup, Some(page)),
    };
    Ok((cgroup, plan))
}
