//! One checkpoint of a workload that runs on.
//!
//! CRIU dumps it as for a move, its images and the layer's last changes go into the vault while it stands still, and at `post-dump`, where a
//! move would be committed, CRIU is told that the dump has failed: it lets its tasks go on. So a checkpoint ends in the same way as a move that
//! was taken back, and leaves as little behind. What takes time and no standstill (writing to disk, comparing all of it, dropping what is too old) comes
//! after that.
//!
//! The agent may die at any point: the guard, which is alone then, tells CRIU the same.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use migrate_image::pace::Pace;
use migrate_image::vault::{About, Generation, Layer, Looked, Writing};
use migrate_proto::cluster::record::CheckpointKind;
use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::Terms;
use migrate_proto::id::HandoverId;
use migrate_sandbox::guard::decision;
use migrate_sandbox::sandbox;
use tokio::sync::{OnceCell, OwnedMutexGuard};

use super::outlet::VaultOutlet;
use super::{of_vault, of_write};
use crate::events::{Clock, Kind, SystemClock};
use crate::handover::Ground;
use crate::handover::dump::{CriuCall, Dump};
use crate::handover::last_bytes::{LastBytes, Whole};
use crate::handover::layer_out::LayerOut;
use crate::handover::memory_ahead;
use crate::handover::outlet::Outlet;
use crate::ledger;
use crate::offer::{self, Survey};
use crate::preflight::finding::refusal;
use crate::random;
use crate::workload::Workload;

/// A checkpoint that was taken.
#[derive(Debug, Clone)]
pub struct Taken {
    /// What there is now.
    pub generation: Generation,
    /// How long the workload stood still, at most.
    pub pause: Duration,
}

/// Takes a checkpoint, as soon as no other one is taken here. Who asked may leave: it goes on.
pub async fn take(ground: &Ground, workload: &Arc<Workload>, kind: CheckpointKind) -> Result<Taken, Problem> {
    let (ground, workload) = (ground.clone(), workload.clone());
    let taking = tokio::spawn(async move {
        let _alone = ground.host.checkpoints().alone.lock().await;
        // What stands still for want of a lease may be another's by now.
        if let Some(held) = workload.hold_by_lease() {
            return Err(held);
        }
        let taken = Taking::begin(&ground, &workload, kind).await?.run().await;
        crate::handover::rest().await;
        taken
    });
    taking.await.map_err(Problem::internal)?
}

/// What an earlier agent had begun when it died: the guard has told CRIU to let go, and here it is seen whether it did.
pub async fn recover(ground: Ground, workload: Arc<Workload>, turn: Option<OwnedMutexGuard<()>>) {
    let guard_dir = workload.place().checkpoint();
    let clean = match CriuCall::take_over(&guard_dir).await {
        Some(call) => call.let_go(workload.pid()).await,
        None => CriuCall::ended_well(&guard_dir),
    };
    let freed = free(&ground, &workload, clean).await;
    clear(&guard_dir).await;
    drop(turn);
    if let Ok(true) = freed {
        ground.host.events.record(
            Kind::Warning,
            Some(workload.name()),
            None,
            "a checkpoint of it was interrupted; it runs on",
        );
    }
}

/// One under way.
struct Taking {
    ground: Ground,
    workload: Arc<Workload>,
    kind: CheckpointKind,
    guard_dir: PathBuf,
    turn: OwnedMutexGuard<()>,
}

/// What is in the vault, and not yet a generation.
struct Dumped {
    writing: Arc<Writing>,
    whole: Whole,
    about: About,
    pause: Duration,
}

impl Taking {
    async fn begin(ground: &Ground, workload: &Arc<Workload>, kind: CheckpointKind) -> Result<Taking, Problem> {
        if let Some(doubt) = workload.doubt() {
            return Err(doubt);
        }
        Ok(Taking {
            ground: ground.clone(),
            workload: workload.clone(),
            kind,
            guard_dir: workload.place().checkpoint(),
            turn: workload.turn_in_a_moment().await?,
        })
    }

