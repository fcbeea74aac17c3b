//! A real S3 server in this process: s3s with a directory below it. It can be killed, started again at its place, and made to wait.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) const BUCKET: &str = "backups";
pub(crate) const KEY: &str = "THEKEY";
pub(crate) const SECRET: &str = "the-secret";

pub(crate) struct Server {
    root: tempfile::TempDir,
    address: SocketAddr,
    /// While this is false, requests are taken and not answered.
    answers: watch::Sender<bool>,
    /// How many requests have come.
    requests: watch::Sender<u64>,
    running: Option<tokio::task::AbortHandle>,
}

impl Server {
    pub(crate) async fn start() -> Server {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answers, requests) = (watch::Sender::new(true), watch::Sender::new(0));
        let mut server = Server { root, address, answers, requests, running: None };
        server.serve(listener);
        server
    }

    fn serve(&mut self, listener: TcpListener) {
        let mut builder = S3ServiceBuilder::new(FileSystem::new(self.root.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let (service, answers, requests) = (builder.build(), self.answers.subscribe(), self.requests.clone());
        // Its connections end with it.
        let serving = async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (service, answers, requests) = (service.clone(), answers.clone(), requests.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        let (service, mut answers): (S3Service, _) = (service.clone(), answers.clone());
                        requests.send_modify(|count| *count += 1);
                        async move {
                            let _ = answers.wait_for(|answers| *answers).await;
                            Service::call(&service, request).await
                        }
                    });
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        };
        self.running = Some(tokio::spawn(serving).abort_handle());
    }

    /// Ends it with all of its connections.
    pub(crate) fn kill(&mut self) {
        self.running.take().unwrap().abort();
    }

    /// At the same place, with what it had.
    pub(crate) async fn start_again(&mut self) {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
            tokio::task::yield_now().await;
        };
        self.serve(listener);
    }

    /// Whether it answers. Requests are counted anew.
    pub(crate) fn answer(&self, answers: bool) {
        self.requests.send_replace(0);
        self.answers.send_replace(answers);
    }

    pub(crate) async fn wait_for_requests(&self, count: u64) {
        let mut requests = self.requests.subscribe();
        let came = requests.wait_for(|came| *came >= count);
        tokio::time::timeout(Duration::from_secs(30), came).await.unwrap().unwrap();
    }

    pub(crate) fn url(&self) -> String {
        format!("s3://{BUCKET}/site?endpoint=http://{}&region=here&allow-http=true", self.address)
    }

    /// Where an object lies.
    pub(crate) fn object(&self, name: &str) -> PathBuf {
        self.root.path().join(BUCKET).join("site").join(name)
    }

    pub(crate) fn credentials(&self) -> tempfile::NamedTempFile {
        credentials(KEY, SECRET)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }
}

pub(crate) fn credentials(key: &str, secret: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    write_credentials(file.path(), key, secret);
    file
}

pub(crate) fn write_credentials(path: &Path, key: &str, secret: &str) {
    std::fs::write(path, format!("AWS_ACCESS_KEY_ID={key}\nAWS_SECRET_ACCESS_KEY={secret}\n")).unwrap();
}
