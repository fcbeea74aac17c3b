//! The API on a Unix socket.
//!
//! The socket appears under its name only when its mode and group are right: it is made under another name first. A
//! socket that an earlier agent left is replaced, if nobody answers there. Who connects is asked for its credentials;
//! whoever may not use the agent is told so. When the agent ends, requests that run may go on for a while.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use migrate_proto::error::{Code, Problem};
use thiserror::Error;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::admission::{Admission, Caller, group_in};
use super::failure::Failure;
use crate::care::watchdog::Stamp;

/// The group that may use the agent, where the machine has it.
pub const GROUP: &str = "migrate";

/// How long a connection may stay silent before and between requests.
const IDLE: Duration = Duration::from_secs(60);

/// How long to wait when the machine cannot take another connection.
const BREATH: Duration = Duration::from_millis(100);

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Another agent is there.
    #[error("an agent already answers at {0}")]
    InUse(PathBuf),
    /// Something else has the name.
    #[error("{0} is there and is no socket")]
    NotASocket(PathBuf),
    /// It could not be made.
    #[error("cannot {action} {path}: {source}")]
    Socket {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A socket, ready for connections.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    admission: Admission,
}

impl Server {
    /// A socket at `path` for root and the group [`GROUP`]. Its directory is made where it is missing.
    /// Workloads, which are below the control group `workloads`, are not let in.
    pub fn bind(path: &Path, workloads: &Path) -> Result<Server, ServerError> {
        let groups = Path::new("/etc/group");
        let group = group_in(groups, GROUP).map_err(failed("read", groups))?;
        Server::bind_for(path, group, workloads)
    }

    pub(super) fn bind_for(path: &Path, group: Option<u32>, workloads: &Path) -> Result<Server, ServerError> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).map_err(failed("create the directory", directory))?;
        }
        must_be_free(path)?;
        let mut unready = path.as_os_str().to_owned();
        unready.push(".new");
        let unready = PathBuf::from(unready);
        match fs::remove_file(&unready) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &unready)(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&unready).map_err(failed("make the socket", &unready))?;
        if let Some(group) = group {
            chown(&unready, None, Some(group)).map_err(failed("give the group migrate", &unready))?;
        }
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        fs::set_permissions(&unready, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of", &unready))?;
        let inode = fs::metadata(&unready).map_err(failed("look at", &unready))?.ino();
        fs::rename(&unready, path).map_err(failed("put in place", path))?;
        let admission = Admission { group, own_uid: nix::unistd::geteuid().as_raw(), workloads: workloads.to_owned() };
        Ok(Server { listener, path: path.to_owned(), inode, admission })
    }

    /// Answers requests with `router` until `closing` fires. Then the socket goes, idle connections end, and requests
    /// that still run have `limit` to come to their end.
    pub async fn serve(self, router: Router, closing: CancellationToken, limit: Duration) {
        let mut connections = JoinSet::new();
        let stamp = Stamp::of("api");
        loop {
            let accepted = tokio::select! {
                () = closing.cancelled() => break,
                () = stamp.beat() => continue,
                Some(_) = connections.join_next() => continue,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, router.clone(), self.admission.clone(), closing.clone()));
                }
                Err(error) => {
                    // Most likely no descriptor is left; one comes free when a connection ends.
                    tracing::warn!("cannot accept a connection at {}: {error}", self.path.display());
                    tokio::time::sleep(BREATH).await;
                }
            }
        }
        drop((self, stamp));
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(limit, all).await.is_err() {
            tracing::warn!("{} requests were still running after {limit:?} and were ended", connections.len());
        }
        connections.shutdown().await;
    }
}

/// The name goes with the server, if it is still its own.
impl Drop for Server {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // Where this fails, the next agent finds a socket at which nobody answers.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ServerError {
    move |source| ServerError::Socket { action, path: path.to_owned(), source }
}

/// There is nothing at `path`, or a socket at which nobody answers.
fn must_be_free(path: &Path) -> Result<(), ServerError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(ServerError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(ServerError::InUse(path.to_owned())),
        Err(error) => Err(failed("find out who answers at", path)(error)),
    }
}

async fn connection(stream: UnixStream, router: Router, admission: Admission, closing: CancellationToken) {
    let router = match Caller::of(&stream) {
        Ok(caller) if admission.admits(&caller) => router,
        Ok(caller) => refusal(caller.uid, admission.is_workload(&caller)),
        Err(error) => {
            tracing::warn!("a connection was closed: its credentials cannot be read: {error}");
            return;
        }
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE);
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // The client went away in the middle: that is its right.
        tracing::debug!("a connection broke off: {error}");
    }
}

/// Answers everything with a refusal.
fn refusal(uid: u32, is_workload: bool) -> Router {
    let problem = match is_workload {
        true => Problem::new(Code::Usage, "a workload may not use this agent").hint("ask from outside its sandbox"),
        false => Problem::new(Code::Usage, format!("uid {uid} may not use this agent"))
            .hint(format!("be root, or a member of the group '{GROUP}' of the agent's node")),
    };
    Router::new().fallback(async move || Failure { status: StatusCode::FORBIDDEN, problem: problem.clone() })
}
