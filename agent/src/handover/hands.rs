//! What there is of an arriving workload, and what is done with it: sandbox, image, CRIU, record.
//!
//! Shared by the loop in [`super::arrival`] and by what works beside it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migrate_criu::{ghosts, mend};
use migrate_image::store::StoredImage;
use migrate_proto::care::Chart;
use migrate_proto::care::trust::Trust;
use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::target::{Event, Room};
use migrate_proto::id::Epoch;
use migrate_proto::manifest::Manifest;
use migrate_proto::message::{Demands, Offer};
use migrate_proto::phase::Phase;
use migrate_sandbox::Sandbox;
use migrate_sandbox::plan::MAIN_PID;
use tokio::sync::{OwnedMutexGuard, mpsc, watch};
use tokio::task::AbortHandle;

use super::receive::Reception;
use super::restore::{Free, Restore, freed_without_guard, guard_dir};
use super::{Ground, Input, verdict};
use crate::durable;
use crate::events::Kind;
use crate::offer;
use crate::registry::{Doing, Record};
use crate::why::CAME_FROM;
use crate::workload::Workload;

/// The image may be larger than its estimate: the workload runs on while it is being copied.
const IMAGE_MARGIN: u64 = 256 << 20;

type Shared<T> = Arc<Mutex<Option<T>>>;

fn look<T>(shared: &Shared<T>) -> MutexGuard<'_, Option<T>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(super) struct Hands {
    ground: Ground,
    workload: Arc<std::sync::OnceLock<Arc<Workload>>>,
    turn: Shared<OwnedMutexGuard<()>>,
    /// Never locked while something is waited for: whoever drops the workload must not wait for whoever restores it.
    restore: Shared<Arc<Restore>>,
    image: Shared<Arc<StoredImage>>,
    /// Follows a restore that holds the processes.
    following: Shared<AbortHandle>,
    image_dir: PathBuf,
    pub(super) offer: Arc<Offer>,
    /// What is known of the workload's care.
    pub(super) chart: Arc<Chart>,
    /// The highest number of a checkpoint that the source has given.
    pub(super) numbered: u64,
    /// The session of this node in which the offer was taken; `None` where that is not known any more.
    pub(super) since: Option<u64>,
    tell: mpsc::UnboundedSender<Input<Event>>,
}

impl Hands {
    /// Nothing is there yet.
    pub(super) fn empty(ground: &Ground, offer: Offer, tell: mpsc::UnboundedSender<Input<Event>>) -> Hands {
        Hands {
            ground: ground.clone(),
            workload: Arc::default(),
            turn: Arc::default(),
            restore: Arc::default(),
            image: Arc::default(),
            following: Arc::default(),
            image_dir: ground.host.images().join(offer.handover.to_string()),
            offer: Arc::new(offer),
            chart: Arc::default(),
            numbered: 0,
            since: None,
            tell,
        }
    }

    pub(super) fn workload(&self) -> Result<Arc<Workload>, Problem> {
        self.workload.get().cloned().ok_or_else(|| Problem::internal("the workload is not known here"))
    }

    /// Others may change the workload again.
    pub(super) fn give_back_turn(&self) {
        drop(look(&self.turn).take());
    }

    /// Compares, and takes the name.
    pub(super) async fn check(&self, demands: Option<Box<Demands>>) -> Result<Room, Problem> {
        let (ground, offered) = (self.ground.clone(), self.offer.clone());
        ground.host.checkpoints().proving.give_way().await;
        let promised = ground.handovers.promised.promise(offered.handover, offered.memory_bytes.saturating_mul(2));
        let look = move || offer::room(&ground.host, &ground.registry, &offered, demands.as_deref(), promised);
        let looked =
            tokio::task::spawn_blocking(look).await.map_err(Problem::internal).and_then(std::convert::identity);
        // Who is refused takes nothing from who comes next.
        let room = looked.inspect_err(|_| self.ground.handovers.promised.release(self.offer.handover))?;
        let record = Record {
            spec: self.offer.spec.clone(),
            epoch: self.offer.epoch,
            owned: false,
            doing: Doing::Arriving,
            started: self.offer.started.clone(),
            sandbox: None,
            pid: None,
            care: self.chart.as_ref().clone(),
            ticket: None,
            numbered: self.numbered,
            trust: Trust::default(),
        };
        let (ground, taken, turn) = (self.ground.clone(), self.workload.clone(), self.turn.clone());
        tokio::task::spawn_blocking(move || take_name(&ground, record, &taken, &turn))
            .await
            .map_err(Problem::internal)??;
        Ok(room)
    }

