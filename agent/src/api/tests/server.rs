//! The socket: who finds it how, and how it ends.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::super::server::{Server, ServerError};
use super::super::*;
use super::fake::{Fake, LONG, request};

/// Below which workloads would be.
const GROUPS: &str = "migrate-test-of-the-api";

/// A server over a fake node, in a directory of its own.
pub(super) struct Running {
    pub(super) fake: Arc<Fake>,
    pub(super) closing: CancellationToken,
    path: PathBuf,
    serving: JoinHandle<()>,
    dir: TempDir,
}

impl Running {
    pub(super) fn start(limit: Duration) -> Running {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("run/agent.sock");
        let (fake, closing) = (Fake::new("node1"), CancellationToken::new());
        let serving = Server::bind(&path, GROUPS.as_ref()).unwrap().serve(
            fake.router_until(closing.clone()),
            closing.clone(),
            limit,
        );
        Running { fake, closing, path, serving: tokio::spawn(serving), dir }
    }

    pub(super) async fn client(&self) -> SendRequest<Body> {
        connect(&self.path).await
    }

    pub(super) async fn ended(self) {
        tokio::time::timeout(LONG, self.serving).await.unwrap().unwrap();
        assert!(!self.path.exists());
    }
}

async fn connect(path: &Path) -> SendRequest<Body> {
    let stream = UnixStream::connect(path).await.unwrap();
    let (client, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn health(client: &mut SendRequest<Body>) -> StatusCode {
    let response = client.send_request(request("GET", "/v1/health", &[("host", "agent")], "")).await.unwrap();
    let status = response.status();
    response.into_body().collect().await.unwrap();
    status
}

#[tokio::test]
async fn a_connection_serves_several_requests_and_ends_idle_at_the_end() {
    let running = Running::start(LONG);
    let mut client = running.client().await;
    for _ in 0..3 {
        assert_eq!(health(&mut client).await.as_u16(), 200);
    }
    running.closing.cancel();
    running.ended().await;
}

#[tokio::test]
async fn the_socket_is_for_root_and_one_group() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("agent.sock");
    let own_group = std::fs::metadata(dir.path()).unwrap().gid();
    for (group, mode) in [(None, 0o600), (Some(own_group), 0o660)] {
        let server = Server::bind_for(&path, group, GROUPS.as_ref()).unwrap();
        let found = std::fs::metadata(&path).unwrap();
        assert_eq!((found.permissions().mode() & 0o777, found.gid()), (mode, own_group));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        drop(server);
    }
}

#[tokio::test]
async fn a_socket_that_nobody_serves_is_replaced() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("agent.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let old = std::fs::metadata(&path).unwrap().ino();
    let server = Server::bind(&path, GROUPS.as_ref()).unwrap();
    assert_ne!(std::fs::metadata(&path).unwrap().ino(), old);
    drop(server);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_that_somebody_serves_is_left_alone() {
    let running = Running::start(LONG);
    assert!(matches!(Server::bind(&running.path, GROUPS.as_ref()), Err(ServerError::InUse(_))));
    assert_eq!(health(&mut running.client().await).await.as_u16(), 200);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("agent.sock");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Server::bind(&path, GROUPS.as_ref()), Err(ServerError::NotASocket(_))));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_server_removes_only_its_own_socket() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("agent.sock");
    let first = Server::bind(&path, GROUPS.as_ref()).unwrap();
    std::fs::remove_file(&path).unwrap();
    let second = Server::bind(&path, GROUPS.as_ref()).unwrap();
    drop(first);
    assert!(path.exists());
    drop(second);
}

/// What a process of this user is told at `path`. Needs root, which alone can play another user.
fn told_as_user(path: &Path, uid: u32) -> String {
    use std::io::{Read, Write};
    let path = path.to_owned();
    let told = move || {
        // Of this thread only, and for good: it ends with the answer.
        rustix::thread::set_thread_res_uid(None, rustix::process::Uid::from_raw(uid), None).unwrap();
        let mut stream = std::os::unix::net::UnixStream::connect(path)?;
        stream.write_all(b"GET /v1/health HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    std::thread::spawn(told).join().unwrap().unwrap_or_else(|error| format!("{:?}", error.kind()))
}

#[tokio::test]
async fn a_stranger_is_kept_out_by_the_mode_and_without_it_by_the_credentials() {
    let running = Running::start(LONG);
    let path = running.path.clone();
    let as_user = async |uid| {
        let path = path.clone();
        tokio::task::spawn_blocking(move || told_as_user(&path, uid)).await.unwrap()
    };
    std::fs::set_permissions(running.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(as_user(65534).await, "PermissionDenied");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
    let refused = as_user(65534).await;
    assert!(refused.starts_with("HTTP/1.1 403 ") && refused.contains("uid 65534 may not use this agent"), "{refused}");
    assert_eq!(running.fake.calls(), [""; 0]);
    assert!(as_user(0).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_request_that_runs_comes_to_its_end() {
    let running = Running::start(LONG);
    let mut client = running.client().await;
    let asked = request("POST", "/v1/workloads/slow/stop", &[("host", "agent")], "");
    let answer = tokio::spawn(async move { client.send_request(asked).await.unwrap().status() });
    running.fake.begun.subscribe().wait_for(|begun| *begun == 1).await.unwrap();
    running.closing.cancel();
    running.fake.release.send_replace(true);
    assert_eq!(answer.await.unwrap().as_u16(), 200);
    running.ended().await;
}

#[tokio::test]
async fn a_request_that_does_not_end_is_ended_at_the_limit() {
    let running = Running::start(Duration::from_millis(1));
    let mut client = running.client().await;
    let asked = request("POST", "/v1/workloads/slow/stop", &[("host", "agent")], "");
    let answer = tokio::spawn(async move { client.send_request(asked).await });
    running.fake.begun.subscribe().wait_for(|begun| *begun == 1).await.unwrap();
    running.closing.cancel();
    running.ended().await;
    assert!(answer.await.unwrap().is_err());
}
