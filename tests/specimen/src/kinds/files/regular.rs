//! Regular files: deleted, appended to, read on from an offset, and with holes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::Whence;

use super::create;
use crate::blocks::random_bytes;
use crate::part::Part;
use crate::verdict::{MustSucceed, Verdict, Violation, holds, same};

/// Bytes read in one cycle.
const STEP: usize = 1000;

fn position(file: &mut File) -> Verdict<u64> {
    file.stream_position().must("reading a file's offset")
}

/// Reads `STEP` bytes at the offset, round and round.
struct Reader {
    file: File,
    content: Vec<u8>,
    offset: usize,
}

impl Reader {
    fn new(mut file: File, content: Vec<u8>) -> Verdict<Self> {
        let offset = 12_345;
        file.seek(SeekFrom::Start(offset as u64)).must("seeking")?;
        Ok(Self { file, content, offset })
    }

    fn read_on(&mut self, what: &str) -> Verdict<u64> {
        same(format_args!("offset in {what}"), self.offset as u64, position(&mut self.file)?)?;
        if self.offset + STEP > self.content.len() {
            self.file.rewind().must("seeking")?;
            self.offset = 0;
        }
        let mut found = vec![0; STEP];
        self.file.read_exact(&mut found).must(format_args!("reading {what}"))?;
        let expected = &self.content[self.offset..][..STEP];
        holds(format_args!("content of {what} at {}", self.offset), found == expected, "as written", "changed")?;
        self.offset += STEP;
        Ok(self.offset as u64)
    }
}

/// A file without a name, half read, still written to.
pub(crate) struct Deleted {
    reader: Reader,
}

impl Deleted {
    const LEN: usize = 200_000;

    /// Makes and deletes it in `dir`.
    pub(crate) fn new(dir: &Path) -> Verdict<Self> {
        let path = dir.join("deleted");
        let content = random_bytes(Self::LEN, 11);
        let file = create(&path, &content)?;
        std::fs::remove_file(&path).must("deleting a file")?;
        Ok(Self { reader: Reader::new(file, content)? })
    }
}

impl Part for Deleted {
    fn name(&self) -> &'static str {
        "deleted"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let metadata = self.reader.file.metadata().must("fstat of a deleted file")?;
        same("links of a deleted file", 0, metadata.nlink())?;
        same("length of a deleted file", Self::LEN as u64, metadata.len())?;
        self.reader.read_on("a deleted file")?;
        let at = (cycle as usize * 4_099) % (Self::LEN - 8);
        self.reader.content[at..at + 8].copy_from_slice(&cycle.to_le_bytes());
        self.reader.file.write_all_at(&cycle.to_le_bytes(), at as u64).must("writing to a deleted file")?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.reader.file.seek(SeekFrom::Current(1)).must("seeking").map(drop)
    }
}

/// A file that is read on from where it was.
pub(crate) struct Reading {
    reader: Reader,
    steps: u64,
}

impl Reading {
    /// Makes it in `dir`.
    pub(crate) fn new(dir: &Path) -> Verdict<Self> {
        let path = dir.join("read");
        let content = random_bytes(100_000, 12);
        create(&path, &content)?;
        let file = File::open(&path).must("opening a file")?;
        Ok(Self { reader: Reader::new(file, content)?, steps: 0 })
    }
}

impl Part for Reading {
    fn name(&self) -> &'static str {
        "read"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        let flags = fcntl(&self.reader.file, FcntlArg::F_GETFL).must("F_GETFL")?;
        same(
            "access mode of a file opened to read",
            OFlag::O_RDONLY,
            OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE,
        )?;
        self.reader.read_on("a file opened to read")?;
        self.steps += 1;
        Ok(self.steps)
    }

    fn sabotage(&mut self) -> Verdict {
        self.reader.file.rewind().must("seeking")
    }
}

/// A file that grows by one record a cycle.
pub(crate) struct Appended {
    file: File,
    length: u64,
}

