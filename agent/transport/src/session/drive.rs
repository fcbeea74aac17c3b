//! Carries a session over one link, until the link is cut or the session is over.

use migrate_proto::name::NodeName;
use tokio::time::{Instant, timeout, timeout_at};

use super::shared::Shared;
use super::state::After;
use super::wire::Header;
use super::{LinkState, Timing};
use crate::link::{LinkReceiver, LinkSender};

/// How the work on one link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parting {
    /// The link is of no use any more.
    Cut,
    /// The session needs no link any more.
    Over,
}

/// Talks and listens until one of them is done.
pub(super) async fn carry(
    shared: &Shared,
    sender: &mut dyn LinkSender,
    receiver: &mut dyn LinkReceiver,
    timing: &Timing,
) -> Parting {
    shared.set_link_state(LinkState::Up);
    let parting = tokio::select! {
        parting = listen(shared, receiver, timing) => parting,
        parting = talk(shared, sender, timing) => parting,
    };
    if parting == Parting::Cut {
        shared.set_link_state(LinkState::Down);
    }
    parting
}

async fn listen(shared: &Shared, receiver: &mut dyn LinkReceiver, timing: &Timing) -> Parting {
    loop {
        let frames = match timeout(timing.silence, receiver.recv()).await {
            Ok(Ok(frames)) => frames,
            Ok(Err(_)) => return Parting::Cut,
            Err(_) => return cut(shared, "it was silent for too long"),
        };
        let (header, parcel) = match Header::decode(frames) {
            Ok(message) => message,
            Err(malformed) => return cut(shared, &malformed.to_string()),
        };
        match shared.change(|state| state.arrived(header, parcel)) {
            After::GoOn => {}
            After::Cut => return cut(shared, "it lost a message"),
            After::Over => return Parting::Over,
        }
    }
}

async fn talk(shared: &Shared, sender: &mut dyn LinkSender, timing: &Timing) -> Parting {
    let mut speak_by = Instant::now() + timing.silence / 3;
    loop {
        let Some((frames, last)) = shared.next_message() else {
            // Being woken for nothing does not count as having spoken.
            if timeout_at(speak_by, shared.work()).await.is_err() {
                shared.change(|state| state.owe_status());
            }
            continue;
        };
        speak_by = Instant::now() + timing.silence / 3;
        let sent = sender.send(frames).await;
        if last {
            return Parting::Over;
        }
        if sent.is_err() {
            return Parting::Cut;
        }
    }
}

fn cut(shared: &Shared, why: &str) -> Parting {
    let peer: NodeName = shared.look(|state| state.peer().clone());
    tracing::warn!(%peer, why, "leaving a link");
    Parting::Cut
}
