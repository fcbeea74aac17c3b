//! One workload on this node: its record, its sandbox, and what can be done with it.
//!
//! Whoever changes a workload holds its turn ([`Workload::turn`]): start, stop, remove and move exclude each other. The
//! workload itself depends on none of this for as long as its lease lasts; after a restart the agent finds it by its record and its
//! sandbox's directory.
//!
//! [`housing`]: what is built around it. [`leash`]: for how long it may run. [`turn`]: who may change it. [`view`]: what people are shown of it.

pub(crate) mod housing;
pub(crate) mod leash;
mod turn;
mod view;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use migrate_proto::api::Exit;
use migrate_proto::care::Chart;
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::WorkloadName;
use migrate_proto::text::Text;
use migrate_sandbox::cgroup::CpuShare;
use migrate_sandbox::control::{Command, Status};
use migrate_sandbox::layer::Layer;
use migrate_sandbox::plan::{MAIN_PID, RUN};
use migrate_sandbox::{Sandbox, SandboxError, sandbox};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::events::Kind;
use crate::host::Host;
use crate::registry::{Doing, Place, Record};
use crate::{care, durable};

use leash::EPOCH;

/// The search path of workloads that bring none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a command waits for another one to be done with a workload.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long until a workload is looked at again that could not be seen.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A watcher only waits.
const WATCHER_STACK: usize = 128 << 10;

/// A workload of this node.
#[derive(Debug)]
pub struct Workload {
    name: WorkloadName,
    place: Place,
    turn: Arc<tokio::sync::Mutex<()>>,
    live: Mutex<Live>,
    /// How the main process ended; `None` while it runs.
    ended: watch::Sender<Option<Exit>>,
}

#[derive(Debug)]
struct Live {
    record: Record,
    sandbox: Option<Sandbox>,
    share: CpuShare,
    /// A move is under way, or waits for an answer.
    moving: bool,
    /// A checkpoint is being taken; cancelled, it gives way.
    checkpointing: Option<CancellationToken>,
    /// Why it is frozen, where it is.
    frozen: Option<String>,
    /// The session that its init was last armed with, where this agent has done that.
    armed: Option<u64>,
    /// Why its lease holds it, where it does.
    held: Option<String>,
    /// Its init is older than leases, and somebody was told.
    unleashed: bool,
}

