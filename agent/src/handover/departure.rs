//! A workload leaves this node: does what the source's machine commands.
//!
//! [`recovery`]: the same for an agent that finds a departure under way.

mod recovery;

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use migrate_image::ahead::KnownPages;
use migrate_image::pace::{Pace, SharedPace};
use migrate_proto::api::{MoveReport, Outcome};
use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::source::{Command, Event, Source};
use migrate_proto::handover::{Decision, Terms};
use migrate_proto::id::HandoverId;
use migrate_proto::message::Message;
use migrate_proto::name::NodeName;
use migrate_proto::phase::Phase;
use migrate_sandbox::guard::{Order, decision};
use migrate_sandbox::sandbox;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::drive::{Reins, Side, drive};
use super::dump::{CriuCall, Dump};
use super::last_bytes::LastBytes;
use super::layer_out::LayerOut;
use super::line::NoBulk;
use super::meter::{self, Meter};
use super::outlet::Outlet;
use super::{Between, Ground, Input, memory_ahead, verdict};
use crate::events::Kind;
use crate::offer;
use crate::random;
use crate::talk::{Purpose, Talk};
use crate::workload::Workload;
use crate::{clock, durable, ledger};

/// How long a guard may take to write down that its CRIU is gone.
const GUARDS_LAST_WORDS: Duration = Duration::from_secs(5);

/// A departure under way.
pub struct Departure {
    ground: Ground,
    workload: Arc<Workload>,
    reins: Reins<Source>,
    meter: Arc<Meter>,
    pace: SharedPace,
    dump: Option<Dump>,
    layer: Arc<tokio::sync::OnceCell<LayerOut>>,
    /// What of the memory was copied ahead.
    known: Arc<std::sync::OnceLock<KnownPages>>,
    rounds: Arc<std::sync::atomic::AtomicU32>,
    released: Option<Instant>,
    resumed: Option<Instant>,
    settling: Option<JoinHandle<()>>,
    /// Held for reading by whoever writes a decision: a slow one must not come after the journal has gone.
    deciding: Arc<tokio::sync::RwLock<()>>,
}

impl Departure {
    /// A new departure.
    pub fn new(ground: Ground, workload: Arc<Workload>, to: NodeName, meter: Arc<Meter>) -> Result<Departure, Problem> {
        let terms = Terms {
            handover: HandoverId::new(ground.registry.mark(), random::bytes().map_err(Problem::internal)?),
            workload: workload.name().clone(),
            from: ground.host.node().clone(),
            to,
            epoch: workload.record().epoch,
        };
        let machine = Source::new(terms, ground.host.config.budgets.clone());
        Ok(Departure::with(ground, workload, machine, meter))
    }

    fn with(ground: Ground, workload: Arc<Workload>, machine: Source, meter: Arc<Meter>) -> Departure {
        let to = machine.terms().to.clone();
        Departure {
            reins: Reins::new(&ground, machine, to, "source"),
            ground,
            workload,
            meter,
            pace: Pace::shared(),
            dump: None,
            layer: Arc::default(),
            known: Arc::default(),
            rounds: Arc::default(),
            released: None,
            resumed: None,
            settling: None,
            deciding: Arc::default(),
        }
    }

    /// Moves the workload. The caller holds its turn.
    pub async fn run(mut self, cancel: CancellationToken) -> MoveReport {
        self.workload.set_moving(true);
        let to = self.terms().to.clone();
        self.note(Kind::Moving, None, format!("moving to {to}"));
        let dump = self.workload.place().dump();
        let cleared = tokio::task::spawn_blocking(move || decision::clear(&dump)).await.map_err(Problem::internal);
        if let Err(problem) | Ok(Err(problem)) = cleared.map(|cleared| cleared.map_err(Problem::internal)) {
            return self.stays(problem).await;
        }
        let (outcome, problem) = match self.ground.peers.call(&to, Purpose::Handover).await {
            Ok(talk) => {
                self.connect(talk);
                // The number is random: nobody has it.
                let _ = self.enlist();
                self.follow_end();
                let first = self.reins.machine.step(clock::now(), Event::Begin);
                drive(&mut self, first, cancel, Some(Event::Cancelled)).await
            }
            Err(problem) => return self.stays(problem).await,
        };
        self.conclude(outcome, problem).await
    }

