//! A node with the key between a real source and a real target: to node1 it is node3, to node2 it is node1. It passes on what
//! each says, unless the test wants something else. So lies can be told about a real move with a real image.

use bytes::Bytes;
use migrate_proto::message::{AgentFacts, Message};
use migrate_proto::version::SPOKEN;
use migrate_transport::session::Acceptor;
use tokio::sync::mpsc;

use crate::fake::{Fake, REQUEST, TIMING, Talk, node};
use crate::field::{Field, PORT};

/// To whom something is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    Source,
    Target,
}

/// Something to be said.
pub(crate) type Word = (To, Message, Bytes);

/// What becomes of something that was said.
pub(crate) type Tamper<'a> = dyn FnMut(To, Message, Bytes) -> Vec<Word> + Send + 'a;

/// Passes it on as it is.
pub(crate) fn pass(to: To, message: Message, bulk: Bytes) -> Vec<Word> {
    vec![(to, message, bulk)]
}

pub(crate) struct Between {
    /// As node3.
    host: Fake,
    /// As node1.
    guest: Fake,
    acceptor: Acceptor,
}

impl Between {
    pub(crate) async fn stand(field: &Field) -> Between {
        let host = Fake::listening(field, "node3", PORT).await;
        let guest = Fake::start(field, "node1").await;
        let acceptor = Acceptor::start(host.transport.clone(), TIMING);
        Between { host, guest, acceptor }
    }

    /// Passes on one conversation after another, for ever.
    pub(crate) async fn pass_on(mut self, tamper: &mut Tamper<'_>) {
        let (sort, mut sorted) = mpsc::unbounded_channel();
        let facts = self.host.facts();
        // Whoever asks what node3 has is answered beside everything else, as by a node that has nothing.
        let sorting = tokio::spawn(async move {
            while let Some(session) = self.acceptor.next().await {
                if session.purpose() == REQUEST {
                    tokio::spawn(say_that_there_is_nothing(Talk::of(session), facts.clone()));
                } else if sort.send(session).is_err() {
                    return;
                }
            }
        });
        while let Some(session) = sorted.recv().await {
            let purpose = session.purpose();
            let mut source = Talk::of(session);
            let Some((Message::Hello { .. }, _)) = source.hear().await else { continue };
            let welcome = Message::Welcome { version: SPOKEN.max, facts: self.host.facts() };
            if source.try_say(&welcome, Bytes::new()).await.is_err() {
                continue;
            }
            let Ok(mut target) = self.guest.open("node2", purpose).await else { continue };
            if matches!(target.greet(SPOKEN, self.guest.facts()).await, Message::Welcome { .. }) {
                shuttle(source, target, tamper).await;
            }
        }
        sorting.abort();
    }
}

async fn say_that_there_is_nothing(mut talk: Talk, facts: AgentFacts) {
    let Some((Message::Hello { .. }, _)) = talk.hear().await else { return };
    if talk.try_say(&Message::Welcome { version: SPOKEN.max, facts }, Bytes::new()).await.is_err() {
        return;
    }
    while !matches!(talk.answer_or_end().await, Some(Message::RequestEnd) | None) {}
    let answer = [Message::ResponseHead { status: 200 }, Message::ResponseBody(b"[]".to_vec()), Message::ResponseEnd];
    for part in answer {
        let _ = talk.try_say(&part, Bytes::new()).await;
    }
    let _ = tokio::time::timeout(TIMING.silence, talk.sender.close()).await;
}

async fn shuttle(mut source: Talk, mut target: Talk, tamper: &mut Tamper<'_>) {
    loop {
        let words = tokio::select! {
            heard = source.receiver.recv() => decoded(heard).map(|(message, bulk)| {
                tamper(To::Target, readdressed(message), bulk)
            }),
            heard = target.receiver.recv() => decoded(heard).map(|(message, bulk)| tamper(To::Source, message, bulk)),
        };
        let Some(words) = words else { break };
        for (to, message, bulk) in words {
            let talk = if to == To::Source { &source } else { &target };
            if talk.try_say(&message, bulk).await.is_err() {
                break;
            }
        }
    }
    // Whoever still listens hears the last words, and that it is over.
    let closing = async { tokio::join!(source.sender.close(), target.sender.close()) };
    let _ = tokio::time::timeout(TIMING.silence, closing).await;
}

type Received = Result<Option<migrate_transport::parcel::Parcel>, migrate_transport::session::SessionError>;

fn decoded(received: Received) -> Option<(Message, Bytes)> {
    let parcel = received.ok()??;
    Some((migrate_proto::codec::decode(&parcel.header).unwrap(), parcel.bulk))
}

/// The offer is for node3; node2 must think that it is its own.
fn readdressed(message: Message) -> Message {
    match message {
        Message::Offer(mut offer) => {
            offer.to = node("node2");
            Message::Offer(offer)
        }
        other => other,
    }
}
