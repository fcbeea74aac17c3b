//! By which right workloads run on this node: the cluster's record says who owns them, and the lease for how long.
//!
//! ```text
//!   cluster::agreement ──keeps──►  Tenure  ◄──asks── conduct, handovers, the API, checkpoints
//!   cluster::session   ──lease──►
//! ```
//!
//! - A node without a cluster is bound by nothing ([`Lease::Unbound`]), and there is no record: what it has is its own.
//! - The record that is shown here is as new as the leader's was at some time since this agent started: the one on disk may be
//!   older than what the agent before this one acted on.
//! - [`Tenure::settle`] goes on until the answer is definite. Meanwhile nobody may act as if it were known.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use migrate_ownership::{Ownership, ProposeError};
use migrate_proto::cluster::Claim;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::lease::{ENDLESS, NEVER, Nanos};
use migrate_proto::cluster::record::{Applied, LoadEntry, Record, Refusal};
use migrate_proto::error::{Code, Problem};
use migrate_proto::name::WorkloadName;
use tokio::sync::watch;

/// How soon something is proposed again that may not have been carried out.
const AGAIN: Duration = Duration::from_millis(200);

/// How long a start or a restore waits for a lease.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(10);

/// For how long the workloads of this node may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// Nobody can take anything away: there is no cluster.
    Unbound,
    /// This node has opened this session.
    Held {
        /// This node in that session.
        claim: Claim,
        /// Whether the lease ends where nobody keeps it.
        finite: bool,
    },
    /// None yet, or it is over: nothing may run until there is another.
    Over,
}

impl Lease {
    /// What the init of a sandbox is armed with.
    pub fn session(&self) -> u64 {
        match self {
            Lease::Unbound | Lease::Held { finite: false, .. } => ENDLESS,
            Lease::Held { claim, finite: true } => claim.session,
            Lease::Over => NEVER,
        }
    }

    /// Who speaks for this node in the record, where there is one.
    pub fn claim(&self) -> Option<&Claim> {
        match self {
            Lease::Held { claim, .. } => Some(claim),
            Lease::Unbound | Lease::Over => None,
        }
    }
}

/// This node's part in who owns what.
pub struct Tenure {
    in_cluster: bool,
    margin: Duration,
    ownership: watch::Sender<Option<Arc<dyn Ownership>>>,
    record: watch::Sender<Option<Arc<Record>>>,
    lease: watch::Sender<Lease>,
    /// Whether this agent knows what is here.
    taken_over: watch::Sender<bool>,
    /// The last session that was over, and its last deadline.
    lapsed: Mutex<Option<(u64, Nanos)>>,
}

impl Tenure {
    /// Of a node without a cluster.
    pub fn unbound() -> Tenure {
        Tenure::with(false, Duration::ZERO, Lease::Unbound)
    }

    /// Of a member. Nothing is known yet. Its workloads are frozen this long before a lease ends.
    pub fn of_member(margin: Duration) -> Tenure {
        Tenure::with(true, margin, Lease::Over)
    }

    fn with(in_cluster: bool, margin: Duration, lease: Lease) -> Tenure {
        Tenure {
            in_cluster,
            margin,
            ownership: watch::Sender::new(None),
            record: watch::Sender::new(None),
            lease: watch::Sender::new(lease),
            taken_over: watch::Sender::new(false),
            lapsed: Mutex::default(),
        }
    }

    /// Whether there is a record at all.
    pub fn in_cluster(&self) -> bool {
        self.in_cluster
    }

    /// How long before the end of a lease workloads are frozen.
    pub fn margin(&self) -> Duration {
        self.margin
    }

    /// The record is kept by this. Follows it for as long as the agent runs.
    pub async fn keep(&self, ownership: Arc<dyn Ownership>) {
        self.ownership.send_replace(Some(ownership.clone()));
        let mut records = ownership.record();
        loop {
            match ownership.confirm().await {
                Ok(record) => {
                    self.record.send_replace(Some(record));
                    break;
                }
                Err(error) => tracing::debug!(%error, "the record is not known yet"),
            }
            tokio::time::sleep(AGAIN).await;
        }
        loop {
            let record = records.borrow_and_update().clone();
            self.record.send_if_modified(|shown| {
                let newer = shown.as_ref().is_none_or(|shown| shown.revision < record.revision);
                if newer {
                    *shown = Some(record);
                }
                newer
            });
            if records.changed().await.is_err() {
                return;
            }
        }
    }

    /// The lease is this now.
    pub fn set_lease(&self, lease: Lease) {
        self.lease.send_if_modified(|present| {
            let other = *present != lease;
            *present = lease;
            other
        });
    }

    /// This agent knows now what the one before it has left here.
    pub fn note_taken_over(&self) {
        self.taken_over.send_replace(true);
    }