    /// Nothing has begun yet.
    async fn stays(self, problem: Problem) -> MoveReport {
        let Terms { workload, from, .. } = self.terms();
        let message = format!("{}; {workload} stays on {from}", problem.message);
        self.conclude(Outcome::Stayed, Some(Problem { message, ..problem })).await
    }

    /// From now on the target is heard.
    #[must_use]
    fn enlist(&self) -> bool {
        let Terms { handover, workload, to, .. } = self.terms().clone();
        let between = Between { handover, workload, peer: to };
        self.ground.handovers.enlist(between, self.reins.tell.clone(), Event::GivenUp)
    }

    fn terms(&self) -> &Terms {
        self.reins.machine.terms()
    }

    fn note(&self, kind: Kind, phase: Option<Phase>, message: impl Into<String>) {
        self.ground.host.events.record(kind, Some(self.workload.name()), phase, message);
    }

    // ---- commands ------------------------------------------------------------------------------------------------

    /// Up to the decision, the entry of `prepare` says all that a restarted agent needs; after it, the decision file does.
    /// So the disk is not waited for during the pause.
    fn journal(&self, phase: Phase) -> Result<(), Problem> {
        self.meter.enter(phase);
        if phase != Phase::Prepare {
            return Ok(());
        }
        let (path, entry) = (self.workload.place().departure(), self.reins.machine.entry(phase));
        tokio::task::block_in_place(|| durable::write(&path, &entry)).map_err(Problem::internal)
    }

    fn inspect(&self) {
        let (host, workload, terms) = (self.ground.host.clone(), self.workload.clone(), self.terms().clone());
        let chart = workload.chart();
        // An agent that is in a cluster knows it.
        let numbered = host.tenure.in_cluster().then(|| ledger::numbered(&host, &workload));
        let (meter, speaker) = (self.meter.clone(), self.reins.line.speaker());
        self.reins.beside(async move {
            let looking = host.clone();
            let inspected = async {
                let seen = tokio::task::spawn_blocking(move || offer::survey(&looking, &workload, &terms)).await;
                let (offer, demands) = seen.map_err(Problem::internal)??.ready()?;
                let speaker = speaker.ok_or_else(|| Problem::internal("there is no connection"))?;
                speaker.say(&Message::Demands(demands)).await?;
                // Only where there is something to say: older agents do not know it.
                if !chart.wish.is_nothing() {
                    speaker.say(&Message::Care(Box::new(chart))).await?;
                }
                if let Some(highest) = numbered {
                    speaker.say(&Message::Numbered { highest }).await?;
                }
                Ok(offer)
            };
            match inspected.await {
                Ok(offer) => {
                    let size = offer::size(&offer);
                    meter.expect(size.memory + size.files);
                    meter.foresee(size, host.forecasts.forecast(&offer.to, size));
                    Event::Inspected(offer)
                }
                Err(problem) => Event::InspectFailed(problem),
            }
        });
    }

