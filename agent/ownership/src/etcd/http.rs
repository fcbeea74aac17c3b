//! One question over HTTP to whichever of etcd's servers answers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// An answer may have this many bytes: a record of tens of thousands of workloads.
const ANSWER_LIMIT: usize = 256 << 20;
/// How many connections are kept for the next question.
const KEPT: usize = 8;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum CallError {
    /// Nothing was sent.
    #[error("etcd cannot be reached: {0}")]
    Unreachable(String),
    /// It was sent, and may have been done.
    #[error("etcd did not answer: {0}")]
    Lost(String),
    /// The server said no.
    #[error("etcd: {message}")]
    Refused { code: i64, message: String },
}

impl CallError {
    /// Whether the question has surely had no effect.
    pub(super) fn undone(&self) -> bool {
        match self {
            CallError::Unreachable(_) => true,
            CallError::Lost(_) => false,
            // Invalid, no such, denied, exhausted, precondition, out of range, unimplemented, unauthenticated.
            CallError::Refused { code: 3 | 5 | 7 | 8 | 9 | 11 | 12 | 16, .. } => true,
            CallError::Refused { message, .. } => message.ends_with("no leader"),
        }
    }
}

/// As etcd's gateway says it.
#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(default)]
    error: String,
}

/// The servers of one etcd.
pub(super) struct Servers {
    all: Vec<String>,
    /// The one that is asked first.
    first: AtomicUsize,
    idle: Mutex<Vec<(usize, SendRequest<Full<Bytes>>)>>,
}

impl Servers {
    pub(super) fn new(all: Vec<String>) -> Servers {
        Servers { all, first: AtomicUsize::new(0), idle: Mutex::default() }
    }

    /// Asks what changes nothing: one server after the other, each for its part of the time.
    pub(super) async fn read(&self, path: &str, body: &Bytes, deadline: Instant) -> Result<Bytes, CallError> {
        let mut error = CallError::Unreachable("there was no time".to_owned());
        for asked in 0..self.all.len() {
            let now = Instant::now();
            if now >= deadline {
                break;
            }
            let part = deadline.duration_since(now) / u32::try_from(self.all.len() - asked).unwrap_or(1);
            match self.ask(path, body, now + part).await {
                Err(failed) if is_the_servers(&failed) => error = failed,
                answered => return answered,
            }
        }
        Err(error)
    }

    /// Asks for a change: of another server only where the first has surely not seen it.
    pub(super) async fn write(&self, path: &str, body: &Bytes, deadline: Instant) -> Result<Bytes, CallError> {
        let mut answer = self.ask(path, body, deadline).await;
        for _ in 1..self.all.len() {
            match &answer {
                Err(CallError::Unreachable(_)) if Instant::now() < deadline => {}
                _ => break,
            }
            answer = self.ask(path, body, deadline).await;
        }
        answer
    }

    /// The answer that goes on for as long as it is read.
    pub(super) async fn stream(&self, path: &str, body: Bytes, deadline: Instant) -> Result<Stream, CallError> {
        let number = self.first.load(Ordering::Relaxed);
        let begun = async {
            let mut sender = self.connect(number).await?;
            let request = self.request(number, path, body)?;
            let answer = sender.send_request(request).await.map_err(|error| CallError::Lost(error.to_string()))?;
            Ok(Stream { body: answer.into_body(), received: Vec::new(), searched: 0, _connection: sender })
        };
        let stream = timeout_at(deadline, begun).await;
        stream
            .unwrap_or_else(|_| Err(CallError::Lost("it took too long".to_owned())))
            .inspect_err(|_| self.pass(number))
    }

