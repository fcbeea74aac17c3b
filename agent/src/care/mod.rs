//! Workloads that end, hang or are ill: what `migrate_proto::care` decides is done here.
//!
//! Each workload for which somebody asked for something has an `attendant`, a task that follows it from one end to the next. What has to
//! outlive the agent, or to move with the workload, is in its record (`care::Chart`); whatever state an agent that died has left it in, its
//! attendant goes on from there.
//!
//! - `restart`: what is done about an end. `bring_back` is the one place where a workload comes back.
//! - `probe`: asking whether it is well. `pulse`: its own signs of life.
//! - [`watchdog`]: the agent, about itself.

mod attendant;
pub(crate) mod probe;
pub mod pulse;
mod restart;
pub mod watchdog;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use migrate_proto::handover::Millis;
use migrate_proto::name::WorkloadName;
use tokio::task::JoinHandle;

use crate::handover::Ground;
use crate::workload::Workload;
use attendant::Attendant;
use watchdog::Stamp;

/// How soon a workload that has come or was started has its attendant.
const LOOK: Duration = Duration::from_millis(250);

/// Gives every workload of this node that wants one its attendant, for as long as the agent runs.
pub async fn attend(ground: Ground) {
    let stamp = Stamp::of("care");
    let mut attended: HashMap<WorkloadName, (Weak<Workload>, JoinHandle<()>)> = HashMap::new();
    let mut agent_began = true;
    loop {
        stamp.touch();
        attended.retain(|_, (_, attendant)| !attendant.is_finished());
        for workload in ground.registry.all() {
            let known = attended.get(workload.name()).is_some_and(|(whose, _)| is_of(whose, &workload));
            if !known && !workload.chart().wish.is_nothing() {
                let attendant = Attendant::new(ground.clone(), workload.clone(), agent_began);
                let task = tokio::spawn(attendant.run());
                attended.insert(workload.name().clone(), (Arc::downgrade(&workload), task));
            }
        }
        agent_began = false;
        tokio::time::sleep(LOOK).await;
    }
}

fn is_of(whose: &Weak<Workload>, workload: &Arc<Workload>) -> bool {
    std::ptr::eq(whose.as_ptr(), Arc::as_ptr(workload))
}

/// The clock on the wall: what is durable about restarts is compared on other nodes, too.
fn wall_clock() -> Millis {
    Millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64)
}