    /// Makes the layer's file, room for the image, and the sandbox. Blocks.
    pub(super) fn build(&self, reception: &watch::Sender<Option<Arc<Reception>>>) -> Result<(), Problem> {
        let workload = self.workload()?;
        let expected = self.offer.memory_bytes;
        // What was copied ahead and then changed is there twice.
        let budget = expected.saturating_mul(3) + IMAGE_MARGIN;
        let made =
            Reception::prepare(&workload.place().layer(), self.offer.layer_bytes, &self.image_dir, expected, budget)?;
        reception.send_replace(Some(Arc::new(made)));
        workload.build_sandbox(&self.ground.host).map(drop)
    }

    /// Compares what was received with what was announced, and keeps it.
    pub(super) async fn verify(&self, reception: &Reception, manifest: &Manifest) -> Result<(), Problem> {
        let image = reception.verify(manifest).await?;
        *look(&self.image) = Some(image);
        Ok(())
    }

    /// CRIU can start before the layer is there, unless the root is part of the layer.
    pub(super) async fn start_restore(&self) -> Result<(), Problem> {
        if self.offer.spec.own_root { Ok(()) } else { self.start_criu().await }
    }

    async fn start_criu(&self) -> Result<(), Problem> {
        let workload = self.workload()?;
        let sandbox = workload.sandbox().ok_or_else(|| Problem::internal("there is no sandbox"))?;
        let cgroup = self.ground.host.cgroup(workload.name().as_str())?;
        let restore = Arc::new(Restore::start(&self.ground.host, &cgroup, &sandbox).await?);
        *look(&self.restore) = Some(restore.clone());
        restore.ready().await
    }

    /// Mounts the layer and has CRIU rebuild the processes, up to the hold.
    pub(super) async fn restore(&self) -> Result<i32, Problem> {
        let workload = self.workload()?;
        let sandbox = workload.sandbox().ok_or_else(|| Problem::internal("there is no sandbox"))?;
        tokio::task::spawn_blocking(move || workload.attach_layer(&sandbox)).await.map_err(Problem::internal)??;
        self.restore_upon_layer().await
    }

    async fn restore_upon_layer(&self) -> Result<i32, Problem> {
        if look(&self.restore).is_none() {
            self.start_criu().await?;
        }
        let image = look(&self.image).clone().ok_or_else(|| Problem::internal("there is no image"))?;
        let restore = look(&self.restore).clone().ok_or_else(|| Problem::internal("CRIU was not started"))?;
        let pid = restore.restore(image).await?;
        self.follow_held(&restore);
        Ok(pid)
    }

    /// While the processes are held, CRIU's death is theirs.
    fn follow_held(&self, restore: &Restore) {
        let (end, tell) = (restore.watch_end(), self.tell.clone());
        let following = tokio::spawn(async move {
            let _ = tell.send(Input::Event(Event::RestoreFailed(end.await)));
        });
        if let Some(before) = look(&self.following).replace(following.abort_handle()) {
            before.abort();
        }
    }

    fn stop_following(&self) {
        if let Some(following) = look(&self.following).take() {
            following.abort();
        }
    }

    /// The problem that there is no image to restore from: it lay in memory, and this node lost its power.
    pub(super) fn image_lost(&self) -> Option<Problem> {
        let is_there = look(&self.image).is_some() || !matches!(self.image_dir.try_exists(), Ok(false));
        (!is_there).then(|| {
            let (name, node) = (&self.offer.spec.name, self.ground.host.node());
            let message = format!(
                "{node} lost its power when {name} had just come to it: its memory is lost, its files are here"
            );
            Problem::new(Code::RestoreFailed, message)
                .hint(format!("`migrate start {name}` starts it afresh with its files"))
        })
    }

    /// The workload is this node's, and does not run.
    pub(super) fn note_lost(&self, problem: &Problem) -> Result<(), Problem> {
        let workload = self.workload()?;
        workload.drop_sandbox(&self.ground.host)?;
        workload.update(|record| record.doing = Doing::Lost(problem.message.clone()))?;
        workload.set_frozen(None);
        let events = &self.ground.host.events;
        events.record(Kind::Warning, Some(workload.name()), Some(Phase::Resume), problem.to_string());
        Ok(())
    }

