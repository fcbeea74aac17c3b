//! A stand-in for an agent: an HTTP server on a Unix socket that answers as a test wants and remembers what it was asked.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A request as the stand-in saw it.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) what: String,
    pub(crate) forward_to: Option<String>,
    pub(crate) body: Value,
}

/// How the stand-in answers.
pub(crate) enum Answer {
    /// With JSON.
    Json(u16, Value),
    /// With nothing.
    Nothing(u16),
    /// With these lines, and the end.
    Lines(Vec<Value>),
    /// With these lines, and then nothing until the other side is gone.
    LinesWithoutEnd(Vec<Value>),
    /// With the connection cut after these lines.
    LinesThenCut(Vec<Value>),
    /// An exec: what comes in after the first line goes out as stdout; at the end the exit.
    Echo(Value),
}

/// What a test can look at while the stand-in works.
#[derive(Default)]
pub(crate) struct Record {
    asked: Mutex<Vec<Asked>>,
    abandoned: Mutex<bool>,
    changed: Condvar,
}

impl Record {
    /// Everything but questions after its health.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().iter().filter(|asked| asked.what != "GET /v1/health").cloned().collect()
    }

    /// Whether the command left an answer without end.
    pub(crate) fn is_abandoned(&self) -> bool {
        *self.abandoned.lock().unwrap()
    }

    /// Waits until something of that name was asked.
    pub(crate) fn wait_for(&self, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        let mut asked = self.asked.lock().unwrap();
        while !asked.iter().any(|asked| asked.what == what) {
            let left = deadline.checked_duration_since(Instant::now()).unwrap_or_else(|| panic!("nobody asked {what}"));
            asked = self.changed.wait_timeout(asked, left).unwrap().0;
        }
    }
}

type Script = dyn Fn(&str, &Record) -> Answer + Send + Sync;
type Body = BoxBody<Bytes, std::io::Error>;

/// The stand-in; ends when dropped.
pub(crate) struct StandIn {
    directory: tempfile::TempDir,
    pub(crate) record: Arc<Record>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl StandIn {
    /// An agent of node1 that is healthy and answers everything else by `script`, which gets `METHOD /path?query`.
    pub(crate) fn start(script: impl Fn(&str, &Record) -> Answer + Send + Sync + 'static) -> StandIn {
        let directory = tempfile::tempdir().unwrap();
        let record = Arc::new(Record::default());
        let (end, ended) = oneshot::channel();
        let listener = std::os::unix::net::UnixListener::bind(directory.path().join("agent.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let for_server = (record.clone(), Arc::new(script) as Arc<Script>);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, for_server) => {}
                    _ = ended => {}
                }
            });
        });
        StandIn { directory, record, end: Some(end), thread: Some(thread) }
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        drop(self.end.take());
        let ended = self.thread.take().map(|thread| thread.join());
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

async fn serve(listener: std::os::unix::net::UnixListener, (record, script): (Arc<Record>, Arc<Script>)) {
    let listener = tokio::net::UnixListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (record, script) = (record.clone(), script.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| answer(request, record.clone(), script.clone()));
            // A command that leaves early, or an answer that is cut on purpose, ends this with an error.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    record: Arc<Record>,
    script: Arc<Script>,
) -> Result<Response<Body>, Infallible> {
    let what = format!("{} {}", request.method(), request.uri());
    let forward_to = request.headers().get("x-migrate-node").map(|v| v.to_str().unwrap().to_owned());
    if what == "GET /v1/health" {
        assert_eq!(forward_to, None, "health is asked of the agent itself");
        return Ok(json_response(200, &json!({"node": "node1", "version": "0", "criu_version": null, "ready": true})));
    }
    let mut incoming = request.into_body();
    let is_exec = what.ends_with("/exec");
    // An exec's body goes on while the answer is already coming.
    let first = if is_exec { first_line(&mut incoming).await } else { whole(&mut incoming).await };
    let body = serde_json::from_slice(&first.0).unwrap_or(Value::Null);
    record.asked.lock().unwrap().push(Asked { what: what.clone(), forward_to, body });
    record.changed.notify_all();
    Ok(match script(&what, &record) {
        Answer::Json(status, value) => json_response(status, &value),
        Answer::Nothing(status) => {
            Response::builder().status(status).body(Full::default().map_err(|e| match e {}).boxed()).unwrap()
        }
        Answer::Lines(lines) => streamed(stream::iter(lines).map(|line| Ok(line_of(&line)))),
        Answer::LinesWithoutEnd(lines) => {
            let guard = Abandonment(record);
            let without_end = stream::pending().inspect(move |_: &std::io::Result<Bytes>| {
                let _ = &guard;
            });
            streamed(stream::iter(lines).map(|line| Ok(line_of(&line))).chain(without_end))
        }
        Answer::LinesThenCut(lines) => {
            let cut = stream::once(async { Err(std::io::ErrorKind::ConnectionReset.into()) });
            streamed(stream::iter(lines).map(|line| Ok(line_of(&line))).chain(cut))
        }
        Answer::Echo(exit) => {
            let rest = stream::once(async move { Ok(first.1) })
                .chain(incoming.into_data_stream().map(|data| data.map_err(std::io::Error::other)));
            let echoed = rest.filter(|data| std::future::ready(!data.as_ref().is_ok_and(|d| d.is_empty())));
            let echoed = echoed.map(|data| data.map(|d| line_of(&json!({"stdout": BASE64_STANDARD.encode(d)}))));
            streamed(echoed.chain(stream::once(async move { Ok(line_of(&exit)) })))
        }
    })
}

/// Tells when the answer without end is dropped, which is when the command has gone.
struct Abandonment(Arc<Record>);

impl Drop for Abandonment {
    fn drop(&mut self) {
        *self.0.abandoned.lock().unwrap() = true;
    }
}

fn line_of(value: &Value) -> Bytes {
    format!("{value}\n").into()
}

fn json_response(status: u16, value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|e| match e {}).boxed();
    Response::builder().status(status).body(body).unwrap()
}

fn streamed(lines: impl Stream<Item = std::io::Result<Bytes>> + Send + Sync + 'static) -> Response<Body> {
    Response::new(BodyExt::boxed(StreamBody::new(lines.map(|line| line.map(Frame::data)))))
}

/// The first line, and what came with it.
async fn first_line(body: &mut Incoming) -> (Vec<u8>, Bytes) {
    let mut seen = Vec::new();
    while let Some(frame) = body.frame().await {
        seen.extend_from_slice(&frame.unwrap().into_data().unwrap());
        if let Some(at) = seen.iter().position(|b| *b == b'\n') {
            let rest = Bytes::copy_from_slice(&seen[at + 1..]);
            seen.truncate(at);
            return (seen, rest);
        }
    }
    (seen, Bytes::new())
}

async fn whole(body: &mut Incoming) -> (Vec<u8>, Bytes) {
    (body.collect().await.unwrap().to_bytes().to_vec(), Bytes::new())
}

/// A line of `ps`.
pub(crate) fn workload(name: &str, node: &str, epoch: u64, state: &str) -> Value {
    json!({
        "name": name, "state": state, "node": node, "epoch": epoch, "pid": 4711, "started": "2026-11-21T10:00:00.000Z",
        "restarts": 0, "cpu_percent": 12.5, "rss_bytes": 67_108_864, "layer_bytes": 4096, "health": "none", "group": null,
        "ip": null, "last_checkpoint": null, "exit": null, "reason": null,
    })
}

/// An error's body.
pub(crate) fn problem(code: &str, message: &str, hint: &str) -> Value {
    json!({"error": {"code": code, "message": message, "hint": hint}})
}
