//! Agreement with the cluster, as somebody waits for it who has asked: proposed until it is definite, and not for ever.

use std::sync::Arc;
use std::time::Duration;

use migrate_ownership::ProposeError;
use migrate_proto::cluster::command::Command;
use migrate_proto::cluster::record::{Record, Refusal};
use migrate_proto::error::{Code, Problem};
use tokio::time::{Instant, timeout};

use crate::host::Host;

/// How long a person waits until the cluster has agreed.
pub(super) const PATIENCE: Duration = Duration::from_secs(8);
/// How soon something is proposed again that was not carried out.
const AGAIN: Duration = Duration::from_millis(200);

/// What a person can do who is not answered.
pub(super) const LOOK: &str =
    "`migrate nodes` shows who leads and votes; ask again when a majority of the voters answers";

/// What became of a request that somebody waited for.
pub(super) enum Verdict {
    Applied,
    Refused(Refusal),
    /// It was certainly not done.
    NotDone,
    /// It may have been done, or may yet be.
    Open,
}

/// What follows from the record as it is: what is to be proposed, nothing where it was done already; and what there is once it is done.
pub(super) type Step<T> = (Option<Command>, T);

/// Proposes what `step` makes of the record, anew where that has changed meanwhile. `what` begins the sentence that says that it was not done.
pub(super) async fn agree<T>(
    host: &Host,
    what: &str,
    mut step: impl FnMut(&Record) -> Result<Step<T>, Problem>,
) -> Result<T, Problem> {
    loop {
        let record = confirmed(host, what).await?;
        let (command, done) = step(&record)?;
        let Some(command) = command else { return Ok(done) };
        match within(host, &command, PATIENCE).await {
            Verdict::Applied => return Ok(done),
            Verdict::Refused(refusal) if has_changed(&refusal) => {}
            Verdict::Refused(refusal) => {
                // An earlier copy of the same words may have done it.
                let record = confirmed(host, what).await?;
                return match step(&record)? {
                    (None, done) => Ok(done),
                    (Some(_), _) => Err(Problem::new(Code::WrongState, format!("{what}: {refusal}"))),
                };
            }
            Verdict::NotDone => return Err(no_majority(what)),
            Verdict::Open => {
                let message = format!("{what}: the cluster did not agree in time; it may yet");
                return Err(Problem::new(Code::Busy, message).hint(LOOK));
            }
        }
    }
}

/// Somebody was quicker: what is to be done now is in the record.
pub(super) fn has_changed(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::OneOfMany { refusal, .. } => has_changed(refusal),
        Refusal::Changed { .. } | Refusal::OtherEpoch { .. } | Refusal::NameTaken { .. } => true,
        _ => false,
    }
}

/// Proposes it until it is definite, or this time is over.
pub(super) async fn within(host: &Host, command: &Command, patience: Duration) -> Verdict {
    let until = Instant::now() + patience;
    let Ok(ownership) = timeout(patience, host.tenure.ownership()).await else { return Verdict::NotDone };
    let mut open = false;
    loop {
        match ownership.propose(command.clone()).await {
            Ok(_) => return Verdict::Applied,
            Err(ProposeError::Refused(refusal)) => return Verdict::Refused(refusal),
            Err(error) => {
                tracing::debug!(%error, ?command, "proposed again");
                open |= error == ProposeError::Unknown;
            }
        }
        if Instant::now() >= until {
            return if open { Verdict::Open } else { Verdict::NotDone };
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// The record, with everything that was decided until now.
pub(super) async fn confirmed(host: &Host, what: &str) -> Result<Arc<Record>, Problem> {
    timeout(PATIENCE, host.tenure.confirmed()).await.map_err(|_| no_majority(what))
}

pub(super) fn no_majority(what: &str) -> Problem {
    Problem::new(Code::Busy, format!("{what}: no majority of the cluster's voters answers")).hint(LOOK)
}
