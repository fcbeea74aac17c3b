//! Checkpoints by the clock: of each workload that wants them, one after the other, spread over their interval by the workload's name.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use migrate_proto::cluster::record::CheckpointKind;
use migrate_proto::error::Code;
use migrate_proto::name::WorkloadName;

use super::take;
use crate::events::Kind;
use crate::handover::Ground;
use crate::workload::Workload;

/// How often it is looked whether it is time.
const LOOK: Duration = Duration::from_millis(250);
/// A pause of more than this share of the interval is told.
const NOTICEABLE: f64 = 0.02;

/// What there is to remember of a workload.
struct Turn {
    every: Duration,
    next: Instant,
    /// What was said last, so that it is said once.
    told: Option<String>,
}

/// Takes checkpoints for as long as the agent lives.
pub async fn run(ground: Ground) {
    let mut turns: HashMap<WorkloadName, Turn> = HashMap::new();
    loop {
        tokio::time::sleep(LOOK).await;
        let all = ground.registry.all();
        turns.retain(|name, _| {
            let stays = all.iter().any(|workload| workload.name() == name);
            if !stays {
                ground.host.checkpoints().unlearn(name);
            }
            stays
        });
        for workload in all {
            let Some(every) = wanted(&workload) else {
                turns.remove(workload.name());
                continue;
            };
            let new = || Turn { every, next: Instant::now() + offset(workload.name(), every), told: None };
            let turn = turns.entry(workload.name().clone()).or_insert_with(new);
            if turn.every != every {
                *turn = new();
            }
            if Instant::now() >= turn.next {
                // From now on, and not from when it was due: who is late does not hurry.
                turn.next = Instant::now() + every;
                one(&ground, &workload, turn).await;
            }
        }
    }
}

/// How often a checkpoint of it is taken, where that is so and it runs.
fn wanted(workload: &Workload) -> Option<Duration> {
    let every = workload.chart().wish.checkpoint_every_ms?;
    let runs = workload.is_here() && !workload.is_moving() && workload.doubt().is_none() && workload.pid().is_some();
    runs.then(|| Duration::from_millis(every))
}

/// The first one comes within the first interval.
fn offset(name: &WorkloadName, every: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    every.mul_f64((hasher.finish() % 1000) as f64 / 1000.0)
}

async fn one(ground: &Ground, workload: &Arc<Workload>, turn: &mut Turn) {
    let said = match take::take(ground, workload, CheckpointKind::Periodic).await {
        Ok(taken) => {
            let share = taken.pause.as_secs_f64() / turn.every.as_secs_f64();
            (share > NOTICEABLE).then(|| {
                let percent = (share * 100.0).round();
                let every = turn.every;
                format!("its checkpoints, one every {every:?}, have it stand still for {percent} % of the time")
            })
        }
        // Somebody else was quicker: the next time.
        Err(problem)
            if matches!(problem.code, Code::Busy | Code::Cancelled | Code::WorkloadEnded | Code::WrongState) =>
        {
            return;
        }
        Err(problem) => Some(problem.message),
    };
    // Figures in it differ from time to time; the failure is another one when its beginning is.
    let beginning = |text: &String| text.chars().take(60).collect::<String>();
    if let Some(said) = &said
        && turn.told.as_ref().map(beginning) != Some(beginning(said))
    {
        ground.host.events.record(Kind::Warning, Some(workload.name()), None, said.clone());
    }
    turn.told = said;
}