impl Workload {
    /// A workload with this record; nothing is started.
    pub fn new(place: Place, record: Record) -> Arc<Workload> {
        let live = Live {
            sandbox: None,
            share: CpuShare::default(),
            moving: false,
            checkpointing: None,
            frozen: None,
            armed: None,
            held: None,
            unleashed: false,
            record,
        };
        Arc::new(Workload {
            name: live.record.spec.name.clone(),
            place,
            turn: Arc::default(),
            live: Mutex::new(live),
            ended: watch::channel(None).0,
        })
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its name.
    pub fn name(&self) -> &WorkloadName {
        &self.name
    }

    /// Where its durable things are.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its record, as it is now.
    pub fn record(&self) -> Record {
        self.live().record.clone()
    }

    /// What is known of its care.
    pub fn chart(&self) -> Chart {
        self.live().record.care.clone()
    }

    /// Its sandbox, where it has one.
    pub fn sandbox(&self) -> Option<Sandbox> {
        self.live().sandbox.clone()
    }

    /// Why nobody but a person may start or move it, where that is so.
    pub fn doubt(&self) -> Option<Problem> {
        let reason = self.live().frozen.clone()?;
        let hint =
            format!("look where it runs; `migrate rm -f {}` removes the copy of the node it is asked of", self.name);
        Some(Problem::new(Code::Unknown, format!("{} is frozen: {reason}", self.name)).hint(hint))
    }

    /// The problem that its memory is lost, where that is so.
    pub fn loss(&self, host: &Host) -> Option<Problem> {
        let Doing::Lost(why) = self.record().doing else { return None };
        let message = format!("{} is lost on {}: {why}", self.name, host.node());
        Some(Problem::new(Code::Lost, message).hint(self.afresh()))
    }

    /// What there is to do about a workload whose memory is lost.
    fn afresh(&self) -> String {
        format!("`migrate start {}` starts it afresh with its files", self.name)
    }

    /// Follows the end of the main process.
    pub fn ended(&self) -> watch::Receiver<Option<Exit>> {
        self.ended.subscribe()
    }

    /// Whether a move is under way, or waits for an answer.
    pub fn is_moving(&self) -> bool {
        self.live().moving
    }

    /// Says that a move is under way, or over.
    pub fn set_moving(&self, moving: bool) {
        self.live().moving = moving;
    }

    /// Says that a checkpoint is being taken. What comes back is cancelled by whoever wants to change the workload.
    pub fn set_checkpointing(&self) -> CancellationToken {
        self.live().checkpointing.insert(CancellationToken::new()).clone()
    }

    /// Says that none is being taken any more.
    pub fn end_checkpointing(&self) {
        self.live().checkpointing = None;
    }

    /// It runs, after it had ended.
    pub fn begins_again(&self) {
        self.live().frozen = None;
        self.ended.send_replace(None);
    }

    /// Says why it is frozen, or that it is not.
    pub fn set_frozen(&self, reason: Option<String>) {
        self.live().frozen = reason;
    }

    /// Changes the record, durably.
    pub fn update(&self, change: impl FnOnce(&mut Record)) -> Result<(), Problem> {
        let mut live = self.live();
        let mut record = live.record.clone();
        change(&mut record);
        durable::write(&self.place.record(), &record).map_err(Problem::internal)?;
        live.record = record;
        Ok(())
    }

    // ---- starting and ending; these block ------------------------------------------------------------------------

    /// Builds a sandbox for it, without layer and workload, that runs for as long as this node's lease lasts.
    pub fn build_sandbox(&self, host: &Host) -> Result<Sandbox, Problem> {
        // Where nothing may begin, nothing is made.
        host.tenure.some_lease()?;
        let sandbox = self.build_held_sandbox(host)?;
        self.arm(host)?;
        Ok(sandbox)
    }

    /// The same; nothing runs in it until it is armed.
    pub fn build_held_sandbox(&self, host: &Host) -> Result<Sandbox, Problem> {
        let (_, plan) = housing::plan(host, self.name.as_str(), &self.record().spec, false)?;
        // Known before it is there, so that an agent that dies meanwhile leaves nothing that the next one cannot find.
        let name = plan.dir.file_name().map(|name| name.to_string_lossy().into_owned());
        self.update(|record| record.sandbox = name).inspect_err(|_| drop(std::fs::remove_dir(&plan.dir)))?;
        let built = Sandbox::build(&host.init_program, &plan);
        let sandbox = built.map_err(|error| self.problem("build a sandbox for", &error))?;
        // Processes that are restored may have it open.
        self.tell_epoch(&sandbox)?;
        let mut live = self.live();
        (live.sandbox, live.armed, live.held) = (Some(sandbox.clone()), None, None);
        Ok(sandbox)
    }

    /// Whether it runs, or is about to; the record of one that is arriving says something else.
    pub fn is_going(&self) -> bool {
        matches!(self.record().doing, Doing::Starting | Doing::Running)
    }

    /// Mounts its layer in its sandbox.
    pub fn attach_layer(&self, sandbox: &Sandbox) -> Result<(), Problem> {
        let device =
            Layer::at(self.place.layer()).device().map_err(|error| self.problem("attach the layer of", &error))?;
        sandbox.attach_layer(device).map_err(|error| self.problem("attach the layer of", &error))
    }

    /// Starts it from its first instruction, with the files that it has.
    pub fn start(self: &Arc<Self>, host: &Arc<Host>, now: String) -> Result<(), Problem> {
        self.drop_sandbox(host)?;
        self.update(|record| {
            record.doing = Doing::Starting;
            record.started = None;
        })?;
        let started = self.start_fresh(host);
        match started {
            Ok(pid) => {
                self.update(|record| {
                    record.doing = Doing::Running;
                    record.started = Some(now);
                    record.pid = Some(pid);
                })?;
                self.ended.send_replace(None);
                self.watch(host);
                Ok(())
            }
            Err(problem) => {
                let _ = self.drop_sandbox(host);
                let _ = self.update(|record| record.doing = Doing::Failed(problem.message.clone()));
                Err(problem)
            }
        }
    }

    fn start_fresh(&self, host: &Host) -> Result<i32, Problem> {
        host.tenure.some_lease()?;
        let sandbox = self.build_held_sandbox(host)?;
        self.arm_if_ours(host)?;
        self.attach_layer(&sandbox)?;
        let record = self.record();
        if record.care.wish.pulse_ms().is_some() {
            sandbox.make_pulse(record.spec.user).map_err(|error| self.problem("make the pulse of", &error))?;
        }
        let groups = host.cgroup(self.name.as_str())?.load_procs();
        sandbox.start(&self.command(), &groups).map_err(|error| match error {
            SandboxError::CannotExecute { program, reason } => Problem::new(
                Code::CannotExecute,
                format!("{} was not started: cannot execute {program}: {reason}", self.name),
            )
            .hint("the program is looked for inside the sandbox: the node's files, read-only, or the own root"),
            other => self.problem("start", &other),
        })
    }

    fn command(&self) -> Command {
        let Record { spec, care, .. } = self.record();
        let epoch = format!("{RUN}/{EPOCH}");
        let mut env: Vec<(Text, Text)> = [
            ("PATH", PATH),
            ("HOME", "/work"),
            ("LANG", "C.UTF-8"),
            ("MIGRATE_NAME", self.name.as_str()),
            ("MIGRATE_EPOCH_FILE", &epoch),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .to_vec();
        let pulse = care::pulse::environment(&care.wish);
        env.extend(pulse.into_iter().map(|(name, value)| (name.into(), (*value).into())));
        env.retain(|(name, _)| !spec.env.iter().any(|(own, _)| own == name));
        env.extend(spec.env);
        Command {
            argv: spec.argv,
            env,
            dir: spec.dir.unwrap_or_else(|| "/work".into()),
            user: spec.user,
            hostname: self.name.to_string(),
        }
    }

    /// A command to run beside it.
    pub fn command_beside(&self, argv: Vec<Text>) -> Command {
        Command { argv, ..self.command() }
    }

    /// Ends its main process politely, after `timeout` by force, and everything that it left. How it ended, where that was seen.
    pub fn end(&self, host: &Host, timeout: Duration) -> Result<Option<Exit>, Problem> {
        let Some(sandbox) = self.sandbox() else { return Ok(None) };
        match sandbox.status() {
            Ok(Status::Empty) => return Ok(None),
            Ok(Status::Ended(exit)) => return Ok(Some(exit)),
            // One that cannot be seen may run.
            Ok(_) | Err(_) => {}
        }
        let _ = sandbox.signal(libc::SIGTERM);
        let (gone, waiter) = std::sync::mpsc::channel();
        std::thread::spawn(move || gone.send(sandbox.wait()));
        let polite = waiter.recv_timeout(timeout);
        host.cgroup(self.name.as_str())?.kill();
        if let Ok(Ok(exit)) = polite {
            return Ok(Some(exit));
        }
        Ok(waiter.recv_timeout(Duration::from_secs(30)).ok().and_then(Result::ok))
    }

    /// Ends whatever is in its sandbox and removes the sandbox; layer and record stay.
    pub fn drop_sandbox(&self, host: &Host) -> Result<(), Problem> {
        let failed = |error: SandboxError| self.problem("remove the sandbox of", &error);
        match (self.sandbox(), self.record().sandbox) {
            (Some(sandbox), _) => sandbox.destroy().map_err(failed)?,
            // Its PID 1 is gone; what it left is not.
            (None, Some(name)) => sandbox::remove_dir(&host.sandboxes().join(name)).map_err(failed)?,
            (None, None) => return Ok(()),
        }
        let mut live = self.live();
        (live.sandbox, live.armed, live.held) = (None, None, None);
        drop(live);
        let cgroup = host.cgroup(self.name.as_str())?;
        cgroup.remove().map_err(|error| self.problem("remove the control groups of", &error))?;
        // An arrival that was refused late has no place on disk any more.
        if self.place.dir().exists()
            && let Err(problem) = self.update(|record| record.sandbox = None)
        {
            // A sandbox that is named and not there is none.
            tracing::warn!(workload = %self.name, %problem, "the record still names a sandbox that is gone");
        }
        Ok(())
    }

    /// Takes over what runs, after the agent was restarted. Says what it does; `None` where that cannot be said. Where it has no
    /// sandbox afterwards and is not frozen, it is gone for certain.
    pub fn adopt(self: &Arc<Self>, host: &Arc<Host>) -> Option<Status> {
        let dir = host.sandboxes().join(self.record().sandbox?);
        match Sandbox::adopt(&host.init_program, &dir) {
            Ok(Some(sandbox)) => {
                let status = sandbox.status().ok();
                // PID 1 may have gone while it was asked.
                let gone = status.is_none() && sandbox.is_gone().unwrap_or(false);
                self.live().sandbox = (!gone).then_some(sandbox);
                status
            }
            Ok(None) => None,
            Err(error) => {
                self.set_frozen(Some(self.problem("look at", &error).message));
                None
            }
        }
    }

    /// Follows the main process to its end, on a thread of its own.
    pub fn watch(self: &Arc<Self>, host: &Arc<Host>) {
        let (Some(sandbox), workload, host) = (self.sandbox(), self.clone(), host.clone()) else { return };
        let follow = move || {
            let exit = await_end(&workload.name, &sandbox);
            let still_mine = workload.sandbox().is_some_and(|own| own.dir() == sandbox.dir());
            if still_mine {
                workload.ended.send_replace(Some(exit));
                if !workload.live().moving {
                    workload.note_end(&host, exit);
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().stack_size(WATCHER_STACK).name("watch".into()).spawn(follow) {
            tracing::error!(workload = %self.name, %error, "cannot watch for its end");
        }
    }

    /// The workload has ended by itself: writes it down.
    pub fn note_end(&self, host: &Host, exit: Exit) {
        if let Ok(cgroup) = host.cgroup(self.name.as_str()) {
            cgroup.kill();
        }
        if !matches!(self.record().doing, Doing::Running) {
            return;
        }
        if let Err(problem) = self.update(|record| record.doing = Doing::Stopped(Some(exit))) {
            tracing::error!(workload = %self.name, %problem, "cannot write down that it ended");
        }
        let how = match exit {
            Exit::Code(code) => format!("ended with code {code}"),
            Exit::Signal(signal) => format!("was ended by signal {signal}"),
        };
        host.events.record(Kind::Ended, Some(&self.name), None, how);
    }

    /// Its sandbox is gone although nobody ended it: writes it down.
    pub fn note_if_lost(&self, host: &Host) {
        let unclear = self.sandbox().is_some() || self.live().frozen.is_some();
        if unclear || !matches!(self.record().doing, Doing::Running | Doing::Starting) {
            return;
        }
        let why = "its processes are gone: the machine was restarted, or its sandbox was killed";
        if let Err(problem) = self.update(|record| record.doing = Doing::Lost(why.into())) {
            tracing::error!(workload = %self.name, %problem, "cannot write down that it is lost");
        }
        host.events.record(Kind::Warning, Some(&self.name), None, format!("{why}; {}", self.afresh()));
    }

    /// The workload was ended on purpose: writes it down.
    pub fn note_stop(&self, host: &Host, seen: Option<Exit>) -> Result<(), Problem> {
        // Who watches for its end may not have heard of it yet.
        let exit = self.ended.borrow().or(seen);
        let before = self.record().doing;
        if !matches!(before, Doing::Stopped(_)) || exit.is_some() {
            self.update(|record| record.doing = Doing::Stopped(exit))?;
        }
        host.events.record(Kind::Stopped, Some(&self.name), None, "stopped");
        Ok(())
    }

    /// A person wants it to be stopped: it is not begun again when it ends.
    pub fn hold(&self) -> Result<(), Problem> {
        let chart = self.chart();
        if chart.wish.is_nothing() || chart.held {
            return Ok(());
        }
        self.update(|record| {
            record.care.held = true;
            record.care.past.stop();
        })
    }

    /// A person begins it: what was before does not count.
    pub fn release(&self) -> Result<(), Problem> {
        if self.chart().wish.is_nothing() {
            return Ok(());
        }
        self.update(|record| {
            record.care.past.forgive();
            record.care.begin();
        })
    }

    // ---- looking -------------------------------------------------------------------------------------------------

    /// The main process, as this node numbers it.
    pub fn pid(&self) -> Option<i32> {
        let (sandbox, record) = (self.sandbox()?, self.record());
        if record.doing != Doing::Running {
            return None;
        }
        sandbox.outer_pid(record.pid.unwrap_or(MAIN_PID))
    }

    /// Whether this node answers for it: it is its own, or in doubt (somebody has to see that, on either node), or given away and
    /// nobody has said yet that it arrived.
    fn is_answered_for(&self, record: &Record) -> bool {
        let live = self.live();
        record.owned || live.frozen.is_some() || (live.moving && record.doing == Doing::Running)
    }

    /// Whether commands about it are for this node.
    pub fn is_here(&self) -> bool {
        self.is_answered_for(&self.record())
    }

    fn problem(&self, action: &str, error: &SandboxError) -> Problem {
        Problem::new(Code::Internal, format!("cannot {action} {}: {error}", self.name))
    }
}

/// How it ended. That it cannot be seen does not mean that it has.
fn await_end(name: &WorkloadName, sandbox: &Sandbox) -> Exit {
    let mut told = false;
    loop {
        match sandbox.wait() {
            Ok(exit) => return exit,
            // Killed from outside, PID 1 has no last words, and everything in the sandbox went with it.
            Err(SandboxError::Gone { .. }) => return Exit::Signal(libc::SIGKILL),
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(workload = %name, %error, "whether it runs cannot be seen; looking again");
                }
                std::thread::sleep(LOOK_AGAIN);
            }
        }
    }
}
