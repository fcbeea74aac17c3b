//! A workload, brought back from a checkpoint: in the place of the one that has ended, in the next epoch; or beside it, under another name.
//!
//! Nothing is lost before it is clear that it works: the old layer stays beside the new one until CRIU holds the restored processes, every byte
//! compared, before their first instruction. Then the new epoch is written down, and only then do they run. A journal says, for an agent that
//! is started anew in between, whether to take everything back or to go on.
//!
//! The newest checkpoint that can be used is taken, wherever it is: what is not whole here is fetched. One that turns out to be damaged is noted as
//! such, loudly, and the one before it is taken. `recorded`: in a cluster, the record knows of it first.

mod recorded;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use migrate_image::vault::{About, Generation, Looked, VaultImage};
use migrate_proto::api::RestoreRequest;
use migrate_proto::care::Chart;
use migrate_proto::care::trust::Trust;
use migrate_proto::cluster::CheckpointId;
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::{Epoch, HandoverId};
use migrate_proto::message::Offer;
use migrate_proto::name::WorkloadName;
use migrate_sandbox::plan::MAIN_PID;
use tokio::sync::OwnedMutexGuard;

use super::candidates::{Candidate, candidates, nobody_else_has};
use super::interrupted::{self, Journal};
use super::{of_vault, short};
use crate::conduct::recover::Given;
use crate::durable;
use crate::events::{Clock, Kind, SystemClock, timestamp};
use crate::handover::Ground;
use crate::handover::restore::{Free, Restore};
use crate::ledger::restores::{self, Right};
use crate::offer;
use crate::random;
use crate::registry::{Doing, Place, Record};
use crate::workload::Workload;

/// Brings a workload back, or makes a second one of it. Who asked may leave: it goes on.
pub async fn restore(ground: &Ground, name: &WorkloadName, request: RestoreRequest) -> Result<Arc<Workload>, Problem> {
    let (ground, name) = (ground.clone(), name.clone());
    let restoring = tokio::spawn(async move {
        let restored = find_and_restore(&ground, &name, request).await;
        crate::handover::rest().await;
        restored
    });
    restoring.await.map_err(Problem::internal)?
}

async fn find_and_restore(
    ground: &Ground,
    name: &WorkloadName,
    request: RestoreRequest,
) -> Result<Arc<Workload>, Problem> {
    let in_cluster = ground.host.tenure.in_cluster();
    let into = request.r#as.as_ref().unwrap_or(name);
    restores::refuse_if_taken(&ground.host, into, into == name)?;
    if request.r#as.is_none() && ground.registry.get(name).is_none() {
        // The record says whose it is. Who is silent and has a copy that the record has forgotten may not let it run.
        nobody_else_has(ground, name, request.force || in_cluster).await?;
    }
    let candidates = candidates(ground, name, request.checkpoint.as_deref()).await?;
    let mut first = None;
    for candidate in candidates {
        let id = candidate.id;
        let _in_use = ground.host.checkpoints().use_it(id);
        let restored = match candidate.at_hand(ground, name).await {
            Ok(generation) => {
                let revival = Revival::begin(ground, into, &generation).await?;
                if in_cluster { revival.by_record(into == name).await } else { revival.run().await }
            }
            Err(problem) => Err(problem),
        };
        match restored {
            Err(problem) if may_try_another(&problem) => {
                note_damage(ground, name, id, &problem).await;
                first.get_or_insert(problem);
            }
            other => return other,
        }
    }
    let why = first.map_or(String::new(), |problem| format!(": {}", problem.message));
    let message = format!("there is no checkpoint of {name} that can be used on {}{why}", ground.host.node());
    Err(Problem::new(Code::WrongState, message).hint("`migrate checkpoints` shows what there is"))
}

/// Whether what is wrong is wrong with this checkpoint, and not with this node.
fn may_try_another(problem: &Problem) -> bool {
    matches!(problem.code, Code::Corrupt | Code::PeerDown | Code::LinkLost)
}

