//! This node's lease: it opens a session in the record, and another one whenever the last is over.
//!
//! **Observed only**: no workload depends on it yet.

use std::sync::Arc;
use std::time::Duration;

use migrate_ownership::Ownership;
use migrate_proto::cluster::Claim;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease::{Nanos, Page, Terms};
use migrate_proto::cluster::record::{Applied, NodeEntry, Record, Standing};
use migrate_proto::id::StateMark;
use migrate_proto::name::NodeName;

use super::Cluster;
use super::keeper::Order;
use crate::clock;

/// How soon a session is proposed again.
const AGAIN: Duration = Duration::from_millis(500);

/// Who holds leases here.
pub struct Claimant {
    /// This node.
    pub node: NodeName,
    /// Its state.
    pub mark: StateMark,
}

/// Goes on for as long as the agent runs.
pub async fn hold(record: &dyn Ownership, cluster: &Cluster, me: Claimant, terms: Terms) {
    let (mut records, mut lapses) = (record.record(), cluster.lapses());
    let mut held = resume(record, cluster, &me, terms).await;
    loop {
        let entry = me.entry(&records.borrow_and_update()).cloned();
        let over = lapses.borrow_and_update().as_ref().map(|over| over.session);
        let company = records.borrow().nodes.values().filter(|node| is_member(node)).count() > 1;
        match entry {
            Some(entry) if !entry.is_held(held, over, company) => {
                let proposed = clock::boottime();
                let Claimant { node, mark } = &me;
                let open =
                    Command::OpenSession { node: node.clone(), mark: *mark, after: entry.session, finite: company };
                let session = entry.session + 1;
                match record.propose(open).await {
                    // Of this proposal alone it is known when it was made.
                    Ok(Applied::Changed) => {
                        let claim = Claim { node: node.clone(), session };
                        held = Some(session);
                        tracing::info!(%claim, finite = company, "this node has opened a session");
                        if company {
                            cluster.order(Order::Open { claim, proposed });
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "no session was opened");
                        tokio::time::sleep(AGAIN).await;
                        continue;
                    }
                }
                // The copy of the record here may be a little behind.
                let there = |record: &Arc<Record>| me.entry(record).is_some_and(|entry| entry.session >= session);
                let _ = tokio::time::timeout(Duration::from_nanos(terms.lease()), records.wait_for(there)).await;
                continue;
            }
            Some(_) | None => {}
        }
        let changed = tokio::select! {
            changed = records.changed() => changed,
            changed = lapses.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Goes on with the session of an agent before this one, where its deadline has not passed.
async fn resume(record: &dyn Ownership, cluster: &Cluster, me: &Claimant, terms: Terms) -> Option<u64> {
    let page = cluster.found_page();
    let lasts = |page: &Page| page.until > Nanos(u64::try_from(clock::boottime().as_nanos()).unwrap_or(u64::MAX));
    if page.session == 0 || !lasts(&page) {
        return None;
    }
    let mut records = record.record();
    let is_current =
        |record: &Arc<Record>| me.entry(record).is_some_and(|entry| entry.session == page.session && !entry.fenced);
    let known = tokio::time::timeout(Duration::from_nanos(terms.lease()), records.wait_for(is_current)).await;
    (matches!(known, Ok(Ok(_))) && lasts(&page)).then(|| {
        cluster.order(Order::Resume(page));
        page.session
    })
}

impl Claimant {
    /// Its entry, where it was admitted.
    fn entry<'a>(&self, record: &'a Record) -> Option<&'a NodeEntry> {
        record.nodes.get(&self.node).filter(|entry| entry.mark == self.mark && is_member(entry))
    }
}

fn is_member(entry: &NodeEntry) -> bool {
    matches!(entry.standing, Standing::Member | Standing::Draining)
}

/// What is asked of an entry here.
trait Held {
    /// Whether this node has the session that the entry says, and needs no other.
    fn is_held(&self, held: Option<u64>, over: Option<u64>, company: bool) -> bool;
}

impl Held for NodeEntry {
    fn is_held(&self, held: Option<u64>, over: Option<u64>, company: bool) -> bool {
        let lapsed = over.is_some_and(|over| over >= self.session);
        held == Some(self.session) && !self.fenced && !lapsed && self.finite == company
    }
}
