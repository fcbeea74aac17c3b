//! Leases without voters: a node writes a beat into its own key again and again, each only if the key is as its last beat left it.
//!
//! A beat that was written lasts for a lease, counted from when it was *sent*, on the holder's clock. Whoever wants to fence the node
//! must have seen its key unchanged for a promise, counted from when it was *seen*, on its own clock; and the transaction that
//! fences compares that it still is, and changes it. So what the holder knows to be written has run out by then, and nothing it has sent
//! can be written after. Nothing is promised by anybody, and a server that was deposed can only say no.

use migrate_proto::cluster::Claim;
use migrate_proto::cluster::command::EntryKey;
use thiserror::Error;
use tokio::time::Instant;

use super::kv::{Pair, Transaction};
use super::mirror::{Beat, value};
use super::{Etcd, Shared};

/// The key as this node has left it.
pub(super) struct Pulse {
    claim: Claim,
    number: u64,
    revision: u64,
}

/// Why a lease was not renewed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BeatError {
    /// It is fenced, or there is a newer session: it will never be renewed again.
    #[error("the lease of {0} is over")]
    Over(Claim),
    /// Nobody knows whether it was: it does not count. The next one may.
    #[error("etcd did not take note of it: {0}")]
    Unanswered(String),
}

impl Etcd {
    /// Renews the lease of this node: it lasts for a lease from when this was called.
    pub async fn beat(&self, claim: &Claim) -> Result<(), BeatError> {
        self.shared.beat(claim).await
    }
}

impl Shared {
    pub(super) fn lapsed(&self, claim: &Claim) -> Option<u64> {
        self.known().mirror.as_ref()?.lapsed(claim, self.setup.terms, Instant::now())
    }

    async fn beat(&self, claim: &Claim) -> Result<(), BeatError> {
        let made = self.made().map_err(|error| BeatError::Unanswered(error.to_string()))?;
        let (key, deadline) = (self.setup.address.beat(&claim.node), self.in_time_for_a_beat());
        let mut pulse = self.pulse.lock().await;
        let known = pulse.take().filter(|pulse| pulse.claim == *claim);
        let mut last = match known {
            Some(pulse) => pulse,
            None => {
                let found = self.store.these([key.as_str()].into_iter(), deadline).await.map_err(unanswered)?;
                adopt(claim, found.found.first().and_then(|found| found.kvs.first()))?
            }
        };
        // The second time where the answer to the one before was lost, which was written all the same.
        for _ in 0..2 {
            let beat = Beat { session: claim.session, number: last.number + 1, over: false, terms: self.setup.terms };
            let body = serde_json::to_vec(&beat).map_err(unanswered)?;
            let cluster = self.setup.address.entry(&EntryKey::Cluster);
            let write = Transaction::default().if_made_at(&cluster, made).if_written_at(&key, last.revision);
            let committed = self.store.commit(write.put(&key, &body).else_read(&key), deadline).await;
            let outcome = match committed {
                Ok(outcome) => outcome,
                Err(error) => {
                    *pulse = Some(last);
                    return Err(unanswered(error));
                }
            };
            if outcome.succeeded {
                *pulse = Some(Pulse { number: beat.number, revision: outcome.header.revision, ..last });
                return Ok(());
            }
            last = adopt(claim, outcome.found.first().and_then(|found| found.kvs.first()))?;
        }
        Err(BeatError::Unanswered("somebody else writes the key of its beats".to_owned()))
    }
}

/// The key as it is, if it is this session's, and not over.
fn adopt(claim: &Claim, pair: Option<&Pair>) -> Result<Pulse, BeatError> {
    let over = || BeatError::Over(claim.clone());
    let pair = pair.ok_or_else(over)?;
    let beat: Beat = value(pair).map_err(|error| BeatError::Unanswered(error.to_string()))?;
    if beat.session != claim.session || beat.over {
        return Err(over());
    }
    Ok(Pulse { claim: claim.clone(), number: beat.number, revision: pair.mod_revision })
}

fn unanswered(error: impl std::fmt::Display) -> BeatError {
    BeatError::Unanswered(error.to_string())
}
