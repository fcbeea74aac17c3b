#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

const ERROR: End = End::Exit(Exit::Code(1));
const FINE: End = End::Exit(Exit::Code(0));

fn seconds(seconds: u64) -> Millis {
    Millis(seconds * 1000)
}

fn again(after_s: u64) -> Next {
    Next::Again { after_ms: after_s * 1000 }
}

#[test]
fn policies_are_written_as_they_are_read() {
    for text in ["no", "on-failure", "on-failure:0", "on-failure:7", "always", "unless-stopped"] {
        assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "never",
        "on-failure:",
        "on-failure:-1",
        "on-failure:+1",
        "on-failure:x",
        "on-failure:4294967296",
        "Always",
    ] {
        assert!(text.parse::<Policy>().is_err(), "{text}");
    }
}

/// Every policy against every end.
#[test]
fn who_is_begun_again() {
    let ends = [
        FINE,
        ERROR,
        End::Exit(Exit::Signal(9)),
        End::Ill("hung".into()),
        End::Lost("power".into()),
        End::NotStarted("?".into()),
    ];
    let table = [
        (Policy::No, [false; 6]),
        (Policy::OnFailure(None), [false, true, true, true, true, true]),
        (Policy::OnFailure(Some(1)), [false, true, true, true, true, true]),
        (Policy::OnFailure(Some(0)), [false; 6]),
        (Policy::Always, [true; 6]),
        (Policy::UnlessStopped, [true; 6]),
    ];
    for (policy, expected) in table {
        for (end, expected) in ends.iter().zip(expected) {
            let next = Past::default().ended(seconds(100), policy, end);
            assert_eq!(next == again(1), expected, "{policy} {end}: {next:?}");
        }
    }
}

#[test]
fn the_wait_doubles_up_to_a_minute() {
    let mut past = Past::default();
    let mut now = seconds(1000);
    for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert_eq!(past.ended(now, Policy::Always, &ERROR), again(wait));
        assert!(!past.is_well(now) || wait > 0);
        // It runs for 40 s each time: too long for a crash loop, too short to be well.
        now = now.plus(wait * 1000);
        assert!(past.runs());
        past.is_well(now);
        now = now.plus(40_000);
    }
    assert_eq!(past.restarts, 8);
    assert_eq!([1, 2, 7, 64, 65, u32::MAX].map(wait_ms), [1000, 2000, 60_000, 60_000, 60_000, 60_000]);
}

#[test]
fn a_minute_of_health_is_a_new_beginning() {
    for (well_s, wait) in [(59, 4), (60, 1), (3600, 1)] {
        let mut past = Past::default();
        past.ended(seconds(0), Policy::Always, &ERROR);
        past.ended(seconds(2), Policy::Always, &ERROR);
        past.runs();
        past.is_well(seconds(10));
        assert_eq!(past.ended(seconds(10 + well_s), Policy::Always, &ERROR), again(wait), "{well_s}");
    }
    // To run is not to be well.
    let mut past = Past::default();
    past.ended(seconds(0), Policy::Always, &ERROR);
    past.runs();
    past.is_well(seconds(1));
    past.is_unwell();
    assert_eq!(past.ended(seconds(3600), Policy::Always, &ERROR), again(2));
}

#[test]
fn five_ends_within_two_minutes_are_a_crash_loop() {
    let ends = |times: [u64; 5]| {
        let mut past = Past::default();
        let mut judge = |at| past.ended(seconds(at), Policy::Always, &FINE);
        times.map(&mut judge)[4].clone()
    };
    let Next::GiveUp(why) = ends([0, 30, 60, 90, 119]) else { panic!() };
    assert!(why.contains("5 times within 2 minutes") && why.contains("ended with code 0"), "{why}");
    assert_eq!(ends([0, 30, 60, 90, 120]), again(16));
}

#[test]
fn a_given_number_of_restarts_is_counted_from_health_to_health() {
    let mut past = Past::default();
    let policy = Policy::OnFailure(Some(2));
    assert_eq!(past.ended(seconds(0), policy, &ERROR), again(1));
    assert_eq!(past.ended(seconds(5), policy, &ERROR), again(2));
    let Next::GiveUp(why) = past.ended(seconds(10), policy, &ERROR) else { panic!() };
    assert!(why.contains("2 of 2 restarts"), "{why}");
    assert_eq!(past.stage(), &Stage::AtRest);
    past.forgive();
    assert_eq!(past.ended(seconds(11), policy, &ERROR), again(1));
}

