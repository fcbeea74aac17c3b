//! Proves that shared memory arrives shared: anonymous, in a memfd (sealed and not), System V, POSIX in `/dev/shm`, and a
//! mapped file; between parent and child, and between two children when the parent has let go. Also the
//! semaphores and message queues of System V.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::Parts;
use crate::blocks::random_bytes;
use crate::family::Child;
use crate::mapping::Shared;
use crate::part::Part;
use crate::sysv::{Queue, Segment, Semaphores};
use crate::verdict::{MustSucceed, Verdict, holds, refused, same};

/// Bytes in each shared region.
const LEN: usize = 256 * 1024;

/// The kind's parts, with files in `dir` and POSIX shared memory in `posix_dir`.
pub(crate) fn parts(dir: &Path, posix_dir: &Path) -> Verdict<Parts> {
    // System V objects outlive processes; in a namespace of our own they end with us. Without the right to make one we
    // use the sandbox's.
    if let Err(error) = unshare(CloneFlags::CLONE_NEWIPC) {
        eprintln!("specimen: no IPC namespace of its own: {error}");
    }
    let in_memory = memfd_create("specimen", MFdFlags::MFD_CLOEXEC).must("memfd_create")?;
    let posix_path = posix_dir.join(format!("specimen-{}", std::process::id()));
    Ok(vec![
        Box::new(Between::new("anonymous", Memory::Mapped(Shared::anonymous(LEN)?), None)?),
        Box::new(Between::of_file("memfd", in_memory.into())?),
        Box::new(Between::of_file("posix", new_file(&posix_path)?)?),
        Box::new(Between::of_file("mapped_file", new_file(&dir.join("mapped"))?)?),
        Box::new(Between::new("sysv", Memory::SystemV(Segment::new(LEN)?), None)?),
        Box::new(Children::new()?),
        Box::new(Handshake::new()?),
        Box::new(Messages::new()?),
        Box::new(Sealed::new()?),
        Box::new(Named::new(posix_path)?),
    ])
}

fn new_file(path: &Path) -> Verdict<File> {
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(true).open(path);
    file.must(format_args!("making {}", path.display()))
}

enum Memory {
    Mapped(Shared),
    SystemV(Segment),
}

impl Memory {
    fn words(&self) -> &[AtomicU64] {
        match self {
            Self::Mapped(shared) => shared.words(),
            Self::SystemV(segment) => segment.words(),
        }
    }
}

/// The word of a region that is used in `cycle`, and its neighbour for the answer; far apart from cycle to cycle.
fn place(words: &[AtomicU64], cycle: u64) -> (&AtomicU64, &AtomicU64) {
    let index = (cycle * 1_031 * 2) as usize % words.len();
    (&words[index], &words[index + 1])
}

/// A region in which parent and child write to each other. All of the rest keeps what was written first.
struct Between {
    name: &'static str,
    memory: Memory,
    file: Option<File>,
    expected: Vec<u64>,
    child: Child,
}

impl Between {
    fn of_file(name: &'static str, file: File) -> Verdict<Self> {
        file.set_len(LEN as u64).must("ftruncate")?;
        Self::new(name, Memory::Mapped(Shared::of_file(&file, LEN)?), Some(file))
    }

    fn new(name: &'static str, memory: Memory, file: Option<File>) -> Verdict<Self> {
        let expected: Vec<u64> = (0..memory.words().len() as u64).map(|word| word * 0x0101_0101).collect();
        for (word, &value) in memory.words().iter().zip(&expected) {
            word.store(value, SeqCst);
        }
        let child = Child::fork(name, |parent| {
            parent.serve(|cycle| {
                let (from_parent, to_parent) = place(memory.words(), cycle);
                same(format_args!("word from the parent in {name} memory"), cycle, from_parent.load(SeqCst))?;
                to_parent.store(!cycle, SeqCst);
                Ok(cycle)
            })
        })?;
        Ok(Self { name, memory, file, expected, child })
    }
}

impl Part for Between {
    fn name(&self) -> &'static str {
        self.name
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let words = self.memory.words();
        let changed = words.iter().zip(&self.expected).position(|(word, &expected)| word.load(SeqCst) != expected);
        same(format_args!("changed word in {} memory", self.name), None, changed)?;
        let (to_child, from_child) = place(words, cycle);
        to_child.store(cycle, SeqCst);
        self.child.ask(cycle)?;
        same(format_args!("word from the child in {} memory", self.name), !cycle, from_child.load(SeqCst))?;
        let index = (cycle * 1_031 * 2) as usize % words.len();
        (self.expected[index], self.expected[index + 1]) = (cycle, !cycle);
        if let Some(file) = &self.file {
            let mut in_file = [0; 8];
            file.read_exact_at(&mut in_file, index as u64 * 8).must("reading what is mapped")?;
            same(format_args!("word in the file of {} memory", self.name), cycle, u64::from_le_bytes(in_file))?;
        }
        if let Memory::SystemV(segment) = &self.memory {
            let (size, mode, attached) = segment.status()?;
            same("size and mode of a System V segment", (LEN, 0o600), (size, mode))?;
            // Children that were forked later are attached as well.
            holds("attachments of a System V segment", attached >= 2, "at least 2", attached)?;
        }
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.memory.words()[77].store(0, SeqCst);
        Ok(())
    }
}

