//! A workload comes to this node: does what the target's machine commands.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use migrate_image::store::StoredImage;
use migrate_proto::api::Outcome;
use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::Budgets;
use migrate_proto::handover::target::{Command, Entry, Event, Target};
use migrate_proto::id::Epoch;
use migrate_proto::message::{Message, Offer};
use migrate_proto::phase::Phase;
use migrate_sandbox::plan::MAIN_PID;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, watch};

use super::departure::until;
use super::dump::internal;
use super::line::Line;
use super::meter::Meter;
use super::receive::{Reception, ReceptionDesk};
use super::restore::Restore;
use super::{Ground, Input};
use crate::events::Kind;
use crate::registry::{Doing, Record};
use crate::talk::Talk;
use crate::workload::Workload;
use crate::{clock, durable, offer};

/// How often it is looked whether bytes moved.
const PULSE: Duration = Duration::from_millis(500);
/// The image may be larger than its estimate: the workload runs on while it is being copied.
const IMAGE_MARGIN: u64 = 256 << 20;

/// An arrival under way.
struct Arrival {
    ground: Ground,
    machine: Target,
    line: Line<Event>,
    inputs: mpsc::UnboundedReceiver<Input<Event>>,
    tell: mpsc::UnboundedSender<Input<Event>>,
    meter: Arc<Meter>,
    reception: watch::Sender<Option<Arc<Reception>>>,
    hands: Hands,
}

/// What is there of the workload; also in the hands of whatever works beside the loop.
#[derive(Clone)]
struct Hands {
    ground: Ground,
    workload: Arc<std::sync::OnceLock<Arc<Workload>>>,
    turn: Arc<std::sync::Mutex<Option<OwnedMutexGuard<()>>>>,
    restore: Arc<Mutex<Option<Restore>>>,
    image: Arc<Mutex<Option<Arc<StoredImage>>>>,
    image_dir: PathBuf,
    offer: Arc<Offer>,
    tell: mpsc::UnboundedSender<Input<Event>>,
}

/// A peer offers a workload.
pub async fn take(ground: Ground, talk: Talk, offer: Box<Offer>) {
    if offer.from != talk.peer.node {
        return tracing::warn!(peer = %talk.peer.node, says = %offer.from, "an offer of somebody else's workload was ignored");
    }
    let machine = Target::new(offer, ground.host.node().clone(), Budgets::default());
    let mut arrival = Arrival::new(ground, machine);
    arrival.connect(talk);
    let first = arrival.machine.step(clock::now(), Event::Offered);
    arrival.run(first).await;
}

/// Finishes, or takes back, what an agent that is no more has begun.
pub async fn recover(ground: Ground, workload: Arc<Workload>, entry: Entry) {
    let (machine, first) = Target::recover(entry, Budgets::default(), clock::now());
    let mut arrival = Arrival::new(ground, machine);
    arrival.hands.take_up(workload).await;
    arrival.line.redial();
    arrival.run(first).await;
}

impl Arrival {
    fn new(ground: Ground, machine: Target) -> Arrival {
        let (tell, inputs) = mpsc::unbounded_channel();
        let offer = machine.offer().clone();
        let line = Line::new(ground.clone(), offer.from.clone(), tell.clone());
        ground.handovers.enlist(offer.handover, tell.clone());
        let hands = Hands {
            ground: ground.clone(),
            workload: Arc::default(),
            turn: Arc::default(),
            restore: Arc::default(),
            image: Arc::default(),
            image_dir: ground.host.config.run.join("images").join(offer.handover.to_string()),
            offer: Arc::new(offer),
            tell: tell.clone(),
        };
        Arrival { ground, machine, line, inputs, tell, meter: Arc::default(), reception: watch::channel(None).0, hands }
    }

    fn connect(&mut self, talk: Talk) {
        let desk = ReceptionDesk {
            reception: self.reception.subscribe(),
            inputs: self.tell.clone(),
            meter: self.meter.clone(),
        };
        self.line.connect(talk, desk);
    }

    async fn run(mut self, first: Vec<Command>) {
        let (outcome, problem) = self.drive(first).await;
        let offer = self.hands.offer.clone();
        self.line.part().await;
        self.ground.handovers.discharge(offer.handover);
        let events = &self.ground.host.events;
        match outcome {
            Outcome::Moved => {}
            Outcome::Stayed => {
                let why = problem.map_or(String::new(), |problem| format!(": {problem}"));
                events.record(
                    Kind::Stayed,
                    Some(&offer.spec.name),
                    None,
                    format!("did not come from {}{why}", offer.from),
                );
            }
            Outcome::Unknown => {
                let why = problem
                    .map_or_else(|| "it is not known where it may run".to_owned(), |problem| problem.to_string());
                events.record(Kind::Warning, Some(&offer.spec.name), None, why);
            }
        }
    }

