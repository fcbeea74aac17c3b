//! Figures for people: the tables of docs/reliability.md.

use std::time::Duration;

use super::Figures;

/// What the columns are.
pub const HEAD: &str = "\
| nodes | deaths | suspected by somebody | at worst | known to all as dead | at worst | datagrams a node and second | of the busiest | bytes a node and second | false deaths | suspicions a node and hour |
|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|";

/// One cluster's row: middle and 95th of a hundred, each.
pub fn row(nodes: usize, figures: &Figures) -> String {
    let Figures { suspected, everywhere, unknown, datagrams, bytes, most, false_deaths, .. } = figures;
    let missed = if *unknown > 0 { format!(" ({unknown} never)") } else { String::new() };
    let spread =
        |times: &[Duration]| format!("{} / {}", seconds(percentile(times, 50)), seconds(percentile(times, 95)));
    format!(
        "| {} | {} | {} | {} | {}{missed} | {} | {datagrams:.1} | {most:.1} | {bytes:.0} | {false_deaths} | {:.2} |",
        thousands(nodes),
        everywhere.len() + unknown,
        spread(suspected),
        seconds(suspected.iter().max().copied()),
        spread(everywhere),
        seconds(everywhere.iter().max().copied()),
        figures.false_suspicions as f64 / figures.lived * 3600.0,
    )
}

/// The smallest that so many of a hundred do not exceed.
pub fn percentile(times: &[Duration], of_hundred: usize) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort();
    times.get((times.len() * of_hundred).div_ceil(100).saturating_sub(1)).copied()
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("–".to_owned(), |time| format!("{:.2} s", time.as_secs_f64()))
}

fn thousands(number: usize) -> String {
    if number < 1000 { number.to_string() } else { format!("{},{:03}", number / 1000, number % 1000) }
}