    /// Builds everything anew, and restores from the image that was kept.
    pub(super) async fn restore_again(&self) -> Result<i32, Problem> {
        self.stop_following();
        let (hands, workload) = (self.clone(), self.workload()?);
        let rebuilt = move || -> Result<(), Problem> {
            workload.drop_sandbox(&hands.ground.host)?;
            drop(look(&hands.restore).take());
            if look(&hands.image).is_none() {
                let image = StoredImage::open(&hands.image_dir).map_err(Problem::internal)?;
                *look(&hands.image) = Some(Arc::new(image));
            }
            let sandbox = workload.build_sandbox(&hands.ground.host)?;
            workload.attach_layer(&sandbox)?;
            let image = look(&hands.image).clone().ok_or_else(|| Problem::internal("there is no image"))?;
            // Where there is none, or what is there is not understood, CRIU finds its way or says why not.
            if let Err(problem) = remove_ghosts(&image, &sandbox) {
                tracing::warn!(%problem, "names that CRIU may have left could not be removed");
            }
            Ok(())
        };
        tokio::task::spawn_blocking(rebuilt).await.map_err(Problem::internal)??;
        self.restore_upon_layer().await
    }

    /// Why it must not be let go here although it was given to this node, where that is so. Waits for a lease.
    pub(super) async fn taken_away(&self) -> Option<Problem> {
        verdict::taken_away(&self.ground.host, &self.offer, self.since).await
    }

    /// The owner has changed.
    pub(super) fn adopt(&self, epoch: Epoch) -> Result<(), Problem> {
        let ticket = self.ground.host.tenure.entry(&self.offer.spec.name).map(|entry| entry.ticket);
        self.workload()?.update(|record| {
            record.owned = true;
            record.ticket = ticket;
            record.epoch = epoch;
            record.doing = Doing::Running;
            record.pid = Some(MAIN_PID);
        })
    }

    /// Lets the processes go; where an earlier agent has done that, says so, also where they have ended since. Fails only where
    /// none of them has run an instruction.
    pub(super) async fn resume(&self) -> Result<i32, Problem> {
        self.stop_following();
        let workload = self.workload()?;
        if !workload.record().owned {
            return Err(Problem::internal("this node does not own the workload yet"));
        }
        let (host, name) = (&self.ground.host, workload.name());
        if self.let_go(&workload).await? == Free::Perhaps {
            let message = "CRIU was killed while it let the processes go: see whether all of them work";
            host.events.record(Kind::Warning, Some(name), Some(Phase::Resume), message);
        }
        workload.set_frozen(None);
        host.events.record(Kind::Arrived, Some(name), None, format!("{CAME_FROM}{}", self.offer.from));
        // Its end, should it have come already, is its own.
        workload.watch(host);
        let (looked_at, looking) = (workload.clone(), host.clone());
        tokio::task::spawn_blocking(move || looked_at.note_if_lost(&looking)).await.map_err(Problem::internal)?;
        Ok(MAIN_PID)
    }

    async fn let_go(&self, workload: &Arc<Workload>) -> Result<Free, Problem> {
        let restore = look(&self.restore).clone();
        let Some(restore) = restore else {
            // The guard has ended as well. What it left tells, also where the sandbox is gone.
            let sandbox = workload.record().sandbox.map(|name| self.ground.host.sandboxes().join(name));
            let freed = sandbox.and_then(|dir| freed_without_guard(&guard_dir(&dir)));
            return freed.ok_or_else(|| Problem::new(Code::RestoreFailed, "the held processes are gone"));
        };
        if restore.is_held().await {
            let sandbox = workload.sandbox().ok_or_else(|| Problem::internal("there is no sandbox"))?;
            let last_pid = self.offer.last_pid;
            let (arming, host) = (workload.clone(), self.ground.host.clone());
            let prepare = move || {
                // It may have been built in another session.
                arming.arm(&host)?;
                let prepared = sandbox.set_last_pid(last_pid).and_then(|()| sandbox.adopt_workload(MAIN_PID));
                prepared.map_err(Problem::internal)
            };
            tokio::task::spawn_blocking(prepare).await.map_err(Problem::internal)??;
        }
        restore.resume().await
    }