impl Appended {
    const RECORD: usize = 64;
    const LIMIT: u64 = 1024 * 1024;

    /// Makes it in `dir`.
    pub(crate) fn new(dir: &Path) -> Verdict<Self> {
        let mut options = File::options();
        options.read(true).append(true).create_new(true).mode(0o640);
        Ok(Self { file: options.open(dir.join("appended")).must("making a file to append to")?, length: 0 })
    }
}

impl Part for Appended {
    fn name(&self) -> &'static str {
        "appended"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let flags = OFlag::from_bits_retain(fcntl(&self.file, FcntlArg::F_GETFL).must("F_GETFL")?);
        holds("flags of a file that is appended to", flags.contains(OFlag::O_APPEND), "O_APPEND", "none")?;
        same("length of a growing file", self.length, self.file.metadata().must("fstat")?.len())?;
        if self.length > 0 {
            let mut last = vec![0; Self::RECORD];
            self.file.read_exact_at(&mut last, self.length - Self::RECORD as u64).must("reading the last record")?;
            holds(
                "last record of a growing file",
                last == random_bytes(Self::RECORD, cycle - 1),
                "as written",
                "changed",
            )?;
        }
        if self.length > Self::LIMIT {
            self.file.set_len(0).must("truncating")?;
            self.length = 0;
        }
        // Whatever the offset is, appending goes to the end.
        self.file.seek(SeekFrom::Start(cycle % 10)).must("seeking")?;
        self.file.write_all(&random_bytes(Self::RECORD, cycle)).must("appending")?;
        self.length += Self::RECORD as u64;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.file.set_len(self.length - 1).must("truncating")
    }
}

/// A file that is mostly holes; they must stay holes.
pub(crate) struct Sparse {
    file: File,
    extents: Vec<(i64, i64)>,
    blocks: u64,
}

impl Sparse {
    const MIB: u64 = 1024 * 1024;

    /// Makes it in `dir`.
    pub(crate) fn new(dir: &Path) -> Verdict<Self> {
        let file = create(&dir.join("sparse"), b"")?;
        file.set_len(16 * Self::MIB).must("truncating")?;
        for mib in [0, 3, 11] {
            file.write_all_at(&random_bytes(8192, mib), mib * Self::MIB).must("writing")?;
        }
        // Blocks are only counted for good once they are allocated.
        file.sync_all().must("fsync")?;
        let blocks = file.metadata().must("fstat")?.blocks();
        Ok(Self { extents: extents(&file)?, file, blocks })
    }
}

/// Where the data of a sparse file lies.
fn extents(file: &File) -> Verdict<Vec<(i64, i64)>> {
    let mut extents = Vec::new();
    let mut at = 0;
    loop {
        let start = match nix::unistd::lseek(file, at, Whence::SeekData) {
            Err(Errno::ENXIO) => return Ok(extents),
            outcome => outcome.must("lseek(SEEK_DATA)")?,
        };
        at = nix::unistd::lseek(file, start, Whence::SeekHole).must("lseek(SEEK_HOLE)")?;
        extents.push((start, at));
    }
}

impl Part for Sparse {
    fn name(&self) -> &'static str {
        "sparse"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        same("data and holes of a sparse file", &self.extents, &extents(&self.file)?)?;
        same("blocks of a sparse file", self.blocks, self.file.metadata().must("fstat")?.blocks())?;
        for mib in [0, 3, 11] {
            let mut found = vec![0; 8192];
            self.file.read_exact_at(&mut found, mib * Self::MIB).must("reading a sparse file")?;
            if found != random_bytes(8192, mib) {
                return Err(Violation::new(format_args!("sparse file at {mib} MiB"), "as written", "changed"));
            }
        }
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.file.write_all_at(&[0; 4096], 5 * Self::MIB).and_then(|()| self.file.sync_all()).must("filling a hole")
    }
}
