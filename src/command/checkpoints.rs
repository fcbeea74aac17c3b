//! checkpoint, checkpoints, restore.

use std::time::SystemTime;

use migrate_proto::api::{CheckpointView, RestoreRequest, WorkloadView};
use migrate_proto::name::{NodeName, WorkloadName};

use super::Session;
use crate::failure::Failure;
use crate::show::{answer, checkpoints, table};

/// Takes a checkpoint of a workload, which runs on.
pub(crate) async fn take(session: &Session, name: &WorkloadName) -> Result<u8, Failure> {
    let view: CheckpointView = session.agent().await?.order(&format!("/v1/workloads/{name}/checkpoint")).await?;
    match session.everywhere.json {
        true => answer::json_document(&view)?,
        false => answer::line(&checkpoints::short(&view.id))?,
    }
    Ok(0)
}

/// What is kept; the newest of it is restored for a test before, where somebody wants that.
pub(crate) async fn list(session: &Session, name: Option<&WorkloadName>, prove: bool) -> Result<u8, Failure> {
    let query = name.map(|name| format!("?workload={name}")).unwrap_or_default();
    if prove {
        let _: CheckpointView = session.agent().await?.order(&format!("/v1/checkpoints/prove{query}")).await?;
    }
    let views: Vec<CheckpointView> = session.agent().await?.get(&format!("/v1/checkpoints{query}")).await?;
    match session.everywhere.json {
        true => answer::json_document(&views)?,
        false if views.is_empty() => session.remarks.say(format_args!("no checkpoints")),
        false => answer::line(&checkpoints::table(session.style, &views, SystemTime::now()))?,
    }
    Ok(0)
}

/// Brings a workload back.
pub(crate) async fn restore(
    session: &Session,
    name: &WorkloadName,
    on: Option<NodeName>,
    request: RestoreRequest,
) -> Result<u8, Failure> {
    let mut agent = session.agent().await?;
    if on.is_some() {
        agent.forward_to = on;
    }
    let view: WorkloadView = agent.post(&format!("/v1/workloads/{name}/restore"), &request).await?;
    match session.everywhere.json {
        true => answer::json_document(&view)?,
        false => {
            let (name, state, node, epoch) = (&view.name, table::word(&view.state), &view.node, view.epoch);
            session.remarks.say(format_args!("{name}: {state} on {node}, in epoch {epoch}"));
        }
    }
    Ok(0)
}
