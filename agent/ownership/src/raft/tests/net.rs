//! A network in memory, with the faults of a real one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::carrier::{CallError, Carrier, Whom};
use crate::raft::Raft;

/// Connects the nodes by their addresses.
pub(crate) struct Net {
    inner: Mutex<Inner>,
}

struct Inner {
    nodes: BTreeMap<String, Weak<Raft>>,
    /// From and to: what one sends the other does not arrive.
    cut: BTreeSet<(String, String)>,
    unasked: BTreeSet<(String, String)>,
    /// Of a hundred messages, on each way.
    lost: u32,
    doubled: u32,
    slowest: Duration,
    chance: StdRng,
}

/// What becomes of one message.
struct Fate {
    arrives: bool,
    doubled: bool,
    after: Duration,
}

impl Net {
    pub(crate) fn new(seed: u64) -> Arc<Net> {
        let inner = Inner {
            nodes: BTreeMap::new(),
            cut: BTreeSet::new(),
            unasked: BTreeSet::new(),
            lost: 0,
            doubled: 0,
            slowest: Duration::ZERO,
            chance: StdRng::seed_from_u64(seed),
        };
        Arc::new(Net { inner: Mutex::new(inner) })
    }

    pub(crate) fn port(self: &Arc<Net>, address: &str) -> Arc<Port> {
        Arc::new(Port { net: Arc::clone(self), address: address.to_owned() })
    }

    pub(crate) fn attach(&self, address: &str, node: &Arc<Raft>) {
        self.inner.lock().unwrap().nodes.insert(address.to_owned(), Arc::downgrade(node));
    }

    pub(crate) fn detach(&self, address: &str) {
        self.inner.lock().unwrap().nodes.remove(address);
    }

    /// Of a hundred messages so many are lost, and so many come twice; each takes up to `slowest`.
    pub(crate) fn trouble(&self, lost: u32, doubled: u32, slowest: Duration) {
        let mut inner = self.inner.lock().unwrap();
        (inner.lost, inner.doubled, inner.slowest) = (lost, doubled, slowest);
    }

    /// Nothing goes between these two sides any more.
    pub(crate) fn part(&self, side: &[String], other: &[String]) {
        for (a, b) in side.iter().flat_map(|a| other.iter().map(move |b| (a, b))) {
            self.part_one_way(a, b);
            self.part_one_way(b, a);
        }
    }

    pub(crate) fn part_one_way(&self, from: &str, to: &str) {
        self.inner.lock().unwrap().cut.insert((from.to_owned(), to.to_owned()));
    }

    /// What the first asks of the second is lost; what it answers is not.
    pub(crate) fn lose_questions(&self, from: &str, to: &str) {
        self.inner.lock().unwrap().unasked.insert((from.to_owned(), to.to_owned()));
    }

    pub(crate) fn heal(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.cut.clear();
        inner.unasked.clear();
    }

    fn can_ask(&self, from: &str, to: &str) -> bool {
        !self.inner.lock().unwrap().unasked.contains(&(from.to_owned(), to.to_owned()))
    }

    fn fate(&self, from: &str, to: &str) -> Fate {
        let mut inner = self.inner.lock().unwrap();
        let cut = inner.cut.contains(&(from.to_owned(), to.to_owned()));
        let (lost, doubled, slowest) = (inner.lost, inner.doubled, inner.slowest);
        let lost = inner.chance.random_range(0..100) < lost;
        let doubled = inner.chance.random_range(0..100) < doubled;
        let after = slowest.mul_f64(inner.chance.random_range(0.0..1.0));
        Fate { arrives: !cut && !lost, doubled, after }
    }

    fn node(&self, address: &str) -> Option<Arc<Raft>> {
        self.inner.lock().unwrap().nodes.get(address)?.upgrade()
    }
}

/// One node's access to the net.
pub(crate) struct Port {
    net: Arc<Net>,
    address: String,
}

#[async_trait]
impl Carrier for Port {
    async fn call(&self, to: Whom, request: Bytes, ttl: Duration) -> Result<Bytes, CallError> {
        let (net, from, to) = (Arc::clone(&self.net), self.address.clone(), to.address);
        if net.node(&to).is_none() {
            return Err(CallError::Unreachable(format!("nobody is at {to}")));
        }
        // In a task of its own: what was sent arrives, also when nobody waits for the answer any more.
        let call = tokio::spawn(async move {
            let (there, back) = (net.fate(&from, &to), net.fate(&to, &from));
            sleep(there.after).await;
            if there.doubled
                && let Some(node) = net.node(&to)
            {
                let (request, after) = (request.clone(), back.after * 2);
                tokio::spawn(async move {
                    sleep(after).await;
                    node.serve(&request).await
                });
            }
            let node = net.node(&to).filter(|_| there.arrives && net.can_ask(&from, &to))?;
            let answer = node.serve(&request).await;
            drop(node);
            sleep(back.after).await;
            back.arrives.then_some(answer)
        });
        let until = Instant::now() + ttl;
        match timeout_at(until, call).await {
            Ok(Ok(Some(answer))) => Ok(answer),
            Ok(Err(_)) => Err(CallError::Lost("the other side has ended".to_owned())),
            Ok(Ok(None)) => {
                sleep_until(until).await;
                Err(CallError::Late(ttl))
            }
            Err(_) => Err(CallError::Late(ttl)),
        }
    }
}
