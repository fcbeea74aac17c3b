//! `witness JOURNAL ACKNOWLEDGED MIB [still]`: a workload that shows from outside how many copies of it run, and whether its state is whole.
//!
//! Every few milliseconds it checks a part of its memory and a file of its own, changes both, and appends a line to JOURNAL, which
//! lies on storage that all nodes share: `NUMBER SANDBOX NODE NANOSECONDS`. SANDBOX and NODE are the inodes of its PID and
//! network namespace: which copy wrote, and where. Only when the line is on the disk is its number written to ACKNOWLEDGED.
//! When something is not as it left it, it says `BAD …` in the journal and ends. With `still` it does not change its own file: what
//! writes to a full disk fails, whoever moves it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PAUSE: Duration = Duration::from_millis(4);
/// Words in a page.
const WORDS: usize = 512;
/// All of the memory is checked in so many cycles.
const SHARE: usize = 16;
/// In the layer, which travels.
const OWN_FILE: &str = "witness-number";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let (journal, acknowledged, mib, still) = match &words[..] {
        [_, journal, acknowledged, mib] => (journal, acknowledged, mib, false),
        [_, journal, acknowledged, mib, word] if word == "still" => (journal, acknowledged, mib, true),
        _ => return ExitCode::from(2),
    };
    let outcome = mib.parse().map_err(|_| "MIB is a number".to_owned()).and_then(|mib| {
        let begun = Witness::begin(Path::new(journal), Path::new(acknowledged), mib, still);
        begun.map_err(|error| error.to_string())?.bear()
    });
    let Err(why) = outcome;
    if let Ok(mut journal) = OpenOptions::new().append(true).open(journal) {
        let _ = writeln!(journal, "BAD {why}");
    }
    ExitCode::FAILURE
}

struct Witness {
    journal: File,
    acknowledged: File,
    own: File,
    still: bool,
    number: u64,
    memory: Vec<[u64; WORDS]>,
    /// How often each page was written.
    versions: Vec<u64>,
}

impl Witness {
    fn begin(journal: &Path, acknowledged: &Path, mib: usize, still: bool) -> io::Result<Witness> {
        let pages = mib << 8;
        let memory = (0..pages).map(|page| content(page, 0)).collect();
        let own = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(OWN_FILE)?;
        own.write_all_at(&0u64.to_le_bytes(), 0)?;
        own.sync_all()?;
        let appending = |path| OpenOptions::new().append(true).create(true).open(path);
        Ok(Witness {
            journal: appending(journal)?,
            acknowledged: OpenOptions::new().write(true).create(true).truncate(true).open(acknowledged)?,
            own,
            still,
            number: 0,
            memory,
            versions: vec![0; pages],
        })
    }

    fn bear(mut self) -> Result<std::convert::Infallible, String> {
        loop {
            self.check_memory()?;
            self.check_file()?;
            self.number += 1;
            self.change()?;
            self.write_down().map_err(|error| format!("the journal cannot be written: {error}"))?;
            std::thread::sleep(PAUSE);
        }
    }

    fn check_memory(&self) -> Result<(), String> {
        let turn = self.number as usize % SHARE;
        for page in (turn..self.memory.len()).step_by(SHARE) {
            if self.memory[page] != content(page, self.versions[page]) {
                return Err(format!("page {page} of the memory changed by itself before number {}", self.number));
            }
        }
        Ok(())
    }

    fn check_file(&self) -> Result<(), String> {
        let mut bytes = [0; 8];
        self.own.read_exact_at(&mut bytes, 0).map_err(|error| format!("the own file cannot be read: {error}"))?;
        let found = u64::from_le_bytes(bytes);
        let expected = if self.still { 0 } else { self.number };
        if found == expected { Ok(()) } else { Err(format!("the own file says {found} instead of {expected}")) }
    }

    fn change(&mut self) -> Result<(), String> {
        // Far from the page before: neighbours are not written together.
        let page = (self.number as usize).wrapping_mul(7919) % self.memory.len();
        self.versions[page] += 1;
        self.memory[page] = content(page, self.versions[page]);
        if self.still {
            return Ok(());
        }
        let bytes = self.number.to_le_bytes();
        self.own.write_all_at(&bytes, 0).map_err(|error| format!("the own file cannot be written: {error}"))
    }

    fn write_down(&mut self) -> io::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let (sandbox, node) = place()?;
        let line = format!("{} {sandbox} {node} {now}\n", self.number);
        self.journal.write_all(line.as_bytes())?;
        self.journal.sync_data()?;
        self.acknowledged.write_all_at(format!("{:020}", self.number).as_bytes(), 0)
    }
}

/// Sandbox and node as they were at one instant: a move may come between two looks.
fn place() -> io::Result<(String, String)> {
    loop {
        let (sandbox, node) = (namespace("pid")?, namespace("net")?);
        if namespace("pid")? == sandbox {
            return Ok((sandbox, node));
        }
    }
}

/// `pid:[4026531836]` without the words.
fn namespace(kind: &str) -> io::Result<String> {
    let link = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
    Ok(link.to_string_lossy().chars().filter(char::is_ascii_digit).collect())
}

/// What belongs into a page: it compresses badly, and follows from where it is and how often it was written.
fn content(page: usize, version: u64) -> [u64; WORDS] {
    let mut state = ((page as u64) << 32) ^ version.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    std::array::from_fn(|_| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ (mixed >> 27)
    })
}
