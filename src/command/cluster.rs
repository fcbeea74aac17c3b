//! nodes and events.

use std::time::Duration;

use migrate_proto::api::{Event, NodeView};
use migrate_proto::cursor::Cursor;

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
