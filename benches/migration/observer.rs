//! Reads what `specimen pause` prints: the gaps that the process saw in time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// No move takes less; what the machine's noise does hardly takes more.
const SHORTEST_MOVE: f64 = 8.0;
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);

/// Follows the output of one process.
pub(crate) struct Observer {
    lines_read: usize,
}

impl Observer {
    /// Waits until the process has filled its memory. `output` reads all that it has written.
    pub(crate) fn ready(output: impl Fn() -> Result<String>) -> Result<Observer> {
        wait(|| Ok(complete_lines(&output()?).next().map(|_| Observer { lines_read: 0 })))
    }

    /// Forgets the gaps so far: what comes now is to be measured.
    pub(crate) fn begin(&mut self, output: impl Fn() -> Result<String>) -> Result<()> {
        self.lines_read = complete_lines(&output()?).count();
        Ok(())
    }

    /// The longest gap since [`Observer::begin`], in milliseconds, once there is one that can be a move.
    pub(crate) fn longest(&self, output: impl Fn() -> Result<String>) -> Result<f64> {
        let longest = || {
            let text = output()?;
            let gaps = complete_lines(&text).skip(self.lines_read).filter_map(gap);
            Ok(gaps.max_by(f64::total_cmp).filter(|gap| *gap >= SHORTEST_MOVE))
        };
        wait(longest)?;
        // What was seen may have been noise before the move: by now the process has run again and told the rest.
        std::thread::sleep(LOOK);
        wait(longest)
    }
}

/// The last line may be half written.
fn complete_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter(|line| line.ends_with('\n'))
}

/// `gap_ms 12.345 max_ms 67.890`
fn gap(line: &str) -> Option<f64> {
    line.strip_prefix("gap_ms ")?.split(' ').next()?.parse().ok()
}

/// Looks until there is something.
pub(crate) fn wait<T>(mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if begun.elapsed() > PATIENCE {
            bail!("nothing came in {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(LOOK);
    }
}
