//! How often each fault hit in each state.

use std::fmt::Write;

use migrate_proto::phase::Phase;

use crate::faults::Fault;

const STATES: usize = 2 * Phase::ALL.len();
const FAULTS: usize = Fault::ALL.len();

/// Phase × side × fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    hits: [[u64; FAULTS]; STATES],
}

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage { hits: [[0; FAULTS]; STATES] }
    }
}

impl Coverage {
    /// A fault has hit a side in a phase.
    pub fn hit(&mut self, source: bool, phase: Phase, fault: Fault) {
        self.hits[usize::from(!source) * Phase::ALL.len() + phase as usize][fault as usize] += 1;
    }

    /// Adds what another history has seen.
    pub fn add(&mut self, other: &Coverage) {
        for (mine, theirs) in self.hits.iter_mut().flatten().zip(other.hits.iter().flatten()) {
            *mine += theirs;
        }
    }

    /// How often `fault` has hit in this state.
    pub fn of(&self, source: bool, phase: Phase, fault: Fault) -> u64 {
        self.hits[usize::from(!source) * Phase::ALL.len() + phase as usize][fault as usize]
    }

    /// The cells that are zero, with the reason where they must be.
    pub fn never(&self) -> Vec<(String, Option<&'static str>)> {
        let mut never = Vec::new();
        for source in [true, false] {
            for phase in Phase::ALL {
                for fault in Fault::ALL {
                    if self.of(source, phase, fault) == 0 {
                        let cell = format!("{} {phase} × {fault}", side(source));
                        never.push((cell, fault.impossible_in(source, phase)));
                    }
                }
            }
        }
        never
    }

    /// As a table in Markdown.
    pub fn table(&self) -> String {
        let mut text = String::from("| side | phase |");
        for fault in Fault::ALL {
            let _ = write!(text, " {fault} |");
        }
        text.push_str("\n|---|---|");
        text.push_str(&"--:|".repeat(FAULTS));
        for source in [true, false] {
            for phase in Phase::ALL {
                let _ = write!(text, "\n| {} | {phase} |", side(source));
                for fault in Fault::ALL {
                    match self.of(source, phase, fault) {
                        0 if fault.impossible_in(source, phase).is_some() => text.push_str(" – |"),
                        count => drop(write!(text, " {count} |")),
                    }
                }
            }
        }
        text
    }
}

fn side(source: bool) -> &'static str {
    if source { "source" } else { "target" }
}
