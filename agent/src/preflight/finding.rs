//! What speaks against a move, and how heavy that weighs: the list that `migrate check` shows and a move refuses by.

use migrate_proto::api::{Reason, Verdict};
use migrate_proto::error::{Code, Problem};
use migrate_proto::message::{Finding, Severity};

/// It would not move.
pub fn no(problem: Problem) -> Finding {
    Finding { severity: Severity::No, problem }
}

/// It would probably not move.
pub fn unlikely(problem: Problem) -> Finding {
    Finding { severity: Severity::Unlikely, problem }
}

/// It moves, and this is to be known.
pub fn note(what: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding { severity: Severity::Note, problem: Problem::new(Code::Incompatible, what).hint(hint) }
}

/// What a move is refused with.
pub fn refusal(findings: &[Finding]) -> Option<&Problem> {
    findings.iter().find(|finding| finding.severity == Severity::No).map(|finding| &finding.problem)
}

/// What the list comes to.
pub fn verdict(findings: &[Finding]) -> Verdict {
    match findings.iter().map(|finding| finding.severity).min() {
        Some(Severity::No) => Verdict::No,
        Some(Severity::Unlikely) => Verdict::Unlikely,
        Some(Severity::Note) | None => Verdict::Yes,
    }
}

/// The list as people see it: what weighs most comes first.
pub fn reasons(mut findings: Vec<Finding>) -> Vec<Reason> {
    findings.sort_by_key(|finding| finding.severity);
    let reason = |Finding { severity, problem }| Reason { severity, what: problem.message, hint: problem.hint };
    findings.into_iter().map(reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(what: &str) -> Problem {
        Problem::new(Code::NoDisk, what)
    }

    #[test]
    fn the_worst_finding_decides() {
        let (first, second) = (no(problem("a")), no(problem("b")));
        let (doubt, remark) = (unlikely(problem("c")), note("d", ""));
        assert_eq!(verdict(&[]), Verdict::Yes);
        assert_eq!(verdict(std::slice::from_ref(&remark)), Verdict::Yes);
        assert_eq!(verdict(&[remark.clone(), doubt.clone()]), Verdict::Unlikely);
        let all = vec![remark.clone(), doubt.clone(), first, second];
        assert_eq!(verdict(&all), Verdict::No);
        assert_eq!(refusal(&all), Some(&problem("a")));
        assert_eq!(refusal(&[remark, doubt]), None);
        let order: Vec<String> = reasons(all).into_iter().map(|reason| reason.what).collect();
        assert_eq!(order, ["a", "b", "c", "d"]);
    }
}
