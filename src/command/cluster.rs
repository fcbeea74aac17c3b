//! nodes, drain, undrain and events.

use std::time::Duration;

use migrate_proto::api::{DrainReport, Event, NodeView};
use migrate_proto::cursor::Cursor;
use migrate_proto::name::NodeName;

use super::Session;
use crate::client::follow::Following;
use crate::client::{Client, ClientError};
use crate::failure::Failure;
use crate::show::{answer, harmless, table};

/// The nodes of the cluster.
pub(crate) async fn nodes(session: &Session) -> Result<u8, Failure> {
    let mut views: Vec<NodeView> = session.agent().await?.get("/v1/nodes").await?;
    views.sort_by(|a, b| a.name.cmp(&b.name));
    match session.everywhere.json {
        true => answer::json_document(&views)?,
        false => answer::line(&table::nodes(session.style, &views))?,
    }
    Ok(0)
}

/// Moves everything away from a node. What is left behind is a failure.
pub(crate) async fn drain(session: &Session, node: &NodeName, deadline: Option<Duration>) -> Result<u8, Failure> {
    let deadline = deadline.map(|deadline| format!("&deadline_ms={}", deadline.as_millis())).unwrap_or_default();
    let report: DrainReport = session.agent().await?.order(&format!("/v1/drain?node={node}{deadline}")).await?;
    let stay = !report.checkpointed.is_empty() || !report.left.is_empty();
    if session.everywhere.json {
        answer::json_document(&report)?;
        return Ok(u8::from(stay));
    }
    let lists = [
        (&report.moved, "moved"),
        (&report.handed_over, "ended here with a last checkpoint, and is brought back elsewhere"),
        (&report.checkpointed, "is still here; another node has a checkpoint"),
        (&report.left, "is still here"),
    ];
    for (names, what) in lists {
        for name in names {
            answer::line(&format!("{name}  {what}"))?;
        }
    }
    Ok(u8::from(stay))
}

/// Lets a node take workloads again.
pub(crate) async fn undrain(session: &Session, node: &NodeName) -> Result<u8, Failure> {
    session.agent().await?.command(&format!("/v1/undrain?node={node}")).await?;
    Ok(0)
}

/// What happened, on all nodes.
pub(crate) async fn events(session: &Session, follow: bool, since: Option<Duration>) -> Result<u8, Failure> {
    let since = since.map(|age| format!("&since_ms={}", age.as_millis())).unwrap_or_default();
    let (mut following, mut cursor) = (Following::new(session), Cursor::default());
    session
        .in_time(async {
            loop {
                let after = if cursor.is_empty() { since.clone() } else { format!("{since}&after={cursor}") };
                let agent = following.agent().await?;
                let failure =
                    match tell(session, &agent, &format!("/v1/events?follow={follow}{after}"), &mut cursor).await {
                        Ok(()) if !follow => return Ok(0),
                        Ok(()) => ClientError::Incomplete { socket: agent.socket },
                        Err(Failure::Client(failure)) if follow => failure,
                        Err(failure) => return Err(failure),
                    };
                following.broke(failure).await?;
            }
        })
        .await
}

/// Shows events until there are no more.
async fn tell(session: &Session, agent: &Client, path: &str, cursor: &mut Cursor) -> Result<(), Failure> {
    let mut lines = agent.get_lines::<Event>(path).await?;
    while let Some(event) = lines.next().await? {
        // One that came while the stream broke.
        if !cursor.pass(&event) {
            continue;
        }
        match session.everywhere.json {
            true => answer::json(&event)?,
            false => answer::line(&in_words(&event))?,
        }
    }
    Ok(())
}

fn in_words(event: &Event) -> String {
    let workload = event.workload.as_ref().map_or("-", |name| name.as_str());
    let phase = event.phase.map(|phase| format!(" [{phase}]")).unwrap_or_default();
    let Event { at, node, kind, message, .. } = event;
    format!("{}  {node}  {workload}  {}{phase}  {}", harmless(at), harmless(kind), harmless(message))
}
