//! Tables without borders that fit the terminal.

use std::time::SystemTime;

use comfy_table::{Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, presets};
use migrate_proto::api::{Exit, NodeState, NodeView, State, WorkloadView};

use super::style::Style;
use super::{harmless, time, units};

/// A table with these headings.
pub(crate) fn table(style: Style, headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    if style.enabled() {
        table.enforce_styling();
    }
    let heading = |text: &&str| match style.enabled() {
        true => Cell::new(text).add_attribute(Attribute::Bold),
        false => Cell::new(text),
    };
    table.set_header(headings.iter().map(heading));
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table
}

/// The table as text, without blanks at the lines' ends. Where the terminal is too narrow only the last column is wrapped;
/// where even that would not help, lines are left long rather than cut into letters.
pub(crate) fn text(mut table: Table) -> String {
    /// The last column must have so much room to be wrapped.
    const READABLE: usize = 20;
    let widths = table.column_max_content_widths();
    let [fixed @ .., _last] = &widths[..] else { return String::new() };
    let needed = fixed.iter().map(|width| usize::from(*width) + 2).sum::<usize>() + READABLE;
    if table.width().is_some_and(|width| usize::from(width) >= needed) {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        for column in table.column_iter_mut().take(fixed.len()) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Lower-case name of a unit variant, as in JSON.
pub(crate) fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "?".to_owned(),
    }
}

fn painted(style: Style, text: String, color: Color) -> Cell {
    if style.enabled() { Cell::new(text).fg(color) } else { Cell::new(text) }
}

fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

/// How a process ended, in words.
pub(crate) fn exit(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("ended with code {code}"),
        Exit::Signal(signal) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(signal) => format!("ended by {signal}"),
            Err(_) => format!("ended by signal {signal}"),
        },
    }
}

fn state_color(state: State) -> Color {
    match state {
        State::Running => Color::Green,
        State::Failed | State::Lost | State::Frozen => Color::Red,
        State::Queued | State::Starting | State::Migrating | State::Restoring => Color::Yellow,
        State::Stopped => Color::Grey,
    }
}

/// `migrate ps`.
pub(crate) fn workloads(style: Style, views: &[WorkloadView], now: SystemTime) -> String {
    let mut table = table(
        style,
        &["NAME", "STATE", "NODE", "EPOCH", "PID", "STARTED", "RESTARTS", "HEALTH", "CPU", "MEMORY", "FILES", "NOTE"],
    );
    for view in views {
        let started = view.started.as_deref().and_then(|at| time::age(at, now)).map(|age| units::age(age) + " ago");
        let note = [view.exit.map(exit), view.reason.as_deref().map(harmless)].into_iter().flatten();
        table.add_row([
            Cell::new(&view.name),
            painted(style, word(&view.state), state_color(view.state)),
            Cell::new(&view.node),
            Cell::new(view.epoch),
            Cell::new(or_dash(view.pid.map(|pid| pid.to_string()))),
            Cell::new(or_dash(started)),
            Cell::new(view.restarts),
            Cell::new(or_dash(Some(harmless(&view.health)).filter(|health| health != "none"))),
            Cell::new(format!("{:.0}%", view.cpu_percent)),
            Cell::new(units::size(view.rss_bytes)),
            Cell::new(units::size(view.layer_bytes)),
            Cell::new(note.collect::<Vec<_>>().join("; ")),
        ]);
    }
    text(table)
}

/// `migrate nodes`.
pub(crate) fn nodes(style: Style, views: &[NodeView]) -> String {
    let mut table =
        table(style, &["NAME", "STATE", "ROLE", "ADDRESS", "WORKLOADS", "CPU", "MEMORY", "DISK FREE", "AGENT", "CRIU"]);
    for view in views {
        let memory = match (view.memory_used_bytes, view.memory_total_bytes) {
            (Some(used), Some(total)) => format!("{} of {}", units::size(used), units::size(total)),
            _ => "-".to_owned(),
        };
        let color = if view.state == NodeState::Alive { Color::Green } else { Color::Red };
        table.add_row([
            Cell::new(&view.name),
            painted(style, word(&view.state), color),
            Cell::new(role(view)),
            Cell::new(harmless(&view.address)),
            Cell::new(or_dash(view.workloads.map(|n| n.to_string()))),
            Cell::new(or_dash(view.cpu_percent.map(|p| format!("{p:.0}%")))),
            Cell::new(memory),
            Cell::new(or_dash(view.disk_free_bytes.map(units::size))),
            Cell::new(or_dash(view.agent_version.as_deref().map(harmless))),
            Cell::new(or_dash(view.criu_version.as_deref().map(harmless))),
        ]);
    }
    text(table)
}

/// What a node does for the others.
fn role(view: &NodeView) -> &'static str {
    match (view.leader, view.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "-",
    }
}

/// `migrate key rotate`.
pub(crate) fn keys(style: Style, views: &[NodeView]) -> String {
    let mut table = table(style, &["NAME", "STATE", "PROVES ITSELF WITH", "TRUSTS ALSO"]);
    for view in views {
        let mut keys = view.keys.iter().map(ToString::to_string);
        let color = if view.state == NodeState::Alive { Color::Green } else { Color::Red };
        table.add_row([
            Cell::new(&view.name),
            painted(style, word(&view.state), color),
            Cell::new(or_dash(keys.next())),
            Cell::new(or_dash(keys.reduce(|all, key| format!("{all}, {key}")))),
        ]);
    }
    text(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Color as When;

    fn sample(width: u16) -> String {
        let mut sample = table(Style::of_stdout(When::Never), &["NAME", "NOTE"]);
        sample.add_row(["workload-one", "ended by signal nine for no reason that is known"]);
        sample.set_width(width);
        text(sample)
    }

    #[test]
    fn only_the_last_column_is_wrapped() {
        let lines: Vec<String> = sample(40).lines().map(str::to_owned).collect();
        assert!(lines.len() > 2 && lines.iter().all(|line| line.len() <= 40), "{lines:?}");
        assert!(lines[1].starts_with("workload-one "), "{lines:?}");
    }

    #[test]
    fn nothing_is_cut_into_letters() {
        for width in [0, 10, 30] {
            assert_eq!(sample(width).lines().count(), 2, "{width}");
        }
    }
}
