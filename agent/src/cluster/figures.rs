//! How full this node is, told to the keeper again and again, for the others.

use std::sync::Arc;
use std::time::Duration;

use migrate_proto::datagram;

use super::Cluster;
use crate::figures::Figures;
use crate::host::Host;
use crate::registry::Registry;

/// How often.
const EVERY: Duration = Duration::from_secs(1);

/// Goes on for as long as the agent runs.
pub async fn tell(cluster: Arc<Cluster>, host: Arc<Host>, registry: Arc<Registry>) {
    let mut figures = Figures::new();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (host, registry) = (host.clone(), registry.clone());
        let look = move || {
            let seen = look(&mut figures, &host, &registry);
            (figures, seen)
        };
        let Ok((kept, seen)) = tokio::task::spawn_blocking(look).await else { return };
        figures = kept;
        cluster.tell_figures(seen);
    }
}

fn look(figures: &mut Figures, host: &Host, registry: &Registry) -> datagram::Figures {
    let seen = figures.look(&host.config.state);
    let owned = registry.all().iter().filter(|workload| workload.record().owned).count();
    datagram::Figures {
        // The keeper's to say.
        generation: 0,
        count: 0,
        slowness: 0,
        cpu_permille: (seen.cpu_percent * 10.0) as u16,
        memory_used_bytes: seen.memory_used_bytes,
        memory_total_bytes: seen.memory_total_bytes,
        disk_free_bytes: seen.disk_free_bytes,
        workloads: u32::try_from(owned).unwrap_or(u32::MAX),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        criu_version: host.criu_version(),
    }
}
