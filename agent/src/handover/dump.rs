//! CRIU on the source: started while the workload runs, held before it freezes anything, its images streamed as they come.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use migrate_criu::command;
use migrate_criu::stream::capture::{Capture, Capturing};
use migrate_image::ahead::KnownPages;
use migrate_image::chunk::{Chunk, StreamSummary};
use migrate_image::outgoing::{Options, Outgoing, OutgoingError};
use migrate_image::pace::SharedPace;
use migrate_proto::api::Exit;
use migrate_proto::error::{Code, Problem};
use migrate_proto::manifest::StreamName;
use migrate_sandbox::cgroup::Cgroup;
use migrate_sandbox::guard::{self, Call, GUARD_SOCKET, Hook, Kind, OUTPUT, Order};
use migrate_sandbox::plan::{GATE, MAIN_PID, RUN};
use migrate_sandbox::{Sandbox, process};
use tokio::sync::{mpsc, oneshot};

use super::meter::Meter;
use super::outlet::{Outlet, send_chunks};
use crate::guardline::{GuardLine, Standing};
use crate::host::Host;
use crate::preflight;
use crate::workload::Workload;

/// Below the largest PID, where no workload's processes are.
const PID_DISTANCE: i32 = 2000;
/// How long CRIU may take until it is ready to freeze the workload.
const STARTING: Duration = Duration::from_secs(20);
/// How long CRIU, told to let go of a workload, may do nothing before it is killed: the workload stands still meanwhile, and is
/// to go on within two seconds. What CRIU leaves in it then is put back by the guard's tracer.
const STILL: Duration = Duration::from_millis(1200);
/// How often it is looked whether it does anything.
const LOOK: Duration = Duration::from_millis(50);
/// What of CRIU's log is read to explain a failure.
const LOG_BYTES: u64 = 256 << 10;

/// A CRIU call that is under way, and what is needed to follow it.
pub(crate) struct CriuCall {
    /// The line to its guard.
    pub(crate) guard: GuardLine,
    /// CRIU's images directory, as the node sees it.
    pub(crate) images: PathBuf,
    /// The guard's directory.
    pub(crate) guard_dir: PathBuf,
    /// CRIU's PID, inside; nobody else in the sandbox can have it while CRIU has.
    criu: i32,
}

/// Where a call has its files.
pub(crate) struct Places {
    /// The guard's directory.
    pub(crate) guard: PathBuf,
    /// A name below the sandbox's work directory.
    pub(crate) images: String,
    /// `cgroup.procs` files that CRIU joins.
    pub(crate) groups: Vec<PathBuf>,
}

impl CriuCall {
    /// Starts CRIU with its guard, for a workload in these groups and this sandbox; `main` is its first process, where it has one already.
    /// The stream's socket must be there.
    pub(crate) async fn start(
        host: &Arc<Host>,
        cgroup: &Cgroup,
        sandbox: &Sandbox,
        main: Option<i32>,
        kind: Kind,
        places: Places,
    ) -> Result<CriuCall, Problem> {
        let criu = host.criu()?.path.clone();
        let images = sandbox.work().join(&places.images);
        let options = command::Options {
            criu: criu.clone(),
            images_dir: Path::new(RUN).join(&places.images),
            action_script: GATE.into(),
        };
        let arguments = match kind {
            Kind::Dump => {
                let tree = main.map(process::tree).unwrap_or_default();
                command::dump(&options, MAIN_PID, &preflight::connected_to_init(sandbox.init().pid, &tree))
            }
            Kind::Restore => command::restore(&options),
        };
        let argv = std::iter::once(criu.into_os_string()).chain(arguments);
        let argv = argv
            .filter_map(|word| migrate_proto::text::Text::new(std::os::unix::ffi::OsStringExt::into_vec(word)))
            .collect();
        let call = Call {
            kind,
            init: sandbox.init(),
            argv,
            dir: places.guard.clone(),
            images: images.clone(),
            side: cgroup.side_procs(),
            groups: places.groups,
            freezer: cgroup.freezer(),
            beside: cgroup.beside_freezer(),
            criu_pid: largest_pid(sandbox) - PID_DISTANCE,
        };
        let (starting, criu) = (sandbox.clone(), call.criu_pid);
        tokio::task::spawn_blocking(move || starting.guard(&call))
            .await
            .map_err(Problem::internal)?
            .map_err(Problem::internal)?;
        let guard = GuardLine::call(&places.guard).await.map_err(Problem::internal)?;
        Ok(CriuCall { guard, images, guard_dir: places.guard, criu })
    }

    /// Takes over a call that an earlier agent began; `None` where its guard is gone.
    pub(crate) async fn take_over(guard_dir: &Path) -> Option<CriuCall> {
        let guard = GuardLine::call(guard_dir).await.ok()?;
        Some(CriuCall { guard, images: PathBuf::new(), guard_dir: guard_dir.to_owned(), criu: 0 })
    }