    /// Removes everything that the handover brought. Processes first: who waits for them then waits no more.
    pub(super) async fn drop_everything(&self) {
        self.stop_following();
        let hands = self.clone();
        let dropped = tokio::task::spawn_blocking(move || -> Result<(), Problem> {
            let _ = std::fs::remove_dir_all(&hands.image_dir);
            let Ok(workload) = hands.workload() else { return Ok(()) };
            workload.drop_sandbox(&hands.ground.host)?;
            // The second time the name may be another arrival's already.
            match hands.ground.registry.get(workload.name()) {
                Some(known) if Arc::ptr_eq(&known, &workload) => {
                    hands.ground.registry.remove(workload.name()).map_err(Problem::internal)
                }
                _ => Ok(()),
            }
        });
        match dropped.await.map_err(Problem::internal) {
            Ok(Ok(())) => {}
            Ok(Err(problem)) | Err(problem) => tracing::error!(%problem, "what had arrived could not be removed"),
        }
        drop(look(&self.restore).take());
        drop(look(&self.image).take());
    }

    pub(super) fn keep_frozen(&self, problem: &Problem) {
        if let Ok(workload) = self.workload() {
            workload.set_frozen(Some(problem.message.clone()));
        }
        let events = &self.ground.host.events;
        events.record(Kind::Warning, Some(&self.offer.spec.name), Some(Phase::Commit), problem.message.clone());
    }

    /// The workload runs: the image is of no more use.
    pub(super) async fn forget_image(&self) {
        self.ground.handovers.promised.release(self.offer.handover);
        drop(look(&self.image).take());
        drop(look(&self.restore).take());
        let dir = self.image_dir.clone();
        let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dir)).await;
        if let Ok(Err(error)) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the image could not be removed");
        }
    }

    /// After a restart: what there is of sandbox and CRIU. The caller has adopted the workload and holds its turn.
    pub(super) async fn take_up(&self, workload: Arc<Workload>, turn: Option<OwnedMutexGuard<()>>) {
        *look(&self.turn) = turn;
        if let Some(sandbox) = workload.sandbox()
            && let Some(restore) = Restore::take_over(&sandbox).await
        {
            self.follow_held(&restore);
            *look(&self.restore) = Some(Arc::new(restore));
        }
        let _ = self.workload.set(workload);
    }
}

/// Removes the names that an earlier restore of an image may have left in the layer, and at which the next one would fail. Blocks.
fn remove_ghosts(image: &StoredImage, sandbox: &Sandbox) -> Result<(), Problem> {
    if !image.contains(ghosts::REMAPS) {
        return Ok(());
    }
    let read = |name| image.read(name, mend::MAX_BYTES).map_err(Problem::internal);
    let names = ghosts::of(&read(ghosts::REMAPS)?, &read(ghosts::FILES)?).map_err(Problem::internal)?;
    let names: Vec<PathBuf> = names.into_iter().map(|name| OsString::from_vec(name).into()).collect();
    sandbox.remove_names(&names).map_err(Problem::internal)
}

/// Makes the name this arrival's, on disk and in the registry, or leaves no trace. Blocks.
fn take_name(
    ground: &Ground,
    record: Record,
    taken: &std::sync::OnceLock<Arc<Workload>>,
    turn: &Shared<OwnedMutexGuard<()>>,
) -> Result<(), Problem> {
    let name = record.spec.name.clone();
    let place = ground.registry.place(&name);
    let workload = Workload::new(place.clone(), record);
    // Before anybody else sees it.
    let its_turn = workload.turn()?;
    if let Some(problem) = offer::taken_name(&ground.host, &ground.registry, &name).or_else(|| {
        (!ground.registry.add(workload.clone())).then(|| Problem::new(Code::Busy, format!("{name} is just coming")))
    }) {
        let message = format!("{}; {name} stays where it is", problem.message);
        return Err(Problem { message, ..problem });
    }
    *look(turn) = Some(its_turn);
    // What an earlier workload of this name left must not be taken for this one's, a decision least of all.
    let made = durable::remove_dir(place.dir()).and_then(|()| durable::make_dir(place.dir()));
    let made = made.map_err(Problem::internal).and_then(|()| workload.update(|_| {}));
    match made {
        Ok(()) => {
            let _ = taken.set(workload);
            Ok(())
        }
        Err(problem) => {
            let _ = ground.registry.remove(&name);
            Err(problem)
        }
    }
}