/// Brings a workload that hung, was ill or was lost with its node back from its last checkpoint that was healthy; the caller holds its turn, and
/// in a cluster it has begun the workload's next epoch. False where there is none that can be used: then it is begun afresh.
pub async fn instead_of_afresh(ground: &Ground, workload: &Arc<Workload>) -> bool {
    let name = workload.name();
    let Ok(mut candidates) = candidates(ground, name, None).await else { return false };
    let Record { trust, care, .. } = workload.record();
    candidates.retain(|candidate| {
        let Candidate { id, place, healthy, .. } = *candidate;
        healthy && if care.health.is_ill() { trust.vouches_for(id, place) } else { trust.allows(id) }
    });
    for candidate in candidates {
        let id = candidate.id;
        let _in_use = ground.host.checkpoints().use_it(id);
        let restored = match candidate.at_hand(ground, name).await {
            Ok(generation) => {
                let before = workload.record();
                // In a cluster the record has begun this epoch already.
                let in_cluster = ground.host.tenure.in_cluster();
                let epoch = if in_cluster { before.epoch } else { before.epoch.max(generation.about.epoch).next() };
                let (ground, workload) = (ground.clone(), workload.clone());
                let before = Some(before);
                let asked = Asked::Policy;
                Revival { ground, workload, generation, before, epoch, asked, _turn: None }.run().await
            }
            Err(problem) => Err(problem),
        };
        let Err(problem) = restored else { return true };
        note_damage(ground, name, id, &problem).await;
        if !may_try_another(&problem) {
            return false;
        }
    }
    false
}

/// Says loudly that a checkpoint could not be used; and writes down that it is damaged, where that is why.
pub(crate) async fn note_damage(ground: &Ground, name: &WorkloadName, id: CheckpointId, problem: &Problem) {
    let damaged = problem.code == Code::Corrupt;
    let how = if damaged { "is damaged" } else { "was not restored" };
    let message = format!("checkpoint {} of {name} {how}: {}", short(id), problem.message);
    ground.host.events.record(Kind::Warning, Some(name), None, message);
    let (host, what) = (ground.host.clone(), problem.message.clone());
    if !damaged || host.checkpoints().vault().is_ok_and(|vault| vault.generation(id).is_none()) {
        return;
    }
    let noted = tokio::task::spawn_blocking(move || {
        host.checkpoints().vault()?.note(id, Looked::Damaged { what }).map_err(of_vault)
    });
    if let Ok(Err(problem)) = noted.await {
        tracing::warn!(%problem, %id, "that a checkpoint is damaged could not be written down");
    }
    ground.host.checkpoints().changed();
}

/// Brings back what the record has given to this node, and of which nothing is here. Fails only where nothing has run.
pub(crate) async fn as_given(
    ground: &Ground,
    given: &Given,
    generation: &Generation,
) -> Result<Arc<Workload>, Problem> {
    let (entering, about, asked) = (ground.clone(), generation.about.clone(), given.clone());
    let entered = tokio::task::spawn_blocking(move || enter(&entering, &asked.load, &about, asked.epoch));
    let (workload, turn) = entered.await.map_err(Problem::internal)??;
    let (ground, generation, epoch) = (ground.clone(), generation.clone(), given.epoch);
    let asked = Asked::Record(given.clone());
    Revival { ground, workload, generation, before: None, epoch, asked, _turn: Some(turn) }.run().await
}

/// How long ago it was taken, as the clocks say.
pub(crate) fn age_ms(generation: &Generation) -> u64 {
    SystemClock.now_ms().saturating_sub(generation.about.taken_ms)
}

/// One attempt.
struct Revival {
    ground: Ground,
    workload: Arc<Workload>,
    generation: Generation,
    before: Option<Record>,
    epoch: Epoch,
    asked: Asked,
    _turn: Option<OwnedMutexGuard<()>>,
}

/// On whose wish.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    /// What was before does not count. In a cluster this node has it by this right.
    Person(Option<Right>),
    /// It is a restart like any other.
    Policy,
    /// The record has given it to this node. It says for how long that is so.
    Record(Given),
}

impl Asked {
    /// What the record has to say until it runs.
    fn by_record(&self) -> Option<&Given> {
        match self {
            Asked::Record(given) => Some(given),
            Asked::Person(right) => right.as_ref().map(|right| &right.given),
            Asked::Policy => None,
        }
    }
}

