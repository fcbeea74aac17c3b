//! Whether what clients were told about one workload can have happened in some order, each thing between its question and its answer.
//!
//! Clients compare and swap the epoch. So the workload goes through epochs one by one, and all that must be found is a moment for
//! the beginning of each: after every answer that did not know of it yet could have been true, before every one that did.

use std::collections::BTreeMap;

use migrate_proto::id::HandoverId;

/// Milliseconds or whatever else rises.
pub(super) type Moment = u128;

/// One question with its answer.
#[derive(Debug, Clone)]
pub(super) struct Told {
    pub(super) asked: Moment,
    pub(super) answered: Moment,
    pub(super) what: What,
}

#[derive(Debug, Clone)]
pub(super) enum What {
    /// This was the epoch, and this had begun it.
    Seen { epoch: u64, via: Option<HandoverId> },
    /// The epoch after this one was begun with that.
    Swapped { epoch: u64, via: HandoverId },
    /// Nothing is known.
    Unknown { epoch: u64, via: HandoverId },
    /// The epoch was this one, not the one that was expected.
    Refused { epoch: u64, via: Option<HandoverId> },
}

/// All that was told about one workload that began in the epoch `first`; what is wrong with it.
pub(super) fn check(first: u64, told: &[Told]) -> Result<(), String> {
    let mut begun_with: BTreeMap<u64, HandoverId> = BTreeMap::new();
    let mut begun = |epoch: u64, via: HandoverId| match begun_with.insert(epoch, via) {
        Some(other) if other != via => Err(format!("epoch {epoch} began with {other} and with {via}")),
        _ => Ok(()),
    };
    for told in told {
        match told.what {
            What::Swapped { epoch, via } => begun(epoch + 1, via)?,
            What::Seen { epoch, via: Some(via) } | What::Refused { epoch, via: Some(via) } => begun(epoch, via)?,
            What::Seen { .. } | What::Refused { .. } | What::Unknown { .. } => {}
        }
    }
    let asked_for: BTreeMap<HandoverId, &Told> = told
        .iter()
        .filter_map(|told| match told.what {
            What::Swapped { via, .. } | What::Unknown { via, .. } => Some((via, told)),
            _ => None,
        })
        .collect();
    // When each epoch began: at the earliest, and at the latest.
    let mut bounds: BTreeMap<u64, (Moment, Moment)> = BTreeMap::new();
    let mut not_before = |epoch: u64, at: Moment| {
        let bound = bounds.entry(epoch).or_insert((0, Moment::MAX));
        bound.0 = bound.0.max(at);
    };
    for (epoch, via) in &begun_with {
        let asked = asked_for.get(via).ok_or(format!("epoch {epoch} began with {via}, which nobody asked for"))?;
        let expected = match asked.what {
            What::Swapped { epoch, .. } | What::Unknown { epoch, .. } => epoch + 1,
            _ => 0,
        };
        if expected != *epoch {
            return Err(format!("{via} was to begin epoch {expected}, and began {epoch}"));
        }
        not_before(*epoch, asked.asked);
    }
    for told in told {
        if let What::Seen { epoch, .. } | What::Refused { epoch, .. } = told.what {
            not_before(epoch + 1, told.asked);
        }
    }
    let mut not_after = |epoch: u64, at: Moment| {
        let bound = bounds.entry(epoch).or_insert((0, Moment::MAX));
        bound.1 = bound.1.min(at);
    };
    for told in told {
        match told.what {
            What::Swapped { epoch, .. } => not_after(epoch + 1, told.answered),
            What::Seen { epoch, .. } | What::Refused { epoch, .. } => {
                if epoch < first {
                    return Err(format!("epoch {epoch} was before the first, {first}"));
                }
                if epoch > first {
                    not_after(epoch, told.answered);
                }
            }
            What::Unknown { .. } => {}
        }
    }
    // In order, each as early as may be.
    let mut at = 0;
    for (epoch, (earliest, latest)) in bounds {
        at = at.max(earliest);
        if at > latest {
            return Err(format!("epoch {epoch} cannot have begun before {at}, and was known at {latest}"));
        }
    }
    Ok(())
}

/// The check itself finds what it is for.
mod tests {
    use super::*;

    fn via(number: u8) -> HandoverId {
        HandoverId([number; 16])
    }

    fn told(asked: Moment, answered: Moment, what: What) -> Told {
        Told { asked, answered, what }
    }

    fn good() -> Vec<Told> {
        vec![
            told(0, 5, What::Swapped { epoch: 1, via: via(1) }),
            told(1, 9, What::Refused { epoch: 2, via: Some(via(1)) }),
            told(6, 7, What::Seen { epoch: 2, via: Some(via(1)) }),
            told(8, 9, What::Unknown { epoch: 2, via: via(2) }),
            told(10, 11, What::Unknown { epoch: 2, via: via(3) }),
            told(20, 21, What::Seen { epoch: 3, via: Some(via(2)) }),
        ]
    }

    fn with(what: Told) -> Result<(), String> {
        let mut all = good();
        all.push(what);
        check(1, &all)
    }

    #[test]
    fn what_can_have_happened_is_accepted() {
        assert_eq!(check(1, &good()), Ok(()));
        assert_eq!(with(told(0, 3, What::Seen { epoch: 1, via: None })), Ok(()), "it can have been before the swap");
    }

    #[test]
    fn two_that_won_the_same_epoch_are_found() {
        assert!(with(told(0, 30, What::Swapped { epoch: 1, via: via(9) })).is_err());
        assert!(with(told(0, 30, What::Seen { epoch: 2, via: Some(via(9)) })).is_err());
    }

    #[test]
    fn a_stale_answer_is_found() {
        assert!(with(told(6, 8, What::Seen { epoch: 1, via: None })).is_err(), "the swap was acknowledged at 5");
        assert!(with(told(22, 23, What::Seen { epoch: 2, via: Some(via(1)) })).is_err(), "epoch 3 was seen at 21");
    }

    #[test]
    fn an_acknowledged_command_that_is_lost_is_found() {
        assert!(with(told(22, 23, What::Swapped { epoch: 2, via: via(4) })).is_err());
        assert!(with(told(24, 25, What::Swapped { epoch: 7, via: via(4) })).is_ok(), "epochs between may be unseen");
    }

    #[test]
    fn an_effect_before_its_cause_is_found() {
        let early = vec![
            told(0, 1, What::Seen { epoch: 2, via: Some(via(1)) }),
            told(5, 6, What::Unknown { epoch: 1, via: via(1) }),
        ];
        assert!(check(1, &early).is_err());
        assert!(check(1, &early[..1]).is_err(), "nobody asked for it");
    }
}
