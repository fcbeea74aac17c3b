//! Which of a sender's datagrams were there. Pure.
//!
//! A ring of bits, one a counter: bit `counter mod WINDOW` says whether it was there, for the newest [`WINDOW`] counters. When
//! a newer one comes the bits between are cleared. A sender has one counter for all whom it talks to, so what one of them sees has large
//! gaps; therefore the window is wide.

/// How far behind the newest a datagram may be.
pub const WINDOW: u64 = 1024;

const WORDS: usize = (WINDOW / 64) as usize;

/// One sender's.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    /// 0 before the first one: counters begin at 1.
    newest: u64,
    seen: [u64; WORDS],
}

impl Window {
    /// Whether this one may still be taken.
    pub(super) fn is_new(&self, counter: u64) -> bool {
        if counter > self.newest {
            return true;
        }
        counter != 0 && self.newest - counter < WINDOW && !self.has(counter)
    }

    /// This one was there.
    pub(super) fn take(&mut self, counter: u64) {
        if counter > self.newest {
            let skipped = (counter - self.newest).min(WINDOW);
            (0..skipped).for_each(|back| self.set(counter - back, false));
            self.newest = counter;
        }
        self.set(counter, true);
    }

    fn has(&self, counter: u64) -> bool {
        let (word, bit) = place(counter);
        self.seen[word] & bit != 0
    }

    fn set(&mut self, counter: u64, there: bool) {
        let (word, bit) = place(counter);
        if there {
            self.seen[word] |= bit;
        } else {
            self.seen[word] &= !bit;
        }
    }
}

fn place(counter: u64) -> (usize, u64) {
    let index = counter % WINDOW;
    ((index / 64) as usize, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The same rules in words: newer than all, or among the newest [`WINDOW`] and not there yet.
    fn model(seen: &BTreeSet<u64>, counter: u64) -> bool {
        let newest = seen.last().copied().unwrap_or(0);
        counter > newest || (counter > 0 && newest - counter < WINDOW && !seen.contains(&counter))
    }

    #[test]
    fn counters_begin_at_one_and_may_end_at_the_last() {
        let mut window = Window::default();
        assert!(!window.is_new(0));
        for counter in [1, u64::MAX, u64::MAX - WINDOW + 1] {
            assert!(window.is_new(counter), "{counter}");
            window.take(counter);
            assert!(!window.is_new(counter), "{counter}");
        }
        assert!(!window.is_new(u64::MAX - WINDOW) && !window.is_new(1));
    }

    proptest! {
        #[test]
        fn it_is_a_set_with_an_end(steps in proptest::collection::vec((0..3_u8, 0..3 * WINDOW), 1..400)) {
            let (mut window, mut seen) = (Window::default(), BTreeSet::new());
            for (how, by) in steps {
                let newest = seen.last().copied().unwrap_or(0);
                let counter = match how {
                    0 => newest + by % 3,
                    1 => newest.saturating_sub(by),
                    _ => newest + by,
                };
                prop_assert_eq!(window.is_new(counter), model(&seen, counter), "{} after {}", counter, newest);
                if window.is_new(counter) {
                    window.take(counter);
                    seen.insert(counter);
                }
            }
        }
    }
}
