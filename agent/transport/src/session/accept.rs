//! The acceptor's side: greets links, finds or makes the session each belongs to, and forgets sessions that are over.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migrate_proto::name::NodeName;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout};

use super::drive::{Parting, carry};
use super::flow::{NARROW_WINDOW, WINDOW};
use super::shared::Shared;
use super::state::{Ending, Role};
use super::wire::{Header, Kind, refusal};
use super::{LinkState, Session, SessionError, SessionId, Timing};
use crate::link::{Link, Transport};

/// How many sessions may be open at once, in all and with one peer.
const MOST_SESSIONS: usize = 256;
const MOST_SESSIONS_OF_A_PEER: usize = 64;
/// How many sessions of a peer have the full window. Those beyond have a narrow one, so that a peer that fills them all and of
/// which nothing is read takes a bounded part of this node's memory.
const WIDE_SESSIONS_OF_A_PEER: usize = 4;
/// How many links may be waiting for their first message, in all and of one peer. Who says nothing keeps nobody waiting.
const MOST_GREETINGS: usize = 256;
const MOST_GREETINGS_OF_A_PEER: usize = 32;
/// How many ended sessions are remembered, in all and of one peer, so that a peer that missed the end learns how it ended.
const MOST_REMEMBERED: usize = 1024;
const MOST_REMEMBERED_OF_A_PEER: usize = 256;
/// How many new sessions may wait for [`Acceptor::next`].
const MOST_WAITING: usize = 32;

/// A session is the peer's own: another node cannot resume it.
type Key = (NodeName, SessionId);

/// Takes the sessions that peers open.
pub struct Acceptor {
    sessions: mpsc::Receiver<Session>,
    listening: AbortHandle,
}

impl Acceptor {
    /// Starts to take links from the transport. Dropping the acceptor ends that, and every session that it gave out then lives
    /// only as long as its present link.
    pub fn start(transport: Arc<dyn Transport>, timing: Timing) -> Acceptor {
        let (new, sessions) = mpsc::channel(MOST_WAITING);
        let desk = Arc::new(Desk { timing, new, book: Mutex::default() });
        let listening = tokio::spawn(async move { desk.listen(&*transport).await }).abort_handle();
        Acceptor { sessions, listening }
    }