impl Revival {
    /// Takes the name, or the turn of the workload that has it.
    async fn begin(ground: &Ground, into: &WorkloadName, generation: &Generation) -> Result<Revival, Problem> {
        let about = &generation.about;
        let (workload, before, epoch, turn) = match ground.registry.get(into) {
            Some(workload) if about.spec.name == *into => {
                refuse_if_it_runs(ground, &workload)?;
                let turn = workload.turn_in_a_moment().await?;
                // It may have been started meanwhile.
                refuse_if_it_runs(ground, &workload)?;
                let record = workload.record();
                let epoch = record.epoch.max(about.epoch).next();
                (workload, Some(record), epoch, turn)
            }
            Some(_) => return Err(taken(ground, into)),
            None => {
                // One that was forgotten goes on after the last epoch that is known of it.
                let epoch = if about.spec.name == *into { about.epoch.next() } else { Epoch::FIRST };
                let (workload, turn) = enter(ground, into, about, epoch)?;
                (workload, None, epoch, turn)
            }
        };
        let (ground, generation) = (ground.clone(), generation.clone());
        Ok(Revival { ground, workload, generation, before, epoch, asked: Asked::Person(None), _turn: Some(turn) })
    }

    async fn run(self) -> Result<Arc<Workload>, Problem> {
        self.ground.host.checkpoints().proving.give_way().await;
        let limit = Duration::from_millis(self.ground.host.config.budgets.restore.total);
        let held = match tokio::time::timeout(limit, self.up_to_the_hold()).await {
            Ok(held) => held,
            Err(_) => Err(Problem::new(Code::TimedOut, format!("the restore took longer than {limit:?}"))),
        };
        let gone_on = match held {
            Ok(restore) => self.go_on(&restore).await,
            Err(problem) => Err(problem),
        };
        match gone_on {
            Ok(()) => {
                self.conclude().await;
                Ok(self.workload)
            }
            Err(problem) => {
                if let (Asked::Person(Some(right)), None) = (&self.asked, &self.before) {
                    // The name is taken here until it is free there.
                    restores::take_back(&self.ground.host, right, None).await;
                }
                self.take_back().await;
                let (name, node) = (self.workload.name(), self.ground.host.node());
                let state = match &self.before {
                    Some(before) => format!("; {name} is on {node} as it was: {}", word(&before.doing)),
                    None => format!("; there is no {name}"),
                };
                let message = format!("{name} was not brought back: {}{state}", problem.message);
                Err(Problem { message, ..problem })
            }
        }
    }

    /// Everything that can fail, and be taken back.
    async fn up_to_the_hold(&self) -> Result<Restore, Problem> {
        let (ground, workload) = (self.ground.clone(), self.workload.clone());
        let (generation, before) = (self.generation.clone(), self.before.clone());
        let built = tokio::task::spawn_blocking(move || build(&ground, &workload, &generation, before));
        let image = Arc::new(built.await.map_err(Problem::internal)??);
        tracing::debug!(workload = %self.workload.name(), "layer and sandbox are there");
        let host = &self.ground.host;
        let sandbox = self.workload.sandbox().ok_or_else(|| Problem::internal("there is no sandbox"))?;
        let cgroup = host.cgroup(self.workload.name().as_str())?;
        let restore = Restore::start(host, &cgroup, &sandbox).await?;
        restore.ready().await?;
        tracing::debug!(workload = %self.workload.name(), "CRIU waits for its images");
        let held = restore.restore(image.clone()).await;
        tracing::debug!(workload = %self.workload.name(), "CRIU holds the processes, or has failed");
        // CRIU says in its own words what it made of images that broke off; this says why they did.
        if let Some(what) = image.damage() {
            return Err(Problem::new(Code::Corrupt, what));
        }
        held.map(|_| restore)
    }

