//! What there is of an arriving workload, and what is done with it: sandbox, image, CRIU, record.
//!
//! Shared by the loop in [`super::arrival`] and by what works beside it.

use std::path::PathBuf;
use std::sync::Arc;

use migrate_image::store::StoredImage;
use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::target::{Event, Room};
use migrate_proto::id::Epoch;
use migrate_proto::manifest::Manifest;
use migrate_proto::message::Offer;
use migrate_proto::phase::Phase;
use migrate_sandbox::plan::MAIN_PID;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, watch};

use super::dump::internal;
use super::receive::Reception;
use super::restore::Restore;
use super::{Ground, Input};
use crate::events::Kind;
use crate::offer;
use crate::registry::{Doing, Record};
use crate::workload::Workload;

/// The image may be larger than its estimate: the workload runs on while it is being copied.
const IMAGE_MARGIN: u64 = 256 << 20;

/// Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(super) struct Hands {
    ground: Ground,
    workload: Arc<std::sync::OnceLock<Arc<Workload>>>,
    turn: Arc<std::sync::Mutex<Option<OwnedMutexGuard<()>>>>,
    restore: Arc<Mutex<Option<Restore>>>,
    image: Arc<Mutex<Option<Arc<StoredImage>>>>,
    image_dir: PathBuf,
    pub(super) offer: Arc<Offer>,
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
            image_dir: ground.host.config.run.join("images").join(offer.handover.to_string()),
            offer: Arc::new(offer),
            tell,
        }
    }

    pub(super) fn workload(&self) -> Result<Arc<Workload>, Problem> {
        self.workload.get().cloned().ok_or_else(|| internal("the workload is not known here"))
    }

    pub(super) fn give_back_turn(&self) {
        drop(self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
    }

    pub(super) fn hold_turn(&self, workload: &Arc<Workload>) {
        let turn = workload.turn().ok();
        *self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = turn;
    }

    /// Compares, and takes the name.
    pub(super) async fn check(&self) -> Result<Room, Problem> {
        let (host, offered) = (self.ground.host.clone(), self.offer.clone());
        let room = tokio::task::spawn_blocking(move || offer::check(&host, &offered)).await.map_err(internal)??;
        let record = Record {
            spec: self.offer.spec.clone(),
            epoch: self.offer.epoch,
            owned: false,
            doing: Doing::Arriving,
            started: self.offer.started.clone(),
            sandbox: None,
            pid: None,
        };
        let place = self.ground.registry.place(&self.offer.spec.name);
        let workload = Workload::new(place.clone(), record);
        if !self.ground.registry.add(workload.clone()) {
            let (name, node, from) = (&self.offer.spec.name, self.ground.host.node(), &self.offer.from);
            let message = format!("{node} has a workload {name} of its own; {name} stays on {from}");
            return Err(Problem::new(Code::NameTaken, message)
                .hint(format!("remove it there: `migrate --node {node} rm {name}`")));
        }
        let _ = self.workload.set(workload.clone());
        self.hold_turn(&workload);
        let _ = std::fs::remove_dir_all(place.dir());
        std::fs::create_dir_all(place.dir()).map_err(internal)?;
        workload.update(|_| {})?;
        Ok(room)
    }

    /// Makes the layer's file, room for the image, and the sandbox. Blocks.
    pub(super) fn build(&self, reception: &watch::Sender<Option<Arc<Reception>>>) -> Result<(), Problem> {
        let workload = self.workload()?;
        let expected = self.offer.memory_bytes;
        let budget = expected.saturating_mul(2) + IMAGE_MARGIN;
        let made =
            Reception::prepare(&workload.place().layer(), self.offer.layer_bytes, &self.image_dir, expected, budget)?;
        reception.send_replace(Some(Arc::new(made)));
        workload.build_sandbox(&self.ground.host).map(drop)
    }

    /// Compares what was received with what was announced, and keeps it.
    pub(super) async fn verify(&self, reception: &Reception, manifest: &Manifest) -> Result<(), Problem> {
        *self.image.lock().await = Some(reception.verify(manifest).await?);
        Ok(())
    }

    /// CRIU can start before the layer is there, unless the root is part of the layer.
    pub(super) async fn start_restore(&self) -> Result<(), Problem> {
        if self.offer.spec.own_root { Ok(()) } else { self.start_criu().await }
    }

    pub(super) async fn start_criu(&self) -> Result<(), Problem> {
        let workload = self.workload()?;
        let sandbox = workload.sandbox().ok_or_else(|| internal("there is no sandbox"))?;
        let restore = Restore::start(&self.ground.host, &workload, &sandbox).await?;
        let ready = restore.ready();
        ready.await?;
        *self.restore.lock().await = Some(restore);
        Ok(())
    }

    pub(super) async fn restore(&self) -> Result<i32, Problem> {
        let workload = self.workload()?;
        let sandbox = workload.sandbox().ok_or_else(|| internal("there is no sandbox"))?;
        let attaching = workload.clone();
        tokio::task::spawn_blocking(move || attaching.attach_layer(&sandbox)).await.map_err(internal)??;
        if self.restore.lock().await.is_none() {
            self.start_criu().await?;
        }
        let image = self.image.lock().await.clone().ok_or_else(|| internal("there is no image"))?;
        let mut restore = self.restore.lock().await;
        let restore = restore.as_mut().ok_or_else(|| internal("CRIU was not started"))?;
        let pid = restore.restore(image).await?;
        self.follow_held(restore);
        Ok(pid)
    }

    /// While the processes are held, CRIU's death is theirs.
    pub(super) fn follow_held(&self, restore: &Restore) {
        let (end, tell) = (restore.watch_end(), self.tell.clone());
        tokio::spawn(async move {
            let _ = tell.send(Input::Event(Event::RestoreFailed(end.await)));
        });
    }

    pub(super) async fn restore_again(&self) -> Result<i32, Problem> {
        let workload = self.workload()?;
        drop(self.restore.lock().await.take());
        if self.image.lock().await.is_none() {
            let image = StoredImage::open(&self.image_dir).map_err(internal)?;
            *self.image.lock().await = Some(Arc::new(image));
        }
        let (host, rebuilding) = (self.ground.host.clone(), workload);
        let rebuilt = move || rebuilding.drop_sandbox(&host).and_then(|()| rebuilding.build_sandbox(&host)).map(drop);
        tokio::task::spawn_blocking(rebuilt).await.map_err(internal)??;
        self.restore().await
    }

    /// The owner has changed.
    pub(super) fn adopt(&self, epoch: Epoch) -> Result<(), Problem> {
        let workload = self.workload()?;
        workload.set_frozen(None);
        workload.update(|record| {
            record.owned = true;
            record.epoch = epoch;
            record.doing = Doing::Running;
            record.pid = Some(MAIN_PID);
        })
    }

    pub(super) async fn resume(&self) -> Result<i32, Problem> {
        let workload = self.workload()?;
        let sandbox = workload.sandbox().ok_or_else(|| internal("there is no sandbox"))?;
        let held = self.restore.lock().await;
        match held.as_ref() {
            Some(restore) if restore.holds() => {
                let (last_pid, taking_over) = (self.offer.last_pid, sandbox.clone());
                let prepare =
                    move || taking_over.set_last_pid(last_pid).and_then(|()| taking_over.adopt_workload(MAIN_PID));
                tokio::task::spawn_blocking(prepare).await.map_err(internal)?.map_err(internal)?;
                let begun = std::time::Instant::now();
                restore.resume().await?;
                tracing::debug!(took = ?begun.elapsed(), "CRIU let the processes go and ended");
            }
            // An earlier agent has let it go already.
            _ if workload.pid().is_some() => {}
            _ => return Err(Problem::new(Code::RestoreFailed, "the held processes are gone")),
        }
        drop(held);
        workload.watch(&self.ground.host);
        let message = format!("came from {}", self.offer.from);
        self.ground.host.events.record(Kind::Arrived, Some(workload.name()), None, message);
        Ok(MAIN_PID)
    }

    pub(super) async fn drop_everything(&self) {
        drop(self.restore.lock().await.take());
        let (hands, image_dir) = (self.clone(), self.image_dir.clone());
        let dropped = tokio::task::spawn_blocking(move || -> Result<(), Problem> {
            let _ = std::fs::remove_dir_all(image_dir);
            let Ok(workload) = hands.workload() else { return Ok(()) };
            workload.drop_sandbox(&hands.ground.host)?;
            hands.ground.registry.remove(workload.name()).map_err(internal)
        });
        match dropped.await.map_err(internal) {
            Ok(Ok(())) => {}
            Ok(Err(problem)) | Err(problem) => tracing::error!(%problem, "what had arrived could not be removed"),
        }
    }

    pub(super) fn keep_frozen(&self, problem: &Problem) {
        if let Ok(workload) = self.workload() {
            workload.set_frozen(Some(problem.message.clone()));
        }
        let events = &self.ground.host.events;
        events.record(Kind::Warning, Some(&self.offer.spec.name), Some(Phase::Commit), problem.message.clone());
    }

    pub(super) async fn forget_image(&self) {
        drop(self.image.lock().await.take());
        drop(self.restore.lock().await.take());
        if let Err(error) = std::fs::remove_dir_all(&self.image_dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the image could not be removed");
        }
    }

    /// After a restart: what there is of sandbox and CRIU.
    pub(super) async fn take_up(&self, workload: Arc<Workload>) {
        self.hold_turn(&workload);
        let _ = workload.adopt(&self.ground.host);
        if let Some(sandbox) = workload.sandbox() {
            let restore = Restore::take_over(&sandbox).await;
            if let Some(restore) = &restore {
                self.follow_held(restore);
            }
            *self.restore.lock().await = restore;
        }
        let _ = self.workload.set(workload);
    }
}
