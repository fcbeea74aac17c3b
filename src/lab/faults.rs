//! Faults of a lab's network and disks, and stopping all that runs on a node. What is in force is in the layout, so that a node that boots
//! gets it again.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use migrate_proto::name::NodeName;
use rustix::process::Signal;

use super::holder::{self, Process};
use super::layout::Layout;
use super::power::running_switch;
use super::{LabError, disk, network, node};
use crate::cli::lab::Cut;

/// Adds a partition.
pub(crate) fn cut(lab: &Path, layout: &mut Layout, what: Cut) -> Result<(), LabError> {
    let affected = match what {
        Cut::Node(name) => {
            layout.node(&name)?;
            layout.faults.cut_off.insert(name.clone());
            vec![name]
        }
        Cut::Pair(one, other) => {
            layout.node(&one)?;
            layout.node(&other)?;
            let (one, other) = if one < other { (one, other) } else { (other, one) };
            layout.faults.cut_pairs.insert((one.clone(), other.clone()));
            vec![one, other]
        }
    };
    layout.save(lab)?;
    affected.iter().try_for_each(|name| apply_to(lab, layout, name))
}

/// Narrows a node's link.
pub(crate) fn slow(lab: &Path, layout: &mut Layout, name: &NodeName, rate: u64) -> Result<(), LabError> {
    layout.node(name)?;
    layout.faults.slow.insert(name.clone(), rate);
    layout.save(lab)?;
    apply_to(lab, layout, name)
}

/// Lets packets of a node vanish.
pub(crate) fn drop_some(lab: &Path, layout: &mut Layout, name: &NodeName, percent: u8) -> Result<(), LabError> {
    layout.node(name)?;
    layout.faults.drop.insert(name.clone(), percent);
    layout.save(lab)?;
    apply_to(lab, layout, name)
}

/// Fills a node's disk.
pub(crate) fn fill(lab: &Path, layout: &mut Layout, name: &NodeName) -> Result<(), LabError> {
    layout.node(name)?;
    if layout.disk.is_none() {
        return Err(LabError::NoDisk { name: name.clone() });
    }
    layout.faults.filled.insert(name.clone());
    layout.save(lab)?;
    apply_to(lab, layout, name)
}

/// Ends every fault. What is in force is forgotten last: a heal that failed half way can be repeated.
pub(crate) fn heal(lab: &Path, layout: &mut Layout) -> Result<(), LabError> {
    let switch = running_switch(lab)?;
    for identity in &layout.nodes {
        let Some(first) = holder::find(&node::directory(lab, &identity.name))? else { continue };
        if layout.faults.cut_off.contains(&identity.name) {
            network::join(switch.pid(), &identity.name)?;
        }
        for peer in peers_cut_from(layout, &identity.name) {
            network::find_again(first.pid(), layout.node(&peer)?.address)?;
        }
        if layout.disk.is_some() {
            disk::free(lab, &first, &identity.name)?;
        }
        if layout.faults.slow.contains_key(&identity.name) {
            network::widen(switch.pid(), first.pid(), &identity.name)?;
        }
        if layout.faults.drop.contains_key(&identity.name) {
            network::thicken(switch.pid(), &identity.name)?;
        }
    }
    layout.faults = Default::default();
    layout.save(lab)
}

/// Brings the faults in force to one node. A node without power gets them when it boots.
pub(crate) fn apply_to(lab: &Path, layout: &Layout, name: &NodeName) -> Result<(), LabError> {
    let Some(first) = holder::find(&node::directory(lab, name))? else { return Ok(()) };
    let switch = running_switch(lab)?;
    if layout.faults.cut_off.contains(name) {
        network::cut_off(switch.pid(), name)?;
    }
    for peer in peers_cut_from(layout, name) {
        network::lose(first.pid(), layout.node(&peer)?.address)?;
    }
    if let Some(rate) = layout.faults.slow.get(name) {
        network::narrow(switch.pid(), first.pid(), name, *rate)?;
    }
    if let Some(percent) = layout.faults.drop.get(name) {
        network::thin(switch.pid(), name, *percent)?;
    }
    match layout.disk {
        Some(_) if layout.faults.filled.contains(name) => disk::fill(lab, &first, name),
        // Healed while the node was off.
        Some(_) => disk::free(lab, &first, name),
        None => Ok(()),
    }
}

