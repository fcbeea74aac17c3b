//! Values in blocks of 4, 8, … 4096 s, the last ones of each size.

use std::collections::VecDeque;

/// How many sizes there are.
pub(super) const SIZES: usize = 11;
/// How many blocks of each size are kept.
const KEPT: usize = 17;
const SMALLEST_MS: u64 = 4_000;

/// How long a block of this size is.
pub(super) fn size_ms(size: usize) -> u64 {
    SMALLEST_MS << size
}

/// Some values of one time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    sum: f64,
    high: f64,
    count: u32,
}

impl Block {
    fn of(value: f64) -> Block {
        Block { sum: value, high: value, count: 1 }
    }

    fn and(self, other: Block) -> Block {
        Block { sum: self.sum + other.sum, high: self.high.max(other.high), count: self.count + other.count }
    }

    /// Their mean.
    pub(super) fn mean(&self) -> f64 {
        self.sum / f64::from(self.count)
    }

    /// The highest one.
    pub(super) fn high(&self) -> f64 {
        self.high
    }
}

/// The last blocks of one size, and the one that is being filled; by number.
#[derive(Debug, Clone, Default)]
struct Row {
    done: VecDeque<(u64, Block)>,
    open: Option<(u64, Block)>,
}

impl Row {
    /// Adds to the block of this number; says which one was closed by that.
    fn add(&mut self, number: u64, values: Block) -> Option<(u64, Block)> {
        match self.open {
            Some((open, so_far)) if open >= number => {
                self.open = Some((open, so_far.and(values)));
                None
            }
            before => {
                self.open = Some((number, values));
                let closed = before?;
                self.done.push_back(closed);
                if self.done.len() > KEPT {
                    self.done.pop_front();
                }
                Some(closed)
            }
        }
    }
}

/// All that is kept of the values of one figure.
#[derive(Debug, Clone, Default)]
pub(super) struct Blocks {
    rows: [Row; SIZES],
}

impl Blocks {
    /// Takes a value.
    pub(super) fn hear(&mut self, now_ms: u64, value: f64) {
        let mut closed = (now_ms / SMALLEST_MS, Block::of(value));
        for (size, row) in self.rows.iter_mut().enumerate() {
            let number = if size == 0 { closed.0 } else { closed.0 / 2 };
            match row.add(number, closed.1) {
                Some(next) => closed = next,
                None => return,
            }
        }
    }

    /// The last so many blocks of a size, each with the middle of its time in seconds before now, below zero. Gaps are left out.
    pub(super) fn last(&self, size: usize, many: usize, now_ms: u64) -> Vec<(f64, Block)> {
        let long_ms = size_ms(size);
        let newest = now_ms / long_ms;
        let at_s = |number: u64| (number * long_ms + long_ms / 2) as f64 / 1000.0 - now_ms as f64 / 1000.0;
        let row = &self.rows[size].done;
        // One more: what has just ended is closed by the value after it, and by that of the smaller size.
        let wanted = row.iter().filter(|(number, _)| number + many as u64 + 1 >= newest);
        let mut last: Vec<_> = wanted.map(|(number, block)| (at_s(*number), *block)).collect();
        last.drain(..last.len().saturating_sub(many));
        last
    }
}
