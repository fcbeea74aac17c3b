//! Memory that was promised to workloads on their way here. What is free is looked up for each offer by itself, so ten offers
//! at once would each be promised the same memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use migrate_proto::id::HandoverId;

/// What was promised to whom.
#[derive(Debug, Default)]
pub(super) struct Promised(Mutex<HashMap<HandoverId, u64>>);

impl Promised {
    /// Promises `bytes` to a handover, and says how much all others were promised before.
    pub(super) fn promise(&self, handover: HandoverId, bytes: u64) -> u64 {
        let mut promised = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let others = promised.iter().filter(|(other, _)| **other != handover).map(|(_, bytes)| bytes).sum();
        promised.insert(handover, bytes);
        others
    }

    /// How much all were promised.
    pub(super) fn all(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// It is used, or not needed any more.
    pub(super) fn release(&self, handover: HandoverId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&handover);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_were_promised_is_not_free() {
        let (promised, [a, b]) = (Promised::default(), [1, 2].map(|id| HandoverId([id; 16])));
        assert_eq!(promised.promise(a, 100), 0);
        assert_eq!(promised.all(), 100);
        assert_eq!(promised.promise(b, 10), 100);
        assert_eq!(promised.promise(a, 100), 10);
        promised.release(a);
        assert_eq!(promised.promise(b, 10), 0);
    }
}