    async fn drive(&mut self, first: Vec<Command>) -> (Outcome, Option<Problem>) {
        let mut commands = first;
        let mut pulse = tokio::time::interval(PULSE);
        let mut moved = 0;
        loop {
            for command in std::mem::take(&mut commands) {
                if let Command::Finish(outcome, problem) = command {
                    self.finish(outcome);
                    return (outcome, problem);
                }
                if let Err(problem) = self.execute(command).await {
                    // What follows in this batch must not happen without it.
                    let _ = self.tell.send(Input::Event(Event::ReceiveFailed(problem)));
                    break;
                }
            }
            let deadline = self.machine.deadline();
            let event = tokio::select! {
                biased;
                input = self.inputs.recv() => self.understand(input),
                () = until(deadline) => Some(Event::Tick),
                _ = pulse.tick() => {
                    let now = self.meter.moved();
                    (std::mem::replace(&mut moved, now) != now).then_some(Event::Progress)
                }
            };
            if let Some(event) = event {
                commands = self.machine.step(clock::now(), event);
            }
        }
    }

    fn understand(&mut self, input: Option<Input<Event>>) -> Option<Event> {
        match input? {
            Input::Event(event) => Some(event),
            Input::Talk(talk) => {
                self.connect(*talk);
                Some(Event::LinkBack)
            }
            Input::Silence => {
                self.line.hang_up();
                self.line.redial();
                Some(Event::LinkLost)
            }
            Input::Heard(message) => self.machine.heard(message),
        }
    }

    async fn execute(&mut self, command: Command) -> Result<(), Problem> {
        let hands = self.hands.clone();
        match command {
            Command::Journal(phase) => self.journal(phase)?,
            Command::Send(message) => self.line.say(message),
            Command::Check => self.beside(async move { Event::Checked(hands.check().await) }),
            Command::BuildSandbox => self.build_sandbox(),
            Command::StartRestore => self.beside(async move {
                match hands.start_restore().await {
                    Ok(()) => Event::RestoreReady,
                    Err(problem) => Event::ReceiveFailed(problem),
                }
            }),
            Command::Verify(manifest) => {
                let reception = self.reception.borrow().clone().ok_or_else(|| internal("nothing was received"))?;
                self.beside(async move {
                    match reception.verify(&manifest).await {
                        Ok(image) => {
                            *hands.image.lock().await = Some(image);
                            Event::DigestsMatch
                        }
                        Err(problem) => Event::DigestsDiffer(problem),
                    }
                });
            }
            Command::Restore => self.beside(async move { held(hands.restore().await) }),
            Command::AdoptOwner(epoch) => tokio::task::block_in_place(|| self.hands.adopt(epoch))?,
            Command::Resume => self.beside(async move {
                match hands.resume().await {
                    Ok(pid) => Event::Running { pid },
                    Err(problem) => Event::ResumeFailed(problem),
                }
            }),
            Command::RestoreAgain => self.beside(async move { held(hands.restore_again().await) }),
            Command::DropEverything => self.hands.drop_everything().await,
            Command::KeepFrozen(problem) => self.hands.keep_frozen(&problem),
            Command::AskSource => self.line.say(Message::Ask { handover: self.hands.offer.handover }),
            Command::ForgetImage => self.hands.forget_image().await,
            Command::Finish(..) => {}
        }
        Ok(())
    }

    fn beside(&self, work: impl Future<Output = Event> + Send + 'static) {
        let tell = self.tell.clone();
        tokio::spawn(async move {
            let _ = tell.send(Input::Event(work.await));
        });
    }

    /// Before `commit` a restarted agent drops everything, wherever it was: one entry is enough to know that there is
    /// something to drop. From `commit` on every entry counts; after a loss of power there are no held processes, and
    /// what `resume` would say is in the workload's record.
    fn journal(&self, phase: Phase) -> Result<(), Problem> {
        self.meter.enter(phase);
        let path = self.ground.registry.place(&self.hands.offer.spec.name).arrival();
        let entry = self.machine.entry(phase);
        match phase {
            Phase::Prepare | Phase::Commit => {
                tokio::task::block_in_place(|| durable::write(&path, &entry)).map_err(internal)
            }
            Phase::Resume | Phase::CleanUp => durable::write_soon(&path, &entry).map_err(internal),
            _ => Ok(()),
        }
    }

