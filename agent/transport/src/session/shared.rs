//! What the halves of a session and its driver share: the machine behind a lock, and who waits for what.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use migrate_proto::name::NodeName;
use tokio::sync::{Notify, watch};

use super::state::{Ending, Role, State};
use super::{LinkState, SessionError, SessionId};
use crate::parcel::Parcel;

pub(super) struct Shared {
    state: Mutex<State>,
    /// The driver: something may have to be sent.
    work: Notify,
    /// The driver: the session was abandoned. Apart from `work`, so that neither waiter takes the other's wake-up.
    leave: Notify,
    /// The receiver: a parcel, the end, or the session's end.
    readable: Notify,
    /// Senders: credit, acknowledgements, or the session's end.
    progress: Notify,
    link_state: watch::Sender<LinkState>,
}

impl Shared {
    pub(super) fn new(role: Role, peer: NodeName, id: SessionId, window: u64) -> Arc<Shared> {
        Arc::new(Shared {
            state: Mutex::new(State::new(role, peer, id, window)),
            work: Notify::new(),
            leave: Notify::new(),
            readable: Notify::new(),
            progress: Notify::new(),
            link_state: watch::Sender::new(LinkState::Down),
        })
    }

    /// Changes the machine, then wakes whoever may care.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let (result, abandoned, over) = {
            let mut state = self.lock();
            let result = change(&mut state);
            (result, state.is_abandoned(), state.ending().is_some())
        };
        if abandoned {
            self.leave.notify_one();
        }
        self.work.notify_one();
        self.readable.notify_one();
        self.progress.notify_waiters();
        if over {
            self.set_link_state(LinkState::Gone);
        }
        result
    }

    /// Looks at the machine without waking anybody.
    pub(super) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock())
    }

    /// The next message for the link. Wakes nobody unless it is the last one.
    pub(super) fn next_message(&self) -> Option<(crate::link::Frames, bool)> {
        let message = self.lock().next_message()?;
        if message.1 {
            self.change(|_| ());
        }
        Some(message)
    }

    pub(super) fn set_link_state(&self, now: LinkState) {
        self.link_state.send_if_modified(|state| {
            let modified = *state != now && *state != LinkState::Gone;
            if modified {
                *state = now;
            }
            modified
        });
    }

    pub(super) fn watch_link(&self) -> watch::Receiver<LinkState> {
        self.link_state.subscribe()
    }

    /// Waits until the driver may have something to do.
    pub(super) async fn work(&self) {
        self.work.notified().await;
    }

    /// Waits until this side has left without the peer.
    pub(super) async fn abandoned(&self) {
        while !self.look(State::is_abandoned) {
            self.leave.notified().await;
        }
    }

    /// The next parcel; `None` after the peer's end.
    pub(super) async fn next_parcel(&self) -> Result<Option<Parcel>, SessionError> {
        loop {
            if let Some(parcel) = self.take_parcel() {
                return Ok(Some(parcel));
            }
            let outcome = self.look(|state| match (state.inc.is_drained(), state.inc.has_ended(), state.ending()) {
                (true, true, _) => Some(Ok(None)),
                (true, false, Some(ending)) => Some(Err(failure(ending))),
                _ => None,
            });
            match outcome {
                Some(outcome) => return outcome,
                None => self.readable.notified().await,
            }
        }
    }

    fn take_parcel(&self) -> Option<Parcel> {
        let mut state = self.lock();
        let parcel = state.inc.take()?;
        if state.inc.grant_is_stale() {
            state.owe_status();
            self.work.notify_one();
        }
        Some(parcel)
    }

    /// Waits, as long as the session lives, until `done` says so.
    pub(super) async fn until<T>(&self, mut done: impl FnMut(&mut State) -> Option<T>) -> Result<T, SessionError> {
        loop {
            let mut progress = std::pin::pin!(self.progress.notified());
            // Registered before looking, so that nothing that happens in between is missed.
            progress.as_mut().enable();
            {
                let mut state = self.lock();
                if let Some(value) = done(&mut state) {
                    return Ok(value);
                }
                if let Some(ending) = state.ending() {
                    return Err(failure(ending));
                }
            }
            progress.await;
        }
    }

    /// Tells the driver that there is something to send.
    pub(super) fn wake_driver(&self) {
        self.work.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error that an ended session answers with.
fn failure(ending: &Ending) -> SessionError {
    match ending {
        Ending::Complete => SessionError::Closed,
        Ending::Failed(error) => error.clone(),
    }
}
