//! Checkpoints, restored for a test: up to the moment before the first instruction, in a sandbox that is alone, and thrown away. "Recovery
//! tested 40 s ago, took 0.31 s."
//!
//! - `stage`: what is built for it, how far it goes, and how nothing of it stays.
//! - [`rota`]: those that are tested by the clock.
//! - `tested`: what came of it, here and as the record says.
//!
//! A test has no workload: the registry does not know it, it has no epoch, and its name is none that a workload can have. There is one at a time on a
//! node. It gives way to whatever needs the node, and what an agent that died has left of one goes when the next one starts.

pub mod rota;
mod stage;
mod tested;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use migrate_image::vault::{Generation, Looked};
use migrate_proto::api::CheckpointView;
use migrate_proto::care::prove::tester;
use migrate_proto::cluster::record::{Proof, Restored};
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::WorkloadName;
use tokio::sync::{MutexGuard, watch};
use tokio_util::sync::CancellationToken;

use super::{register, scrub, short, view};
use crate::control::Scope;
use crate::elsewhere;
use crate::events::{Clock, Kind, SystemClock};
use crate::handover::Ground;

pub use stage::clear;
pub use tested::{Tested, Tests};

/// How long whoever needs the node waits for a test to let go of its memory.
const LETTING_GO: Duration = Duration::from_secs(2);
/// How long an agent that ends waits for it to be gone; the next one clears away the rest.
const ENDING: Duration = Duration::from_secs(5);

/// The test that is under way on this node, if any.
#[derive(Default)]
pub struct Proving {
    alone: tokio::sync::Mutex<()>,
    under_way: Mutex<Option<CancellationToken>>,
    /// Whether processes of one may be in memory.
    takes_room: watch::Sender<bool>,
}

impl Proving {
    /// Something needs this node: a test that is under way is given up. Returns when it has no memory any more, or after some time.
    pub async fn give_way(&self) {
        if let Some(under_way) = &*self.under_way.lock().unwrap_or_else(PoisonError::into_inner) {
            under_way.cancel();
        }
        let mut takes_room = self.takes_room.subscribe();
        // The sender is this very object.
        let _ = tokio::time::timeout(LETTING_GO, takes_room.wait_for(|takes_room| !takes_room)).await;
    }

    /// The agent ends. While what is returned is kept no other test begins.
    pub async fn end(&self) -> Option<MutexGuard<'_, ()>> {
        self.give_way().await;
        tokio::time::timeout(ENDING, self.alone.lock()).await.ok()
    }

    fn set_under_way(&self, under_way: Option<CancellationToken>) {
        *self.under_way.lock().unwrap_or_else(PoisonError::into_inner) = under_way;
    }
}

/// Tests the newest checkpoint of a workload that can be used, on a node that has it, preferably one that does not own the workload; with
/// [`Scope::Node`] on this one.
pub async fn newest(ground: &Ground, name: &WorkloadName, scope: Scope) -> Result<CheckpointView, Problem> {
    let (host, me) = (&ground.host, ground.host.node());
    let views = super::all(ground, Some(name.clone()), scope).await?;
    let usable = |view: &&CheckpointView| view.damaged.is_none() && !view.nodes.is_empty();
    let Some(newest) = views.iter().rev().find(usable) else {
        let what = format!("there is no checkpoint of {name} that could be tested");
        return Err(Problem::new(Code::WrongState, what).hint(format!("`migrate checkpoint {name}` takes one")));
    };
    let owner = match host.tenure.entry(name) {
        Some(entry) => entry.owner,
        None => ground.registry.get(name).filter(super::holding::is_owner).map(|_| me.clone()),
    };
    if let Some(tester) = tester(&newest.nodes, owner.as_ref(), me).filter(|tester| *tester != me) {
        return elsewhere::prove(&ground.peers, tester, name).await;
    }
    let gone = || Problem::new(Code::WrongState, format!("checkpoint {} is not on {me} any more", short(newest.id)));
    let generation = host.checkpoints().vault()?.generation(newest.id).ok_or_else(gone)?;
    prove(ground, &generation).await??;
    let tested = host.checkpoints().tests.of(newest.id, name);
    Ok(CheckpointView { tested, ..view(&generation, me) })
}

/// What a test has shown: how long it took until the processes were there, or why a recovery would fail.
type Verdict = Result<Duration, Problem>;

/// Tests this one, and says what came of it wherever that is to be known; fails where there was no test. Who asked may leave: it goes on.
async fn prove(ground: &Ground, generation: &Generation) -> Result<Verdict, Problem> {
    let (ground, generation) = (ground.clone(), generation.clone());
    let proving = tokio::spawn(async move {
        let began = Instant::now();
        let held = attempt(&ground, &generation).await;
        let told = tell(&ground, &generation, held, began.elapsed()).await;
        crate::handover::rest().await;
        told
    });
    proving.await.map_err(Problem::internal)?
}

