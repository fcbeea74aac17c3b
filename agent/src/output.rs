//! What workloads write, and what commands beside them write: as lines of the API.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use migrate_proto::api::{ExecLine, ExecRequest, Exit};
use migrate_proto::error::{Code, Problem};
use migrate_proto::text::Text;
use migrate_sandbox::errand::{ERRAND, Errand, Letter};
use migrate_sandbox::plan::Output;
use migrate_sandbox::{Sandbox, descriptors};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::channel;
use crate::control::{ByteStream, Lines, LogQuery, LogStart};
use crate::host::Host;
use crate::workload::Workload;

const PIECE: usize = 48 << 10;
/// How often a followed file is looked at: ext4 files seen through another mount namespace can be watched, but a look is
/// cheap and cannot miss anything.
const LOOK: Duration = Duration::from_millis(200);
const QUEUE: usize = 16;

type Wrap = fn(String) -> ExecLine;

/// What a workload has written so far, or what it writes until it is no longer here.
pub async fn logs(host: &Arc<Host>, workload: Arc<Workload>, query: LogQuery) -> Result<Lines<ExecLine>, Problem> {
    let sandbox = sandbox_with_files(host, &workload).await?;
    // What has ended writes no more.
    let follow = query.follow && workload.is_going();
    let (tell, receiver) = mpsc::channel(QUEUE);
    let gone = CancellationToken::new();
    for output in [Output::Stdout, Output::Stderr] {
        let source = Source { sandbox: sandbox.clone(), output };
        let says_place = query.follow;
        let file = Followed { source, from: query.from, says_place, follow, gone: gone.clone() };
        tokio::spawn(copy_file(file, tell.clone()));
    }
    if follow {
        tokio::spawn(async move {
            let mut ended = workload.ended();
            let dir = Some(sandbox.dir().to_owned());
            // Until the workload ends, or its sandbox is replaced or gone, or nobody listens any more.
            let mut look = tokio::time::interval(LOOK);
            while !tell.is_closed()
                && ended.borrow_and_update().is_none()
                && workload.sandbox().map(|s| s.dir().to_owned()) == dir
            {
                look.tick().await;
            }
            gone.cancel();
        });
    }
    Ok(channel::stream(receiver))
}

/// Its sandbox; where it has none because it was lost or could not be started, an empty one in which its layer is mounted.
async fn sandbox_with_files(host: &Arc<Host>, workload: &Arc<Workload>) -> Result<Sandbox, Problem> {
    if let Some(sandbox) = workload.sandbox() {
        return Ok(sandbox);
    }
    // Nobody else may mount it: nothing is in doubt, nothing goes on.
    if !workload.record().owned || workload.is_going() || workload.doubt().is_some() {
        let message = format!("the output of {} cannot be read: its files are not mounted", workload.name());
        let hint = format!("`migrate why {}` says what it waits for", workload.name());
        return Err(Problem::new(Code::WrongState, message).hint(hint));
    }
    let turn = workload.turn_soon().await?;
    let (workload, host) = (workload.clone(), host.clone());
    let opened = move || {
        let _turn = turn;
        // Somebody may have been here first.
        if let Some(sandbox) = workload.sandbox() {
            return Ok(sandbox);
        }
        let sandbox = workload.build_held_sandbox(&host)?;
        workload.attach_layer(&sandbox).inspect_err(|_| drop(workload.drop_sandbox(&host)))?;
        Ok(sandbox)
    };
    tokio::task::spawn_blocking(opened).await.map_err(Problem::internal)?
}

struct Followed {
    source: Source,
    from: LogStart,
    /// Whether the answer begins with the place at which it begins.
    says_place: bool,
    follow: bool,
    gone: CancellationToken,
}

/// One of the two files. It is opened anew for each piece and never held while a client is waited for: a descriptor keeps
/// the layer mounted when the sandbox is gone, and a layer that is mounted cannot be mounted elsewhere.
#[derive(Clone)]
struct Source {
    sandbox: Sandbox,
    output: Output,
}

impl Source {
    /// The next piece; empty at the end, `None` where the file cannot be read any more.
    async fn read(&self, at: u64, most: usize) -> Option<Vec<u8>> {
        self.look(move |file| {
            let mut piece = vec![0; most];
            let count = file.read_at(&mut piece, at)?;
            piece.truncate(count);
            Ok(piece)
        })
        .await
    }

    async fn len(&self) -> Option<u64> {
        self.look(|file| Ok(file.metadata()?.len())).await
    }

    async fn look<T: Send + 'static>(&self, look: impl FnOnce(File) -> io::Result<T> + Send + 'static) -> Option<T> {
        let source = self.clone();
        let looking = move || look(source.sandbox.output(source.output).ok()?).ok();
        tokio::task::spawn_blocking(looking).await.ok()?
    }
}

