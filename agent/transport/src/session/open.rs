//! The opener's side: makes the session's links, again and again, until the peer is there or the budget is spent.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::drive::{Parting, carry};
use super::shared::Shared;
use super::state::{Ending, State};
use super::wire::{Header, Kind, refusal};
use super::{LinkState, SessionError, Timing};
use crate::link::{Link, PeerAddress, Transport, TransportError};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The opener's driver.
pub(super) struct Opener {
    pub(super) shared: Arc<Shared>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) peer: PeerAddress,
    pub(super) purpose: u8,
    pub(super) timing: Timing,
}

/// Why one attempt to make a link did not succeed.
enum Attempt {
    /// Another attempt may.
    Passing(String),
    /// No attempt will.
    Final(Ending),
}

impl Opener {
    /// Keeps the session going; says once through `opened` whether it came about.
    pub(super) async fn run(self, opened: oneshot::Sender<Result<(), SessionError>>) {
        let mut opened = Some(opened);
        let ending = tokio::select! {
            ending = self.keep_going(&mut opened) => ending,
            () = self.abandoned_while_down() => Some(Ending::Failed(SessionError::Abandoned)),
        };
        if let Some(ending) = ending {
            if let (Some(opened), Ending::Failed(error)) = (opened.take(), &ending) {
                let _ = opened.send(Err(error.clone()));
            }
            self.shared.change(|state| state.end(ending));
        }
    }

    async fn keep_going(&self, opened: &mut Option<oneshot::Sender<Result<(), SessionError>>>) -> Option<Ending> {
        let mut attempt = 0;
        let mut pause = FIRST_PAUSE;
        let mut deadline = Instant::now() + self.timing.give_up;
        loop {
            attempt += 1;
            let kind = if opened.is_some() { Kind::Open } else { Kind::Resume };
            let tried = timeout_at(deadline, self.attempt(kind, attempt)).await;
            let why = match tried.unwrap_or_else(|_| Err(Attempt::Passing("it did not answer".to_owned()))) {
                Ok(mut link) => {
                    if let Some(opened) = opened.take() {
                        let _ = opened.send(Ok(()));
                    }
                    if carry(&self.shared, &mut *link.sender, &mut *link.receiver, &self.timing).await == Parting::Over
                    {
                        return None;
                    }
                    if self.shared.look(State::link_proved) {
                        pause = FIRST_PAUSE;
                        deadline = Instant::now() + self.timing.give_up;
                        continue;
                    }
                    "the link was cut at once".to_owned()
                }
                Err(Attempt::Final(ending)) => return Some(ending),
                Err(Attempt::Passing(why)) => why,
            };
            if Instant::now() + pause >= deadline {
                let (peer, after) = (self.peer.node.clone(), self.timing.give_up);
                return Some(Ending::Failed(SessionError::Lost { peer, after, why }));
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One link, with the greetings exchanged.
    async fn attempt(&self, kind: Kind, attempt: u64) -> Result<Link, Attempt> {
        let mut link = self.transport.connect(&self.peer).await.map_err(|error| self.no_link(kind, error))?;
        let greeting = self.shared.change(|state| state.greeting(kind, self.purpose, attempt));
        link.sender.send(greeting).await.map_err(|cut| Attempt::Passing(cut.to_string()))?;
        let answer = timeout(self.timing.silence, link.receiver.recv()).await;
        let frames = match answer {
            Ok(Ok(frames)) => frames,
            Ok(Err(cut)) => return Err(Attempt::Passing(cut.to_string())),
            Err(_) => return Err(Attempt::Passing("it accepted the link but did not answer".to_owned())),
        };
        let (header, _) = Header::decode(frames).map_err(|malformed| Attempt::Passing(malformed.to_string()))?;
        let fits = header.session == self.shared.look(State::id) && header.number == attempt;
        match header.kind {
            Kind::Welcome if fits => {
                let made = self.shared.change(|state| state.link_made(&header));
                made.map_err(|error| Attempt::Final(Ending::Failed(error)))?;
                Ok(link)
            }
            Kind::Refused if fits => Err(Attempt::Final(self.refused(&header))),
            _ => Err(Attempt::Passing("its answer does not fit".to_owned())),
        }
    }

    /// A peer that cannot be trusted now may be another time, but who opens a session should hear of it at once.
    fn no_link(&self, kind: Kind, error: TransportError) -> Attempt {
        if error.is_passing() || (kind == Kind::Resume && !matches!(error, TransportError::ShutDown)) {
            return Attempt::Passing(error.to_string());
        }
        Attempt::Final(Ending::Failed(SessionError::NoLink(error)))
    }

    fn refused(&self, header: &Header) -> Ending {
        let peer = self.peer.node.clone();
        match header.detail {
            refusal::ENDED => self.shared.change(|state| {
                let acknowledged = state.out.acknowledge(header.received).is_ok();
                if acknowledged && state.is_complete() {
                    Ending::Complete
                } else {
                    Ending::Failed(SessionError::Reset { peer })
                }
            }),
            refusal::FULL => Ending::Failed(SessionError::Refused { peer }),
            _ => Ending::Failed(SessionError::Forgotten { peer }),
        }
    }

    /// While a link is up, the driver says goodbye over it; otherwise there is nobody to tell.
    async fn abandoned_while_down(&self) {
        let mut link = self.shared.watch_link();
        loop {
            let down = link.wait_for(|state| *state == LinkState::Down).await.is_ok();
            tokio::select! {
                () = self.shared.abandoned(), if down => return,
                _ = link.changed() => {}
            }
        }
    }
}