    /// What is copied ahead: the layer, the memory, and what was written to the layer meanwhile.
    fn copy_layer(&self) -> Result<(), Problem> {
        let speaker = self.reins.line.speaker().ok_or_else(|| Problem::internal("there is no connection"))?;
        let sandbox = self.workload.sandbox().ok_or_else(|| Problem::internal("there is no sandbox"))?;
        let (path, meter, pace) = (self.workload.place().layer(), self.meter.clone(), self.pace.clone());
        let main = self.workload.pid().ok_or_else(|| Problem::internal("the workload does not run"))?;
        let (cell, known, rounds) = (self.layer.clone(), self.known.clone(), self.rounds.clone());
        self.reins.beside(async move {
            let copied = async {
                let outlet: Arc<dyn Outlet> = Arc::new(speaker);
                let layer = LayerOut::open(&path, sandbox, outlet.clone(), meter.clone(), pace.clone())?;
                let (mut bytes, mut count) = layer.ahead().await?;
                if let Some(pages) = memory_ahead::copy(main, outlet, meter, pace).await? {
                    let _ = known.set(pages);
                    // That took its time, in which files were written.
                    let (more, again) = layer.ahead().await?;
                    (bytes, count) = (bytes + more, count + again);
                }
                let _ = cell.set(layer);
                Ok((bytes, count))
            };
            match copied.await {
                Ok((bytes, count)) => {
                    rounds.store(count, std::sync::atomic::Ordering::Relaxed);
                    Event::LayerCopied { blocks: bytes.div_ceil(migrate_image::layer::BLOCK_BYTES as u64) }
                }
                Err(problem) => Event::DumpFailed(problem),
            }
        });
        Ok(())
    }

    async fn start_dump(&mut self) {
        let Some(speaker) = self.reins.line.speaker() else { return };
        let started = Dump::start(
            &self.ground.host,
            &self.workload,
            self.workload.place().dump(),
            Arc::new(speaker),
            self.meter.clone(),
            self.pace.clone(),
            self.known.clone(),
        )
        .await;
        let event = match started {
            Ok(mut dump) => {
                let frozen = std::mem::replace(&mut dump.frozen, tokio::sync::oneshot::channel().1);
                let tell = self.reins.tell.clone();
                tokio::spawn(async move {
                    if frozen.await.is_ok() {
                        let _ = tell.send(Input::Event(Event::Frozen));
                    }
                });
                self.watch_criu(dump.call.clone());
                self.dump = Some(dump);
                Event::DumpReady
            }
            Err(problem) => Event::DumpFailed(problem),
        };
        let _ = self.reins.tell.send(Input::Event(event));
    }

    /// CRIU's early end is a failure; after the decision the machine does not care.
    fn watch_criu(&self, call: Arc<CriuCall>) {
        self.reins.beside(async move {
            call.guard.end().await;
            Event::DumpFailed(call.failure(Code::DumpFailed, call.guard.standing()))
        });
    }

    fn follow_end(&self) {
        let mut ended = self.workload.ended();
        self.reins.beside(async move {
            let known = ended.wait_for(Option::is_some).await.is_ok();
            if known { Event::WorkloadEnded } else { pending().await }
        });
    }

    fn finish_transfer(&mut self) {
        let (Some(dump), Some(speaker)) = (&mut self.dump, self.reins.line.speaker()) else { return };
        let last = LastBytes {
            call: dump.call.clone(),
            streams: std::mem::replace(&mut dump.streams, tokio::sync::oneshot::channel().1),
            layer: self.layer.clone(),
            outlet: Arc::new(speaker),
        };
        let (criu_version, terms) = (self.ground.host.criu_version().unwrap_or_default(), self.terms().clone());
        self.reins.beside(async move {
            match last.send().await.and_then(|whole| whole.manifest(criu_version, &terms)) {
                Ok(manifest) => Event::ImageComplete(manifest),
                Err(problem) => Event::DumpFailed(problem),
            }
        });
    }

    fn decide(&self, wish: Decision) {
        if wish == Decision::Abort {
            tracing::info!(workload = %self.workload.name(), "the move is taken back");
        }
        let (host, workload, terms) = (self.ground.host.clone(), self.workload.clone(), self.terms().clone());
        let under_way = self.deciding.clone().try_read_owned();
        self.reins.beside(async move {
            let _under_way = under_way;
            match verdict::decide(&host, &workload, &terms, wish).await {
                Ok(decided) => Event::Decided(decided),
                // Asked again when its time is up; until then nothing runs that did not run.
                Err(error) => {
                    tracing::error!(%error, "the decision could not be written down");
                    pending().await
                }
            }
        });
    }