/// Whatever comes of it, nothing of it is there afterwards. How long it took until the processes were there.
async fn attempt(ground: &Ground, generation: &Generation) -> Result<Duration, Problem> {
    let checkpoints = ground.host.checkpoints();
    let proving = &checkpoints.proving;
    let busy = || Problem::new(Code::Busy, format!("{} tests another checkpoint already", ground.host.node()));
    let _alone = proving.alone.try_lock().map_err(|_| busy().hint("try again in some seconds"))?;
    let _in_use = checkpoints.use_it(generation.id);
    let give_way = CancellationToken::new();
    proving.set_under_way(Some(give_way.clone()));
    let began = Instant::now();
    let held = stage::up_to_the_hold(ground, generation, &give_way).await;
    let took = began.elapsed();
    let host = ground.host.clone();
    let cleared = tokio::task::spawn_blocking(move || clear(&host)).await.map_err(Problem::internal);
    proving.set_under_way(None);
    proving.takes_room.send_replace(false);
    if let Err(problem) | Ok(Err(problem)) = cleared {
        let what = format!("what a recovery test had made could not be removed: {problem}");
        ground.host.events.record(Kind::Warning, Some(&generation.about.spec.name), None, what);
    }
    held.map(|()| took)
}

/// Writes down what came of it; a failure is also an event. That there was no test is for who asked to hear.
async fn tell(
    ground: &Ground,
    generation: &Generation,
    held: Result<Duration, Problem>,
    lasted: Duration,
) -> Result<Verdict, Problem> {
    let (host, name, id) = (&ground.host, &generation.about.spec.name, generation.id);
    let (node, at_ms) = (host.node(), SystemClock.now_ms());
    if let Err(problem) = &held
        && !is_verdict(problem, generation)
    {
        let message = format!("checkpoint {} of {name} was not tested on {node}: {}", short(id), problem.message);
        return Err(Problem { message, ..problem.clone() });
    }
    let took_ms = held.as_ref().copied().unwrap_or(lasted).as_millis() as u64;
    let failed = held.as_ref().err().map(|problem| problem.message.clone());
    let (noting, named) = (host.clone(), name.clone());
    let noted = move || noting.checkpoints().tests.note(&named, Tested { id, at_ms, took_ms, failed });
    let _ = tokio::task::spawn_blocking(noted).await;
    let problem = match held {
        Ok(took) => {
            tracing::info!(workload = %name, id = %short(id), took_ms, "recovery tested");
            register::prove(host, name, id, Proof::Restored(Restored { at_ms, took_ms })).await;
            return Ok(Ok(took));
        }
        Err(problem) => problem,
    };
    let message = format!("recovery test of checkpoint {} of {name} failed on {node}: {}", short(id), problem.message);
    host.events.record(Kind::Warning, Some(name), None, message.clone());
    if problem.code == Code::Corrupt {
        // All of it is looked at, noted, and mended from where it is whole.
        scrub::look_at(ground.clone(), name.clone(), id, None).await;
    }
    Ok(Err(Problem { message, ..problem }))
}

/// Whether a failure says that a recovery from this checkpoint on this node would fail, too.
fn is_verdict(problem: &Problem, generation: &Generation) -> bool {
    match problem.code {
        Code::Corrupt | Code::Incompatible | Code::FileMismatch | Code::TimedOut => true,
        // A large file of a volume that was open for writing may be too large for its imitation.
        Code::RestoreFailed => generation.about.spec.volumes.iter().all(|volume| volume.read_only),
        _ => false,
    }
}

/// Whether a checkpoint is known to be sound, and not only believed to be.
fn is_verified(generation: &Generation) -> bool {
    matches!(generation.looked, Some(Looked::Sound { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_needs_the_node_waits_for_memory_and_not_for_files() {
        let proving = Proving::default();
        proving.give_way().await;
        let under_way = CancellationToken::new();
        proving.set_under_way(Some(under_way.clone()));
        // It only writes its layer yet.
        proving.give_way().await;
        assert!(under_way.is_cancelled());
        proving.takes_room.send_replace(true);
        let ended = async {
            under_way.cancelled().await;
            tokio::task::yield_now().await;
            proving.takes_room.send_replace(false);
        };
        tokio::join!(proving.give_way(), ended);
        assert!(!*proving.takes_room.borrow());
        let kept = proving.end().await;
        assert!(kept.is_some() && proving.alone.try_lock().is_err(), "no other one begins");
    }
}