    async fn run(self) -> Result<Taken, Problem> {
        let Taking { ground, workload, .. } = &self;
        let (ground, workload) = (ground.clone(), workload.clone());
        let cancelled = workload.set_checkpointing();
        let dumped = {
            let (mut dump, mut ended) = (None, workload.ended());
            let limit = ground.host.config.budgets.transfer.total;
            let dumped = tokio::select! {
                biased;
                () = cancelled.cancelled() => Err(self.gave_way()),
                _ = ended.wait_for(Option::is_some) => Err(Problem::new(
                    Code::WorkloadEnded,
                    format!("{} has ended on {}", workload.name(), ground.host.node()),
                )),
                () = tokio::time::sleep(Duration::from_millis(limit)) => Err(Problem::new(
                    Code::TimedOut,
                    format!("the checkpoint of {} took longer than {limit} ms", workload.name()),
                )),
                dumped = self.dump(&mut dump) => dumped,
            };
            // Whatever came of it, the workload goes on.
            let freed = self.let_go(dump).await;
            dumped.and_then(|(dumped, released)| Ok(Dumped { pause: freed? - released, ..dumped }))
        };
        workload.end_checkpointing();
        drop(self.turn);
        let stored = match dumped {
            Ok(dumped) => store(&ground, &workload, dumped).await,
            Err(problem) => Err(problem),
        };
        stored.map_err(|problem| not_kept(&ground, &workload, problem))
    }

    fn gave_way(&self) -> Problem {
        let message = format!("the checkpoint of {} gave way to another command", self.workload.name());
        Problem::new(Code::Cancelled, message).hint("take it again when that is done")
    }

    /// Everything into the vault, up to the moment when CRIU is held with its work done. Says when the workload was stopped.
    async fn dump(&self, slot: &mut Option<Dump>) -> Result<(Dumped, Instant), Problem> {
        let Taking { ground, workload, guard_dir, .. } = self;
        let host = &ground.host;
        let vault = host.checkpoints().vault()?.clone();
        let about = self.survey().await?;
        let (reading, checkpoints) = (workload.clone(), host.clone());
        let (known, writing) = tokio::task::spawn_blocking(move || {
            let known = checkpoints.checkpoints().known(&vault, reading.name());
            (known.is_some(), Arc::new(vault.begin(known)))
        })
        .await
        .map_err(Problem::internal)?;

        let (outlet, meter, pace): (Arc<dyn Outlet>, _, _) =
            (Arc::new(VaultOutlet::new(&writing)), Arc::default(), Pace::uncompressed());
        let gone = || Problem::new(Code::WrongState, format!("{} does not run on {}", workload.name(), host.node()));
        let (sandbox, main) = (workload.sandbox().ok_or_else(gone)?, workload.pid().ok_or_else(gone)?);
        let layer =
            LayerOut::open(&workload.place().layer(), sandbox, outlet.clone(), Arc::clone(&meter), pace.clone())?;
        layer.ahead().await?;
        if !known {
            // All of it is new: what is stored while it runs is not stored while it stands still.
            memory_ahead::copy(main, outlet.clone(), meter.clone(), pace.clone()).await?;
            outlet.flush().await?;
            layer.ahead().await?;
        }
        let mut dump =
            Dump::start(host, workload, guard_dir.clone(), outlet.clone(), meter, pace, Arc::new(OnceLock::new()))
                .await?;
        let streams = std::mem::replace(&mut dump.streams, tokio::sync::oneshot::channel().1);
        let call = dump.call.clone();
        let dump = slot.insert(dump);
        let released = Instant::now();
        dump.release().await;
        let layer = Arc::new(OnceCell::from(layer));
        let whole = LastBytes { call, streams, layer, outlet }.send().await?;
        // What time it is a checkpoint of: nothing in it is younger.
        let about = About { taken_ms: SystemClock.now_ms(), ..about };
        Ok((Dumped { writing, whole, about, pause: Duration::ZERO }, released))
    }

    /// What it is a checkpoint of, unless something speaks against taking one.
    async fn survey(&self) -> Result<About, Problem> {
        let (host, workload) = (self.ground.host.clone(), self.workload.clone());
        let handover = HandoverId::new(self.ground.registry.mark(), random::bytes().map_err(Problem::internal)?);
        let terms = Terms {
            handover,
            workload: workload.name().clone(),
            from: host.node().clone(),
            to: host.node().clone(),
            epoch: workload.record().epoch,
        };
        let surveyed = tokio::task::spawn_blocking({
            let (host, workload) = (host.clone(), workload.clone());
            move || offer::survey(&host, &workload, &terms)
        });
        let Survey { offer, demands, findings } = surveyed.await.map_err(Problem::internal)??;
        if let Some(problem) = refusal(&findings) {
            return Err(problem.clone());
        }
        let health = workload.chart().health;
        Ok(About {
            spec: offer.spec,
            number: ledger::numbered(&host, &workload) + 1,
            taken_ms: 0,
            kind: self.kind,
            healthy: !health.is_ill(),
            epoch: offer.epoch,
            node: host.node().clone(),
            started: offer.started,
            last_pid: offer.last_pid,
            needs: offer.needs,
            demands: Some(*demands),
            care: Some(workload.chart().wish),
        })
    }

