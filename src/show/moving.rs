//! A move as people see it: progress while it lasts, a line and a timeline at its end.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use migrate_proto::api::{MoveProgress, MoveReport, Outcome};
use migrate_proto::error::Code;

use super::table::word;
use super::units;

/// Progress on stderr; nothing where that is no terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Begins. `wanted` is false with `-q`.
    pub(crate) fn begin(workload: &str, wanted: bool) -> Progress {
        let target = if wanted && std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target).with_prefix(workload.to_owned());
        bar.set_style(style("{prefix} {spinner} {msg:<10} {bytes} ({bytes_per_sec}) {elapsed}"));
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Progress { bar }
    }

    /// How far it is.
    pub(crate) fn show(&self, progress: &MoveProgress) {
        // What is expected is an estimate: never let it look as if more had been done than there is.
        if progress.bytes_expected > 0 && self.bar.length().is_none() {
            self.bar.set_style(style(
                "{prefix} {spinner} {msg:<10} [{bar:24}] {bytes} of {total_bytes} ({bytes_per_sec}) {elapsed}",
            ));
        }
        if progress.bytes_expected > 0 {
            self.bar.set_length(progress.bytes_expected.max(progress.bytes));
        }
        self.bar.set_message(progress.phase.as_str());
        self.bar.set_position(progress.bytes);
    }

    /// Takes it off the terminal.
    pub(crate) fn end(self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// The move in one line.
pub(crate) fn summary(report: &MoveReport) -> String {
    let MoveReport { workload, from, .. } = report;
    match (&report.outcome, &report.to) {
        (Outcome::Moved, Some(to)) if report.error.as_ref().is_some_and(|problem| problem.code == Code::Lost) => {
            format!("{workload}: moved from {from} to {to}, where it is lost")
        }
        (Outcome::Moved, Some(to)) if report.error.is_some() => {
            format!("{workload}: moved from {from} to {to}, which has not said that it runs there")
        }
        (Outcome::Moved, Some(to)) => {
            let pause = report.downtime_ms.map(|ms| format!(", paused for {}", units::milliseconds(ms)));
            let total = units::milliseconds(report.total_ms);
            format!("{workload}: moved from {from} to {to} in {total}{}", pause.unwrap_or_default())
        }
        (Outcome::Moved, None) => format!("{workload}: moved away from {from}"),
        (Outcome::Stayed, _) => format!("{workload}: stayed on {from}"),
        (Outcome::Unknown, to) => {
            let to = to.as_ref().map(|to| format!(" and {to}")).unwrap_or_default();
            format!("{workload}: frozen; it is not known which of {from}{to} may run it")
        }
    }
}

/// The phases with their times, and what crossed.
pub(crate) fn timeline(report: &MoveReport) -> String {
    const WIDTH: f64 = 40.0;
    let longest = report.phases.iter().map(|phase| phase.ms).fold(0.0, f64::max);
    let mut lines = Vec::new();
    for phase in &report.phases {
        let share = if longest > 0.0 { phase.ms / longest } else { 0.0 };
        let bar = "█".repeat((share * WIDTH).round() as usize);
        let line = format!("  {:<10} {:>9}  {bar}", phase.name, units::milliseconds(phase.ms));
        lines.push(line.trim_end().to_owned());
    }
    let read = report.bytes_memory + report.bytes_files;
    let ratio = match report.bytes_sent {
        0 => String::new(),
        sent => format!(" (1 : {:.2})", read as f64 / sent as f64),
    };
    lines.push(format!(
        "  memory {}, files {}, sent {}{ratio}; {} mode, epoch {}",
        units::size(report.bytes_memory),
        units::size(report.bytes_files),
        units::size(report.bytes_sent),
        word(&report.mode),
        report.epoch,
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use migrate_proto::api::{Mode, PhaseTime};
    use migrate_proto::error::Problem;
    use migrate_proto::id::Epoch;
    use migrate_proto::phase::Phase;

    use super::*;

    fn report(outcome: Outcome) -> MoveReport {
        MoveReport {
            workload: "web".parse().unwrap(),
            from: "node1".parse().unwrap(),
            to: Some("node2".parse().unwrap()),
            outcome,
            mode: Mode::Stream,
            downtime_ms: Some(182.0),
            total_ms: 1240.0,
            rounds: 0,
            bytes_memory: 64 << 20,
            bytes_files: 0,
            bytes_sent: 16 << 20,
            epoch: Epoch(2),
            phases: vec![
                PhaseTime { name: Phase::Freeze, ms: 20.0 },
                PhaseTime { name: Phase::Transfer, ms: 80.0 },
                PhaseTime { name: Phase::Commit, ms: 0.0 },
            ],
            error: None,
            predicted_downtime_ms: None,
            predicted_total_ms: None,
        }
    }

    #[test]
    fn one_line_says_how_it_ended() {
        assert_eq!(summary(&report(Outcome::Moved)), "web: moved from node1 to node2 in 1.24 s, paused for 182 ms");
        assert_eq!(summary(&report(Outcome::Stayed)), "web: stayed on node1");
        assert!(summary(&report(Outcome::Unknown)).contains("which of node1 and node2 may run it"));
        let but = |code| MoveReport { error: Some(Problem::new(code, "")), ..report(Outcome::Moved) };
        assert_eq!(summary(&but(Code::Lost)), "web: moved from node1 to node2, where it is lost");
        assert!(summary(&but(Code::Unknown)).ends_with("node2, which has not said that it runs there"));
    }

    #[test]
    fn the_timeline_shows_shares_and_the_ratio() {
        let shown = timeline(&report(Outcome::Moved));
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[0], format!("  freeze         20 ms  {}", "█".repeat(10)));
        assert_eq!(lines[1], format!("  transfer       80 ms  {}", "█".repeat(40)));
        assert_eq!(lines[2], "  commit        0.0 ms");
        assert_eq!(lines[3], "  memory 64.0 MiB, files 0 B, sent 16.0 MiB (1 : 4.00); stream mode, epoch 2");
    }
}
