//! One agent's API, reached through another: requests and answers as messages of a session.

use axum::Router;
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use migrate_proto::error::{Code, Problem};
use migrate_proto::message::Message;
use migrate_proto::name::NodeName;
use tokio::sync::mpsc;

use crate::api;
use crate::channel;
use crate::control::{ByteStream, ForwardedRequest, ForwardedResponse};
use crate::peers::Peers;
use crate::talk::{self, Listener, Purpose, Speaker, Talk};

/// Below the limit of a message.
const PIECE: usize = 256 << 10;
/// Pieces that wait. A peer's can be of a mebibyte each, and it may have many requests.
const QUEUE: usize = 2;

/// Has another node answer.
pub async fn ask(peers: &Peers, node: &NodeName, request: ForwardedRequest) -> Result<ForwardedResponse, Problem> {
    let Talk { speaker, mut listener, .. } = peers.call(node, Purpose::Request).await?;
    speaker.say(&Message::Request { method: request.method.to_string(), path: request.path }).await?;
    let sending = tokio::spawn(send_body(request.body, speaker.clone(), Message::RequestBody, Message::RequestEnd));
    let status = match listener.expect().await? {
        Message::ResponseHead { status } => status,
        other => return Err(talk::unexpected(&other)),
    };
    let status = StatusCode::from_u16(status).map_err(|error| Problem::new(Code::Corrupt, error.to_string()))?;
    let body = receive_answer(listener, speaker, sending.abort_handle());
    Ok(ForwardedResponse { status, body })
}

/// Answers what another agent asks.
pub async fn serve(router: Router, talk: Talk) {
    let Talk { speaker, mut listener, peer, .. } = talk;
    let request = match listener.expect_soon().await {
        Ok(Message::Request { method, path }) => {
            Method::from_bytes(method.as_bytes()).ok().map(|method| (method, path))
        }
        _ => None,
    };
    let Some((method, path)) = request else { return tracing::info!(peer = %peer.node, "a request came oddly") };
    let body = receive_request(listener);
    let response = api::answer(&router, ForwardedRequest { method, path, body }).await;
    let head = Message::ResponseHead { status: response.status.as_u16() };
    if speaker.say(&head).await.is_ok()
        && send_body(response.body, speaker.clone(), Message::ResponseBody, Message::ResponseEnd).await
    {
        let _ = speaker.close().await;
    }
}

/// Sends a body to its end. False where it broke off, or nobody listens.
async fn send_body(mut body: ByteStream, speaker: Speaker, wrap: fn(Vec<u8>) -> Message, end: Message) -> bool {
    let mut gone = speaker.link();
    loop {
        let piece = tokio::select! {
            piece = body.next() => piece,
            // The other side is gone: dropping the body tells whoever makes it.
            _ = gone.wait_for(|state| *state == migrate_transport::session::LinkState::Gone) => return false,
        };
        match piece {
            Some(Ok(bytes)) => {
                for part in bytes.chunks(PIECE) {
                    if speaker.say(&wrap(part.to_vec())).await.is_err() {
                        return false;
                    }
                }
            }
            Some(Err(_)) => return false,
            None => return speaker.say(&end).await.is_ok(),
        }
    }
}

/// The answer's body as it comes. Dropping it ends the conversation, and so tells the other side.
fn receive_answer(mut listener: Listener, speaker: Speaker, sending: tokio::task::AbortHandle) -> ByteStream {
    let (tell, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        loop {
            let piece = tokio::select! {
                piece = next_piece(&mut listener) => piece,
                () = tell.closed() => break,
            };
            let Some(piece) = piece else { break };
            let over = piece.is_err();
            if tell.send(piece).await.is_err() || over {
                break;
            }
        }
        // An answer that is complete, or that nobody wants, needs no more of the request.
        drop(tell);
        sending.abort();
        let _ = speaker.close().await;
    });
    channel::stream(receiver)
}

/// The request's body as it comes. Where nobody wants it, it is heard to its end all the same: a conversation of which a
/// part is not heard is broken.
fn receive_request(mut listener: Listener) -> ByteStream {
    let (tell, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        while let Some(piece) = next_piece(&mut listener).await {
            let over = piece.is_err();
            let _ = tell.send(piece).await;
            if over {
                return;
            }
        }
        drop(tell);
        // Whoever asked says when it is done.
        let _ = listener.hear().await;
    });
    channel::stream(receiver)
}

type Piece = std::io::Result<Bytes>;

/// The next piece of a body; `None` at its end.
async fn next_piece(listener: &mut Listener) -> Option<Piece> {
    let broken = |what: String| Some(Err(std::io::Error::new(std::io::ErrorKind::ConnectionReset, what)));
    match listener.hear().await {
        Ok(Some((Message::RequestBody(bytes) | Message::ResponseBody(bytes), _))) => Some(Ok(bytes.into())),
        Ok(Some((Message::RequestEnd | Message::ResponseEnd, _))) => None,
        Ok(Some((other, _))) => broken(talk::unexpected(&other).message),
        Ok(None) => broken("the other agent broke off".into()),
        Err(problem) => broken(problem.message),
    }
}