    /// Has CRIU let the workload go, wherever it stands, and sees that it did. Says when that was seen.
    async fn let_go(&self, dump: Option<Dump>) -> Result<Instant, Problem> {
        let call = match &dump {
            Some(dump) => Some(dump.call.clone()),
            // It may have been started, and not have become ready.
            None => CriuCall::take_over(&self.guard_dir).await.map(Arc::new),
        };
        // Its broken pipes make an incomplete dump fail.
        drop(dump);
        let clean = match &call {
            Some(call) => call.let_go(self.workload.pid()).await,
            None => CriuCall::ended_well(&self.guard_dir),
        };
        let freed = free(&self.ground, &self.workload, clean).await.map(|_| Instant::now());
        clear(&self.guard_dir).await;
        freed
    }
}

/// Whether the workload is itself again; where it is not a person has to look at it. False where it has ended.
async fn free(ground: &Ground, workload: &Arc<Workload>, clean: bool) -> Result<bool, Problem> {
    let (host, looked_at) = (ground.host.clone(), workload.clone());
    let freed = tokio::task::spawn_blocking(move || offer::is_free(&host, &looked_at, clean)).await;
    let freed = freed.map_err(Problem::internal).and_then(std::convert::identity);
    if let Err(problem) = &freed {
        workload.set_frozen(Some(problem.message.clone()));
        ground.host.events.record(Kind::Warning, Some(workload.name()), None, problem.message.clone());
    }
    freed
}

/// The guard's directory goes: its decision must not be taken for another's.
async fn clear(guard_dir: &Path) {
    let dir = guard_dir.to_owned();
    let cleared = tokio::task::spawn_blocking(move || {
        sandbox::remove_dir(&dir).map_err(|e| e.to_string()).and(decision::clear(&dir).map_err(|e| e.to_string()))
    });
    if let Ok(Err(error)) = cleared.await {
        tracing::warn!(%error, "what a checkpoint left could not be removed");
    }
}

/// Makes what was dumped a generation, compares all of it with what was dumped, and drops what is not needed any more.
async fn store(ground: &Ground, workload: &Arc<Workload>, dumped: Dumped) -> Result<Taken, Problem> {
    let (host, name) = (ground.host.clone(), workload.name().clone());
    let stored = tokio::task::spawn_blocking(move || {
        let checkpoints = host.checkpoints();
        let vault = checkpoints.vault()?;
        let Dumped { writing, whole, about, pause } = dumped;
        let layer = Layer { size: whole.layer.size, digest: whole.layer.digest };
        let (generation, known) = writing.commit(about, &whole.streams, layer).map_err(of_write)?;
        drop(writing);
        let id = generation.id;
        let _in_use = checkpoints.use_it(id);
        let looked = match vault.check(id, None) {
            Ok(_) => Looked::Sound { at_ms: SystemClock.now_ms() },
            Err(error) => {
                let noted = vault.note(id, Looked::Damaged { what: error.to_string() });
                tracing::debug!(?noted, "a checkpoint is damaged");
                return Err(of_vault(error));
            }
        };
        vault.note(id, looked.clone()).map_err(of_vault)?;
        if generation.about.care.as_ref().is_some_and(|wish| wish.checkpoint_every_ms.is_some()) {
            // Some 22 bytes a page: only where the next one comes soon.
            super::locked(&checkpoints.known).insert(name.clone(), known);
        }
        checkpoints.tidy(&name, generation.about.epoch, host.tenure.entry(&name).as_ref())?;
        Ok(Taken { generation: Generation { looked: Some(looked), ..generation }, pause })
    });
    let taken = stored.await.map_err(Problem::internal)??;
    let Taken { generation, pause } = &taken;
    let (raw, new, id) = (generation.raw_bytes >> 10, generation.new_bytes >> 10, super::short(generation.id));
    let message = format!("checkpoint {id}: {raw} KiB, {new} KiB new; it stood still for {} ms", pause.as_millis());
    tracing::info!(workload = %workload.name(), "{message}");
    if generation.about.kind != CheckpointKind::Periodic {
        ground.host.events.record(Kind::Checkpointed, Some(workload.name()), None, message);
    }
    Ok(taken)
}

/// The problem, with where the workload is.
fn not_kept(ground: &Ground, workload: &Workload, problem: Problem) -> Problem {
    let (name, node) = (workload.name(), ground.host.node());
    let state = match workload.pid() {
        Some(_) if workload.doubt().is_none() => format!("; {name} runs on on {node}"),
        _ => String::new(),
    };
    let message = format!("there is no new checkpoint of {name}: {}{state}", problem.message);
    tracing::warn!("{message}");
    Problem { message, ..problem }
}
