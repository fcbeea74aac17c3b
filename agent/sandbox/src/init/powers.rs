//! What a workload may not do, whoever it runs as.
//!
//! A root user inside shares the node's user namespace. Without these capabilities it can neither reach other processes,
//! devices and file systems of the node, nor change its kernel or its network. They go before the program is executed, from
//! every set, so that no program inside can give them back.

use rustix::io::{Errno, Result};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities,
};

const LEAVING: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SYS_MODULE)
    .union(CapabilitySet::SYS_RAWIO)
    .union(CapabilitySet::SYS_BOOT)
    .union(CapabilitySet::SYS_TIME)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::SYSLOG)
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::CHECKPOINT_RESTORE)
    .union(CapabilitySet::SYS_PACCT)
    .union(CapabilitySet::SYS_TTY_CONFIG)
    .union(CapabilitySet::MAC_ADMIN)
    .union(CapabilitySet::MAC_OVERRIDE)
    .union(CapabilitySet::AUDIT_CONTROL)
    .union(CapabilitySet::AUDIT_READ)
    .union(CapabilitySet::WAKE_ALARM)
    .union(CapabilitySet::BLOCK_SUSPEND);

/// Gives up, for good, what would let this process leave its sandbox.
pub(crate) fn give_up() -> Result<()> {
    clear_ambient_capability_set()?;
    for capability in LEAVING.iter() {
        match remove_capability_from_bounding_set(capability) {
            // An older kernel does not know it.
            Err(Errno::INVAL) => {}
            other => other?,
        }
    }
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: effective - LEAVING,
            permitted: permitted - LEAVING,
            inheritable: inheritable - LEAVING,
        },
    )
}
