//! Memory in blocks whose content follows from a seed, a place and a version, with a digest of each beside it.
//!
//! Checks go round the blocks by digest; a block that is about to be rewritten is compared with its content made anew,
//! so a change that hit memory and digest alike is noticed too.

use crate::mapping::Private;
use crate::verdict::{Verdict, Violation, same};

/// Bytes in a block.
pub(crate) const BLOCK: usize = 64 * 1024;

/// What memory is filled with: how well it compresses.
#[derive(Clone, Copy, Debug, PartialEq, clap::ValueEnum)]
pub(crate) enum Content {
    /// All zero (but written, so the pages exist).
    Zero,
    /// Incompressible.
    Random,
    /// A quarter zero, a quarter text, half random.
    Mixed,
    /// Words.
    Text,
}

/// A pseudo-random sequence (splitmix64).
pub(crate) struct Sequence(u64);

impl Sequence {
    /// The sequence of `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Its next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// Fills `bytes` with incompressible content that follows from `seed`.
pub(crate) fn fill_random(bytes: &mut [u8], seed: u64) {
    let mut sequence = Sequence::new(seed);
    for word in bytes.chunks_mut(8) {
        word.copy_from_slice(&sequence.next().to_le_bytes()[..word.len()]);
    }
}

/// Incompressible content of `len` bytes that follows from `seed`.
pub(crate) fn random_bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fill_random(&mut bytes, seed);
    bytes
}

fn fill_text(bytes: &mut [u8], seed: u64) {
    const WORDS: [&[u8; 8]; 8] =
        [b"process ", b"moves to", b" another", b" machine", b", and it", b" goes on", b" as was,", b" again.\n"];
    let mut sequence = Sequence::new(seed);
    for word in bytes.chunks_mut(8) {
        word.copy_from_slice(&WORDS[(sequence.next() % 8) as usize][..word.len()]);
    }
}

fn fill(bytes: &mut [u8], content: Content, index: usize, seed: u64) {
    match (content, index % 4) {
        (Content::Zero, _) | (Content::Mixed, 0) => bytes.fill(0),
        (Content::Text, _) | (Content::Mixed, 1) => fill_text(bytes, seed),
        (Content::Random | Content::Mixed, _) => fill_random(bytes, seed),
    }
}

/// A digest of bytes.
pub(crate) fn digest(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// A region of checked blocks.
pub(crate) struct Blocks {
    region: Private,
    content: Content,
    seed: u64,
    digests: Vec<u64>,
    versions: Vec<u64>,
    next_check: usize,
    next_rewrite: usize,
    scratch: Vec<u8>,
}

impl Blocks {
    /// Fills `mib` MiB; different seeds make different content.
    pub(crate) fn new(mib: usize, content: Content, seed: u64) -> Verdict<Self> {
        let count = mib * 1024 * 1024 / BLOCK;
        let mut blocks = Self {
            region: Private::new(count * BLOCK)?,
            content,
            seed,
            digests: vec![0; count],
            versions: vec![0; count],
            next_check: 0,
            next_rewrite: 0,
            scratch: vec![0; BLOCK],
        };
        for index in 0..count {
            blocks.write(index);
        }
        Ok(blocks)
    }

    fn seed_of(&self, index: usize) -> u64 {
        Sequence::new(self.seed ^ ((index as u64) << 32) ^ self.versions[index]).next()
    }

    fn block_mut(&mut self, index: usize) -> &mut [u8] {
        &mut self.region.bytes_mut()[index * BLOCK..][..BLOCK]
    }

    fn write(&mut self, index: usize) {
        let (content, seed) = (self.content, self.seed_of(index));
        fill(self.block_mut(index), content, index, seed);
        self.digests[index] = digest(self.block_mut(index));
    }

    fn check_digest(&self, index: usize) -> Verdict {
        let found = digest(&self.region.bytes()[index * BLOCK..][..BLOCK]);
        same(
            format_args!("digest of memory block {index}, version {}", self.versions[index]),
            self.digests[index],
            found,
        )
    }

    /// Checks the next `count` blocks by digest.
    pub(crate) fn check(&mut self, count: usize) -> Verdict<u64> {
        let count = count.min(self.digests.len());
        for _ in 0..count {
            self.check_digest(self.next_check)?;
            self.next_check = (self.next_check + 1) % self.digests.len();
        }
        Ok(count as u64)
    }

    /// Checks the next `count` blocks byte by byte and writes their next version.
    pub(crate) fn rewrite(&mut self, count: usize) -> Verdict {
        for _ in 0..count.min(self.digests.len()) {
            let index = self.next_rewrite;
            let seed = self.seed_of(index);
            fill(&mut self.scratch, self.content, index, seed);
            let found = &self.region.bytes()[index * BLOCK..][..BLOCK];
            if let Some(at) = found.iter().zip(&self.scratch).position(|(found, expected)| found != expected) {
                return Err(Violation::new(
                    format_args!("byte {at} of memory block {index}, version {}", self.versions[index]),
                    self.scratch[at],
                    found[at],
                ));
            }
            self.versions[index] += 1;
            self.write(index);
            self.next_rewrite = (index + 1) % self.digests.len();
        }
        Ok(())
    }

    /// Flips one bit of the block that is checked next.
    pub(crate) fn corrupt(&mut self) {
        let index = self.next_check;
        self.block_mut(index)[BLOCK / 3] ^= 0x10;
    }
}
