//! nodes and events.

use std::time::Duration;

use migrate_proto::api::{Event, NodeView};

use super::Session;
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

/// What happened.
pub(crate) async fn events(session: &Session, follow: bool, since: Option<Duration>) -> Result<u8, Failure> {
    let since = since.map(|age| format!("&since_ms={}", age.as_millis())).unwrap_or_default();
    let agent = session.agent().await?;
    session
        .in_time(async {
            let mut lines = agent.get_lines::<Event>(&format!("/v1/events?follow={follow}{since}")).await?;
            while let Some(event) = lines.next().await? {
                match session.everywhere.json {
                    true => answer::json(&event)?,
                    false => answer::line(&in_words(&event))?,
                }
            }
            Ok(0)
        })
        .await
}

fn in_words(event: &Event) -> String {
    let workload = event.workload.as_ref().map_or("-", |name| name.as_str());
    let phase = event.phase.map(|phase| format!(" [{phase}]")).unwrap_or_default();
    let Event { at, node, kind, message, .. } = event;
    format!("{}  {node}  {workload}  {}{phase}  {}", harmless(at), harmless(kind), harmless(message))
}