    /// The next session that a peer opens; `None` when the transport is at its end.
    pub async fn next(&mut self) -> Option<Session> {
        self.sessions.recv().await
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Where links are sorted.
struct Desk {
    timing: Timing,
    new: mpsc::Sender<Session>,
    book: Mutex<Book>,
}

/// Which sessions there are, and which there were.
#[derive(Default)]
struct Book {
    open: HashMap<Key, mpsc::Sender<Greeted>>,
    ended: VecDeque<(Key, u64)>,
    /// Whose links wait for their first message.
    greeting: Vec<NodeName>,
}

impl Book {
    fn greeting_of(&self, peer: &NodeName) -> usize {
        self.greeting.iter().filter(|other| *other == peer).count()
    }

    fn remember(&mut self, key: Key, received: u64) {
        let of_this_peer = |ended: &VecDeque<(Key, u64)>| ended.iter().filter(|((peer, _), _)| *peer == key.0).count();
        if of_this_peer(&self.ended) >= MOST_REMEMBERED_OF_A_PEER
            && let Some(oldest) = self.ended.iter().position(|((peer, _), _)| *peer == key.0)
        {
            self.ended.remove(oldest);
        }
        self.ended.push_back((key, received));
        while self.ended.len() > MOST_REMEMBERED {
            self.ended.pop_front();
        }
    }
}

/// A link whose first message is known.
struct Greeted {
    link: Link,
    greeting: Header,
}

/// The answer to a greeting that leads to no session.
struct Refusal {
    detail: u8,
    received: u64,
}

impl Desk {
    async fn listen(self: Arc<Desk>, transport: &dyn Transport) {
        let mut greetings = JoinSet::new();
        loop {
            let link = match transport.accept().await {
                Ok(link) => link,
                Err(error) => return tracing::info!(%error, "no more links"),
            };
            let Some(place) = self.place_for(&link.peer) else {
                tracing::warn!(peer = %link.peer, "too many of its links have not said what they are for");
                continue;
            };
            let desk = self.clone();
            greetings.spawn(async move { desk.greet(link, place).await });
            while greetings.try_join_next().is_some() {}
        }
    }

    fn place_for(self: &Arc<Desk>, peer: &NodeName) -> Option<Greeting> {
        let mut book = self.book();
        let full = book.greeting.len() >= MOST_GREETINGS || book.greeting_of(peer) >= MOST_GREETINGS_OF_A_PEER;
        if full {
            return None;
        }
        book.greeting.push(peer.clone());
        Some(Greeting { desk: self.clone(), peer: peer.clone() })
    }

    async fn greet(self: &Arc<Desk>, mut link: Link, _place: Greeting) {
        let Ok(Ok(frames)) = timeout(self.timing.silence, link.receiver.recv()).await else { return };
        let greeting = match Header::decode(frames) {
            Ok((greeting, _)) if matches!(greeting.kind, Kind::Open | Kind::Resume) => greeting,
            _ => return tracing::warn!(peer = %link.peer, "a link did not begin with a greeting"),
        };
        let key = (link.peer.clone(), greeting.session);
        match self.find_or_make(key, &greeting) {
            Ok(session) => {
                // A driver that has just ended drops the link; the peer comes again and finds out.
                let _ = session.send(Greeted { link, greeting }).await;
            }
            Err(Refusal { detail, received }) => {
                let number = greeting.number;
                let answer = Header { detail, number, received, ..Header::new(Kind::Refused, greeting.session) };
                let _ = link.sender.send(answer.encode(None)).await;
            }
        }
    }

    fn find_or_make(self: &Arc<Desk>, key: Key, greeting: &Header) -> Result<mpsc::Sender<Greeted>, Refusal> {
        let mut book = self.book();
        if let Some(session) = book.open.get(&key) {
            return Ok(session.clone());
        }
        if let Some((_, received)) = book.ended.iter().find(|(ended, _)| *ended == key) {
            return Err(Refusal { detail: refusal::ENDED, received: *received });
        }
        if greeting.kind == Kind::Resume {
            return Err(Refusal { detail: refusal::UNKNOWN, received: 0 });
        }
        let full = Refusal { detail: refusal::FULL, received: 0 };
        let of_this_peer = book.open.keys().filter(|(peer, _)| *peer == key.0).count();
        if book.open.len() >= MOST_SESSIONS || of_this_peer >= MOST_SESSIONS_OF_A_PEER {
            return Err(full);
        }
        let Ok(place) = self.new.try_reserve() else { return Err(full) };
        let window = if of_this_peer < WIDE_SESSIONS_OF_A_PEER { WINDOW } else { NARROW_WINDOW };
        let shared = Shared::new(Role::Acceptor, key.0.clone(), key.1, window);
        let (links, new_links) = mpsc::channel(1);
        book.open.insert(key.clone(), links.clone());
        let driver = Driver { shared: shared.clone(), timing: self.timing, new_links };
        let desk = self.clone();
        tokio::spawn(async move {
            let shared = driver.shared.clone();
            driver.run().await;
            desk.forget(key, shared.look(|state| state.inc.received()));
        });
        place.send(Session::new(shared, greeting.detail));
        Ok(links)
    }

    fn forget(&self, key: Key, received: u64) {
        let mut book = self.book();
        book.open.remove(&key);
        book.remember(key, received);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A link's place while its first message is waited for.
struct Greeting {
    desk: Arc<Desk>,
    peer: NodeName,
}

impl Drop for Greeting {
    fn drop(&mut self) {
        let mut book = self.desk.book();
        if let Some(place) = book.greeting.iter().position(|peer| *peer == self.peer) {
            book.greeting.swap_remove(place);
        }
    }
}

/// Carries one accepted session over the links that its peer makes.
struct Driver {
    shared: Arc<Shared>,
    timing: Timing,
    new_links: mpsc::Receiver<Greeted>,
}

impl Driver {
    async fn run(mut self) {
        let mut newest_attempt = 0;
        let mut next = None;
        let mut deadline = Instant::now() + self.timing.give_up;
        loop {
            let Greeted { mut link, greeting } = match next.take() {
                Some(greeted) => greeted,
                None => match self.wait_for_link(deadline).await {
                    Ok(greeted) => greeted,
                    Err(error) => return self.shared.change(|state| state.end(Ending::Failed(error))),
                },
            };
            // A greeting that was overtaken by a later one belongs to a link that its peer has left.
            if greeting.number <= newest_attempt {
                continue;
            }
            newest_attempt = greeting.number;
            if let Err(error) = self.shared.change(|state| state.link_made(&greeting)) {
                return self.shared.change(|state| state.end(Ending::Failed(error)));
            }
            let welcome = self.shared.change(|state| state.greeting(Kind::Welcome, 0, greeting.number));
            if link.sender.send(welcome).await.is_err() {
                continue;
            }
            tokio::select! {
                parting = carry(&self.shared, &mut *link.sender, &mut *link.receiver, &self.timing) => {
                    if parting == Parting::Over {
                        return;
                    }
                }
                greeted = self.new_links.recv() => next = greeted,
            }
            self.shared.set_link_state(LinkState::Down);
            deadline = Instant::now() + self.timing.give_up;
        }
    }

    async fn wait_for_link(&mut self, deadline: Instant) -> Result<Greeted, SessionError> {
        let peer = self.shared.look(|state| state.peer().clone());
        let after = self.timing.give_up;
        tokio::select! {
            Some(greeted) = self.new_links.recv() => Ok(greeted),
            () = self.shared.abandoned() => Err(SessionError::Abandoned),
            () = tokio::time::sleep_until(deadline) => {
                Err(SessionError::Lost { peer, after, why: "it did not come back".to_owned() })
            }
        }
    }
}