    /// Whether that is CRIU: the sockets that it connects to are within the workload's reach, and what comes from there is
    /// restored on another node with every right.
    pub(crate) fn is_criu(&self) -> impl Fn(i32) -> bool + use<> {
        let criu = self.criu;
        move |pid| process::inner_pid(pid) == Some(criu)
    }

    /// Makes CRIU let go of the workload, wherever it stands; `main` is the workload's first process. Says whether it did so in good
    /// order: CRIU that was killed may have left code of its own in the workload.
    pub(crate) async fn let_go(&self, main: Option<i32>) -> bool {
        let refusing = async {
            let mut beyond = None;
            loop {
                self.guard.order(Order::Refuse).await;
                match self.guard.past(beyond).await {
                    Standing::At(hook) => beyond = Some(hook),
                    _ => return,
                }
            }
        };
        tokio::select! {
            () = refusing => {}
            () = self.stands_still(main) => {
                tracing::error!("CRIU has done nothing for {STILL:?} and does not let go of the workload; it is killed");
                self.guard.order(Order::Kill).await;
                self.guard.end().await;
            }
        }
        matches!(self.guard.standing(), Standing::Ended(Exit::Code(_)))
    }

    /// Returns when neither CRIU nor the workload, in which CRIU has code of its own run, has done anything for too long.
    async fn stands_still(&self, main: Option<i32>) {
        let (mut last, mut since, mut told) = (None, Instant::now(), false);
        while since.elapsed() < STILL {
            tokio::time::sleep(LOOK).await;
            // Also for one that was stopped after it was told to let go; where it is at a hook it has been answered.
            self.guard.order(Order::Refuse).await;
            let mut pids = self.guard.processes();
            let activity = tokio::task::spawn_blocking(move || {
                // What CRIU does not hold runs anyway.
                let tree = main.map(process::tree).into_iter().flatten();
                pids.extend(tree.filter(|pid| process::is_traced(*pid)));
                process::activity(&pids)
            });
            let activity = activity.await.ok();
            if activity != last {
                (last, since) = (activity, Instant::now());
            } else if !std::mem::replace(&mut told, true) {
                tracing::warn!("CRIU is slow to let go of the workload");
            }
        }
    }

    /// Whether a call whose guard is gone ended in good order. One that never began did.
    pub(crate) fn ended_well(guard_dir: &Path) -> bool {
        match guard::result(guard_dir) {
            Ok(Some(exit)) => matches!(exit, Exit::Code(_)),
            Ok(None) => matches!(guard_dir.join(GUARD_SOCKET).try_exists(), Ok(false)),
            Err(_) => false,
        }
    }

    /// Why CRIU failed, in its own words and in ours.
    pub(crate) fn failure(&self, code: Code, standing: Standing) -> Problem {
        let exit = match standing {
            Standing::Ended(Exit::Code(0)) => return Problem::new(code, "CRIU has done its work and ended"),
            Standing::Ended(exit) => exit,
            Standing::Lost => return Problem::new(code, "the guard of CRIU is gone without a word"),
            Standing::Working | Standing::At(_) => return Problem::new(code, "CRIU stopped before its work was done"),
        };
        let log = tail(&self.images.join(command::LOG_FILE));
        let failure = migrate_criu::failure::explain(&log, &tail(&self.guard_dir.join(OUTPUT)), exit);
        tracing::info!(tail = %failure.tail, "CRIU's last words");
        Problem::new(code, failure.to_string()).hint(failure.hint())
    }
}

fn largest_pid(sandbox: &Sandbox) -> i32 {
    let path = format!("/proc/{}/root/proc/sys/kernel/pid_max", sandbox.init().pid);
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(32768)
}

