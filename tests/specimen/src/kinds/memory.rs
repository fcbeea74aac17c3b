//! Proves that memory arrives byte for byte: blocks filled with zero, random, mixed or text content, checked in rotation
//! and rewritten; the same blocks copy-on-write in a child, which rewrites its own at another pace; read-only pages,
//! untouchable gaps, discarded pages, locked pages, a region on a 2 MiB boundary, one that grows and shrinks; and a deep stack.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::Parts;
use crate::blocks::{BLOCK, Blocks, Content, digest, fill_random, random_bytes};
use crate::family::Child;
use crate::mapping::{PAGE, Private, ReadOnly, Reserved, rights_at};
use crate::part::Part;
use crate::verdict::{MustSucceed, Verdict, holds, same};

const BLOCKS_A_CYCLE: usize = 64;
const MIB: usize = 1024 * 1024;

/// The kind's parts: `mib` MiB of `content` and everything odd.
pub(crate) fn parts(mib: usize, content: Content) -> Verdict<Parts> {
    let blocks = Blocks::new(mib, content, 1)?;
    let (blocks, relative) = Relative::fork(blocks)?;
    Ok(vec![
        Box::new(Rotation { blocks, checked: 0 }),
        Box::new(relative),
        Box::new(Protected::new()?),
        Box::new(Discarded::new()?),
        Box::new(Locked::new()?),
        Box::new(Elastic::new()?),
        Box::new(DeepStack::new()),
    ])
}

/// For benchmarks: memory that is filled, kept and not touched.
pub(crate) fn quiet_parts(mib: usize, content: Content) -> Verdict<Parts> {
    struct Kept(Blocks);
    impl Part for Kept {
        fn name(&self) -> &'static str {
            "counter"
        }
        fn check(&mut self, cycle: u64) -> Verdict<u64> {
            Ok(cycle)
        }
        fn sabotage(&mut self) -> Verdict {
            self.0.corrupt();
            Ok(())
        }
    }
    Ok(vec![Box::new(Kept(Blocks::new(mib, content, 1)?))])
}

/// Blocks checked in rotation.
pub(crate) struct Rotation {
    blocks: Blocks,
    checked: u64,
}

impl Rotation {
    /// Of fresh memory.
    pub(crate) fn new(mib: usize, content: Content, seed: u64) -> Verdict<Self> {
        Ok(Self { blocks: Blocks::new(mib, content, seed)?, checked: 0 })
    }
}

impl Part for Rotation {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        self.checked += self.blocks.check(BLOCKS_A_CYCLE)?;
        self.blocks.rewrite(if cycle.is_multiple_of(2) { 2 } else { 0 })?;
        Ok(self.checked)
    }

    fn sabotage(&mut self) -> Verdict {
        self.blocks.corrupt();
        Ok(())
    }
}

/// A child with a copy-on-write view of the same blocks, which must stay its own.
struct Relative {
    child: Child,
    corrupt: bool,
}

impl Relative {
    const CORRUPT: u64 = u64::MAX;

    fn fork(blocks: Blocks) -> Verdict<(Blocks, Self)> {
        let mut blocks = Some(blocks);
        let child = Child::fork("child with copied memory", |parent| {
            let Some(mut own) = blocks.take() else { return Ok(()) };
            let mut checked = 0;
            parent.serve(|cycle| {
                if cycle == Self::CORRUPT {
                    own.corrupt();
                }
                checked += own.check(BLOCKS_A_CYCLE / 4)?;
                own.rewrite(usize::from(cycle.is_multiple_of(3)))?;
                Ok(checked)
            })
        })?;
        match blocks {
            Some(blocks) => Ok((blocks, Self { child, corrupt: false })),
            None => unreachable!("the child's body runs in the child only"),
        }
    }
}

impl Part for Relative {
    fn name(&self) -> &'static str {
        "copied"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        self.child.ask(if self.corrupt { Self::CORRUPT } else { cycle })
    }

    fn sabotage(&mut self) -> Verdict {
        self.corrupt = true;
        Ok(())
    }
}

