#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;

const TIMING: Timing = Timing { interval_ms: 30_000, timeout_ms: 10_000, retries: 3, grace_ms: 10_000 };

fn probed(timing: Timing) -> Health {
    Health::new(&Watch::Tcp(80), timing, Word::None, Millis(0))
}

fn pulsing(period_ms: u64, timing: Timing) -> Health {
    Health::new(&Watch::Pulse(period_ms), timing, Word::None, Millis(0))
}

fn failed() -> Event {
    Event::Failed("refused".to_owned())
}

fn say(word: Word) -> Option<Act> {
    let why = match word {
        Word::Unhealthy => Some("refused".to_owned()),
        Word::Hung => Some("no pulse for 2s".to_owned()),
        _ => None,
    };
    Some(Act::Say(word, why))
}

/// Asks when it is due, and answers after so many milliseconds.
fn probe(health: &mut Health, answer: Event, takes_ms: u64) -> (Millis, Option<Act>) {
    let due = health.deadline().unwrap();
    if due.0 > 0 {
        assert_eq!(health.step(Millis(due.0 - 1), Event::Tick), None, "too early");
    }
    assert_eq!(health.step(due, Event::Tick), Some(Act::Probe));
    assert_eq!((health.step(due, Event::Tick), health.deadline()), (None, None), "one at a time");
    (due, health.step(due.plus(takes_ms), answer))
}

#[test]
fn the_first_probe_that_passes_makes_it_healthy() {
    let mut health = probed(TIMING);
    assert_eq!(health.word(), Word::Starting);
    assert_eq!(probe(&mut health, failed(), 5), (Millis(1000), None), "a start takes its time");
    assert_eq!(probe(&mut health, Event::Passed, 5), (Millis(2005), say(Word::Healthy)));
    assert_eq!(probe(&mut health, Event::Passed, 7), (Millis(32_010), None), "no news");
    assert_eq!(health.deadline(), Some(Millis(62_017)));
}

#[test]
fn three_failures_in_a_row_make_it_unhealthy() {
    let mut health = probed(TIMING);
    let mut answers = |answers: &[bool]| {
        let mut ask = |passes: &bool| probe(&mut health, if *passes { Event::Passed } else { failed() }, 0).1;
        answers.iter().map(&mut ask).collect::<Vec<_>>()
    };
    assert_eq!(answers(&[true, false, false, true]), [say(Word::Healthy), None, None, None]);
    assert_eq!(answers(&[false, false, false, false]), [None, None, say(Word::Unhealthy), None]);
    assert_eq!(answers(&[true, false]), [say(Word::Healthy), None]);
}

#[test]
fn failures_in_the_grace_do_not_count() {
    let mut health = probed(TIMING);
    let mut counted = 0;
    loop {
        let (at, act) = probe(&mut health, failed(), 0);
        if at.0 >= TIMING.grace_ms {
            counted += 1;
        }
        if act.is_some() {
            assert_eq!((act, counted), (say(Word::Unhealthy), TIMING.retries));
            return;
        }
    }
}

#[test]
fn a_pulse_that_does_not_come_is_a_hang() {
    let mut health = pulsing(2000, Timing { grace_ms: 0, ..TIMING });
    assert_eq!(health.step(Millis(1999), Event::Tick), None);
    assert_eq!(health.step(Millis(1999), Event::Pulse), say(Word::Healthy));
    assert_eq!(health.step(Millis(3998), Event::Tick), None);
    assert_eq!(health.step(Millis(3999), Event::Tick), say(Word::Hung));
    assert_eq!((health.deadline(), health.step(Millis(9999), Event::Tick)), (None, None), "said once");
    assert_eq!(health.step(Millis(10_000), Event::Pulse), say(Word::Healthy));
}

#[test]
fn the_grace_is_for_pulses_too() {
    let mut health = pulsing(2000, TIMING);
    assert_eq!(health.deadline(), Some(Millis(10_000)));
    health.step(Millis(500), Event::Pulse);
    assert_eq!(health.deadline(), Some(Millis(10_000)));
    health.step(Millis(9000), Event::Pulse);
    assert_eq!(health.deadline(), Some(Millis(11_000)));
}

