//! Reads what the witness wrote, and proves from that alone that there was one of it and that nothing is gone.
//!
//! Shares nothing with `migrate`: a number comes from the witness's memory, so two copies would repeat numbers, a copy that was
//! set back would too, and a lost write would leave a gap.

use std::path::{Path, PathBuf};

/// A witness's journal.
#[derive(Debug)]
pub struct Journal {
    lines: PathBuf,
    acknowledged: PathBuf,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Rises by one.
    pub number: u64,
    /// The sandbox that it was written in.
    pub sandbox: u64,
    /// The node's network namespace.
    pub node: u64,
    /// When, in nanoseconds of the clock that all nodes of a lab share.
    pub at: u128,
}

/// What a journal proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// All lines, in the order in which they were written.
    pub lines: Vec<Line>,
    /// What is wrong with them; nothing is as it should be.
    pub faults: Vec<String>,
}

/// The longest time in which nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// The last line before it.
    pub from: u128,
    /// The first line after it.
    pub to: u128,
}

impl Pause {
    /// How long.
    pub fn milliseconds(&self) -> u64 {
        ((self.to - self.from) / 1_000_000) as u64
    }
}

impl Journal {
    /// The journal of a witness called `name`, in the shared directory.
    pub fn of(shared: &Path, name: &str) -> Journal {
        Journal {
            lines: shared.join(format!("{name}.journal")),
            acknowledged: shared.join(format!("{name}.acknowledged")),
        }
    }

    /// How many complete lines there are.
    pub fn length(&self) -> u64 {
        let text = std::fs::read(&self.lines).unwrap_or_default();
        text.iter().filter(|byte| **byte == b'\n').count() as u64
    }

    /// What it proves.
    pub fn prove(&self) -> Proof {
        // In this order: the witness goes on meanwhile.
        let acknowledged = std::fs::read_to_string(&self.acknowledged).unwrap_or_default();
        let text = std::fs::read_to_string(&self.lines).unwrap_or_default();
        prove(&text, acknowledged.trim().parse().unwrap_or(0))
    }
}

impl Proof {
    /// The longest pause that ended after `since`.
    pub fn longest_pause(&self, since: u128) -> Option<Pause> {
        let pauses = self.lines.windows(2).map(|pair| Pause { from: pair[0].at, to: pair[1].at });
        pauses.filter(|pause| pause.to > since).max_by_key(|pause| pause.to.saturating_sub(pause.from))
    }

    /// How many sandboxes wrote. One that is made when another is gone may get its number, but it is on another node.
    pub fn sandboxes(&self) -> usize {
        let place = |line: &Line| (line.sandbox, line.node);
        1 + self.lines.windows(2).filter(|pair| place(&pair[0]) != place(&pair[1])).count()
    }
}

fn parse(line: &str) -> Option<Line> {
    let mut words = line.split(' ');
    let line = Line {
        number: words.next()?.parse().ok()?,
        sandbox: words.next()?.parse().ok()?,
        node: words.next()?.parse().ok()?,
        at: words.next()?.parse().ok()?,
    };
    words.next().is_none().then_some(line)
}

fn prove(text: &str, acknowledged: u64) -> Proof {
    let mut proof = Proof { lines: Vec::new(), faults: Vec::new() };
    // A last line without its end is being written.
    for text in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let Some(line) = parse(text) else {
            proof.faults.push(format!("the witness says: {text}"));
            continue;
        };
        let last = proof.lines.last();
        let expected = last.map_or(1, |last| last.number + 1);
        if line.number < expected {
            proof.faults.push(format!(
                "number {} was written again after {}: two copies ran",
                line.number,
                expected - 1
            ));
        } else if line.number > expected {
            proof.faults.push(format!("numbers {expected} to {} are gone", line.number - 1));
        }
        if last.is_some_and(|last| last.at > line.at) {
            proof.faults.push(format!("number {} was written before the one before it", line.number));
        }
        proof.lines.push(line);
    }
    let written = proof.lines.last().map_or(0, |line| line.number);
    if written < acknowledged {
        proof.faults.push(format!("number {acknowledged} was acknowledged, the journal ends at {written}"));
    }
    proof
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "1 7 3 100\n2 7 3 110\n3 8 4 500\n4 8 4 510\n";

    #[test]
    fn a_move_is_no_fault() {
        let proof = prove(WHOLE, 4);
        assert_eq!(proof.faults, Vec::<String>::new());
        assert_eq!((proof.sandboxes(), proof.longest_pause(0)), (2, Some(Pause { from: 110, to: 500 })));
        assert_eq!(proof.longest_pause(500), Some(Pause { from: 500, to: 510 }));
    }

    #[test]
    fn a_second_copy_is_seen() {
        let proof = prove("1 7 3 100\n2 7 3 110\n2 8 4 112\n3 7 3 120\n", 3);
        assert!(proof.faults[0].contains("two copies"), "{:?}", proof.faults);
    }

    #[test]
    fn what_is_gone_is_seen() {
        assert!(prove("1 7 3 100\n3 7 3 110\n", 3).faults[0].contains("2 to 2 are gone"));
        assert!(prove(WHOLE, 5).faults[0].contains("5 was acknowledged"));
    }

    #[test]
    fn a_witness_that_finds_damage_is_heard() {
        assert!(prove("1 7 3 100\nBAD page 4\n", 1).faults[0].contains("BAD page 4"));
        assert_eq!(prove("1 7 3 100\n2 7 3", 1).faults, Vec::<String>::new(), "a line that is being written");
    }
}
