//! Who is connected to the ROUTER, under which identity, and where its messages go.
//!
//! The door enters an identity before ZeroMQ hears of it. It is taken off when ZeroMQ has read everything that the connection
//! carried, or, should ZeroMQ not say so, a little after the connection has ended.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use migrate_proto::name::NodeName;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use zeromq::{RouterSendHalf, SocketSend};

use super::message;
use crate::door::incoming::Guests;
use crate::door::zmtp::Violation;
use crate::link::{Frames, Link, LinkCut, LinkReceiver, LinkSender};
use crate::session::WINDOW;

/// How much of a link may wait to be read here: a session's window and what surrounds it. A session reads at once, so a peer for
/// which this is not enough does not keep to its credit.
const MOST_WAITING: usize = WINDOW as usize + (8 << 20);
/// What a waiting message takes besides its bytes.
const MESSAGE_COST: usize = 512;
/// How long ZeroMQ may take to read what an ended connection left.
const AFTERLIFE: Duration = Duration::from_secs(5);

/// The list, shared by the door, which enters, and the ROUTER's reader, which delivers.
pub(super) struct Roster {
    links: Mutex<HashMap<Bytes, Entry>>,
    arrivals: mpsc::Sender<Link>,
    router: RouterSendHalf,
    itself: Weak<Roster>,
}

struct Entry {
    messages: mpsc::UnboundedSender<Frames>,
    waiting: Arc<AtomicUsize>,
    stop: CancellationToken,
}

impl Roster {
    pub(super) fn new(router: RouterSendHalf, arrivals: mpsc::Sender<Link>) -> Arc<Roster> {
        Arc::new_cyclic(|itself| Roster { links: Mutex::default(), arrivals, router, itself: itself.clone() })
    }

    /// A message for the link of that identity. One that is not on the list has left.
    pub(super) fn deliver(&self, identity: &Bytes, frames: Frames) {
        let mut links = self.lock();
        let Some(entry) = links.get(identity) else { return };
        let waiting = entry.waiting.fetch_add(size(&frames), Ordering::Relaxed) + size(&frames);
        if waiting > MOST_WAITING {
            tracing::warn!(identity = %identity.escape_ascii(), "a peer sends far more than it may; dropping its connection");
            entry.stop.cancel();
        } else if entry.messages.send(frames).is_ok() {
            return;
        }
        links.remove(identity);
    }

    /// ZeroMQ has read everything that came from that identity.
    pub(super) fn remove(&self, identity: &[u8]) {
        self.lock().remove(identity);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Bytes, Entry>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guests for Roster {
    fn enter(&self, peer: &NodeName, identity: &[u8], stop: CancellationToken) -> Result<(), Violation> {
        let identity = Bytes::copy_from_slice(identity);
        let mut links = self.lock();
        if links.contains_key(&identity) {
            return Err(Violation::Refused("its identity is in use"));
        }
        let Ok(place) = self.arrivals.try_reserve() else {
            return Err(Violation::Refused("too many new links are waiting"));
        };
        let (sender, messages) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        links.insert(identity.clone(), Entry { messages: sender, waiting: waiting.clone(), stop: stop.clone() });
        drop(links);
        let stop = Arc::new(stop.drop_guard());
        place.send(Link {
            peer: peer.clone(),
            sender: Box::new(RouterSender { router: self.router.clone(), identity, _stop: stop.clone() }),
            receiver: Box::new(RouterReceiver { messages, waiting, _stop: stop }),
        });
        Ok(())
    }

    fn leave(&self, identity: &[u8]) {
        let (roster, identity) = (self.itself.clone(), identity.to_vec());
        tokio::spawn(async move {
            tokio::time::sleep(AFTERLIFE).await;
            if let Some(roster) = roster.upgrade() {
                roster.remove(&identity);
            }
        });
    }
}

fn size(frames: &Frames) -> usize {
    frames.iter().map(Bytes::len).sum::<usize>() + MESSAGE_COST
}

/// Sends to one identity. When both halves are gone the connection is stopped.
struct RouterSender {
    router: RouterSendHalf,
    identity: Bytes,
    _stop: Arc<DropGuard>,
}

#[async_trait]
impl LinkSender for RouterSender {
    async fn send(&mut self, mut frames: Frames) -> Result<(), LinkCut> {
        frames.insert(0, self.identity.clone());
        self.router.send(message(frames)?).await.map_err(|_| LinkCut)
    }
}

struct RouterReceiver {
    messages: mpsc::UnboundedReceiver<Frames>,
    waiting: Arc<AtomicUsize>,
    _stop: Arc<DropGuard>,
}

#[async_trait]
impl LinkReceiver for RouterReceiver {
    async fn recv(&mut self) -> Result<Frames, LinkCut> {
        let frames = self.messages.recv().await.ok_or(LinkCut)?;
        self.waiting.fetch_sub(size(&frames), Ordering::Relaxed);
        Ok(frames)
    }
}
