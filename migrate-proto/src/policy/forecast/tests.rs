#![allow(clippy::unwrap_used)]
use super::*;

const NEED_MS: u64 = 10_000;

/// One value a second.
fn heard(values: impl IntoIterator<Item = f64>, limit: f64) -> (Forecast, u64) {
    let (mut forecast, mut now_ms) = (Forecast::default(), 0);
    for value in values {
        now_ms += 1000;
        forecast.hear(now_ms, value, limit);
    }
    (forecast, now_ms)
}

/// What is foretold at the end of a history.
fn at_the_end(values: impl IntoIterator<Item = f64>, limit: f64) -> Outlook {
    let (forecast, now_ms) = heard(values, limit);
    forecast.look(now_ms, limit, NEED_MS)
}

fn rising(from: f64, per_s: f64, seconds: u32) -> impl Iterator<Item = f64> {
    (0..seconds).map(move |second| from + per_s * f64::from(second))
}

/// When an alarm goes off, in seconds.
fn trips(values: impl IntoIterator<Item = f64>, limit: f64, total_ms: u64) -> Vec<usize> {
    let mut alarm = Alarm::default();
    let heard = values.into_iter().enumerate();
    heard
        .filter_map(|(second, value)| alarm.hear(second as u64 * 1000, value, limit, total_ms).map(|_| second))
        .collect()
}

#[test]
fn a_leak_meets_its_limit_when_it_seems_to() {
    let outlook = at_the_end(rising(100.0, 1.0, 300), 500.0);
    assert_eq!(outlook.growth, Growth::Steady);
    assert!((outlook.per_s - 1.0).abs() < 1e-6, "{outlook:?}");
    let meets = outlook.meets.unwrap();
    // At 399 of the 490 that can be had; where it is now the line says better than the blocks that are full.
    assert!((85_000.0..=95_000.0).contains(&meets.middle_ms), "{meets:?}");
    assert!(meets.early_ms <= meets.middle_ms && meets.middle_ms <= meets.late_ms);
}

#[test]
fn what_does_not_grow_meets_nothing() {
    assert_eq!(at_the_end(std::iter::repeat_n(499.0, 300), 500.0), Outlook::STILL);
    assert_eq!(at_the_end(rising(400.0, -1.0, 300), 500.0), Outlook::STILL);
    assert_eq!(at_the_end([], 500.0), Outlook::STILL);
    let step = (0..300).map(|second| if second < 200 { 100.0 } else { 480.0 });
    assert_eq!(at_the_end(step, 500.0).meets, None);
}

#[test]
fn growth_counts_once_it_has_lasted() {
    // 480 of 500, and 5 more each second: gone in two. So may a burst be.
    let burst = std::iter::repeat_n(380.0, 300).chain(rising(380.0, 5.0, 20));
    assert_eq!(at_the_end(burst, 500.0).meets, None);
    let leak = std::iter::repeat_n(100.0, 300).chain(rising(100.0, 5.0, 70));
    assert_eq!(at_the_end(leak, 500.0).growth, Growth::Steady);
    // And for as long as somebody needs who wants to do something about it.
    let (forecast, now_ms) = heard(rising(100.0, 1.0, 300), 500.0);
    assert_eq!(forecast.look(now_ms, 500.0, 100_000).evidence_ms, 128_000);
    assert_eq!(forecast.look(now_ms, 500.0, 300_000), Outlook::STILL, "five minutes are not known");
}

#[test]
fn what_levels_off_below_its_limit_does_not_meet_it() {
    let warming = |to: f64| {
        let left = std::iter::successors(Some(1.0), |left| Some(left * 0.98));
        left.map(move |left| to - (to - 50.0) * left).take(100)
    };
    assert_eq!(at_the_end(warming(400.0), 500.0).growth, Growth::LevelsOff);
    assert_eq!(at_the_end(warming(900.0), 1000.0).meets, None);
    assert!(at_the_end(warming(900.0), 700.0).meets.is_some(), "that is beyond the limit");
}

#[test]
fn what_has_come_back_before_comes_back_again() {
    let saw = |teeth: u32, high: f64| (0..teeth).flat_map(move |_| rising(100.0, (high - 100.0) / 100.0, 100));
    let known = saw(2, 400.0).chain(rising(100.0, 3.0, 95));
    assert_eq!(at_the_end(known, 500.0).growth, Growth::Swings);
    // Beyond all that is known.
    let new = saw(2, 300.0).chain(rising(100.0, 3.0, 110));
    assert_eq!(at_the_end(new, 500.0).growth, Growth::Steady);
    // It did not come back by itself from there: somebody ended it.
    let ended = saw(2, 495.0).chain(rising(100.0, 3.0, 110));
    assert_eq!(at_the_end(ended, 500.0).growth, Growth::Steady);
}

#[test]
fn a_leak_under_a_saw_is_one() {
    let leak = (0..4000).map(|second| 100.0 + f64::from(second) * 0.075 + f64::from(second % 20) * 2.0);
    let outlook = at_the_end(leak, 500.0);
    assert_eq!(outlook.growth, Growth::Steady);
    assert!((outlook.per_s - 0.075).abs() < 0.02, "{outlook:?}");
}

#[test]
fn an_alarm_goes_off_once_and_in_time() {
    let leak = || rising(100.0, 1.0, 400);
    let gone_off = trips(leak(), 500.0, 5000);
    let [at] = gone_off[..] else { panic!("{gone_off:?}") };
    assert!(400 - at >= 15, "three times five seconds: {at}");
    assert!(at >= 350, "not before it has to be: {at}");
    assert!(trips(std::iter::repeat_n(499.0, 1000), 500.0, 5000).is_empty());
    // It was helped, and comes again.
    let again = leak().take(390).chain(std::iter::repeat_n(100.0, 200)).chain(leak());
    assert_eq!(trips(again, 500.0, 5000).len(), 2);
}

#[test]
fn nonsense_and_gaps_do_no_harm() {
    let values = rising(100.0, 1.0, 300).enumerate();
    let odd = values.map(|(at, value)| match at % 50 {
        7 => 0.0,
        8 => f64::NAN,
        _ => value,
    });
    let outlook = at_the_end(odd, 500.0);
    assert!((outlook.per_s - 1.0).abs() < 0.05, "{outlook:?}");
    let (mut forecast, now_ms) = heard(rising(100.0, 1.0, 300), 500.0);
    // Long after, and then before.
    forecast.hear(now_ms + 3_600_000, 400.0, 500.0);
    assert_eq!(forecast.look(now_ms + 3_600_000, 500.0, NEED_MS).meets, None);
    forecast.hear(now_ms, 400.0, 500.0);
    let _ = forecast.look(now_ms, 500.0, NEED_MS);
}

#[test]
fn what_hangs_together_is_less_certain() {
    let points = |off: fn(u32) -> f64| (0..16).map(move |at| (f64::from(at), f64::from(at) + off(at)));
    let white = Line::through(points(|at| if at % 2 == 0 { 1.0 } else { -1.0 }));
    let red = Line::through(points(|at| if at / 4 % 2 == 0 { 1.0 } else { -1.0 }));
    assert!(red.error > 1.5 * white.error, "{red:?} {white:?}");
    let exact = Line::through(points(|_| 0.0));
    assert!((exact.slope - 1.0).abs() < 1e-12 && exact.error < 1e-9 && (exact.at(3.0) - 3.0).abs() < 1e-9);
}
