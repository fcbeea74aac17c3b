//! A voter that was just started, or was cut off until now, does not try to lead before the leader has had time to find it: raft would
//! try at once, be refused, and unseat the leader with its higher term. It asks the others: while one of them leads, it waits on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use migrate_proto::cluster::VoterId;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::network::whereabouts;
use super::running::Running;
use crate::wire::{Answer, Ask};

/// How many times the usual wait a leader has at most that leads and does not find this node.
const AT_MOST: u32 = 10;

/// One time of being quiet.
pub(crate) struct Hush {
    begun: Instant,
    /// It is over then, if nobody says that it leads.
    until: watch::Receiver<Instant>,
    asking: AbortHandle,
}

impl Hush {
    /// Begins now, and ends after `wait` if nobody leads.
    pub(crate) fn begin(running: &Arc<Running>, wait: Duration) -> Hush {
        let begun = Instant::now();
        let (over, until) = watch::channel(begun + wait);
        let running = Arc::clone(running);
        let asking = tokio::spawn(async move {
            while begun.elapsed() < AT_MOST * wait && !running.candidacy.heard_since(begun) {
                let next = Instant::now() + wait / 2;
                if somebody_leads(&running, wait / 2).await {
                    over.send_replace(Instant::now() + wait);
                }
                sleep(next.saturating_duration_since(Instant::now())).await;
            }
        });
        Hush { begun, until, asking: asking.abort_handle() }
    }

    /// Whether it is over: nobody leads, or the leader was heard.
    pub(crate) fn is_over(&self, running: &Running) -> bool {
        Instant::now() >= *self.until.borrow() || running.candidacy.heard_since(self.begun)
    }

    /// When to look again.
    pub(crate) fn until(&self) -> Instant {
        *self.until.borrow()
    }
}

impl Drop for Hush {
    fn drop(&mut self) {
        self.asking.abort();
    }
}

/// Whether another voter says so of itself. Does not wait for the rest once one has.
async fn somebody_leads(running: &Running, patience: Duration) -> bool {
    let metrics = running.metrics();
    let members = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = members.voter_ids().filter(|id| *id != running.me.0).collect();
    let mut asked = JoinSet::new();
    for (id, place) in members.nodes().filter(|(id, _)| voters.contains(*id)) {
        let (asker, id) = (running.asker.clone(), VoterId(*id));
        let whom = whereabouts(&running.record.borrow(), id, place);
        asked.spawn(async move {
            let answer = timeout(patience, asker.ask(Some(id), whom, Ask::Who, patience)).await;
            matches!(answer, Ok(Ok(Answer::Who(who))) if who.leader.as_ref().is_some_and(|(leader, _)| *leader == id))
        });
    }
    while let Some(leads) = asked.join_next().await {
        if leads.unwrap_or(false) {
            return true;
        }
    }
    false
}