    /// Whoever asked this one finds no answer there: the next one is asked first from now on.
    fn pass(&self, number: usize) {
        let next = (number + 1) % self.all.len();
        let _ = self.first.compare_exchange(number, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    async fn ask(&self, path: &str, body: &Bytes, deadline: Instant) -> Result<Bytes, CallError> {
        let number = self.first.load(Ordering::Relaxed);
        let sender = match self.kept(number) {
            Some(sender) => Ok(sender),
            None => timeout_at(deadline, self.connect(number))
                .await
                .unwrap_or_else(|_| Err(CallError::Unreachable(format!("{} does not answer", self.all[number])))),
        };
        let answered = match sender {
            Ok(sender) => timeout_at(deadline, self.exchange(number, sender, path, body))
                .await
                .unwrap_or_else(|_| Err(CallError::Lost(format!("{} took too long", self.all[number])))),
            Err(error) => Err(error),
        };
        answered.inspect_err(|error| {
            if is_the_servers(error) {
                self.pass(number);
            }
        })
    }

    async fn exchange(
        &self,
        number: usize,
        mut sender: SendRequest<Full<Bytes>>,
        path: &str,
        body: &Bytes,
    ) -> Result<Bytes, CallError> {
        let request = self.request(number, path, body.clone())?;
        let answer = match sender.try_send_request(request).await {
            Ok(answer) => answer,
            Err(mut failed) => match failed.take_message() {
                // A kept connection that the server has closed meanwhile.
                Some(request) => {
                    sender = self.connect(number).await?;
                    sender.send_request(request).await.map_err(|error| CallError::Lost(error.to_string()))?
                }
                None => return Err(CallError::Lost(failed.into_error().to_string())),
            },
        };
        let status = answer.status();
        let whole = collect(answer).await?;
        self.keep(number, sender);
        if status == StatusCode::OK {
            return Ok(whole);
        }
        let said = serde_json::from_slice::<Said>(&whole);
        Err(match said {
            Ok(Said { code, message, error }) => {
                CallError::Refused { code, message: if message.is_empty() { error } else { message } }
            }
            Err(_) => CallError::Refused { code: 0, message: format!("it answered {status} to {path}") },
        })
    }

    fn request(&self, number: usize, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, CallError> {
        Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, &self.all[number])
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| CallError::Unreachable(error.to_string()))
    }

    async fn connect(&self, number: usize) -> Result<SendRequest<Full<Bytes>>, CallError> {
        let server = &self.all[number];
        let unreachable = |error: &dyn std::fmt::Display| CallError::Unreachable(format!("{server}: {error}"));
        let stream = TcpStream::connect(server).await.map_err(|error| unreachable(&error))?;
        // Questions are small, and each waits for its answer.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(&error))?;
        // It ends with the sender, or with the stream of an answer.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn kept(&self, number: usize) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        idle.retain(|(_, sender)| !sender.is_closed());
        let at = idle.iter().position(|(of, sender)| *of == number && sender.is_ready())?;
        Some(idle.swap_remove(at).1)
    }

    fn keep(&self, number: usize, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if idle.len() < KEPT {
            idle.push((number, sender));
        }
    }
}

/// Whether another server may do better.
fn is_the_servers(error: &CallError) -> bool {
    match error {
        CallError::Unreachable(_) | CallError::Lost(_) => true,
        // Unknown, too late, internal, unavailable.
        CallError::Refused { code, .. } => matches!(code, 0 | 2 | 4 | 13 | 14),
    }
}

async fn collect(answer: Response<Incoming>) -> Result<Bytes, CallError> {
    let mut body = answer.into_body();
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CallError::Lost(error.to_string()))?;
        whole.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if whole.len() > ANSWER_LIMIT {
            return Err(CallError::Lost(format!("the answer has more than {ANSWER_LIMIT} bytes")));
        }
    }
    Ok(whole.into())
}

/// An answer line by line.
pub(super) struct Stream {
    body: Incoming,
    received: Vec<u8>,
    /// How much of `received` is known to hold no line's end.
    searched: usize,
    /// The connection ends with it.
    _connection: SendRequest<Full<Bytes>>,
}

impl Stream {
    /// The next line. May be dropped at any await without losing one.
    pub(super) async fn next(&mut self) -> Result<Vec<u8>, CallError> {
        loop {
            let fresh = self.received.iter().skip(self.searched).position(|byte| *byte == b'\n');
            if let Some(end) = fresh.map(|end| self.searched + end) {
                let mut line: Vec<u8> = self.received.drain(..=end).collect();
                line.pop();
                self.searched = 0;
                return Ok(line);
            }
            self.searched = self.received.len();
            match self.body.frame().await {
                Some(Ok(frame)) => self.received.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
                Some(Err(error)) => return Err(CallError::Lost(error.to_string())),
                None => return Err(CallError::Lost("the stream has ended".to_owned())),
            }
            if self.received.len() > ANSWER_LIMIT {
                return Err(CallError::Lost(format!("a line has more than {ANSWER_LIMIT} bytes")));
            }
        }
    }
}

/// How long a question of this kind may take.
pub(super) fn within(limit: Duration) -> Instant {
    Instant::now() + limit
}
