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
use crate::control::{ByteStream, ForwardedRequest, ForwardedResponse};
use crate::peers::Peers;
use crate::talk::{self, Listener, Purpose, Speaker, Talk};

/// Below the limit of a message.
const PIECE: usize = 256 << 10;
const QUEUE: usize = 16;

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
    let body = receive_body(listener, speaker, Some(sending.abort_handle()));
    Ok(ForwardedResponse { status, body })
}

/// Answers what another agent asks.
pub async fn serve(router: Router, talk: Talk) {
    let Talk { speaker, mut listener, peer } = talk;
    let request = match listener.expect().await {
        Ok(Message::Request { method, path }) => Method::from_bytes(method.as_bytes()).ok().map(|method| (method, path)),
        _ => None,
    };
    let Some((method, path)) = request else { return tracing::info!(peer = %peer.node, "a request came oddly") };
    let body = receive_body(listener, speaker.clone(), None);
    let response = api::answer(&router, ForwardedRequest { method, path, body }).await;
    let head = Message::ResponseHead { status: response.status.as_u16() };
    if speaker.say(&head).await.is_ok() && send_body(response.body, speaker.clone(), Message::ResponseBody, Message::ResponseEnd).await {
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

/// A body as it comes. Dropping it ends the conversation, and so tells the other side.
fn receive_body(mut listener: Listener, speaker: Speaker, sending: Option<tokio::task::AbortHandle>) -> ByteStream {
    let (tell, receiver) = mpsc::channel::<std::io::Result<Bytes>>(QUEUE);
    tokio::spawn(async move {
        let broken = |what: String| Err(std::io::Error::new(std::io::ErrorKind::ConnectionReset, what));
        loop {
            let heard = tokio::select! {
                heard = listener.hear() => heard,
                () = tell.closed() => break,
            };
            let piece = match heard {
                Ok(Some((Message::RequestBody(bytes) | Message::ResponseBody(bytes), _))) => Ok(bytes.into()),
                Ok(Some((Message::RequestEnd | Message::ResponseEnd, _))) => break,
                Ok(Some((other, _))) => broken(talk::unexpected(&other).message),
                Ok(None) => broken("the other agent broke off".into()),
                Err(problem) => broken(problem.message),
            };
            let over = piece.is_err();
            if tell.send(piece).await.is_err() || over {
                break;
            }
        }
        drop(tell);
        if let Some(sending) = sending {
            // An answer that is complete, or that nobody wants, needs no more of the request.
            sending.abort();
            let _ = speaker.close().await;
        }
    });
    futures_util::stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) }).boxed()
}
