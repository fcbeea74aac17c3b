//! What the agent takes off before it knows a secret or has a thread.
//!
//! - Nobody but root may look into its memory, and it leaves no core file. That is of this process alone: it is forgotten
//!   when a child executes its program, so that workloads, and their limits, are as the node has them.
//! - Descriptors that came in by accident stay with it: what it starts gets what it is given.
//! - Capabilities that no part of it uses, and nothing that it starts, are gone for all of them ([`UNUSED`]).
//!
//! The children's environment is made where they are started, from nothing.

use std::io;

use nix::sys::prctl::set_dumpable;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities,
};
use thiserror::Error;

/// What neither the agent, nor CRIU, nor a workload has a use for: they change the kernel, the machine or what watches over
/// it. docs/security.md lists who needs the others.
pub const UNUSED: CapabilitySet = CapabilitySet::SYS_MODULE
    .union(CapabilitySet::SYS_RAWIO)
    .union(CapabilitySet::SYS_BOOT)
    .union(CapabilitySet::SYS_PACCT)
    .union(CapabilitySet::SYS_TTY_CONFIG)
    .union(CapabilitySet::SYSLOG)
    .union(CapabilitySet::MAC_OVERRIDE)
    .union(CapabilitySet::MAC_ADMIN)
    .union(CapabilitySet::AUDIT_READ)
    .union(CapabilitySet::WAKE_ALARM)
    .union(CapabilitySet::BLOCK_SUSPEND)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::BPF);

/// Why the agent does not start.
#[derive(Debug, Error)]
#[error("cannot {doing}: {source}")]
pub struct HygieneError {
    doing: &'static str,
    source: io::Error,
}

fn failed<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> HygieneError {
    move |source| HygieneError { doing, source: source.into() }
}

/// To be called first of all: what it does is of the calling thread and of those that it starts.
pub fn begin() -> Result<(), HygieneError> {
    set_dumpable(false).map_err(failed("keep this process's memory to itself"))?;
    keep_descriptors().map_err(failed("keep descriptors back"))?;
    give_up(UNUSED).map_err(failed("give up capabilities"))
}

/// Every descriptor but the standard ones closes when a child executes its program.
#[allow(unsafe_code)]
fn keep_descriptors() -> io::Result<()> {
    // SAFETY: this closes nothing; it sets a flag on the descriptors in the range.
    match unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// From every set, so that no program can give them back. Where the agent may not, it never had them to give.
fn give_up(unused: CapabilitySet) -> rustix::io::Result<()> {
    use rustix::io::Errno;
    clear_ambient_capability_set()?;
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None)?;
    if effective.contains(CapabilitySet::SETPCAP) {
        for capability in unused.iter() {
            match remove_capability_from_bounding_set(capability) {
                // An older kernel does not know it.
                Err(Errno::INVAL) => {}
                other => other?,
            }
        }
    }
    let sets = CapabilitySets {
        effective: effective - unused,
        permitted: permitted - unused,
        inheritable: inheritable - unused,
    };
    set_capabilities(None, sets)
}
