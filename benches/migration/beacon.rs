//! Reads what `specimen beacon` writes: when and where a workload ran, as seen on storage that all nodes share.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::observer::wait;

/// One line of the file.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    /// Milliseconds since 1970.
    pub(crate) at: f64,
    /// On which node, as a number that its next boot does not have.
    pub(crate) place: u64,
    /// How many lines this copy had written by then, itself or in the life that it was restored from.
    pub(crate) number: u64,
}

/// The file.
pub(crate) struct Beacon {
    path: PathBuf,
    /// What is before this was looked at.
    begun: usize,
}

impl Beacon {
    pub(crate) fn in_file(path: PathBuf) -> Beacon {
        Beacon { path, begun: 0 }
    }

    /// Forgets what was seen so far. The last line of it.
    pub(crate) fn begin(&mut self) -> Result<Seen> {
        let last = wait(|| Ok(self.seen()?.last().copied()))?;
        self.begun = std::fs::read(&self.path)?.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        Ok(last)
    }

    /// What was seen since then. The file's lines are in the order in which they were written.
    pub(crate) fn seen(&self) -> Result<Vec<Seen>> {
        self.from(self.begun)
    }

    /// What was ever seen.
    pub(crate) fn all(&self) -> Result<Vec<Seen>> {
        self.from(0)
    }

    fn from(&self, begun: usize) -> Result<Vec<Seen>> {
        let text = match std::fs::read(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            read => read.with_context(|| format!("reading {}", self.path.display()))?,
        };
        let new = text.get(begun..).unwrap_or_default();
        // The last line may be half written.
        new.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")).map(parse).collect()
    }

    /// Waits until it runs somewhere else: how long it stood still in between, and what it did first there.
    pub(crate) fn elsewhere(&self, than: u64) -> Result<(f64, Seen)> {
        let first = wait(|| Ok(self.seen()?.into_iter().find(|seen| seen.place != than)))?;
        let before = self.seen()?.into_iter().filter(|seen| seen.place == than).map(|seen| seen.at);
        let last = before.max_by(f64::total_cmp).context("it was not seen before")?;
        Ok((first.at - last, first))
    }

    /// Waits until it runs, from now on.
    pub(crate) fn shines(&self) -> Result<Seen> {
        let now = self.seen()?.len();
        wait(|| Ok(self.seen()?.get(now).copied()))
    }

    /// The longest time in which nothing was seen.
    pub(crate) fn longest_gap(&self) -> Result<f64> {
        let seen = self.seen()?;
        let gaps = seen.windows(2).map(|two| two[1].at - two[0].at);
        gaps.max_by(f64::total_cmp).context("it was not seen twice")
    }

    /// For how long two copies ran beside each other: from when a copy was seen first to when one that was seen before it was seen
    /// last. Nothing, where each has ended before the next began.
    pub(crate) fn overlap(&self) -> Result<f64> {
        let mut seen = self.seen()?;
        seen.sort_by(|one, other| one.at.total_cmp(&other.at));
        let (mut over, mut worst): (BTreeSet<u64>, f64) = (BTreeSet::new(), 0.0);
        let mut present: Option<Seen> = None;
        for now in seen {
            match present {
                Some(shown) if shown.place == now.place => {}
                Some(shown) if over.contains(&now.place) => worst = worst.max(now.at - shown.at),
                Some(shown) => {
                    over.insert(shown.place);
                    present = Some(now);
                }
                None => present = Some(now),
            }
        }
        Ok(worst)
    }
}

fn parse(line: &[u8]) -> Result<Seen> {
    let text = std::str::from_utf8(line)?;
    let mut words = text.split_whitespace().map(str::parse::<u64>);
    let (Some(at), Some(place), Some(number), None) = (words.next(), words.next(), words.next(), words.next()) else {
        bail!("no line of a beacon: {text:?}");
    };
    Ok(Seen { at: at? as f64 / 1e6, place: place?, number: number? })
}
