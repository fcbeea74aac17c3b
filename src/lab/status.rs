//! `lab status`: what a lab consists of, and in which state that is.

use std::path::Path;

use comfy_table::Cell;
use migrate_proto::name::NodeName;
use serde::Serialize;

use super::layout::{LabNode, Layout};
use super::{LabError, agent, faults, holder, node, switch};
use crate::command::Session;
use crate::failure::Failure;
use crate::show::{answer, table};

/// The JSON of `lab status`.
#[derive(Debug, Serialize)]
struct LabView {
    directory: String,
    id: String,
    switch_pid: Option<i32>,
    nodes: Vec<LabNodeView>,
}

/// One of its nodes.
#[derive(Debug, Serialize)]
struct LabNodeView {
    name: NodeName,
    address: String,
    state: PowerState,
    /// PID 1 of the node, as the host sees it.
    pid: Option<i32>,
    /// Its agent, as the host sees it.
    agent_pid: Option<i32>,
    socket: String,
    faults: Vec<String>,
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
enum PowerState {
    Running,
    Paused,
    /// The agent died too often and is not started again.
    AgentGaveUp,
    Off,
}

/// Shows the lab.
pub(super) fn show(session: &Session, lab: &Path) -> Result<u8, Failure> {
    let layout = Layout::load(lab)?;
    let nodes = layout.nodes.iter().map(|identity| look_at(lab, &layout, identity)).collect::<Result<Vec<_>, _>>()?;
    let switch = holder::find(&switch::directory(lab))?;
    if session.everywhere.json {
        answer::json_document(&LabView {
            directory: lab.display().to_string(),
            id: layout.id,
            switch_pid: switch.map(|process| process.pid()),
            nodes,
        })?;
        return Ok(0);
    }
    if switch.is_none() {
        session
            .remarks
            .say(format_args!("the lab's switch is gone: the nodes have no network; migrate lab down cleans up"));
    }
    let mut shown = table::table(session.style, &["NODE", "STATE", "ADDRESS", "PID", "AGENT", "FAULTS"]);
    let number = |pid: Option<i32>| pid.map_or("-".to_owned(), |pid| pid.to_string());
    for node in nodes {
        shown.add_row([
            Cell::new(node.name),
            Cell::new(table::word(&node.state)),
            Cell::new(node.address),
            Cell::new(number(node.pid)),
            Cell::new(number(node.agent_pid)),
            Cell::new(node.faults.join(", ")),
        ]);
    }
    answer::line(&table::text(shown))?;
    Ok(0)
}

fn look_at(lab: &Path, layout: &Layout, identity: &LabNode) -> Result<LabNodeView, LabError> {
    let name = &identity.name;
    let first = holder::find(&node::directory(lab, name))?;
    let agent = first.as_ref().map(|first| agent::process(lab, name, first)).transpose()?.flatten();
    let state = match &first {
        None => PowerState::Off,
        Some(first) if first.is_stopped() => PowerState::Paused,
        Some(_) if agent::gave_up(lab, name) => PowerState::AgentGaveUp,
        Some(_) => PowerState::Running,
    };
    Ok(LabNodeView {
        name: name.clone(),
        address: identity.listen(),
        state,
        pid: first.map(|process| process.pid()),
        agent_pid: agent.map(|process| process.pid()),
        socket: agent::socket(lab, name).display().to_string(),
        faults: faults::in_words(layout, name),
    })
}
