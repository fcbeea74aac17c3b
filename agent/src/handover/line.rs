//! A handover's connection to its peer: words go out in order, what comes in becomes input, and when it is lost it is made
//! anew for as long as it is needed.

use std::time::Duration;

use bytes::Bytes;
use migrate_proto::error::Problem;
use migrate_proto::message::Message;
use migrate_proto::name::NodeName;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Ground, Input};
use crate::talk::{Listener, Purpose, Speaker, Talk};

const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(5);

/// What to do with a message that has bulk bytes, or is about streams: it never becomes input.
#[async_trait::async_trait]
pub(super) trait Intake: Send + 'static {
    /// Takes the message, or gives it back because it is for the machine.
    async fn take(&mut self, message: Message, bulk: Bytes) -> Result<Option<Message>, Problem>;
}

/// For the side to which no bulk comes.
pub(super) struct NoBulk;

#[async_trait::async_trait]
impl Intake for NoBulk {
    async fn take(&mut self, message: Message, bulk: Bytes) -> Result<Option<Message>, Problem> {
        if bulk.is_empty() { Ok(Some(message)) } else { Err(crate::talk::unexpected(&message)) }
    }
}

/// One side's connection.
pub(super) struct Line<E> {
    ground: Ground,
    peer: NodeName,
    inputs: mpsc::UnboundedSender<Input<E>>,
    current: Option<Current>,
    redial: Option<JoinHandle<()>>,
}

struct Current {
    speaker: Speaker,
    words: mpsc::UnboundedSender<Message>,
    writer: JoinHandle<()>,
    reader: JoinHandle<()>,
}

impl<E: Send + 'static> Line<E> {
    /// No connection yet.
    pub(super) fn new(ground: Ground, peer: NodeName, inputs: mpsc::UnboundedSender<Input<E>>) -> Line<E> {
        Line { ground, peer, inputs, current: None, redial: None }
    }

    /// Uses this conversation from now on.
    pub(super) fn connect(&mut self, talk: Talk, intake: impl Intake) {
        self.hang_up();
        if let Some(redial) = self.redial.take() {
            redial.abort();
        }
        let (words, queue) = mpsc::unbounded_channel();
        let writer = tokio::spawn(write(talk.speaker.clone(), queue));
        let reader = tokio::spawn(read(talk.listener, intake, self.inputs.clone()));
        self.current = Some(Current { speaker: talk.speaker, words, writer, reader });
    }

    /// For bulk bytes beside the words; `None` where there is no connection.
    pub(super) fn speaker(&self) -> Option<Speaker> {
        self.current.as_ref().map(|current| current.speaker.clone())
    }

    /// Says something after everything that was said before. Without a connection it is lost.
    pub(super) fn say(&self, message: Message) {
        if let Some(current) = &self.current {
            let _ = current.words.send(message);
        }
    }

    /// The conversation is over: what is left of it goes.
    pub(super) fn hang_up(&mut self) {
        if let Some(current) = self.current.take() {
            current.reader.abort();
            current.writer.abort();
        }
    }

    /// Says the last words, and waits (not for ever) until they have arrived.
    pub(super) async fn part(&mut self) {
        if let Some(redial) = self.redial.take() {
            redial.abort();
        }
        let Some(current) = self.current.take() else { return };
        drop(current.words);
        let parting = async {
            let _ = current.writer.await;
            let _ = current.speaker.close().await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), parting).await;
        current.reader.abort();
    }

    /// Tries to reach the peer until it answers; then there is a new [`Input::Talk`].
    pub(super) fn redial(&mut self) {
        if self.redial.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let (peers, peer, inputs) = (self.ground.peers.clone(), self.peer.clone(), self.inputs.clone());
        self.redial = Some(tokio::spawn(async move {
            let mut pause = FIRST_RETRY;
            loop {
                match peers.call(&peer, Purpose::Handover).await {
                    Ok(talk) => return drop(inputs.send(Input::Talk(Box::new(talk)))),
                    Err(problem) => tracing::info!(%peer, %problem, "trying again"),
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_RETRY);
            }
        }));
    }
}

impl<E> Drop for Line<E> {
    fn drop(&mut self) {
        if let Some(redial) = &self.redial {
            redial.abort();
        }
        if let Some(current) = &self.current {
            current.reader.abort();
            current.writer.abort();
        }
    }
}

async fn write(speaker: Speaker, mut queue: mpsc::UnboundedReceiver<Message>) {
    while let Some(message) = queue.recv().await {
        if let Err(problem) = speaker.say(&message).await {
            // The reader sees the end of the conversation as well, and says so.
            return tracing::info!(%problem, kind = message.kind(), "a message was lost");
        }
    }
}

async fn read<E>(mut listener: Listener, mut intake: impl Intake, inputs: mpsc::UnboundedSender<Input<E>>) {
    loop {
        let taken = match listener.hear().await {
            Ok(Some((message, bulk))) => intake.take(message, bulk).await,
            Ok(None) => break,
            Err(problem) => Err(problem),
        };
        match taken {
            Ok(Some(message)) => {
                if inputs.send(Input::Heard(message)).is_err() {
                    return;
                }
            }
            Ok(None) => {}
            Err(problem) => {
                tracing::info!(%problem, "the conversation is over");
                break;
            }
        }
    }
    let _ = inputs.send(Input::Silence);
}