async fn copy_file(followed: Followed, tell: mpsc::Sender<ExecLine>) {
    let Followed { source, from, says_place, follow, gone } = followed;
    let (wrap, place, asked): (Wrap, fn(u64) -> ExecLine, _) = match (source.output, from) {
        (Output::Stdout, LogStart::Bytes(out, _)) => (ExecLine::Stdout, ExecLine::StdoutFrom, out),
        (Output::Stdout, _) => (ExecLine::Stdout, ExecLine::StdoutFrom, 0),
        (Output::Stderr, LogStart::Bytes(_, err)) => (ExecLine::Stderr, ExecLine::StderrFrom, err),
        (Output::Stderr, _) => (ExecLine::Stderr, ExecLine::StderrFrom, 0),
    };
    let Some(length) = source.len().await else { return };
    let start = match from {
        LogStart::Lines(count) => start_of_last_lines(&source, length, count).await,
        // A workload that was brought back from a checkpoint may have written less than its reader has.
        LogStart::First | LogStart::Bytes(..) => Some(asked.min(length)),
    };
    let Some(mut at) = start else { return };
    if says_place && tell.send(place(at)).await.is_err() {
        return;
    }
    // Who does not follow gets what was there when it was asked for, however fast the workload writes.
    let end = if follow { u64::MAX } else { length };
    loop {
        let over = gone.is_cancelled();
        while at < end {
            let most = (end - at).min(PIECE as u64) as usize;
            let Some(piece) = source.read(at, most).await else { return };
            if piece.is_empty() {
                break;
            }
            at += piece.len() as u64;
            if tell.send(wrap(STANDARD.encode(&piece))).await.is_err() {
                return;
            }
        }
        if over || !follow {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = gone.cancelled() => {}
            () = tell.closed() => return,
        }
    }
}

/// Copies what is there; false where nobody listens any more.
async fn copy_all(source: &mut (impl AsyncRead + Unpin), tell: &mpsc::Sender<ExecLine>, wrap: Wrap) -> bool {
    let mut piece = vec![0; PIECE];
    loop {
        match source.read(&mut piece).await {
            Ok(0) | Err(_) => return true,
            Ok(count) if tell.send(wrap(STANDARD.encode(&piece[..count]))).await.is_err() => return false,
            Ok(_) => {}
        }
    }
}

/// Reads backwards, so that a long log costs no more than its end.
async fn start_of_last_lines(source: &Source, end: u64, count: u64) -> Option<u64> {
    let (mut at, mut seen) = (end, 0);
    if count == 0 {
        return Some(end);
    }
    while at > 0 {
        let size = at.min(PIECE as u64);
        at -= size;
        let piece = source.read(at, size as usize).await?;
        for (place, byte) in piece.iter().enumerate().rev() {
            // The last byte ends the last line; it does not begin another.
            if *byte == b'\n' && at + place as u64 + 1 != end {
                seen += 1;
                if seen == count {
                    return Some(at + place as u64 + 1);
                }
            }
        }
    }
    Some(0)
}

/// Starts a command beside a workload. The letter is to be kept until it has ended; dropped, it is killed with all that it has started.
pub fn beside(
    host: &Host,
    workload: &Workload,
    argv: Vec<Text>,
    stdin: Stdio,
) -> Result<(tokio::process::Child, Letter), Problem> {
    let not_running = || Problem::new(Code::WrongState, format!("{} does not run here", workload.name()));
    let sandbox = workload.sandbox().ok_or_else(not_running)?;
    let cgroup = host.cgroup(workload.name().as_str())?;
    let errand = Errand {
        init: sandbox.init().pid,
        main: workload.pid().ok_or_else(not_running)?,
        groups: cgroup.side_procs(),
        beside: cgroup.beside(),
        command: workload.command_beside(argv),
    };
    let internal = |error: String| Problem::new(Code::Internal, error);
    let letter = errand.letter().map_err(|error| internal(error.to_string()))?;
    let child = tokio::process::Command::new(&host.init_program)
        .arg("exec")
        .env_clear()
        .envs(descriptors::for_helpers())
        .env(ERRAND, letter.address())
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| internal(format!("cannot run a command beside {}: {error}", workload.name())))?;
    Ok((child, letter))
}

/// Runs a command beside a workload.
pub fn exec(
    host: &Host,
    workload: &Workload,
    request: ExecRequest,
    stdin: ByteStream,
) -> Result<Lines<ExecLine>, Problem> {
    let (mut child, letter) = beside(host, workload, request.argv, Stdio::piped())?;
    let (tell, receiver) = mpsc::channel(QUEUE);
    if let Some(pipe) = child.stdin.take() {
        tokio::spawn(feed(stdin, pipe));
    }
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    tokio::spawn(async move {
        let (out, err) = (tell.clone(), tell.clone());
        let copying = async {
            tokio::join!(copy_pipe(stdout, &out, ExecLine::Stdout), copy_pipe(stderr, &err, ExecLine::Stderr));
        };
        // Nobody listens any more: dropping the child ends it.
        tokio::select! {
            () = copying => {}
            () = tell.closed() => return,
        }
        let ended = child.wait().await;
        drop(letter);
        let last = match ended {
            Ok(status) => ExecLine::Exit(exit_of(status)),
            Err(error) => ExecLine::Error(Problem::new(Code::Internal, error.to_string())),
        };
        let _ = tell.send(last).await;
    });
    Ok(channel::stream(receiver))
}

async fn copy_pipe(pipe: Option<impl AsyncRead + Unpin>, tell: &mpsc::Sender<ExecLine>, wrap: Wrap) {
    if let Some(mut pipe) = pipe {
        copy_all(&mut pipe, tell, wrap).await;
    }
}

async fn feed(mut stdin: ByteStream, mut pipe: tokio::process::ChildStdin) {
    while let Some(Ok(bytes)) = stdin.next().await {
        if pipe.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// How a command beside a workload ended.
pub fn exit_of(status: std::process::ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        // As `migrate-init exec` passes the signal of its command on.
        (Some(code), _) if code > 128 && code <= 128 + 64 => Exit::Signal(code - 128),
        (Some(code), _) => Exit::Code(code),
        (None, signal) => Exit::Signal(signal.unwrap_or(0)),
    }
}