    /// Writes down that it is in its next epoch, then that they may run, then lets them. Fails only where nothing has run.
    async fn go_on(&self, restore: &Restore) -> Result<(), Problem> {
        let (workload, about) = (self.workload.clone(), &self.generation.about);
        if let Some(given) = self.asked.by_record() {
            given.still(&self.ground.host).await?;
        }
        let journal = Journal { before: self.before.clone(), from: self.generation.id, committed: true };
        let (epoch, started, asked) = (self.epoch, about.started.clone(), self.asked.clone());
        let from = (about.epoch, about.number);
        let written = tokio::task::spawn_blocking(move || {
            if matches!(asked, Asked::Person(_)) {
                workload.release()?;
            }
            workload.update(|record| {
                match asked {
                    Asked::Person(None) => {}
                    Asked::Person(Some(right)) => record.ticket = Some(right.given.ticket),
                    Asked::Policy => {
                        record.care.begin();
                        record.care.past.runs();
                    }
                    Asked::Record(given) => {
                        record.care.begin();
                        record.ticket = Some(given.ticket);
                        record.trust = Trust::brought_back(from);
                    }
                }
                record.epoch = epoch;
                record.owned = true;
                record.doing = Doing::Running;
                record.started = started;
                record.pid = Some(MAIN_PID);
            })?;
            durable::write(&workload.place().restoring(), &journal).map_err(Problem::internal)
        });
        written.await.map_err(Problem::internal)??;
        go(&self.ground, &self.workload, restore, about.last_pid).await
    }

    async fn conclude(&self) {
        let (place, workload) = (self.workload.place().clone(), &self.workload);
        let _ = tokio::task::spawn_blocking(move || interrupted::forget(&place)).await;
        if let Asked::Record(_) = self.asked {
            return;
        }
        let about = &self.generation.about;
        let age_s = SystemClock.now_ms().saturating_sub(about.taken_ms) / 1000;
        let (id, at) = (short(self.generation.id), timestamp::format(about.taken_ms));
        let of = match about.spec.name == *workload.name() {
            true => String::new(),
            false => format!(" of {}", about.spec.name),
        };
        let message = format!(
            "restored from checkpoint {id}{of} of {at}, {age_s} s old: what it did since then is lost; epoch {}",
            self.epoch
        );
        self.ground.host.events.record(Kind::Restored, Some(workload.name()), None, message);
    }

    async fn take_back(&self) {
        let (ground, workload, before) = (self.ground.clone(), self.workload.clone(), self.before.clone());
        let taken = tokio::task::spawn_blocking(move || interrupted::take_back(&ground, &workload, before)).await;
        if let Err(problem) | Ok(Err(problem)) = taken.map_err(Problem::internal) {
            let message = format!("what a restore had made could not be removed: {problem}");
            self.ground.host.events.record(Kind::Warning, Some(self.workload.name()), None, message);
        }
    }
}

/// Layer and sandbox, from the generation; the old layer is kept beside. Blocks.
fn build(
    ground: &Ground,
    workload: &Arc<Workload>,
    generation: &Generation,
    before: Option<Record>,
) -> Result<VaultImage, Problem> {
    let (host, place, about) = (&ground.host, workload.place(), &generation.about);
    let image = host.checkpoints().vault()?.open_image(generation.id).map_err(of_vault)?;
    let offer = as_offer(ground, about, &image)?;
    offer::fits(host, &offer, about.demands.as_ref(), 0)?;
    let journal = Journal { before, from: generation.id, committed: false };
    durable::write(&place.restoring(), &journal).map_err(Problem::internal)?;
    workload.drop_sandbox(host)?;
    let restored = place.layer_restored();
    durable::remove(&restored).map_err(Problem::internal)?;
    image.write_layer(&restored).map_err(of_vault)?;
    if place.layer().exists() {
        fs::rename(place.layer(), place.layer_before()).map_err(Problem::internal)?;
    }
    fs::rename(&restored, place.layer()).map_err(Problem::internal)?;
    let name = workload.name().clone();
    workload.update(|record| {
        record.spec = migrate_proto::spec::WorkloadSpec { name, ..about.spec.clone() };
        record.doing = Doing::Starting;
    })?;
    let sandbox = workload.build_sandbox(host)?;
    workload.attach_layer(&sandbox)?;
    Ok(image)
}

