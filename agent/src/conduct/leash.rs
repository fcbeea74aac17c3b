//! Sandboxes are armed with the session of the lease that is held; what stands still without one is said to people.

use std::sync::Arc;

use migrate_proto::cluster::lease::{NEVER, Nanos};
use migrate_sandbox::SandboxError;
use migrate_sandbox::control::Leash;
use tokio::task::spawn_blocking;

use crate::events::Kind;
use crate::handover::Ground;
use crate::workload::Workload;

/// Lets it run in this session. The caller has its turn, and has seen in the record that it is this node's.
pub(super) async fn arm(ground: &Ground, workload: &Arc<Workload>, session: u64) -> bool {
    let (ground, workload) = (ground.clone(), workload.clone());
    let armed = move || {
        let Some(sandbox) = workload.sandbox() else { return true };
        let before = sandbox.leash();
        if let Err(SandboxError::NoLeash { .. }) = before {
            say_unleashed(&ground, &workload);
            return true;
        }
        let leash = match workload.arm_with(session, ground.host.tenure.margin()) {
            Ok(leash) => leash,
            Err(problem) => {
                tracing::warn!(workload = %workload.name(), %problem, "it could not be told for how long to run");
                return false;
            }
        };
        // What was held for another reason is not the lease's.
        if let Ok(Leash::Frozen { session, since }) = before
            && session != NEVER
        {
            say_frozen(&ground, &workload, session, since);
        }
        match leash {
            // Nobody has acknowledged this session yet.
            Leash::Frozen { .. } => false,
            Leash::Unlimited | Leash::Running { .. } => {
                say_goes_on(&ground, &workload, before.ok());
                true
            }
        }
    };
    spawn_blocking(armed).await.unwrap_or(false)
}

/// There is no lease: says so, once it stands still.
pub(super) async fn say_held(ground: &Ground, workload: &Arc<Workload>) -> bool {
    let (ground, workload) = (ground.clone(), workload.clone());
    let said = move || match workload.sandbox().map(|sandbox| sandbox.leash()) {
        Some(Ok(Leash::Frozen { session, since })) => {
            say_frozen(&ground, &workload, session, since);
            true
        }
        Some(Err(SandboxError::NoLeash { .. })) => {
            say_unleashed(&ground, &workload);
            true
        }
        _ => false,
    };
    spawn_blocking(said).await.unwrap_or(false)
}

fn say_frozen(ground: &Ground, workload: &Workload, session: u64, since: Nanos) {
    let node = ground.host.node();
    let reason = format!(
        "the lease of {node} is over, so that another node may have been given it; `migrate nodes` shows who answers"
    );
    if !workload.set_held(Some(reason.clone())) {
        return;
    }
    // Against the end of the lease: below zero it stood still before that, as it must.
    let lateness = ground.host.tenure.ended(session).map(|until| i128::from(since.0) - i128::from(until.0));
    let lateness = lateness.map(|late| late / 1_000_000);
    tracing::info!(workload = %workload.name(), lease_lateness_ms = ?lateness, "frozen");
    let when = match lateness {
        Some(late) if late <= 0 => format!("; it stood still {} ms before that", -late),
        Some(late) => format!("; it stood still {late} ms TOO LATE: something else may have begun it by then"),
        None => String::new(),
    };
    ground.host.events.record(Kind::Frozen, Some(workload.name()), None, format!("frozen: {reason}{when}"));
}

fn say_goes_on(ground: &Ground, workload: &Workload, before: Option<Leash>) {
    if !workload.set_held(None) {
        return;
    }
    let since = match before {
        Some(Leash::Frozen { since, .. }) => Some(since),
        _ => None,
    };
    let long = since.map(|since| format!(", after {} ms", migrate_sandbox::lease::now().since(since) / 1_000_000));
    let what = format!("goes on{}: {} has a lease again", long.unwrap_or_default(), ground.host.node());
    ground.host.events.record(Kind::Thawed, Some(workload.name()), None, what);
}

/// Its sandbox is of an older version, and cannot be told.
fn say_unleashed(ground: &Ground, workload: &Workload) {
    let hint = format!("`migrate stop {0}` and `migrate start {0}`, or move it", workload.name());
    let reason =
        format!("it does not stop when the lease of {} is over: its sandbox is older; {hint}", ground.host.node());
    if workload.note_unleashed() {
        ground.host.events.record(Kind::Warning, Some(workload.name()), None, reason);
    }
}