    /// Waits for that. Before it no session is opened, and nothing is led.
    pub async fn taken_over(&self) {
        // The sender is this very object.
        let _ = self.taken_over.subscribe().wait_for(|taken_over| *taken_over).await;
    }

    /// This session was over at this deadline, if it ever had one.
    pub fn note_lapse(&self, session: u64, until: Option<Nanos>) {
        *self.lapsed.lock().unwrap_or_else(PoisonError::into_inner) = until.map(|until| (session, until));
    }

    /// The last deadline of this session, if it was the last one that was over.
    pub fn ended(&self, session: u64) -> Option<Nanos> {
        let lapsed = *self.lapsed.lock().unwrap_or_else(PoisonError::into_inner);
        lapsed.filter(|(over, _)| *over == session).map(|(_, until)| until)
    }

    /// The lease, and its changes.
    pub fn lease(&self) -> watch::Receiver<Lease> {
        self.lease.subscribe()
    }

    /// The lease as it is.
    pub fn lease_now(&self) -> Lease {
        self.lease.borrow().clone()
    }

    /// The same, as soon as anything may run here. Blocks, and gives up after a while.
    pub fn some_lease(&self) -> Result<Lease, Problem> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lease_now() {
                Lease::Over if Instant::now() >= deadline => {
                    let what =
                        "this node has no lease: nothing may begin here until a majority of the voters answers it";
                    return Err(Problem::new(Code::Busy, what)
                        .hint("`migrate nodes` shows who votes and who answers; try again, or on another node"));
                }
                Lease::Over => std::thread::sleep(LOOK),
                lease => return Ok(lease),
            }
        }
    }

    /// The record, once it has been as new as the leader's since this agent started.
    pub fn record(&self) -> watch::Receiver<Option<Arc<Record>>> {
        self.record.subscribe()
    }

    /// The record as it is known here.
    pub fn record_now(&self) -> Option<Arc<Record>> {
        self.record.borrow().clone()
    }

    /// What the record here says about a workload.
    pub fn entry(&self, load: &WorkloadName) -> Option<LoadEntry> {
        self.record_now()?.loads.get(load).cloned()
    }

    /// What keeps the record, as soon as it is there.
    pub async fn ownership(&self) -> Arc<dyn Ownership> {
        let mut kept = self.ownership.subscribe();
        let there = kept.wait_for(Option::is_some).await.ok().and_then(|kept| kept.clone());
        match there {
            Some(ownership) => ownership,
            // The sender is this very object.
            None => std::future::pending().await,
        }
    }

    /// Proposes it until the answer is definite, for as long as that takes. A refusal is no verdict about earlier copies of the same
    /// command: see [`ProposeError::Refused`].
    pub async fn settle(&self, command: Command) -> Result<Applied, Refusal> {
        let ownership = self.ownership().await;
        loop {
            match ownership.propose(command.clone()).await {
                Ok(applied) => return Ok(applied),
                Err(ProposeError::Refused(refusal)) => return Err(refusal),
                Err(error) => tracing::debug!(%error, ?command, "proposed again"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The same for a person who waits: gives up after a while. `what` is the sentence that says what was to be done.
    pub async fn ask(&self, command: Command, patience: Duration, what: &str) -> Result<Applied, Problem> {
        match tokio::time::timeout(patience, self.settle(command)).await {
            Ok(Ok(applied)) => Ok(applied),
            Ok(Err(refusal)) => Err(Problem::new(Code::WrongState, format!("{what}: {refusal}"))),
            Err(_) => Err(Problem::new(
                Code::Busy,
                format!("{what}: the cluster did not agree to it within {} s; it may yet", patience.as_secs()),
            )
            .hint("`migrate nodes` shows who leads and votes; ask again when a majority of the voters answers")),
        }
    }

    /// A record that has everything that was decided before this was called.
    pub async fn confirmed(&self) -> Arc<Record> {
        let ownership = self.ownership().await;
        loop {
            match ownership.confirm().await {
                Ok(record) => return record,
                Err(error) => tracing::debug!(%error, "the record could not be confirmed"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_init_is_armed_with() {
        let claim = Claim { node: "a".parse().unwrap_or_else(|_| unreachable!()), session: 7 };
        assert_eq!(Lease::Unbound.session(), ENDLESS);
        assert_eq!(Lease::Over.session(), NEVER);
        assert_eq!(Lease::Held { claim: claim.clone(), finite: false }.session(), ENDLESS);
        assert_eq!(Lease::Held { claim, finite: true }.session(), 7);
    }

    #[test]
    fn a_node_alone_is_bound_by_nothing() {
        let tenure = Tenure::unbound();
        assert!(!tenure.in_cluster() && tenure.record_now().is_none());
        assert_eq!(tenure.lease_now(), Lease::Unbound);
        assert_eq!(Tenure::of_member(Duration::ZERO).lease_now(), Lease::Over, "until a session is opened");
    }
}
