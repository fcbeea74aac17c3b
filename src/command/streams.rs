//! exec: a command beside a workload, and its bytes as they are.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use migrate_proto::api::{ExecLine, ExecRequest, Exit};
use migrate_proto::name::WorkloadName;
use migrate_proto::text::Text;
use tokio::sync::mpsc;

use super::Session;
use crate::cli::run::RunError;
use crate::client::lines::Lines;
use crate::client::{ClientError, RequestError};
use crate::failure::Failure;
use crate::show::answer;

/// Runs a command beside a workload; its exit code, as a shell would give it.
pub(crate) async fn exec(
    session: &Session,
    name: &WorkloadName,
    argv: &[OsString],
    with_stdin: bool,
) -> Result<u8, Failure> {
    let argv: Option<Vec<Text>> = argv.iter().map(|arg| Text::new(arg.as_bytes())).collect();
    let request = ExecRequest { argv: argv.ok_or(RunError::Nul)? };
    let mut first_line = serde_json::to_vec(&request).map_err(RequestError::from).map_err(ClientError::from)?;
    first_line.push(b'\n');
    let agent = session.agent().await?;
    session
        .in_time(async {
            let first = stream::iter([Bytes::from(first_line)]);
            let path = format!("/v1/workloads/{name}/exec");
            let mut lines = match with_stdin {
                true => agent.converse(&path, first.chain(stdin())).await?,
                false => agent.converse(&path, first).await?,
            };
            match copy_out(session, &mut lines, |_| {}).await? {
                Some(Exit::Code(code)) => Ok(u8::try_from(code).unwrap_or(u8::MAX)),
                Some(Exit::Signal(signal)) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
                None => Err(lines.incomplete().into()),
            }
        })
        .await
}

/// Copies to stdout and stderr until the end; how the command ended, where that was said. `hear` is told every line.
pub(super) async fn copy_out(
    session: &Session,
    lines: &mut Lines<ExecLine>,
    mut hear: impl FnMut(&ExecLine),
) -> Result<Option<Exit>, Failure> {
    while let Some(line) = lines.next().await? {
        // A failure is told as all failures are.
        if session.everywhere.json && !matches!(line, ExecLine::Error(_)) {
            answer::json(&line)?;
        }
        hear(&line);
        match line {
            ExecLine::Stdout(text) if !session.everywhere.json => answer::bytes(&BASE64_STANDARD.decode(text)?)?,
            ExecLine::Stderr(text) if !session.everywhere.json => answer::error_bytes(&BASE64_STANDARD.decode(text)?)?,
            ExecLine::Stdout(_) | ExecLine::Stderr(_) => {}
            ExecLine::StdoutFrom(_) | ExecLine::StderrFrom(_) => {}
            ExecLine::Exit(exit) => return Ok(Some(exit)),
            ExecLine::Error(problem) => return Err(ClientError::Refused(problem).into()),
        }
    }
    Ok(None)
}

/// Our stdin, read by a thread: a terminal or pipe cannot be waited for without blocking. The thread ends with the process.
fn stdin() -> impl Stream<Item = Bytes> + Send + Sync + 'static {
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match std::io::stdin().lock().read(&mut buffer) {
                Ok(read) if read > 0 => {
                    if sender.blocking_send(Bytes::copy_from_slice(&buffer[..read])).is_err() {
                        return;
                    }
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // The end, or nothing more that could be read.
                _ => return,
            }
        }
    });
    stream::unfold(receiver, |mut receiver| async move { receiver.recv().await.map(|bytes| (bytes, receiver)) })
}