/// Two children share memory that their parent has unmapped.
struct Children {
    writer: Child,
    reader: Child,
    skew: u64,
}

impl Children {
    fn new() -> Verdict<Self> {
        let memory = Shared::anonymous(LEN)?;
        let writer = Child::fork("child that writes shared memory", |parent| {
            parent.serve(|cycle| Ok(place(memory.words(), cycle).0.swap(cycle, SeqCst)))
        })?;
        let reader = Child::fork("child that reads shared memory", |parent| {
            parent.serve(|cycle| Ok(place(memory.words(), cycle).0.load(SeqCst)))
        })?;
        Ok(Self { writer, reader, skew: 0 })
    }
}

impl Part for Children {
    fn name(&self) -> &'static str {
        "children"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        self.writer.ask(cycle)?;
        same("word from one child to another", cycle, self.reader.ask(cycle + self.skew)?)?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.skew = 1;
        Ok(())
    }
}

/// Parent and child take turns by System V semaphores; a third one keeps its value.
struct Handshake {
    semaphores: Semaphores,
    child: Child,
}

impl Handshake {
    fn new() -> Verdict<Self> {
        let semaphores = Semaphores::new(&[0, 0, 4711])?;
        let child = Child::fork("child at the semaphores", |parent| {
            parent.serve(|cycle| {
                semaphores.change(0, -1)?;
                semaphores.change(1, 2)?;
                Ok(cycle)
            })
        })?;
        Ok(Self { semaphores, child })
    }
}

impl Part for Handshake {
    fn name(&self) -> &'static str {
        "semaphores"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        same("value of an unused semaphore", 4711, self.semaphores.value(2)?)?;
        // The value 2 of the last cycle waited in the second semaphore since then.
        same("value of the second semaphore", if cycle == 1 { 0 } else { 2 }, self.semaphores.value(1)?)?;
        if cycle > 1 {
            self.semaphores.change(1, -2)?;
        }
        self.semaphores.change(0, 1)?;
        self.child.ask(cycle)?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.semaphores.change(2, 1)
    }
}

/// Messages that wait in a System V queue.
struct Messages {
    queue: Queue,
}

impl Messages {
    fn new() -> Verdict<Self> {
        let messages = Self { queue: Queue::new()? };
        (1..=5).try_for_each(|number| messages.send(number))?;
        Ok(messages)
    }

    fn content(number: u64) -> Vec<u8> {
        random_bytes(8 + (number % 50) as usize, number)
    }

    fn send(&self, number: u64) -> Verdict {
        self.queue.send(1 + (number % 3) as i64, &Self::content(number))
    }
}

impl Part for Messages {
    fn name(&self) -> &'static str {
        "messages"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let found = self.queue.receive(0)?;
        same(format_args!("System V message {cycle}"), (1 + (cycle % 3) as i64, Self::content(cycle)), found)?;
        self.send(cycle + 5)?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.queue.receive(2).map(drop)
    }
}

/// A memfd that nobody may change any more.
struct Sealed {
    file: File,
    content: Vec<u8>,
}

impl Sealed {
    fn seals() -> SealFlag {
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL
    }

    fn new() -> Verdict<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut file = File::from(memfd_create("sealed specimen", flags).must("memfd_create")?);
        let content = random_bytes(100_000, 21);
        file.write_all(&content).must("writing to a memfd")?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(Self::seals())).must("F_ADD_SEALS")?;
        Ok(Self { file, content })
    }
}

impl Part for Sealed {
    fn name(&self) -> &'static str {
        "sealed"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let seals = SealFlag::from_bits_retain(fcntl(&self.file, FcntlArg::F_GET_SEALS).must("F_GET_SEALS")?);
        same("seals of a memfd", Self::seals(), seals)?;
        refused("writing to a sealed memfd", nix::sys::uio::pwrite(&self.file, b"x", 0), &[Errno::EPERM])?;
        refused("growing a sealed memfd", nix::unistd::ftruncate(&self.file, 200_000), &[Errno::EPERM])?;
        let mut found = vec![0; self.content.len()];
        self.file.read_exact_at(&mut found, 0).must("reading a sealed memfd")?;
        holds("content of a sealed memfd", found == self.content, "as written", "changed")?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.content[5] ^= 1;
        Ok(())
    }
}

/// POSIX shared memory is still there by its name.
struct Named {
    path: PathBuf,
}

impl Named {
    fn new(path: PathBuf) -> Verdict<Self> {
        Ok(Self { path })
    }
}

impl Part for Named {
    fn name(&self) -> &'static str {
        "posix_name"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let file = File::open(&self.path).must("opening POSIX shared memory by its name")?;
        let mut word = [0; 8];
        let index = (cycle * 1_031 * 2) % (LEN as u64 / 8);
        file.read_exact_at(&mut word, index * 8).must("reading POSIX shared memory")?;
        same("word in POSIX shared memory by its name", cycle, u64::from_le_bytes(word))?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        std::fs::remove_file(&self.path).must("shm_unlink")
    }
}
