//! Wraps a transport and breaks its links according to a plan. The plan decides everything: there is no chance in here.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::link::{Frames, Link, LinkCut, LinkReceiver, LinkSender, PeerAddress, Transport, TransportError};

/// What goes wrong, link by link, in the order in which the links are made.
#[derive(Default)]
pub struct Plan {
    /// So many connects fail first, as if nobody were there.
    pub refused_connects: usize,
    /// The faults of the first link, the second, and so on. Later links are sound.
    pub links: VecDeque<LinkFaults>,
}

/// What goes wrong on one link.
#[derive(Default)]
pub struct LinkFaults {
    /// In messages that this side sends.
    pub sending: Faults,
    /// In messages that this side receives.
    pub receiving: Faults,
    /// The connection is made twice, and the other one carries a copy of the first message, and nothing else.
    pub made_twice: bool,
}

/// What goes wrong in one direction of a link. Messages are counted from 0.
#[derive(Default)]
pub struct Faults {
    /// Only so many messages get through; the next one is swallowed and the whole link is cut.
    pub cut_after: Option<usize>,
    /// These messages vanish, and the link goes on.
    pub lose: Vec<usize>,
    /// The last byte of this frame of this message is flipped: (message, frame).
    pub corrupt: Option<(usize, usize)>,
    /// This message waits for a permit: an event of the test's choosing.
    pub hold: Option<(usize, Arc<Semaphore>)>,
}

/// A transport that breaks as planned.
pub struct Faulty {
    inner: Arc<dyn Transport>,
    plan: Mutex<Plan>,
}

impl Faulty {
    /// Wraps `inner`.
    pub fn new(inner: Arc<dyn Transport>, plan: Plan) -> Arc<Faulty> {
        Arc::new(Faulty { inner, plan: Mutex::new(plan) })
    }

    fn next_faults(&self) -> LinkFaults {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).links.pop_front().unwrap_or_default()
    }

    fn refuses(&self) -> bool {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let refuses = plan.refused_connects > 0;
        plan.refused_connects = plan.refused_connects.saturating_sub(1);
        refuses
    }
}

#[async_trait]
impl Transport for Faulty {
    async fn connect(&self, peer: &PeerAddress) -> Result<Link, TransportError> {
        if self.refuses() {
            return Err(TransportError::Unreachable {
                node: peer.node.clone(),
                address: peer.address.clone(),
                source: Arc::new(io::ErrorKind::ConnectionRefused.into()),
            });
        }
        let faults = self.next_faults();
        let twin = if faults.made_twice { Some(self.inner.connect(peer).await?) } else { None };
        Ok(broken(self.inner.connect(peer).await?, twin, faults))
    }

    async fn accept(&self) -> Result<Link, TransportError> {
        let link = self.inner.accept().await?;
        Ok(broken(link, None, self.next_faults()))
    }
}

fn broken(link: Link, twin: Option<Link>, faults: LinkFaults) -> Link {
    let cut = CancellationToken::new();
    let sending = Gate { faults: faults.sending, passed: 0, cut: cut.clone() };
    let receiving = Gate { faults: faults.receiving, passed: 0, cut };
    Link {
        peer: link.peer,
        sender: Box::new(FaultySender { inner: link.sender, gate: sending, twin }),
        receiver: Box::new(FaultyReceiver { inner: link.receiver, gate: receiving }),
    }
}

/// One direction's faults, and how far they have got.
struct Gate {
    faults: Faults,
    passed: usize,
    cut: CancellationToken,
}

impl Gate {
    /// The message as it comes out, if it does.
    async fn pass(&mut self, mut frames: Frames) -> Option<Frames> {
        let message = self.passed;
        if let Some((held, event)) = &self.faults.hold
            && *held == message
        {
            // A closed semaphore lets everything pass.
            let _ = event.acquire().await.map(|permit| permit.forget());
        }
        self.passed += 1;
        if self.faults.cut_after.is_some_and(|after| message >= after) {
            self.cut.cancel();
            return None;
        }
        if self.faults.lose.contains(&message) {
            return None;
        }
        if let Some((_, frame)) = self.faults.corrupt.filter(|(damaged, _)| *damaged == message)
            && let Some(frame) = frames.get_mut(frame)
        {
            *frame = flip_last_byte(frame);
        }
        Some(frames)
    }
}

fn flip_last_byte(frame: &Bytes) -> Bytes {
    let mut bytes = frame.to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 0x80;
    }
    bytes.into()
}

struct FaultySender {
    inner: Box<dyn LinkSender>,
    gate: Gate,
    twin: Option<Link>,
}

#[async_trait]
impl LinkSender for FaultySender {
    async fn send(&mut self, frames: Frames) -> Result<(), LinkCut> {
        if self.gate.cut.is_cancelled() {
            return Err(LinkCut);
        }
        if self.gate.passed == 0
            && let Some(twin) = &mut self.twin
        {
            twin.sender.send(frames.clone()).await?;
        }
        match self.gate.pass(frames).await {
            Some(frames) => self.inner.send(frames).await,
            None => Ok(()),
        }
    }
}

struct FaultyReceiver {
    inner: Box<dyn LinkReceiver>,
    gate: Gate,
}

#[async_trait]
impl LinkReceiver for FaultyReceiver {
    async fn recv(&mut self) -> Result<Frames, LinkCut> {
        loop {
            let cut = self.gate.cut.clone();
            let frames = tokio::select! {
                biased;
                () = cut.cancelled() => return Err(LinkCut),
                frames = self.inner.recv() => frames?,
            };
            if let Some(frames) = self.gate.pass(frames).await {
                return Ok(frames);
            }
        }
    }
}
