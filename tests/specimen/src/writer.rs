//! Proves that one copy runs: a writer appends numbered, checksummed, fsynced records to a file on storage that all nodes
//! share. A second copy would repeat numbers; a lost one would leave a gap.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::blocks::digest;
use crate::part::Part;
use crate::verdict::{MustSucceed, Verdict, Violation, holds, same};

/// Appends one record a cycle. A writer that finds records goes on after the last.
pub(crate) struct Writer {
    path: PathBuf,
    file: File,
    length: u64,
    number: u64,
}

impl Writer {
    /// Opens `path`, and checks what is there.
    pub(crate) fn open(path: &Path) -> Verdict<Self> {
        let options = File::options().read(true).append(true).create(true).open(path);
        let file = options.must(format_args!("opening {}", path.display()))?;
        let content = std::fs::read(path).must(format_args!("reading {}", path.display()))?;
        let number = check(&content)?.records;
        Ok(Self { path: path.to_owned(), file, length: content.len() as u64, number })
    }

    fn append(&mut self, number: u64) -> Verdict {
        let record = record(number)?;
        self.file.write_all(record.as_bytes()).must("appending a record")?;
        self.file.sync_data().must("fsync")?;
        self.length += record.len() as u64;
        Ok(())
    }
}

/// `NUMBER PID@HOST NANOSECONDS DIGEST`.
fn record(number: u64) -> Verdict<String> {
    let host = nix::unistd::gethostname().must("gethostname")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let text = format!("{number} {}@{} {now}", std::process::id(), host.display());
    Ok(format!("{text} {:016x}\n", digest(text.as_bytes())))
}

impl Part for Writer {
    fn name(&self) -> &'static str {
        "records"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        let found = std::fs::metadata(&self.path).must("stat of the shared file")?.len();
        same("length of the file that only this process writes", self.length, found)?;
        self.number += 1;
        self.append(self.number)?;
        Ok(self.number)
    }

    fn sabotage(&mut self) -> Verdict {
        // As a second copy would do.
        let mut copy = Self::open(&self.path)?;
        copy.append(self.number + 1)
    }
}

/// What a file of records says.
pub(crate) struct Findings {
    /// How many records there are.
    pub(crate) records: u64,
    /// Who wrote, in the order of their first record.
    pub(crate) writers: Vec<String>,
}

/// Checks that the records number 1, 2, 3 … without gap, repetition or damage. A last line that is not yet complete
/// does not count: the file may be growing.
pub(crate) fn check(content: &[u8]) -> Verdict<Findings> {
    let mut findings = Findings { records: 0, writers: Vec::new() };
    let complete = content.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    for line in content[..complete].split_inclusive(|&byte| byte == b'\n') {
        let expected = findings.records + 1;
        let (number, writer) = parse(line, expected)?;
        same("number of a record", expected, number)?;
        findings.records = number;
        if findings.writers.last() != Some(&writer) {
            findings.writers.push(writer);
        }
    }
    Ok(findings)
}

fn parse(line: &[u8], expected: u64) -> Verdict<(u64, String)> {
    let what = format!("record {expected}");
    let damaged = || Violation::new(&what, "NUMBER WRITER TIME DIGEST", line.escape_ascii());
    let text = std::str::from_utf8(line).map_err(|_| damaged())?.trim_end();
    let (signed, signature) = text.rsplit_once(' ').ok_or_else(damaged)?;
    let found = format!("{:016x}", digest(signed.as_bytes()));
    holds(format_args!("digest of {what}"), found == signature, &found, signature)?;
    let mut words = signed.split(' ');
    let number = words.next().and_then(|word| word.parse().ok()).ok_or_else(damaged)?;
    Ok((number, words.next().ok_or_else(damaged)?.to_owned()))
}

/// Checks a file, and says what it found.
pub(crate) fn check_file(path: &Path) -> Verdict<Findings> {
    check(&std::fs::read(path).must(format_args!("reading {}", path.display()))?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn records(numbers: &[u64]) -> Vec<u8> {
        numbers.iter().flat_map(|&number| record(number).unwrap().into_bytes()).collect()
    }

    #[test]
    fn consecutive_records_are_counted() {
        let findings = check(&records(&[1, 2, 3])).unwrap();
        assert_eq!((findings.records, findings.writers.len()), (3, 1));
    }

    #[test]
    fn an_unfinished_line_does_not_count() {
        let mut content = records(&[1, 2]);
        content.pop();
        assert_eq!(check(&content).unwrap().records, 1);
    }

    #[test]
    fn a_gap_a_repetition_and_damage_are_noticed() {
        assert!(check(&records(&[1, 3])).is_err());
        assert!(check(&records(&[1, 2, 2])).is_err());
        let mut content = records(&[1, 2]);
        content[2] ^= 1;
        assert!(check(&content).is_err());
    }
}
