//! What came of the cells, as a table.

use std::collections::BTreeMap;
use std::fmt::Write;

use migrate_proto::phase::Phase;
use serde::{Deserialize, Serialize};

use crate::matrix::{Cell, Fault, Side};

/// Where the workload was in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Settled {
    /// It runs on the source.
    Stayed,
    /// It runs on the target.
    Moved,
    /// It was only in the memory of the node that lost its power.
    Lost,
    /// Nobody knows.
    Unknown,
}

/// One cell, run once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// Which.
    pub cell: Cell,
    /// Whether the harm was done in that phase; why that cannot be, where it cannot.
    pub fired: Result<bool, String>,
    /// Where the workload was in the end.
    pub settled: Settled,
    /// What `migrate --force` said.
    pub report: String,
    /// How many copies ran in the end.
    pub copies: usize,
    /// Whether journal and state are whole.
    pub intact: bool,
    /// The longest time in which the witness wrote nothing.
    pub pause_ms: Option<u64>,
    /// From when the failure was known to when the source went on.
    pub resumed_ms: Option<u64>,
    /// Something that has to be known about it.
    #[serde(default)]
    pub note: Option<String>,
    /// Everything that is not as it must be.
    pub wrong: Vec<String>,
    /// Whether the lab cannot be used again.
    #[serde(skip)]
    pub dirty: bool,
}

impl Row {
    /// A cell about which nothing is known yet.
    pub fn of(cell: Cell) -> Row {
        Row {
            cell,
            fired: Ok(false),
            settled: Settled::Unknown,
            report: String::new(),
            copies: 0,
            intact: false,
            pause_ms: None,
            resumed_ms: None,
            note: None,
            wrong: Vec::new(),
            dirty: false,
        }
    }

    /// Whether everything is as it must be.
    pub fn passed(&self) -> bool {
        self.wrong.is_empty()
    }

    /// In a word: what the compact table shows.
    fn word(&self) -> &'static str {
        match (self.passed(), &self.fired, self.settled) {
            (false, ..) => "FAILED",
            (true, Err(_), _) => "n/a",
            (true, _, Settled::Stayed) => "stayed",
            (true, _, Settled::Moved) => "moved",
            (true, _, Settled::Lost) => "lost",
            (true, _, Settled::Unknown) => "unknown",
        }
    }

    /// One line of the long table.
    pub fn line(&self) -> String {
        let fired = match &self.fired {
            Ok(true) => "yes",
            Ok(false) => "NO",
            Err(_) => "n/a",
        };
        let intact = if self.intact { "intact" } else { "DAMAGED" };
        let ms = |time: Option<u64>| time.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
        let mut line = format!(
            "{:<46} {fired:<5} {:<8} {:<3} {intact:<8} {:>6} {:>7}",
            self.cell.to_string(),
            self.word(),
            self.copies,
            ms(self.pause_ms),
            ms(self.resumed_ms)
        );
        if let Err(why) = &self.fired {
            let _ = write!(line, "  {why}");
        }
        if let Some(note) = &self.note {
            let _ = write!(line, "  {note}");
        }
        for wrong in &self.wrong {
            let _ = write!(line, "\n    {wrong}");
        }
        if !self.passed() {
            let _ = write!(line, "\n    the command said: {}", self.report);
        }
        line
    }
}

/// The head of the long table.
pub const HEAD: &str =
    "CELL                                           FIRED OUTCOME  RUN STATE     PAUSE RESUMED (ms after it was known)";

/// The matrix: a line for each fault and side, a column for each phase; what came of it, and how often.
pub fn matrix(rows: &[Row]) -> String {
    let mut counts: BTreeMap<(Fault, Side, Phase), BTreeMap<&'static str, u32>> = BTreeMap::new();
    for row in rows {
        let Cell { fault, side, phase, .. } = row.cell;
        *counts.entry((fault, side, phase)).or_default().entry(row.word()).or_default() += 1;
    }
    let mut text = "| fault | side |".to_owned();
    text.extend(Phase::ALL.map(|phase| format!(" {phase} |")));
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(Phase::ALL.len()));
    for fault in Fault::ALL {
        for side in Side::ALL {
            if !counts.keys().any(|(of, at, _)| (*of, *at) == (fault, side)) {
                continue;
            }
            let _ = write!(text, "\n| {} | {} |", fault.as_str(), side.as_str());
            for phase in Phase::ALL {
                let words = counts.get(&(fault, side, phase)).map(|words| {
                    words.iter().map(|(word, count)| format!("{word} {count}")).collect::<Vec<_>>().join(", ")
                });
                let _ = write!(text, " {} |", words.unwrap_or_default());
            }
        }
    }
    text
}