#[test]
fn who_stands_still_is_not_asked_and_has_time_afterwards() {
    for (mut health, event) in [(probed(TIMING), failed()), (pulsing(2000, TIMING), Event::Tick)] {
        health.step(Millis(1000), Event::Tick);
        assert_eq!(health.step(Millis(1500), Event::Paused), None);
        assert_eq!(health.deadline(), None);
        for late in [event, Event::Passed, Event::Tick, Event::Pulse] {
            assert_eq!(health.step(Millis(1_000_000), late), None);
        }
        assert_eq!(health.step(Millis(1_000_000), Event::Resumed), None);
        assert!(health.deadline().unwrap() > Millis(1_000_000));
        let due = health.deadline();
        assert_eq!(
            (health.step(Millis(1_000_001), Event::Resumed), health.deadline()),
            (None, due),
            "only the first counts"
        );
        assert_eq!(health.word(), Word::Starting, "how it was is not forgotten");
    }
}

#[test]
fn after_a_move_it_is_as_well_as_it_was_and_never_ill() {
    for (word, expected) in [
        (Word::None, Word::Starting),
        (Word::Starting, Word::Starting),
        (Word::Healthy, Word::Healthy),
        (Word::Unhealthy, Word::Starting),
        (Word::Hung, Word::Starting),
    ] {
        assert_eq!(Health::new(&Watch::Tcp(80), TIMING, word, Millis(7)).word(), expected);
    }
    let mut health = pulsing(2000, Timing { grace_ms: 0, ..TIMING });
    assert_eq!(health.step(Millis(2000), Event::Tick), say(Word::Hung));
    health.step(Millis(3000), Event::Paused);
    assert_eq!(health.step(Millis(4000), Event::Resumed), say(Word::Starting));
    assert_eq!(health.step(Millis(6000), Event::Tick), say(Word::Hung));
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Tick),
        2 => Just(Event::Passed),
        3 => Just(failed()),
        2 => Just(Event::Pulse),
        1 => Just(Event::Paused),
        1 => Just(Event::Resumed),
    ]
}

proptest! {
    /// Whatever happens: it is unhealthy only after so many answers in a row that it did not pass, out of its grace; it hangs only
    /// after so long without a pulse; nothing is said of who stands still, nor twice.
    #[test]
    fn nobody_is_called_ill_without_reason(
        period_ms in prop::option::of(100u64..20_000),
        retries in 1u32..5,
        grace_ms in 0u64..20_000,
        steps in prop::collection::vec((0u64..8000, any_event()), 1..200),
    ) {
        let timing = Timing { interval_ms: 1000, retries, grace_ms, ..TIMING };
        let mut health = period_ms.map_or_else(|| probed(timing), |period_ms| pulsing(period_ms, timing));
        let (mut now, mut begun, mut paused, mut asked, mut row, mut word) = (0, 0, false, false, 0, Word::Starting);
        let mut heard = 0;
        for (passes, event) in steps {
            now += passes;
            let act = health.step(Millis(now), event.clone());
            match &event {
                Event::Paused => (paused, asked) = (true, false),
                Event::Resumed if paused => (paused, begun, heard, row) = (false, now, now, 0),
                Event::Pulse if !paused => heard = now,
                Event::Passed if asked && !paused => (asked, row) = (false, 0),
                Event::Failed(_) if asked && !paused => {
                    asked = false;
                    if now >= begun + grace_ms { row += 1 }
                }
                _ => {}
            }
            prop_assert!(!(paused && act.is_some()));
            match act {
                None => {}
                Some(Act::Probe) => {
                    prop_assert!(period_ms.is_none() && !asked);
                    asked = true;
                }
                Some(Act::Say(said, why)) => {
                    prop_assert_ne!(said, word);
                    prop_assert_eq!(why.is_some(), said.is_ill());
                    match said {
                        Word::Unhealthy => prop_assert!(row >= retries),
                        Word::Hung => prop_assert!(now - heard >= period_ms.unwrap() && now >= begun + grace_ms),
                        Word::Healthy => prop_assert!(matches!(event, Event::Passed | Event::Pulse)),
                        Word::Starting => prop_assert!(word.is_ill() && event == Event::Resumed),
                        Word::None => prop_assert!(false, "never said"),
                    }
                    word = said;
                }
            }
            prop_assert_eq!(health.word(), word);
        }
    }
}
