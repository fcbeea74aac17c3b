//! The `ok N` lines of a workload.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use super::PATIENCE;

/// How far a workload has got, by its lines from the first on.
#[derive(Debug, Default)]
pub(super) struct Progress {
    last: u64,
}

impl Progress {
    /// Of a whole log. A last line without its end is being written, and left out.
    pub(super) fn of(log: &str) -> Progress {
        let mut progress = Progress::default();
        log.split_inclusive('\n').filter(|line| line.ends_with('\n')).for_each(|line| progress.hear(line));
        progress
    }

    /// The last number; 0 before the first.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Panics where the line says that state was lost, or does not follow the line before.
    fn hear(&mut self, line: &str) {
        assert!(!line.starts_with("BAD"), "after ok {}: {line}", self.last);
        let Some(rest) = line.strip_prefix("ok ") else { return };
        let number = rest.split_whitespace().next().and_then(|number| number.parse().ok());
        assert_eq!(number, Some(self.last + 1), "after ok {}: {line}", self.last);
        self.last += 1;
    }
}

/// A command that prints a log, from its beginning, as it grows. Ended when dropped.
pub(super) struct Follower {
    command: Child,
    lines: Receiver<String>,
    progress: Progress,
}

impl Follower {
    pub(super) fn start(mut command: Command) -> Follower {
        let mut command = command.stderr(Stdio::inherit()).spawn().unwrap();
        let (sender, lines) = channel();
        let mut stdout = BufReader::new(command.stdout.take().unwrap());
        // Ends with the command, or with the receiver.
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while stdout.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
                line.clear();
            }
        });
        Follower { command, lines, progress: Progress::default() }
    }

    /// Reads until `enough`; the last number then.
    pub(super) fn until(&mut self, enough: impl Fn(&Progress) -> bool) -> Result<u64, String> {
        let deadline = Instant::now() + PATIENCE;
        while !enough(&self.progress) {
            self.next(deadline)?;
        }
        Ok(self.progress.last)
    }

    /// Reads until a line that is `wanted`.
    pub(super) fn line(&mut self, wanted: impl Fn(&str) -> bool) -> Result<String, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = self.next(deadline)?;
            if wanted(&line) {
                return Ok(line);
            }
        }
    }

    fn next(&mut self, deadline: Instant) -> Result<String, String> {
        let line = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        let last = self.progress.last;
        let line = line.map_err(|why| match why {
            RecvTimeoutError::Timeout => format!("still at ok {last} after {PATIENCE:?}"),
            RecvTimeoutError::Disconnected => format!("its log ended at ok {last}"),
        })?;
        self.progress.hear(&line);
        Ok(line)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.command.kill();
        let _ = self.command.wait();
    }
}
