//! Which pages the target has, by the hash of their content.
//!
//! An open-addressing table with linear probing. A slot is 4 bytes: the page's index, and a few bits of its hash so that
//! hardly any other page's full hash is looked at in vain. With the hash, and one slot in three empty, a page costs 22 bytes.

use std::ops::Range;

/// The low bits of a slot; the others are of the hash.
const INDEX_BITS: u32 = 22;
/// No page has this index, so no slot that is taken looks like this.
const EMPTY: u32 = u32::MAX;
const LEAST_SLOTS: usize = 1024;

/// The pages that were sent ahead, numbered in the order of their stream.
#[derive(Debug, Default)]
pub struct KnownPages {
    hashes: Vec<u128>,
    slots: Vec<u32>,
}

impl KnownPages {
    /// The most pages that are known: some 16 GiB.
    pub const LIMIT: usize = (1 << INDEX_BITS) - 1;

    /// How many there are.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() == KnownPages::LIMIT
    }

    /// Notes the next page, unless it is known already or the table is full. Returns whether it was noted.
    pub(super) fn insert(&mut self, hash: u128) -> bool {
        if self.is_full() {
            return false;
        }
        if self.slots.len() < slots_for(self.len() + 1) {
            self.rebuild((self.slots.len() * 2).max(LEAST_SLOTS));
        }
        match self.look_up(hash) {
            Ok(_) => false,
            Err(free) => {
                self.slots[free] = slot(hash, self.len());
                self.hashes.push(hash);
                true
            }
        }
    }

    /// Notes the next page, known or not: it has the next number anyhow. Of pages with one content the first is found. Returns
    /// whether there was room for it.
    pub(crate) fn append(&mut self, hash: u128) -> bool {
        if self.is_full() {
            return false;
        }
        if !self.insert(hash) {
            self.hashes.push(hash);
        }
        true
    }

    /// The hashes of consecutive pages.
    pub(crate) fn hashes(&self, pages: Range<u32>) -> &[u128] {
        &self.hashes[pages.start as usize..pages.end as usize]
    }

    /// The page with this hash; `likely` first, for pages often follow each other as they did.
    pub(crate) fn find(&self, hash: u128, likely: u32) -> Option<u32> {
        if self.hashes.get(likely as usize) == Some(&hash) {
            return Some(likely);
        }
        if self.slots.is_empty() { None } else { self.look_up(hash).ok() }
    }

    /// Gives back what there is too much.
    pub(crate) fn finish(mut self) -> KnownPages {
        self.hashes.shrink_to_fit();
        self.rebuild(slots_for(self.len()));
        self
    }

    /// The index of the page, or the slot where it belongs. There must be an empty slot.
    fn look_up(&self, hash: u128) -> Result<u32, usize> {
        let mut at = ((u128::from(hash as u64) * self.slots.len() as u128) >> 64) as usize;
        loop {
            let found = self.slots[at];
            if found == EMPTY {
                return Err(at);
            }
            let index = found & (EMPTY >> (32 - INDEX_BITS));
            if found == slot(hash, index as usize) && self.hashes[index as usize] == hash {
                return Ok(index);
            }
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
    }

    fn rebuild(&mut self, slots: usize) {
        self.slots = Vec::new();
        self.slots = vec![EMPTY; slots];
        for (index, hash) in self.hashes.iter().enumerate() {
            if let Err(free) = self.look_up(*hash) {
                self.slots[free] = slot(*hash, index);
            }
        }
    }
}

/// With a third of them empty, and one at least.
fn slots_for(pages: usize) -> usize {
    pages + pages / 2 + 1
}

fn slot(hash: u128, index: usize) -> u32 {
    ((hash >> 64) as u32) << INDEX_BITS | index as u32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_costs_little() {
        let mut known = KnownPages::default();
        (0..100_000u128).for_each(|n| assert!(known.insert(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))));
        let known = known.finish();
        let bytes = known.hashes.capacity() * size_of::<u128>() + known.slots.capacity() * size_of::<u32>();
        assert!(bytes <= 24 * known.len(), "{bytes}");
    }

    proptest! {
        /// Hashes from a small set, and such that many fall on the same slot and share the bits that are kept there.
        #[test]
        fn it_knows_what_was_inserted_and_nothing_else(
            inserted in proptest::collection::vec((0..40u128, 0..3u128), 0..3000),
            asked in proptest::collection::vec((0..40u128, 0..4u128), 0..100),
        ) {
            let hash = |(low, high): (u128, u128)| low << 59 | high << 80;
            let mut known = KnownPages::default();
            let mut model: Vec<u128> = Vec::new();
            for new in inserted.into_iter().map(hash) {
                let expected = !model.contains(&new);
                prop_assert_eq!(known.insert(new), expected);
                if expected {
                    model.push(new);
                }
            }
            let known = known.finish();
            prop_assert_eq!(known.len(), model.len());
            for asked in asked.into_iter().map(hash) {
                let expected = model.iter().position(|known| *known == asked).map(|index| index as u32);
                for likely in [0, 7, u32::MAX] {
                    prop_assert_eq!(known.find(asked, likely), expected);
                }
            }
        }
    }
}