/// Read-only pages, and an untouchable gap between readable ones.
struct Protected {
    fixed: ReadOnly,
    digest: u64,
    before: Private,
    gap: Reserved,
    after: Private,
}

impl Protected {
    fn new() -> Verdict<Self> {
        let mut fixed = Private::new(8 * PAGE)?;
        fill_random(fixed.bytes_mut(), 2);
        let fixed = fixed.read_only()?;
        let (mut before, gap, mut after) = Private::new(12 * PAGE)?.with_gap(4 * PAGE..8 * PAGE)?;
        fill_random(before.bytes_mut(), 3);
        fill_random(after.bytes_mut(), 4);
        Ok(Self { digest: digest(fixed.bytes()), fixed, before, gap, after })
    }
}

impl Part for Protected {
    fn name(&self) -> &'static str {
        "protected"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        same("read-only memory", self.digest, digest(self.fixed.bytes()))?;
        same("rights of read-only memory", "r--p", &*rights_at(self.fixed.address())?)?;
        same("rights of the gap", "---p", &*rights_at(self.gap.address())?)?;
        holds("memory before the gap", self.before.bytes() == random_bytes(4 * PAGE, 3), "as written", "changed")?;
        holds("memory after the gap", self.after.bytes() == random_bytes(4 * PAGE, 4), "as written", "changed")?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.fixed.make_writable()
    }
}

/// Pages that were written and given back: they must read as zero, not come back from an older copy.
struct Discarded {
    memory: Private,
}

impl Discarded {
    const LEN: usize = 64 * PAGE;

    fn new() -> Verdict<Self> {
        let mut memory = Private::new(Self::LEN)?;
        fill_random(memory.bytes_mut(), 5);
        memory.discard(16 * PAGE..32 * PAGE)?;
        Ok(Self { memory })
    }

    /// The 16 pages that are discarded after `cycle`.
    fn place(cycle: u64) -> usize {
        16 * PAGE * (cycle % 4) as usize
    }
}

impl Part for Discarded {
    fn name(&self) -> &'static str {
        "discarded"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let now = Self::place(cycle);
        let written = random_bytes(Self::LEN, 5);
        let bytes = self.memory.bytes_mut();
        let zero = bytes[now..][..16 * PAGE].iter().all(|&byte| byte == 0);
        holds("discarded memory", zero, "zero", "old content")?;
        bytes[now..][..16 * PAGE].copy_from_slice(&written[now..][..16 * PAGE]);
        holds("memory around discarded pages", bytes == written, "as written", "changed")?;
        let next = Self::place(cycle + 1);
        self.memory.discard(next..next + 16 * PAGE)?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.memory.bytes_mut().fill(7);
        Ok(())
    }
}

/// Locked memory where the limits allow it, on a 2 MiB boundary.
struct Locked {
    memory: Private,
    locked: String,
}

impl Locked {
    fn new() -> Verdict<Self> {
        let mut memory = Private::aligned(2 * MIB, 2 * MIB)?;
        fill_random(&mut memory.bytes_mut()[..BLOCK], 6);
        if let Err(error) = memory.lock() {
            eprintln!("specimen: memory is not locked: {error}");
        }
        Ok(Self { memory, locked: locked_size()? })
    }
}

fn locked_size() -> Verdict<String> {
    let status = std::fs::read_to_string("/proc/self/status").must("reading /proc/self/status")?;
    Ok(status.lines().find(|line| line.starts_with("VmLck")).unwrap_or_default().to_owned())
}

impl Part for Locked {
    fn name(&self) -> &'static str {
        "locked"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        same("offset from a 2 MiB boundary", 0, self.memory.address() % (2 * MIB))?;
        same("size of locked memory", &self.locked, &locked_size()?)?;
        let bytes = self.memory.bytes();
        holds("locked memory", bytes[..BLOCK] == random_bytes(BLOCK, 6), "as written", "changed")?;
        holds("rest of locked memory", bytes[BLOCK..].iter().all(|&byte| byte == 0), "zero", "changed")?;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.memory.bytes_mut()[2 * MIB - 1] = 1;
        Ok(())
    }
}

