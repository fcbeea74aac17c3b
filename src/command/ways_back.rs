//! nodes forget, cluster backup, cluster rebuild.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use migrate_proto::api::{RebuildRequest, RebuildView};
use migrate_proto::name::NodeName;
use serde_json::Value;

use super::Session;
use crate::cli::cluster::{ClusterCommand, RebuildOptions};
use crate::failure::Failure;
use crate::show::answer;

/// A node is not waited for any more.
pub(crate) async fn forget(session: &Session, node: &NodeName) -> Result<u8, Failure> {
    session.agent().await?.delete(&format!("/v1/nodes/{node}")).await?;
    session.remarks.say(format_args!("{node}: forgotten; what it owned goes elsewhere, and it votes no more"));
    Ok(0)
}

/// `migrate cluster …`
pub(crate) async fn cluster(session: &Session, command: &ClusterCommand) -> Result<u8, Failure> {
    match command {
        ClusterCommand::Backup { file } => backup(session, file).await,
        ClusterCommand::Rebuild(options) => rebuild(session, options).await,
    }
}

async fn backup(session: &Session, file: &Path) -> Result<u8, Failure> {
    let backup: Value = session.agent().await?.get("/v1/cluster/backup").await?;
    write(file, backup.to_string().as_bytes()).map_err(|source| Failure::File { path: file.to_owned(), source })?;
    let count = |what: &str| backup["record"][what].as_object().map_or(0, serde_json::Map::len);
    let (nodes, loads) = (count("nodes"), count("loads"));
    session.remarks.say(format_args!("{}: {nodes} nodes, {loads} workloads", file.display()));
    Ok(0)
}

/// Whole or not at all; for its owner only.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let made = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    made().inspect_err(|_| drop(fs::remove_file(&fresh)))
}

async fn rebuild(session: &Session, options: &RebuildOptions) -> Result<u8, Failure> {
    let backup = match &options.from {
        Some(path) => {
            let failed = |source| Failure::File { path: path.clone(), source };
            let text = fs::read(path).map_err(failed)?;
            let no_json =
                |error: serde_json::Error| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, error));
            Some(serde_json::from_slice::<Value>(&text).map_err(no_json)?)
        }
        None => None,
    };
    let request = RebuildRequest { backup, sure: options.i_am_sure };
    let view: RebuildView = session.agent().await?.post("/v1/cluster/rebuild", &request).await?;
    if session.everywhere.json {
        answer::json_document(&view)?;
    } else {
        answer::line(&in_words(&view))?;
    }
    Ok(if view.done { 0 } else { 1 })
}

fn in_words(view: &RebuildView) -> String {
    let RebuildView { node, was, cluster, others, workloads, done } = view;
    let others: Vec<&str> = others.iter().map(NodeName::as_str).collect();
    let others = if others.is_empty() { "no other node".to_owned() } else { others.join(", ") };
    match cluster.as_ref().filter(|_| *done) {
        Some(cluster) => format!(
            "{node} is the only node of the new cluster {cluster}, with {workloads} workloads. Its agent ends now, to be started again.\n\
             These must stay off until their state directories are emptied; then they join: {others}"
        ),
        None => format!(
            "nothing was done. With --i-am-sure {node} begins a new cluster in place of {was}, with {workloads} workloads.\n\
             What was decided since then, or has not reached {node}, is lost.\n\
             TWO COPIES of a workload run if any of these still runs: turn them off, or empty their state directories first: {others}"
        ),
    }
}
