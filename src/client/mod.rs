//! HTTP/1.1 over an agent's Unix socket: one connection for each request, JSON both ways.

pub(crate) mod choose;
pub(crate) mod follow;
pub(crate) mod lines;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use migrate_proto::api::ErrorBody;
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::NodeName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use lines::Lines;

/// An answer that is no stream may have this many bytes.
const ANSWER_LIMIT: usize = 64 << 20;

/// Why a request was not answered as hoped.
#[derive(Debug, Error)]
pub(crate) enum ClientError {
    #[error("no agent answers at {}: {source}", socket.display())]
    Unreachable { socket: PathBuf, source: io::Error },
    #[error("the agent at {} did not answer within {} ms", socket.display(), limit.as_millis())]
    Silent { socket: PathBuf, limit: Duration },
    #[error("the agent at {} ended the connection: {source}", socket.display())]
    Cut { socket: PathBuf, source: hyper::Error },
    #[error("the agent at {} ended its answer before it was complete", socket.display())]
    Incomplete { socket: PathBuf },
    #[error("the agent at {} answered something that is not understood ({what}): {source}", socket.display())]
    NotUnderstood { socket: PathBuf, what: String, source: serde_json::Error },
    #[error("the agent at {} answered more than {limit} bytes at once", socket.display())]
    TooMuch { socket: PathBuf, limit: usize },
    #[error("the request cannot be put into words: {0}")]
    Request(#[from] RequestError),
    #[error(transparent)]
    Refused(#[from] Problem),
}

/// Why a request could not be made.
#[derive(Debug, Error)]
pub(crate) enum RequestError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Http(#[from] hyper::http::Error),
}

impl ClientError {
    /// The exit code of `migrate` for this error.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            ClientError::Refused(problem) => problem.code.exit_code(),
            ClientError::Unreachable { .. } | ClientError::Silent { .. } => 4,
            ClientError::Cut { .. } | ClientError::Incomplete { .. } => 4,
            ClientError::NotUnderstood { .. } | ClientError::TooMuch { .. } | ClientError::Request(_) => 1,
        }
    }

    /// Whether the agent is to blame rather than what was asked of it.
    pub(crate) fn lost_the_agent(&self) -> bool {
        self.exit_code() == 4
    }
}

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// One agent.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    /// Its socket.
    pub(crate) socket: PathBuf,
    /// To which node it shall hand requests on; itself where absent.
    pub(crate) forward_to: Option<NodeName>,
    /// How long an answer may take.
    pub(crate) limit: Option<Duration>,
}

/// A connection on which a request was sent. Dropping it closes it, and with it whatever the request had started.
struct Exchange {
    response: Response<Incoming>,
    connection: ConnectionTask,
}

/// The task that drives a connection; ends with this value.
#[derive(Debug)]
struct ConnectionTask(JoinHandle<()>);

impl Drop for ConnectionTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Client {
    /// GET, and the whole answer.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.whole(Method::GET, path, empty()).await
    }

    /// POST with a JSON body, and the whole answer.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.whole(Method::POST, path, json(body)?).await
    }

    /// POST without a body, and the whole answer.
    pub(crate) async fn order<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.whole(Method::POST, path, empty()).await
    }

    /// POST without a body; there is nothing to answer.
    pub(crate) async fn command(&self, path: &str) -> Result<(), ClientError> {
        self.within(async { self.exchange(Method::POST, path, empty()).await.map(drop) }).await
    }

    /// DELETE; there is nothing to answer.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), ClientError> {
        self.within(async { self.exchange(Method::DELETE, path, empty()).await.map(drop) }).await
    }

    /// GET, and an answer of lines.
    pub(crate) async fn get_lines<T: DeserializeOwned>(&self, path: &str) -> Result<Lines<T>, ClientError> {
        self.lines(Method::GET, path, empty()).await
    }

    /// POST with a JSON body, and an answer of lines.
    pub(crate) async fn post_lines<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<Lines<T>, ClientError> {
        self.lines(Method::POST, path, json(body)?).await
    }

    /// POST with a body that goes on while the answer is already coming.
    pub(crate) async fn converse<T: DeserializeOwned>(
        &self,
        path: &str,
        body: impl Stream<Item = Bytes> + Send + Sync + 'static,
    ) -> Result<Lines<T>, ClientError> {
        use futures_util::StreamExt;
        let frames = body.map(|bytes| Ok(Frame::data(bytes)));
        self.lines(Method::POST, path, BodyExt::boxed(StreamBody::new(frames))).await
    }

    async fn lines<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<Lines<T>, ClientError> {
        let Exchange { response, connection } = self.within(self.exchange(method, path, body)).await?;
        Ok(Lines::new(self.socket.clone(), response.into_body(), connection))
    }

    async fn whole<T: DeserializeOwned>(&self, method: Method, path: &str, body: Body) -> Result<T, ClientError> {
        self.within(async {
            let exchange = self.exchange(method, path, body).await?;
            let bytes = self.collect(exchange.response).await?;
            serde_json::from_slice(&bytes).map_err(|source| self.not_understood(path, source))
        })
        .await
    }

    /// Sends, and waits for the head of the answer. An answer that is no success is an error.
    async fn exchange(&self, method: Method, path: &str, body: Body) -> Result<Exchange, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Unreachable { socket: self.socket.clone(), source })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|source| self.cut(source))?;
        // How the connection ended reaches the caller through the answer.
        let connection = ConnectionTask(tokio::spawn(async move {
            let _ = connection.await;
        }));
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "migrate")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(node) = &self.forward_to {
            request = request.header("x-migrate-node", node.as_str());
        }
        let request = request.body(body).map_err(RequestError::from)?;
        let response = sender.send_request(request).await.map_err(|source| self.cut(source))?;
        if response.status().is_success() {
            return Ok(Exchange { response, connection });
        }
        let status = response.status();
        let bytes = self.collect(response).await?;
        Err(ClientError::Refused(match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(body) => body.error,
            Err(_) => Problem::new(Code::Internal, format!("the agent answered {status} to {path}, without a reason"))
                .hint("the command and the agent may be of different versions"),
        }))
    }

    async fn collect(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        let mut body = response.into_body();
        let mut whole = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame.map_err(|source| self.cut(source))?.into_data() {
                whole.extend_from_slice(&data);
            }
            if whole.len() > ANSWER_LIMIT {
                return Err(ClientError::TooMuch { socket: self.socket.clone(), limit: ANSWER_LIMIT });
            }
        }
        Ok(whole.into())
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        match self.limit {
            None => work.await,
            Some(limit) => tokio::time::timeout(limit, work)
                .await
                .unwrap_or_else(|_| Err(ClientError::Silent { socket: self.socket.clone(), limit })),
        }
    }

    fn cut(&self, source: hyper::Error) -> ClientError {
        ClientError::Cut { socket: self.socket.clone(), source }
    }

    fn not_understood(&self, path: &str, source: serde_json::Error) -> ClientError {
        ClientError::NotUnderstood { socket: self.socket.clone(), what: path.to_owned(), source }
    }
}

fn empty() -> Body {
    Full::new(Bytes::new()).boxed()
}

fn json(body: &impl Serialize) -> Result<Body, ClientError> {
    Ok(Full::new(Bytes::from(serde_json::to_vec(body).map_err(RequestError::from)?)).boxed())
}