    /// From here on the workload is the target's, whatever becomes of this agent. Ends every process of the sandbox at
    /// once, frozen or not.
    fn end_source(&mut self) {
        let (host, workload) = (self.ground.host.clone(), self.workload.clone());
        let dump = self.dump.take();
        self.settle(async move {
            if let Some(dump) = &dump {
                dump.call.guard.order(Order::Continue).await;
            }
            let ended = move || {
                // The decision file says it as well, also on a disk that is full.
                if let Err(problem) = workload.update(|record| record.owned = false) {
                    tracing::warn!(%problem, "the record does not say yet that it was given away");
                }
                workload.drop_sandbox(&host)
            };
            let ended = tokio::task::spawn_blocking(ended).await;
            if let Some(dump) = &dump {
                // CRIU went with the sandbox, and its guard is writing that down in a directory that goes next.
                let _ = tokio::time::timeout(GUARDS_LAST_WORDS, dump.call.guard.end()).await;
            }
            match ended.map_err(Problem::internal).and_then(std::convert::identity) {
                Ok(()) => Some(Event::SourceEnded),
                Err(problem) => {
                    tracing::error!(%problem, "the source's copy is frozen, but not yet removed");
                    None
                }
            }
        });
    }

    fn resume_source(&mut self) {
        let (host, workload, guard_dir) =
            (self.ground.host.clone(), self.workload.clone(), self.workload.place().dump());
        // Taken apart here: its broken pipes make an incomplete dump fail.
        let known = self.dump.take().map(|dump| dump.call.clone());
        self.settle(async move {
            let call = match known {
                Some(call) => Some(call),
                None => CriuCall::take_over(&guard_dir).await.map(Arc::new),
            };
            let clean = match call {
                Some(call) => call.let_go(workload.pid()).await,
                None => CriuCall::ended_well(&guard_dir),
            };
            let checked = tokio::task::spawn_blocking(move || offer::is_free(&host, &workload, clean)).await;
            Some(match checked.map_err(Problem::internal) {
                Ok(Ok(true)) => Event::SourceResumed,
                Ok(Ok(false)) => Event::WorkloadEnded,
                Ok(Err(problem)) | Err(problem) => Event::SourceResumeFailed(problem),
            })
        });
    }

    /// Ends or resumes the source beside the loop. A repeated command joins the one that is under way.
    fn settle(&mut self, work: impl Future<Output = Option<Event>> + Send + 'static) {
        if self.settling.as_ref().is_some_and(|settling| !settling.is_finished()) {
            return;
        }
        let tell = self.reins.tell.clone();
        self.settling = Some(tokio::spawn(async move {
            if let Some(event) = work.await {
                let _ = tell.send(Input::Event(event));
            }
        }));
    }

    /// Once: it is said again and again.
    fn say_waiting(&self, problem: &Problem) {
        let message = format!("{}; {}", problem.message, problem.hint);
        if self.workload.doubt().is_none() {
            self.note(Kind::Warning, Some(Phase::Resume), message.clone());
        }
        self.workload.set_frozen(Some(message));
    }

    fn drop_copy(&self) {
        let dropped = tokio::task::block_in_place(|| {
            self.workload.drop_sandbox(&self.ground.host)?;
            self.ground.registry.remove(self.workload.name()).map_err(Problem::internal)
        });
        if let Err(problem) = dropped {
            let message = format!("what is left of it here could not be removed: {problem}");
            self.note(Kind::Warning, Some(Phase::CleanUp), message);
        }
    }

    // ---- the end -------------------------------------------------------------------------------------------------

