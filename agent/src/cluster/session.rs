//! This node's lease: it opens a session in the record, and another one whenever the last is over.
//!
//! ```text
//!   nothing held ── OpenSession ──► Changed ──► the keeper renews ──► the record here knows it ──► Held
//!        ▲                                                                                       │
//!        └────────────── the keeper says that it is over, or the record has another ◄────────────┘
//! ```
//!
//! - A session is taken up only by the agent that proposed it, when the answer is that this very proposal has changed the record. One
//!   that the agent before this one has left on the lease page goes on while its deadline has not passed.
//! - [`Tenure`] hears of a lease only when the record that is shown there has it: whoever looks there finds what was
//!   decided before this session began.
//! - A node that is alone has a lease without end. Before it opens one that ends, every sandbox that would never stop is armed with the session
//!   to come: were this agent killed right after, nothing would run on for ever that others may have been given.

use std::sync::Arc;
use std::time::Duration;

use migrate_ownership::Ownership;
use migrate_proto::cluster::Claim;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease::{Nanos, Page, Terms};
use migrate_proto::cluster::record::{Applied, NodeEntry, Record, Standing};
use migrate_proto::id::StateMark;
use migrate_proto::name::NodeName;
use migrate_sandbox::control::Leash;
use tokio::sync::oneshot;

use super::Cluster;
use super::keeper::Order;
use crate::clock;
use crate::registry::Registry;
use crate::tenure::{Lease, Tenure};

/// How soon a session is proposed again.
const AGAIN: Duration = Duration::from_millis(200);

/// Who holds leases here.
pub struct Claimant {
    /// This node.
    pub node: NodeName,
    /// Its state.
    pub mark: StateMark,
}

/// What a lease is kept with.
pub struct Holding<'a> {
    /// The record.
    pub record: &'a dyn Ownership,
    /// The others.
    pub cluster: &'a Cluster,
    /// Who is told.
    pub tenure: &'a Tenure,
    /// Whose sandboxes obey it.
    pub registry: &'a Arc<Registry>,
    /// This node.
    pub me: Claimant,
    /// How long a lease lasts.
    pub terms: Terms,
}

/// A session that this node has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Session {
    number: u64,
    finite: bool,
}

/// What there is to do about the lease.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nothing, or nothing yet.
    Wait,
    /// Another session has to be opened after this one.
    Open { after: u64, finite: bool },
}