/// Lets restored processes run that are held. The caller has written down that they may. Fails only where none of them has run.
pub(super) async fn go(
    ground: &Ground,
    workload: &Arc<Workload>,
    restore: &Restore,
    last_pid: i32,
) -> Result<(), Problem> {
    let sandbox = workload.sandbox().ok_or_else(|| Problem::internal("there is no sandbox"))?;
    if restore.is_held().await {
        let (host, arming) = (ground.host.clone(), workload.clone());
        // The lease that it was built under may be over by now.
        tokio::task::spawn_blocking(move || arming.arm_if_ours(&host)).await.map_err(Problem::internal)??;
        let prepare = move || sandbox.set_last_pid(last_pid).and_then(|()| sandbox.adopt_workload(MAIN_PID));
        tokio::task::spawn_blocking(prepare).await.map_err(Problem::internal)?.map_err(Problem::internal)?;
    }
    if restore.resume().await? == Free::Perhaps {
        let message = "CRIU was killed while it let the processes go: see whether all of them work";
        ground.host.events.record(Kind::Warning, Some(workload.name()), None, message);
    }
    workload.begins_again();
    workload.watch(&ground.host);
    Ok(())
}

/// Makes a name this workload's, which is not there yet. Blocks for a moment.
fn enter(
    ground: &Ground,
    name: &WorkloadName,
    about: &About,
    epoch: Epoch,
) -> Result<(Arc<Workload>, OwnedMutexGuard<()>), Problem> {
    let place: Place = ground.registry.place(name);
    let record = Record {
        spec: migrate_proto::spec::WorkloadSpec { name: name.clone(), ..about.spec.clone() },
        epoch,
        owned: true,
        doing: Doing::Starting,
        started: about.started.clone(),
        sandbox: None,
        pid: None,
        care: Chart::new(about.care.clone().unwrap_or_default()),
        ticket: None,
        numbered: 0,
        trust: Trust::default(),
    };
    let workload = Workload::new(place.clone(), record);
    // Before anybody else sees it.
    let turn = workload.turn()?;
    if place.record().exists() || !ground.registry.add(workload.clone()) {
        return Err(taken(ground, name));
    }
    let made = durable::remove_dir(place.dir()).and_then(|()| durable::make_dir(place.dir()));
    if let Err(error) = made {
        let _ = ground.registry.remove(name);
        return Err(Problem::internal(error));
    }
    Ok((workload, turn))
}

fn taken(ground: &Ground, name: &WorkloadName) -> Problem {
    Problem::new(Code::NameTaken, format!("there is a workload {name} on {} already", ground.host.node()))
        .hint("choose another name, or remove the other one")
}

fn refuse_if_it_runs(ground: &Ground, workload: &Workload) -> Result<(), Problem> {
    if let Some(doubt) = workload.doubt() {
        return Err(doubt);
    }
    let record = workload.record();
    if !record.owned || matches!(record.doing, Doing::Running | Doing::Starting | Doing::Arriving) {
        let (name, node) = (workload.name(), ground.host.node());
        let message = format!("{name} runs on {node}: it is not replaced by an earlier state of itself");
        let hint = format!("`migrate restore {name} --as NEW` makes a second one; or `migrate stop {name}` first");
        return Err(Problem::new(Code::WrongState, message).hint(hint));
    }
    Ok(())
}

fn word(doing: &Doing) -> &'static str {
    match doing {
        Doing::Starting => "starting",
        Doing::Arriving => "arriving",
        Doing::Running => "running",
        Doing::Stopped(_) => "stopped",
        Doing::Failed(_) => "failed",
        Doing::Lost(_) => "lost",
    }
}

/// The checkpoint in the words in which a move would offer it: the same questions decide whether this node can take it.
pub(super) fn as_offer(ground: &Ground, about: &About, image: &VaultImage) -> Result<Offer, Problem> {
    let (layer_bytes, layer_used_bytes) = image.layer_bytes();
    Ok(Offer {
        handover: HandoverId::new(ground.registry.mark(), random::bytes().map_err(Problem::internal)?),
        spec: about.spec.clone(),
        epoch: about.epoch,
        from: about.node.clone(),
        to: ground.host.node().clone(),
        memory_bytes: image.image_bytes(),
        layer_bytes,
        layer_used_bytes,
        layer_block_bytes: migrate_image::layer::BLOCK_BYTES as u32,
        needs: about.needs.clone(),
        last_pid: about.last_pid,
        started: about.started.clone(),
    })
}