fn peers_cut_from(layout: &Layout, name: &NodeName) -> Vec<NodeName> {
    let other = |(one, two): &(NodeName, NodeName)| match name {
        name if name == one => Some(two.clone()),
        name if name == two => Some(one.clone()),
        _ => None,
    };
    layout.faults.cut_pairs.iter().filter_map(other).collect()
}

/// The faults in force on a node, in words.
pub(crate) fn in_words(layout: &Layout, name: &NodeName) -> Vec<String> {
    let mut words = Vec::new();
    if layout.faults.cut_off.contains(name) {
        words.push("cut off".to_owned());
    }
    words.extend(peers_cut_from(layout, name).iter().map(|peer| format!("cut from {peer}")));
    if let Some(rate) = layout.faults.slow.get(name) {
        words.push(rate_in_words(*rate));
    }
    if let Some(percent) = layout.faults.drop.get(name) {
        words.push(format!("loses {percent} %"));
    }
    if layout.faults.filled.contains(name) {
        words.push("disk full".to_owned());
    }
    words
}

fn rate_in_words(bits_per_second: u64) -> String {
    match bits_per_second {
        rate if rate >= 1_000_000_000 => format!("{} Gbit/s", rate as f64 / 1e9),
        rate if rate >= 1_000_000 => format!("{} Mbit/s", rate as f64 / 1e6),
        rate => format!("{} kbit/s", rate as f64 / 1e3),
    }
}

/// SIGSTOP to everything on a node; to PID 1 first, which would otherwise see its agent stop.
pub(crate) fn pause(first: &Process) -> Result<(), LabError> {
    first.signal(Signal::STOP)?;
    let mut stopped = BTreeSet::new();
    // What was being forked during one pass is caught by the next.
    loop {
        let before = stopped.len();
        signal_all(first, Signal::STOP, &mut stopped)?;
        if stopped.len() == before {
            return Ok(());
        }
    }
}

/// SIGCONT to everything on a node.
pub(crate) fn resume(first: &Process) -> Result<(), LabError> {
    signal_all(first, Signal::CONT, &mut BTreeSet::new())?;
    first.signal(Signal::CONT)
}

/// Signals every process of the node, those in namespaces below its own included, but not its PID 1 and not those in
/// `signalled`, to which it adds.
///
/// The processes are those that the node's own /proc shows, and each is signalled through its directory there: no process
/// of anybody else can be hit.
fn signal_all(first: &Process, signal: Signal, signalled: &mut BTreeSet<i32>) -> Result<(), LabError> {
    let proc = PathBuf::from(format!("/proc/{}/root/proc", first.pid()));
    let failed = |source| LabError::File { doing: "read", path: proc.clone(), source };
    let (theirs, ours) = (std::fs::metadata(&proc).map_err(failed)?, std::fs::metadata("/proc").map_err(failed)?);
    if theirs.dev() == ours.dev() {
        return Err(LabError::NotIsolated { pid: first.pid() });
    }
    for entry in std::fs::read_dir(&proc).map_err(failed)?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(pid) = pid.filter(|pid| *pid != 1 && !signalled.contains(pid)) else { continue };
        // Whoever ends meanwhile needs no signal.
        let Ok(directory) = File::open(entry.path()) else { continue };
        match rustix::process::pidfd_send_signal(&directory, signal) {
            Ok(()) => _ = signalled.insert(pid),
            Err(rustix::io::Errno::SRCH) => {}
            Err(errno) => return Err(LabError::Signal { pid, source: errno.into() }),
        }
    }
    Ok(())
}
