//! `lab up`, `lab down` and `lab start`: bringing a lab into being, and leaving nothing of it.

use std::io;
use std::path::Path;
use std::time::Instant;

use migrate_proto::name::NodeName;

use super::layout::Layout;
use super::lock::LabLock;
use super::{LabError, agent, cgroups, disk, holder, loops, node, power, switch};
use crate::cli::lab::Up;
use crate::command::Session;
use crate::command::key::{self, KeyError};
use crate::failure::Failure;

/// Starts a lab and waits until all agents answer. What fails half way is cleaned up.
pub(super) fn up(session: &Session, lab: &Path, asked: &Up, deadline: Instant) -> Result<(), Failure> {
    let program = agent::program()?;
    let id = key::hex(&key::random_bytes::<4>().map_err(KeyError::Random)?);
    let layout = Layout {
        disk: asked.disk,
        memory: asked.memory,
        cluster: asked.cluster,
        ..Layout::new(id, program, asked.nodes)?
    };
    if asked.disk.is_some_and(|bytes| bytes < disk::LEAST) {
        return Err(LabError::SmallDisk.into());
    }
    if lab.starts_with("/run") || lab.starts_with("/proc") {
        let why = "every node has a /run and a /proc of its own";
        return Err(LabError::Directory { directory: lab.to_owned(), why }.into());
    }
    if !agent::sockets_fit(lab, &layout) {
        let why = "its path is too long for the agents' sockets";
        return Err(LabError::Directory { directory: lab.to_owned(), why }.into());
    }
    super::take_directory(lab)?;
    let _lock = LabLock::take(lab)?;
    refuse_a_used_directory(lab)?;
    layout.save(lab)?;
    session.remarks.say(format_args!("starting {} nodes in {}", asked.nodes, lab.display()));
    let started = start_all(lab, &layout).map_err(Failure::from);
    let ready = started.and_then(|()| {
        let names = layout.nodes.iter().map(|identity| &identity.name);
        Ok(session.wait(agent::wait_for(lab, names, deadline))??)
    });
    ready.inspect_err(|_| {
        if let Err(failure) = remove_all(lab, &layout) {
            session.remarks.say(format_args!("the failed lab could not be removed either: {failure}"));
        }
    })
}

fn refuse_a_used_directory(lab: &Path) -> Result<(), LabError> {
    match Layout::load(lab) {
        Err(LabError::NoLab { .. }) => {}
        _ => return Err(LabError::AlreadyUp { directory: lab.to_owned() }),
    }
    let is_empty = std::fs::read_dir(lab).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty { Ok(()) } else { Err(LabError::Directory { directory: lab.to_owned(), why: "it is not empty" }) }
}

fn start_all(lab: &Path, layout: &Layout) -> Result<(), LabError> {
    let key = lab.join("cluster.key");
    key::make(&key)?;
    for identity in &layout.nodes {
        let directory = node::directory(lab, &identity.name);
        std::fs::create_dir_all(&directory).map_err(|source| LabError::File {
            doing: "create",
            path: directory.clone(),
            source,
        })?;
        key::copy(&key, &directory.join("cluster.key"))?;
    }
    power::start_switch(lab)?;
    layout.nodes.iter().try_for_each(|identity| power::boot(lab, layout, identity))
}

/// Boots one node again and waits for its agent. A node whose agent does not come up stays as it is, for a look.
pub(super) fn start(session: &Session, lab: &Path, name: &NodeName, deadline: Instant) -> Result<(), Failure> {
    let _lock = LabLock::take(lab)?;
    let layout = Layout::load(lab)?;
    power::boot(lab, &layout, layout.node(name)?)?;
    session.wait(agent::wait_for(lab, std::iter::once(name), deadline))??;
    Ok(())
}

/// Ends a lab, also one of which only parts are left.
pub(super) fn down(lab: &Path) -> Result<(), LabError> {
    let _lock = LabLock::take(lab)?;
    match Layout::load(lab) {
        Ok(layout) => remove_all(lab, &layout),
        // An `up` that ended before it had made anything.
        Err(failure @ LabError::NoLab { .. }) => std::fs::remove_dir(lab).map_err(|_| failure),
        Err(failure) => Err(failure),
    }
}

fn remove_all(lab: &Path, layout: &Layout) -> Result<(), LabError> {
    for identity in &layout.nodes {
        if let Some(first) = holder::find(&node::directory(lab, &identity.name))? {
            power::cut(layout, &identity.name, &first)?;
        }
    }
    power::end_switch(lab)?;
    let group = layout.cgroup_of_all();
    cgroups::kill_frozen(&group)?;
    cgroups::remove(&group)?;
    loops::detach_below(lab)?;
    remove_files(lab, layout)
}

/// Removes what a lab has made, and only that; `lab.json` nearly last, so that this can be repeated.
fn remove_files(lab: &Path, layout: &Layout) -> Result<(), LabError> {
    let failed = |path: &Path, source| LabError::File { doing: "remove", path: path.to_owned(), source };
    let nodes = layout.nodes.iter().map(|identity| node::directory(lab, &identity.name));
    for directory in nodes.chain([switch::directory(lab)]) {
        unless_absent(std::fs::remove_dir_all(&directory)).map_err(|source| failed(&directory, source))?;
    }
    for file in ["cluster.key", "lab.json.new", "lab.json"].map(|name| lab.join(name)) {
        unless_absent(std::fs::remove_file(&file)).map_err(|source| failed(&file, source))?;
    }
    std::fs::remove_dir(lab).map_err(|source| failed(lab, source))
}

fn unless_absent(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
