//! What a source says when something is wrong: what it was, where the workload is now, and what to do.

use crate::error::{Code, Problem};
use crate::handover::Terms;
use crate::phase::Phase;

pub(super) fn ended(terms: &Terms, phase: Phase) -> Problem {
    Problem::new(Code::WorkloadEnded, format!("{} ended on {} by itself (phase {phase})", terms.workload, terms.from))
}

pub(super) fn restarted() -> Problem {
    Problem::new(Code::Internal, "the agent was restarted while the workload was being moved; the workload stays")
}

pub(super) fn lost_to_guard(terms: &Terms) -> Problem {
    let message = format!(
        "the agent lost its hold on the frozen workload before the commit; {} stays on {}",
        terms.workload, terms.from
    );
    Problem::new(Code::Internal, message)
}

/// The target owns it and has not acknowledged that.
pub(super) fn unanswered(terms: &Terms) -> Problem {
    let Terms { workload, from, to, .. } = terms;
    let message = format!("{workload} was given to {to}, which has not said yet that it runs there");
    let hint = format!(
        "make {to} reachable; if it is lost for good: `migrate --node {from} rm -f {workload}` forgets it here, with its files"
    );
    Problem::new(Code::Unknown, message).hint(hint)
}

/// Journal and decision file exclude each other.
pub(super) fn contradictory(terms: &Terms) -> Problem {
    let message = format!(
        "the journal says that {} was given to {}, the decision file says abort; nothing was touched",
        terms.workload, terms.to
    );
    Problem::new(Code::Unknown, message).hint("look on both nodes before starting it anywhere")
}