#[test]
fn a_restart_is_counted_once_and_only_when_it_runs() {
    let mut past = Past::default();
    assert!(!past.runs());
    past.ended(seconds(0), Policy::Always, &ERROR);
    assert_eq!((past.restarts, past.waits_ms(seconds(0))), (0, Some(1000)));
    assert_eq!(past.waits_ms(seconds(9)), Some(0));
    assert!(past.runs() && !past.runs());
    assert_eq!((past.restarts, past.waits_ms(seconds(0))), (1, None));
}

#[test]
fn a_clock_that_was_set_does_not_make_anybody_wait_for_ever() {
    let mut past = Past::default();
    past.ended(seconds(1_000_000), Policy::Always, &ERROR);
    assert_eq!(past.waits_ms(seconds(10)), Some(LONGEST_WAIT_MS));
    // Nor does it make a crash loop of ends that were far from each other.
    let mut past = Past::default();
    for at in [1_000_000, 2_000_000, 3_000_000, 10, 20] {
        assert!(matches!(past.ended(seconds(at), Policy::Always, &ERROR), Next::Again { .. }), "{at}");
    }
}

#[test]
fn who_was_stopped_may_be_woken() {
    let mut past = Past::default();
    past.stop();
    assert_eq!((past.stage(), past.waits_ms(seconds(1))), (&Stage::AtRest, None));
    past.wake(seconds(1));
    assert_eq!(past.waits_ms(seconds(1)), Some(0));
}

fn any_policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::No),
        Just(Policy::OnFailure(None)),
        (0u32..9).prop_map(|most| Policy::OnFailure(Some(most))),
        Just(Policy::Always),
        Just(Policy::UnlessStopped)
    ]
}

fn any_end() -> impl Strategy<Value = End> {
    prop_oneof![Just(FINE), Just(ERROR), Just(End::Exit(Exit::Signal(11))), Just(End::Ill("hung".into()))]
}

proptest! {
    #[test]
    fn the_rules_hold_for_any_life(
        policy in any_policy(),
        // How long it runs each time, whether it is well meanwhile, and how it ends.
        lives in prop::collection::vec((0u64..200_000, any::<bool>(), any_end()), 1..40),
    ) {
        let (mut past, mut now, mut ends) = (Past::default(), Millis(1_000_000_000), Vec::new());
        for (count, (runs_ms, well, end)) in lives.into_iter().enumerate() {
            prop_assert_eq!(past.restarts as usize, count);
            if well {
                past.is_well(now);
            }
            now = now.plus(runs_ms);
            if well && runs_ms >= WELL_MS {
                ends.clear();
            }
            ends.push(now);
            let lately = ends.iter().filter(|at| now.0 - at.0 < LOOP_MS).count();
            let next = past.ended(now, policy, &end);
            prop_assert!(past.is_bounded());
            let text = serde_json::to_string(&past).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Past>(&text).unwrap(), &past);
            match next {
                Next::Again { after_ms } => {
                    prop_assert!(policy != Policy::No && lately < LOOP_ENDS);
                    prop_assert!((FIRST_WAIT_MS..=LONGEST_WAIT_MS).contains(&after_ms));
                    prop_assert!(!(well && runs_ms >= WELL_MS) || after_ms == FIRST_WAIT_MS);
                    prop_assert_eq!(past.waits_ms(now), Some(after_ms));
                    now = now.plus(after_ms);
                    prop_assert!(past.runs());
                }
                Next::Rest => {
                    let allowed = policy == Policy::No || (matches!(policy, Policy::OnFailure(_)) && end == FINE);
                    prop_assert!(allowed);
                    break;
                }
                Next::GiveUp(_) => {
                    prop_assert!(lately >= LOOP_ENDS || matches!(policy, Policy::OnFailure(Some(_))));
                    break;
                }
            }
        }
    }
}