/// Memory that `mremap` grows and shrinks, and moves.
struct Elastic {
    memory: Private,
    pages: usize,
}

impl Elastic {
    fn new() -> Verdict<Self> {
        let mut memory = Private::new(16 * PAGE)?;
        fill_random(memory.bytes_mut(), 7);
        Ok(Self { memory, pages: 16 })
    }
}

impl Part for Elastic {
    fn name(&self) -> &'static str {
        "elastic"
    }

    fn check(&mut self, cycle: u64) -> Verdict<u64> {
        let pages = 16 + (cycle * 5 % 48) as usize;
        self.memory.resize(pages * PAGE)?;
        let kept = self.pages.min(pages) * PAGE;
        let expected = random_bytes(pages * PAGE, 7);
        let bytes = self.memory.bytes_mut();
        holds("memory that grows and shrinks", bytes[..kept] == expected[..kept], "as written", "changed")?;
        let fresh_is_zero = bytes[kept..].iter().all(|&byte| byte == 0);
        holds("pages that a mapping grew by", fresh_is_zero, "zero", "old content")?;
        bytes.copy_from_slice(&expected);
        self.pages = pages;
        Ok(cycle)
    }

    fn sabotage(&mut self) -> Verdict {
        self.memory.bytes_mut()[15 * PAGE] ^= 1;
        Ok(())
    }
}

/// A thread that waits at the bottom of a deep stack, and checks every frame above it when asked.
struct DeepStack {
    questions: Sender<bool>,
    verdicts: Receiver<Verdict<u64>>,
    sabotaged: bool,
}

const FRAMES: u64 = 200;

/// One frame of the deep stack.
struct Frame<'above> {
    content: [u8; 1024],
    depth: u64,
    above: Option<&'above Frame<'above>>,
}

fn dive(depth: u64, above: Option<&Frame<'_>>, serve: &mut dyn FnMut(&Frame<'_>)) {
    let mut frame = Frame { content: [0; 1024], depth, above };
    fill_random(&mut frame.content, depth);
    if depth == FRAMES {
        serve(&frame);
    } else {
        dive(depth + 1, Some(std::hint::black_box(&frame)), serve);
    }
    std::hint::black_box(&frame);
}

fn check_stack(bottom: &Frame<'_>, offset: u64) -> Verdict<u64> {
    let mut expected_depth = FRAMES;
    let mut frame = Some(bottom);
    while let Some(current) = frame {
        same("depth of a stack frame", expected_depth, current.depth)?;
        let expected = random_bytes(1024, current.depth + offset);
        holds(format_args!("stack frame {expected_depth}"), current.content[..] == expected, "as written", "changed")?;
        expected_depth -= 1;
        frame = current.above;
    }
    same("stack frames missing", 0, expected_depth)?;
    Ok(FRAMES)
}

impl DeepStack {
    fn new() -> Self {
        let (questions, asked) = channel::<bool>();
        let (answers, verdicts) = channel();
        std::thread::spawn(move || {
            dive(1, None, &mut |bottom| {
                while let Ok(sabotaged) = asked.recv() {
                    if answers.send(check_stack(bottom, u64::from(sabotaged))).is_err() {
                        return;
                    }
                }
            });
        });
        Self { questions, verdicts, sabotaged: false }
    }
}

impl Part for DeepStack {
    fn name(&self) -> &'static str {
        "stack"
    }

    fn check(&mut self, _cycle: u64) -> Verdict<u64> {
        self.questions.send(self.sabotaged).must("asking the thread with the deep stack")?;
        self.verdicts.recv().must("hearing from the thread with the deep stack")?
    }

    fn sabotage(&mut self) -> Verdict {
        self.sabotaged = true;
        Ok(())
    }
}