/// The beginning and the end of a file that may be long: causes stand early, ends stand late.
fn tail(path: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let mut text = Vec::new();
    if let Ok(mut file) = std::fs::File::open(path) {
        let length = file.metadata().map_or(0, |m| m.len());
        let _ = file.by_ref().take(LOG_BYTES).read_to_end(&mut text);
        if length > 2 * LOG_BYTES && file.seek(SeekFrom::End(-(LOG_BYTES as i64))).is_ok() {
            let _ = file.take(LOG_BYTES).read_to_end(&mut text);
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A dump, held before it freezes anything.
pub(crate) struct Dump {
    /// The call.
    pub(crate) call: Arc<CriuCall>,
    /// Fires when every task stands still.
    pub(crate) frozen: oneshot::Receiver<()>,
    /// The image's streams, once all of them are on their way.
    pub(crate) streams: oneshot::Receiver<Result<Vec<StreamSummary>, Problem>>,
    streaming: tokio::task::AbortHandle,
}

impl Drop for Dump {
    /// Breaks CRIU's pipes: a dump that is not complete fails, and resumes the workload.
    fn drop(&mut self) {
        self.streaming.abort();
    }
}

impl Dump {
    /// Starts CRIU, with its guard in `guard_dir`, and waits until it is held at `pre-dump`. `known` may be filled until it is released.
    pub(crate) async fn start(
        host: &Arc<Host>,
        workload: &Arc<Workload>,
        guard_dir: PathBuf,
        outlet: Arc<dyn Outlet>,
        meter: Arc<Meter>,
        pace: SharedPace,
        known: Arc<OnceLock<KnownPages>>,
    ) -> Result<Dump, Problem> {
        let sandbox = workload.sandbox().ok_or_else(|| Problem::internal("the workload has no sandbox"))?;
        guard::decision::clear(&guard_dir)
            .and_then(|()| guard::decision::prepare(&guard_dir))
            .map_err(Problem::internal)?;
        let name = "dump".to_owned();
        let images = sandbox.work().join(&name);
        let _ = std::fs::remove_dir_all(&images);
        std::fs::create_dir_all(&images).map_err(Problem::internal)?;
        let capture = Capture::bind(&images).map_err(Problem::internal)?;
        let places = Places { guard: guard_dir, images: name, groups: Vec::new() };
        let cgroup = host.cgroup(workload.name().as_str())?;
        let call = CriuCall::start(host, &cgroup, &sandbox, workload.pid(), Kind::Dump, places).await?;
        let call = Arc::new(call);
        let started = tokio::task::spawn_blocking(|| Outgoing::start(Options { pace, known, ..Options::default() }));
        let (outgoing, chunks) = started.await.map_err(Problem::internal)?.map_err(Problem::internal)?;
        let (tell_frozen, frozen) = oneshot::channel();
        let (tell_streams, streams) = oneshot::channel();
        let is_criu = call.is_criu();
        let streaming = tokio::spawn(async move {
            let accepted = capture.accept(is_criu).await.map_err(Problem::internal);
            let outcome = match accepted {
                Ok(capturing) => stream(capturing, outgoing, chunks, outlet, &meter, tell_frozen).await,
                Err(problem) => Err(problem),
            };
            if let Err(problem) = &outcome {
                // CRIU, whose pipes break with it, is often heard first.
                tracing::warn!(%problem, "the image cannot be taken");
            }
            let _ = tell_streams.send(outcome);
        });
        let dump = Dump { frozen, streams, streaming: streaming.abort_handle(), call };
        // A limit of its own: the loop waits for this.
        let held = tokio::time::timeout(STARTING, dump.call.guard.past(None)).await;
        match held.unwrap_or(Standing::Working) {
            Standing::At(Hook::PreDump) => Ok(dump),
            other => Err(dump.call.failure(Code::DumpFailed, other)),
        }
    }

    /// Lets CRIU freeze the workload and take it apart.
    pub(crate) async fn release(&self) {
        self.call.guard.order(Order::Continue).await;
    }
}

/// Takes images from CRIU and sends them, until the last one is out.
async fn stream(
    mut capturing: Capturing,
    mut outgoing: Outgoing,
    chunks: mpsc::Receiver<Chunk>,
    outlet: Arc<dyn Outlet>,
    meter: &Arc<Meter>,
    tell_frozen: oneshot::Sender<()>,
) -> Result<Vec<StreamSummary>, Problem> {
    let (counting, sending_to) = (meter.clone(), outlet.clone());
    let sending =
        tokio::spawn(async move { send_chunks(chunks, &*sending_to, |raw, sent| counting.memory(raw, sent)).await });
    let mut tell_frozen = Some(tell_frozen);
    while !capturing.is_last() {
        let next = tokio::select! {
            biased;
            () = outgoing.failed() => break,
            next = capturing.next() => next,
        };
        let Some(image) = next.map_err(Problem::internal)? else {
            return Err(Problem::new(Code::DumpFailed, "CRIU ended before its image was complete"));
        };
        if let Some(tell) = tell_frozen.take() {
            let _ = tell.send(());
        }
        let name = StreamName::image(&image.name).map_err(Problem::internal)?;
        let stream = outgoing.next_stream();
        outlet.open_stream(stream, name).await?;
        outgoing.add_pipe(image.name, image.pipe).map_err(Problem::internal)?;
    }
    let finished = outgoing.finish().await;
    // Where nobody took chunks any more, who should have knows why.
    if matches!(finished, Ok(_) | Err(OutgoingError::Stopped)) {
        sending.await.map_err(Problem::internal)??;
    }
    finished.map_err(Problem::internal)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_call_without_a_guard_ended_as_was_written_down() {
        let dir = tempfile::tempdir().unwrap();
        assert!(CriuCall::ended_well(dir.path()), "it never began");
        std::fs::write(dir.path().join(GUARD_SOCKET), "").unwrap();
        assert!(!CriuCall::ended_well(dir.path()), "its guard was killed");
        for (exit, well) in [(Exit::Code(1), true), (Exit::Signal(9), false)] {
            std::fs::write(dir.path().join("result.json"), serde_json::to_vec(&exit).unwrap()).unwrap();
            assert_eq!(CriuCall::ended_well(dir.path()), well);
        }
    }
}
