//! A chunk that names pages instead of carrying them: the body of [`Encoding::Refs`](crate::chunk::Encoding::Refs).
//!
//! ```text
//! u32 number of runs │ per run: u32 what, u32 pages │ the pages of all literal runs, one behind the other
//! ```
//!
//! Little-endian. `what` is the index of the first of consecutive pages of [`AHEAD_STREAM`](crate::chunk::AHEAD_STREAM), or
//! one of two values that are none: zeros, or a literal. The last page of a chunk may be short; it is literal or zeros.
//! Pure: nothing here reads or writes a file.

use thiserror::Error;
use xxhash_rust::xxh3::xxh3_128;

use crate::ahead::KnownPages;
use crate::chunk::{CHUNK_BYTES, PAGE_BYTES, is_zero};

const LITERAL: u32 = u32::MAX;
const ZEROS: u32 = u32::MAX - 1;
const WORD_BYTES: usize = 4;
const RUN_BYTES: usize = 2 * WORD_BYTES;
const MOST_RUNS: usize = CHUNK_BYTES / PAGE_BYTES;
/// One page in so many must be known; below that the chunk travels whole, and may be compressed.
const KNOWN_SHARE: usize = 8;

/// Why a body is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RefsError {
    /// It ends too early, or too late.
    #[error("it is not as long as its runs say")]
    Length,
    /// There are more runs, or fewer, than the chunk can have.
    #[error("{0} runs")]
    Runs(u32),
    /// The runs do not add up to the chunk.
    #[error("its runs are not as long as the chunk")]
    Pages,
}

/// Consecutive pages of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Pages of the stream that was sent ahead, from this one on.
    Known(u32),
    Zeros,
    Literal,
}

/// A run, and its length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) what: What,
    pub(crate) len: usize,
}

/// Takes a chunk apart; `None` where too little of it is known.
pub(crate) fn plan(known: &KnownPages, raw: &[u8]) -> Option<Vec<Run>> {
    let (mut runs, mut likely, mut found): (Vec<Run>, _, _) = (Vec::new(), u32::MAX, 0);
    for page in raw.chunks(PAGE_BYTES) {
        let index = if page.len() == PAGE_BYTES { known.find(xxh3_128(page), likely) } else { None };
        let what = match index {
            Some(index) => What::Known(index),
            None if is_zero(page) => What::Zeros,
            None => What::Literal,
        };
        let goes_on = match what {
            What::Known(index) => {
                let expected = std::mem::replace(&mut likely, index + 1);
                found += 1;
                index == expected && matches!(runs.last(), Some(Run { what: What::Known(_), .. }))
            }
            what => runs.last().is_some_and(|last| last.what == what),
        };
        match runs.last_mut() {
            Some(last) if goes_on => last.len += page.len(),
            _ => runs.push(Run { what, len: page.len() }),
        }
    }
    (found > 0 && found * KNOWN_SHARE >= raw.len().div_ceil(PAGE_BYTES)).then_some(runs)
}

/// Writes the body into `room`, which may be as small as a chunk. Returns its length.
pub(crate) fn write(runs: &[Run], raw: &[u8], room: &mut [u8]) -> usize {
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        room[at..][..bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&(runs.len() as u32).to_le_bytes());
    for run in runs {
        let what = match run.what {
            What::Known(first) => first,
            What::Zeros => ZEROS,
            What::Literal => LITERAL,
        };
        put(&what.to_le_bytes());
        put(&(run.len.div_ceil(PAGE_BYTES) as u32).to_le_bytes());
    }
    let mut from = 0;
    for run in runs {
        if run.what == What::Literal {
            put(&raw[from..][..run.len]);
        }
        from += run.len;
    }
    at
}

/// The runs of a chunk of `raw_len` bytes, and its literals.
pub(crate) fn parse(body: &[u8], raw_len: usize) -> Result<(Vec<Run>, &[u8]), RefsError> {
    let (count, rest) = body.split_first_chunk().ok_or(RefsError::Length)?;
    let count = u32::from_le_bytes(*count);
    if count == 0 || count as usize > raw_len.div_ceil(PAGE_BYTES).min(MOST_RUNS) {
        return Err(RefsError::Runs(count));
    }
    let (table, literals) = rest.split_at_checked(count as usize * RUN_BYTES).ok_or(RefsError::Length)?;
    let (mut left, mut literal) = (raw_len, 0);
    let mut runs = Vec::with_capacity(count as usize);
    for entry in table.as_chunks::<RUN_BYTES>().0 {
        let [a, b, c, d, e, f, g, h] = *entry;
        let (what, pages) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]) as usize);
        let len = pages.min(MOST_RUNS + 1) * PAGE_BYTES;
        let what = match what {
            LITERAL => What::Literal,
            ZEROS => What::Zeros,
            first => What::Known(first),
        };
        // Only the last page of all may be short, and what was sent ahead are whole pages.
        let short = len > left && len - left < PAGE_BYTES && !matches!(what, What::Known(_));
        let len = if short { left } else { len };
        if len == 0 || len > left {
            return Err(RefsError::Pages);
        }
        left -= len;
        literal += if what == What::Literal { len } else { 0 };
        runs.push(Run { what, len });
    }
    match (left, literals.len() == literal) {
        (0, true) => Ok((runs, literals)),
        (0, false) => Err(RefsError::Length),
        _ => Err(RefsError::Pages),
    }
}