    async fn conclude(mut self, outcome: Outcome, problem: Option<Problem>) -> MoveReport {
        let pause = self.released.zip(self.resumed).map(|(from, to)| to - from);
        let rounds = self.rounds.load(std::sync::atomic::Ordering::Relaxed);
        let report = self.meter.report(self.terms(), self.reins.machine.timeline(), outcome, problem, pause, rounds);
        self.reins.line.part().await;
        // It would be taken for the decision of the next move.
        let _none_under_way = self.deciding.write().await;
        if outcome == Outcome::Unknown {
            self.ground.handovers.withhold(self.terms().handover);
        }
        self.ground.handovers.discharge(self.terms().handover);
        if outcome == Outcome::Stayed {
            // Before anybody can take it for running.
            tokio::task::block_in_place(|| self.workload.note_if_lost(&self.ground.host));
        }
        self.workload.set_moving(false);
        let place = self.workload.place();
        match (outcome, &report.error) {
            (Outcome::Moved, error) => {
                let to = &self.terms().to;
                if let Some(seen) = self.meter.seen(&report) {
                    self.ground.host.forecasts.learn(to, seen);
                }
                let but = error.as_ref().map_or(String::new(), |problem| format!("; {problem}"));
                let message = format!("moved to {to}{}{but}", meter::in_words(&report));
                let events = &self.ground.host.events;
                events.record_move(Kind::Moved, self.workload.name(), message, meter::figures(&report));
            }
            (Outcome::Stayed, error) => {
                let _ = durable::remove(&place.departure());
                // Its guard may just be writing down how CRIU ended.
                let _ = tokio::task::block_in_place(|| sandbox::remove_dir(&place.dump()));
                let why = error.as_ref().map_or(String::new(), |problem| format!(": {problem}"));
                self.note(Kind::Stayed, None, format!("did not move to {}{why}", self.terms().to));
                self.note_own_end();
            }
            (Outcome::Unknown, error) => {
                let why =
                    error.as_ref().map_or_else(|| "it is not known where it may run".to_owned(), ToString::to_string);
                self.workload.set_frozen(Some(why.clone()));
                self.note(Kind::Warning, None, why);
            }
        }
        report
    }

    /// The workload may have ended while it was being moved: nobody has written that down yet.
    fn note_own_end(&self) {
        if let Some(exit) = *self.workload.ended().borrow() {
            self.workload.note_end(&self.ground.host, exit);
        }
    }
}

impl Side for Departure {
    type Machine = Source;

    fn reins(&mut self) -> &mut Reins<Source> {
        &mut self.reins
    }

    fn meter(&self) -> &Meter {
        &self.meter
    }

    fn failed(_phase: Option<Phase>, problem: Problem) -> Event {
        Event::DumpFailed(problem)
    }

    fn connect(&mut self, talk: Talk) {
        self.reins.line.connect(talk, NoBulk);
    }

    fn note_heard(&mut self, event: &Event) {
        if *event == Event::PeerResumed {
            self.resumed.get_or_insert_with(Instant::now);
        }
    }

    async fn execute(&mut self, command: Command) -> Result<(), Problem> {
        match command {
            Command::Journal(phase) => self.journal(phase)?,
            Command::Send(message) => self.reins.line.say(message),
            Command::InspectWorkload => self.inspect(),
            Command::CopyLayer => self.copy_layer()?,
            Command::StartDump => self.start_dump().await,
            Command::ReleaseDump => {
                self.released = Some(Instant::now());
                if let Some(dump) = &self.dump {
                    dump.release().await;
                }
            }
            Command::StreamChanges => self.finish_transfer(),
            Command::SayWaiting(problem) => self.say_waiting(&problem),
            Command::Decide(wish) => self.decide(wish),
            Command::EndSource => self.end_source(),
            Command::ResumeSource => self.resume_source(),
            Command::DropCopy => self.drop_copy(),
            Command::Finish(..) => {}
        }
        Ok(())
    }
}
