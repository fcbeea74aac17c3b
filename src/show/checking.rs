//! What `check` and `why` answer to people.

use migrate_proto::api::{CheckReport, Event, PredictionView, Unsettled, Verdict, WhyView};
use migrate_proto::error::Problem;

use super::style::Style;
use super::table::word;
use super::{harmless, units};

/// The verdict, the reasons with what to do, and what a move would take.
pub(crate) fn report(style: Style, report: &CheckReport) -> String {
    let CheckReport { workload, to, .. } = report;
    let to = to.as_ref().map_or("any other node".to_owned(), ToString::to_string);
    let verdict = match report.verdict {
        Verdict::Yes => format!("{}: {workload} would move to {to}", style.bold("yes")),
        Verdict::No => format!("{}: {workload} would not move to {to}", style.red("no")),
        Verdict::Unlikely => format!("{}: {workload} would probably not move to {to}", style.red("unlikely")),
    };
    let mut lines = vec![verdict];
    for reason in &report.reasons {
        lines.push(format!("  {:<8}  {}", word(&reason.severity), harmless(&reason.what)));
        if !reason.hint.is_empty() {
            lines.push(format!("            {} {}", style.bold("hint:"), harmless(&reason.hint)));
        }
    }
    if let (Some(pause), Some(total)) = (report.predicted_downtime_ms, report.predicted_total_ms) {
        let (pause, total) = (units::milliseconds(pause), units::milliseconds(total));
        lines.push(format!("  predicted: a pause of {pause}, {total} in all"));
    }
    lines.join("\n")
}

/// Where it is and how it came there, what holds it, and what happened lately.
pub(crate) fn why(style: Style, view: &WhyView) -> String {
    let came = match (&view.came_from, &view.since) {
        (Some(from), Some(since)) => format!(", came from {from} at {}", harmless(since)),
        (None, Some(since)) => format!(", was started there at {}", harmless(since)),
        _ => String::new(),
    };
    let mut lines =
        vec![format!("{}: {} on {} (epoch {}){came}", view.workload, word(&view.state), view.node, view.epoch)];
    lines.extend(view.held.iter().flat_map(|problem| held(style, problem)));
    for unsettled in &view.unsettled {
        let direction = if unsettled.leaves { "to" } else { "from" };
        let Unsettled { on, peer, phase, .. } = unsettled;
        let what = format!("  not settled on {on}: a move {direction} {peer} (in {phase})");
        lines.push(format!("{what}, which waits for {}", harmless(&unsettled.waits_for)));
    }
    lines.extend(prediction(&view.prediction).map(|text| format!("  {text}")));
    if !view.history.is_empty() {
        lines.push(style.bold("what happened lately:"));
        lines.extend(view.history.iter().map(happened));
    }
    if !view.silent.is_empty() {
        let silent: Vec<&str> = view.silent.iter().map(|node| node.as_str()).collect();
        lines.push(format!("  not asked, because they do not answer: {}", silent.join(", ")));
    }
    lines.join("\n")
}

fn held(style: Style, problem: &Problem) -> Vec<String> {
    let mut lines = vec![format!("  held: {}", harmless(&problem.message))];
    if !problem.hint.is_empty() {
        lines.push(format!("  {} {}", style.bold("hint:"), harmless(&problem.hint)));
    }
    lines
}

fn prediction(view: &PredictionView) -> Option<String> {
    let percent = |error: f64| format!("{:.0}%", error * 100.0);
    let (pause, total) = (percent(view.downtime_error?), percent(view.total_error?));
    Some(format!(
        "predictions of this node's last {} moves were off by {pause} (pause) and {total} (whole)",
        view.moves
    ))
}

fn happened(event: &Event) -> String {
    let Event { at, node, kind, message, .. } = event;
    format!("  {}  {node}  {:<8}  {}", harmless(at), harmless(kind), harmless(message))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;
    use crate::cli::Color;

    fn plain() -> Style {
        Style::of_stdout(Color::Never)
    }

    #[test]
    fn the_verdict_comes_first_and_every_reason_has_its_hint() {
        let mut seen: CheckReport = serde_json::from_value(json!({
            "workload": "web", "to": "node2", "verdict": "no",
            "reasons": [
                {"severity": "no", "what": "it uses io_uring\x1b", "hint": "switch it off"},
                {"severity": "note", "what": "the kernels differ", "hint": ""},
            ],
            "predicted_downtime_ms": 182.0, "predicted_total_ms": 1240.0,
        }))
        .unwrap();
        assert_eq!(
            report(plain(), &seen),
            "no: web would not move to node2\n  no        it uses io_uring\\u{1b}\n            hint: switch it off\n  \
             note      the kernels differ\n  predicted: a pause of 182 ms, 1.24 s in all"
        );
        seen.verdict = Verdict::Yes;
        seen.reasons.clear();
        seen.predicted_total_ms = None;
        assert_eq!(report(plain(), &seen), "yes: web would move to node2");
        (seen.verdict, seen.to) = (Verdict::No, None);
        assert_eq!(report(plain(), &seen), "no: web would not move to any other node");
    }

    #[test]
    fn why_says_where_since_when_and_what_holds_it() {
        let view: WhyView = serde_json::from_value(json!({
            "workload": "web", "node": "node2", "state": "frozen", "epoch": 3, "since": "2026-11-21T10:00:00.000Z",
            "came_from": "node1", "held": {"code": "unknown", "message": "web is frozen: no answer", "hint": "look"},
            "unsettled": [{"on": "node2", "peer": "node1", "leaves": false, "phase": "commit", "waits_for": "node1's word"}],
            "history": [{"at": "2026-11-21T09:00:00.000Z", "node": "node1", "workload": "web", "kind": "moved", "phase": null,
                "message": "moved to node2"}],
            "silent": ["node3"], "prediction": {"moves": 4, "downtime_error": 0.25, "total_error": 0.1},
        }))
        .unwrap();
        assert_eq!(
            why(plain(), &view),
            "web: frozen on node2 (epoch 3), came from node1 at 2026-11-21T10:00:00.000Z\n  \
             held: web is frozen: no answer\n  hint: look\n  \
             not settled on node2: a move from node1 (in commit), which waits for node1's word\n  \
             predictions of this node's last 4 moves were off by 25% (pause) and 10% (whole)\n\
             what happened lately:\n  2026-11-21T09:00:00.000Z  node1  moved     moved to node2\n  \
             not asked, because they do not answer: node3"
        );
    }
}
