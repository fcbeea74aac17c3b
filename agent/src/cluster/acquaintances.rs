//! Whom this node has met: where to look for the cluster when those that it was told of are gone. A convenience: it may be lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Cluster;
use super::membership::Membership;
use crate::durable;
use crate::host::Host;

/// How many are remembered.
const MOST: usize = 32;
/// How long after a change they are written down: there may be more.
const SETTLE: Duration = Duration::from_secs(1);

fn file(state: &Path) -> PathBuf {
    state.join("cluster").join("acquaintances.json")
}

/// The addresses of those that were met last.
pub fn of(state: &Path) -> Vec<String> {
    match durable::read(&file(state)) {
        Ok(met) => met.unwrap_or_default(),
        Err(error) => {
            tracing::info!(%error, "whom this node has met is not known any more");
            Vec::new()
        }
    }
}

/// Writes down who is there, for as long as the agent runs.
pub async fn remember(cluster: Arc<Cluster>, host: Arc<Host>) {
    let mut changes = cluster.members.changes();
    while changes.changed().await.is_ok() {
        tokio::time::sleep(SETTLE).await;
        changes.borrow_and_update();
        let met: Vec<String> = cluster.members.all().into_iter().map(|peer| peer.address).take(MOST).collect();
        // Whoever is alone remembers whom it had.
        if met.is_empty() {
            continue;
        }
        let path = file(&host.config.state);
        let written = tokio::task::spawn_blocking(move || durable::write_soon(&path, &met)).await;
        if let Ok(Err(error)) = written {
            tracing::info!(%error, "whom this node has met was not written down");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_damaged_or_missing_is_nobody() {
        let dir = tempfile::tempdir().unwrap();
        assert!(of(dir.path()).is_empty());
        std::fs::create_dir(dir.path().join("cluster")).unwrap();
        durable::write_soon(&file(dir.path()), &["h:1"]).unwrap();
        assert_eq!(of(dir.path()), ["h:1"]);
        std::fs::write(file(dir.path()), "damaged").unwrap();
        assert!(of(dir.path()).is_empty());
    }
}
