//! run, ps, stop, start, rm.

use std::time::{Duration, SystemTime};

use migrate_proto::api::WorkloadView;
use migrate_proto::error::Code;
use migrate_proto::name::WorkloadName;
use serde::Serialize;

use super::Session;
use super::key::{hex, random_bytes};
use crate::cli::run::RunOptions;
use crate::client::{Client, ClientError};
use crate::failure::Failure;
use crate::show::{answer, table};

/// Starts a workload and prints its name.
pub(crate) async fn run(session: &Session, options: &RunOptions) -> Result<u8, Failure> {
    // Refuse before anybody is asked.
    options.request(None, "x")?;
    let agent = session.agent().await?;
    let view = loop {
        let random = random_bytes::<2>().map_err(|source| Failure::Random { path: "/dev/urandom".into(), source })?;
        let request = options.request(session.everywhere.node.as_ref(), &hex(&random))?;
        match agent.post::<WorkloadView>("/v1/workloads", &request).await {
            Err(ClientError::Refused(problem)) if problem.code == Code::NameTaken && options.is_unnamed() => {}
            other => break other?,
        }
    };
    match session.everywhere.json {
        true => answer::json_document(&view)?,
        false => answer::line(view.name.as_str())?,
    }
    Ok(0)
}

/// Every workload that the agent knows of in the cluster.
pub(crate) async fn all(agent: &Client) -> Result<Vec<WorkloadView>, ClientError> {
    agent.get("/v1/workloads").await
}

/// What runs where.
pub(crate) async fn list(session: &Session, names: &[WorkloadName]) -> Result<u8, Failure> {
    let mut views = all(&session.agent().await?).await?;
    let is_listed = |name: &WorkloadName| views.iter().any(|view| view.name == *name);
    let missing: Vec<_> = names.iter().filter(|name| !is_listed(name)).cloned().collect();
    if !names.is_empty() {
        views.retain(|view| names.contains(&view.name));
    }
    views.sort_by(|a, b| a.name.cmp(&b.name));
    match session.everywhere.json {
        true => answer::json_document(&views)?,
        false if views.is_empty() && names.is_empty() => session.remarks.say(format_args!("no workloads")),
        false if views.is_empty() => {}
        false => answer::line(&table::workloads(session.style, &views, SystemTime::now()))?,
    }
    if missing.is_empty() { Ok(0) } else { Err(Failure::NotListed { names: missing }) }
}

/// Ends a workload.
pub(crate) async fn stop(session: &Session, name: &WorkloadName, grace: Option<Duration>) -> Result<u8, Failure> {
    let query = grace.map(|grace| format!("?timeout_ms={}", grace.as_millis())).unwrap_or_default();
    let view = session.agent().await?.order(&format!("/v1/workloads/{name}/stop{query}")).await?;
    show(session, &view)
}

/// Starts a stopped workload again.
pub(crate) async fn start(session: &Session, name: &WorkloadName) -> Result<u8, Failure> {
    let view = session.agent().await?.order(&format!("/v1/workloads/{name}/start")).await?;
    show(session, &view)
}

/// The JSON of `rm`.
#[derive(Serialize)]
struct Removed<'a> {
    workload: &'a WorkloadName,
    removed: bool,
}

/// Removes a workload and its files.
pub(crate) async fn remove(session: &Session, name: &WorkloadName, force: bool) -> Result<u8, Failure> {
    session.agent().await?.delete(&format!("/v1/workloads/{name}?force={force}")).await?;
    match session.everywhere.json {
        true => answer::json_document(&Removed { workload: name, removed: true })?,
        false => session.remarks.say(format_args!("{name}: removed")),
    }
    Ok(0)
}

fn show(session: &Session, view: &WorkloadView) -> Result<u8, Failure> {
    match session.everywhere.json {
        true => answer::json_document(view)?,
        false => session.remarks.say(format_args!("{}: {} on {}", view.name, table::word(&view.state), view.node)),
    }
    Ok(0)
}