    fn build_sandbox(&self) {
        let hands = self.hands.clone();
        let reception = self.reception.clone();
        self.beside(async move {
            match tokio::task::spawn_blocking(move || hands.build(&reception)).await.map_err(internal) {
                Ok(Ok(())) => Event::SandboxReady,
                Ok(Err(problem)) | Err(problem) => Event::ReceiveFailed(problem),
            }
        });
    }

    fn finish(&self, outcome: Outcome) {
        if outcome == Outcome::Moved {
            let _ = durable::remove(&self.ground.registry.place(&self.hands.offer.spec.name).arrival());
        }
        self.hands.give_back_turn();
    }
}

fn held(restored: Result<i32, Problem>) -> Event {
    match restored {
        Ok(pid) => Event::RestoredHeld { pid },
        Err(problem) => Event::RestoreFailed(problem),
    }
}

impl Hands {
    fn workload(&self) -> Result<Arc<Workload>, Problem> {
        self.workload.get().cloned().ok_or_else(|| internal("the workload is not known here"))
    }

    fn give_back_turn(&self) {
        drop(self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
    }

    fn hold_turn(&self, workload: &Arc<Workload>) {
        let turn = workload.turn().ok();
        *self.turn.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = turn;
    }

    /// Compares, and takes the name.
    async fn check(&self) -> Result<migrate_proto::handover::target::Room, Problem> {
        let (host, offered) = (self.ground.host.clone(), self.offer.clone());
        let room = tokio::task::spawn_blocking(move || offer::check(&host, &offered)).await.map_err(internal)??;
        let record = Record {
            spec: self.offer.spec.clone(),
            epoch: self.offer.epoch,
            owned: false,
            doing: Doing::Arriving,
            started: None,
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
    fn build(&self, reception: &watch::Sender<Option<Arc<Reception>>>) -> Result<(), Problem> {
        let workload = self.workload()?;
        let expected = self.offer.memory_bytes;
        let budget = expected.saturating_mul(2) + IMAGE_MARGIN;
        let made =
            Reception::prepare(&workload.place().layer(), self.offer.layer_bytes, &self.image_dir, expected, budget)?;
        reception.send_replace(Some(Arc::new(made)));
        workload.build_sandbox(&self.ground.host).map(drop)
    }

    /// CRIU can start before the layer is there, unless the root is part of the layer.
    async fn start_restore(&self) -> Result<(), Problem> {
        if self.offer.spec.own_root { Ok(()) } else { self.start_criu().await }
    }

    async fn start_criu(&self) -> Result<(), Problem> {
        let workload = self.workload()?;
        let sandbox = workload.sandbox().ok_or_else(|| internal("there is no sandbox"))?;
        let restore = Restore::start(&self.ground.host, &workload, &sandbox).await?;
        let ready = restore.ready();
        ready.await?;
        *self.restore.lock().await = Some(restore);
        Ok(())
    }

    async fn restore(&self) -> Result<i32, Problem> {
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
    fn follow_held(&self, restore: &Restore) {
        let (end, tell) = (restore.watch_end(), self.tell.clone());
        tokio::spawn(async move {
            let _ = tell.send(Input::Event(Event::RestoreFailed(end.await)));
        });
    }

    async fn restore_again(&self) -> Result<i32, Problem> {
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
    fn adopt(&self, epoch: Epoch) -> Result<(), Problem> {
        let workload = self.workload()?;
        workload.set_frozen(None);
        workload.update(|record| {
            record.owned = true;
            record.epoch = epoch;
            record.doing = Doing::Running;
            record.pid = Some(MAIN_PID);
            record.started.get_or_insert_with(clock::time_of_day);
        })
    }

    async fn resume(&self) -> Result<i32, Problem> {
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

    async fn drop_everything(&self) {
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

    fn keep_frozen(&self, problem: &Problem) {
        if let Ok(workload) = self.workload() {
            workload.set_frozen(Some(problem.message.clone()));
        }
        let events = &self.ground.host.events;
        events.record(Kind::Warning, Some(&self.offer.spec.name), Some(Phase::Commit), problem.message.clone());
    }

    async fn forget_image(&self) {
        drop(self.image.lock().await.take());
        drop(self.restore.lock().await.take());
        if let Err(error) = std::fs::remove_dir_all(&self.image_dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the image could not be removed");
        }
    }

    /// After a restart: what there is of sandbox and CRIU.
    async fn take_up(&self, workload: Arc<Workload>) {
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