impl Holding<'_> {
    /// Goes on for as long as the agent runs.
    pub async fn hold(self) {
        let (mut records, mut lapses, mut shown) = (self.record.record(), self.cluster.lapses(), self.tenure.record());
        let mut held = self.resume().await;
        self.tenure.taken_over().await;
        loop {
            let record = records.borrow_and_update().clone();
            let over = lapses.borrow_and_update().clone();
            if let Some(over) = &over {
                self.tenure.note_lapse(over.claim.session, over.until);
            }
            let over = over.map(|over| over.claim.session);
            held = held.filter(|held| over.is_none_or(|over| over < held.number));
            let known = shown.borrow_and_update().as_ref().and_then(|record| self.me.entry(record).cloned());
            self.tell(held, known.as_ref());
            let company = record.nodes.values().filter(|node| is_member(node)).count() > 1;
            if let Some(entry) = self.me.entry(&record)
                && let Next::Open { after, finite } = next(held, entry, company)
            {
                match self.open(after, finite).await {
                    Some(opened) => held = Some(opened),
                    None => tokio::time::sleep(AGAIN).await,
                }
                continue;
            }
            let changed = tokio::select! {
                changed = records.changed() => changed,
                changed = lapses.changed() => changed,
                changed = shown.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Says what the lease is, as far as that is known.
    fn tell(&self, held: Option<Session>, known: Option<&NodeEntry>) {
        let lease = match (held, known) {
            (None, _) => Lease::Over,
            (Some(held), Some(entry)) if entry.session == held.number && !entry.fenced => {
                Lease::Held { claim: self.me.claim(held.number), finite: held.finite }
            }
            (Some(held), Some(entry)) if entry.session >= held.number => Lease::Over,
            // The record that is shown does not have it yet.
            (Some(_), _) => return,
        };
        self.tenure.set_lease(lease);
    }

    /// Opens a session, if the record agrees.
    async fn open(&self, after: u64, finite: bool) -> Option<Session> {
        let (number, proposed) = (after + 1, clock::boottime());
        if finite {
            // Whoever starts something from now on waits for the new one.
            self.tenure.set_lease(Lease::Over);
            self.bind(number, proposed).await;
        }
        let Claimant { node, mark } = &self.me;
        let open = Command::OpenSession { node: node.clone(), mark: *mark, after, finite };
        match self.record.propose(open).await {
            // Of this proposal alone it is known when it was made.
            Ok(Applied::Changed) => {
                let claim = self.me.claim(number);
                tracing::info!(%claim, finite, "this node has opened a session");
                if finite {
                    self.cluster.order(Order::Open { claim, proposed });
                }
                Some(Session { number, finite })
            }
            Ok(Applied::AlreadySo) => None,
            Err(error) => {
                tracing::debug!(%error, "no session was opened");
                None
            }
        }
    }

    /// What runs without end may run in this session, and in no other: until it is kept, for as long as nobody can have ended it.
    async fn bind(&self, number: u64, proposed: Duration) {
        let (registry, margin) = (self.registry.clone(), self.tenure.margin());
        let find = move || -> Vec<_> {
            let endless = |sandbox: &migrate_sandbox::Sandbox| matches!(sandbox.leash(), Ok(Leash::Unlimited));
            let all = registry.all().into_iter();
            all.filter(|workload| workload.sandbox().as_ref().is_some_and(endless)).collect()
        };
        let found = tokio::task::spawn_blocking(find).await.unwrap_or_default();
        if found.is_empty() {
            return;
        }
        let (done, written) = oneshot::channel();
        let until = Nanos(nanos(proposed)).plus(self.terms.lease());
        self.cluster.order(Order::Foresee(Page { session: number, until }, done));
        let _ = written.await;
        let arm = move || {
            for workload in found {
                if let Err(problem) = workload.arm_with(number, margin) {
                    tracing::warn!(workload = %workload.name(), %problem, "it may run on without a lease");
                }
            }
        };
        let _ = tokio::task::spawn_blocking(arm).await;
    }

    /// Goes on with the session of an agent before this one, where its deadline has not passed.
    async fn resume(&self) -> Option<Session> {
        let page = self.cluster.found_page();
        let lasts = |page: &Page| page.until > Nanos(nanos(clock::boottime()));
        if page.session == 0 || !lasts(&page) {
            return None;
        }
        let mut records = self.record.record();
        let is_current = |record: &Arc<Record>| {
            self.me.entry(record).is_some_and(|entry| entry.session == page.session && entry.finite && !entry.fenced)
        };
        let lease = Duration::from_nanos(self.terms.lease());
        let known = tokio::time::timeout(lease, records.wait_for(is_current)).await;
        (matches!(known, Ok(Ok(_))) && lasts(&page)).then(|| {
            tracing::info!(session = page.session, "this node goes on in the session of the agent before");
            self.cluster.order(Order::Resume(page));
            Session { number: page.session, finite: true }
        })
    }
}

/// Whether another session is needed, by what the record has of this node. A record that is behind the session that is held says nothing.
fn next(held: Option<Session>, entry: &NodeEntry, company: bool) -> Next {
    let fits = held.is_some_and(|held| {
        held.number > entry.session || held.number == entry.session && held.finite == company && !entry.fenced
    });
    if fits { Next::Wait } else { Next::Open { after: entry.session, finite: company } }
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

impl Claimant {
    fn claim(&self, session: u64) -> Claim {
        Claim { node: self.node.clone(), session }
    }

    /// Its entry, where it was admitted.
    fn entry<'a>(&self, record: &'a Record) -> Option<&'a NodeEntry> {
        record.nodes.get(&self.node).filter(|entry| entry.mark == self.mark && is_member(entry))
    }
}

fn is_member(entry: &NodeEntry) -> bool {
    matches!(entry.standing, Standing::Member | Standing::Draining)
}

#[cfg(test)]
mod tests {
    use migrate_proto::version::SPOKEN;

    use super::*;

    fn entry(session: u64, finite: bool, fenced: bool) -> NodeEntry {
        NodeEntry {
            mark: StateMark([1; 8]),
            address: "a:1".to_owned(),
            versions: SPOKEN,
            standing: Standing::Member,
            since: 1,
            session,
            finite,
            fenced,
            owns: 0,
        }
    }

    #[test]
    fn another_session_is_opened_when_and_only_when_this_one_does_not_serve() {
        let held = |number, finite| Some(Session { number, finite });
        let open = |after, finite| Next::Open { after, finite };
        assert_eq!(next(None, &entry(0, false, false), false), open(0, false), "the first one");
        assert_eq!(next(None, &entry(4, true, false), true), open(4, true), "it was never taken up, or is over");
        assert_eq!(next(held(4, true), &entry(4, true, false), true), Next::Wait);
        assert_eq!(next(held(5, true), &entry(4, true, false), true), Next::Wait, "the record here is behind");
        assert_eq!(next(held(4, true), &entry(4, true, true), true), open(4, true), "it was fenced");
        assert_eq!(next(held(4, true), &entry(5, true, false), true), open(5, true), "somebody has opened another");
        assert_eq!(next(held(4, false), &entry(4, false, false), true), open(4, true), "company has come");
        assert_eq!(next(held(4, true), &entry(4, true, false), false), open(4, false), "and gone");
    }
}
