#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn size(mib: u64) -> Size {
    Size { memory: mib * MIB, files: 0 }
}

/// A move on a machine that needs `slowness` times as long as: 50 ms and 1 ms a MiB for each part, 20 ms for the rest.
fn seen(mib: u64, slowness: f64) -> Move {
    let part = (50.0 + mib as f64) * slowness;
    Move {
        size: size(mib),
        sent: mib * MIB,
        copy_ms: part,
        restore_ms: part,
        downtime_ms: 2.0 * part,
        total_ms: 3.0 * part + 20.0 * slowness,
        expected: None,
    }
}

fn is_near(forecast: Forecast, truth: &Move, tolerance: f64) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() <= tolerance * b;
    near(forecast.downtime_ms, truth.downtime_ms) && near(forecast.total_ms, truth.total_ms)
}

#[test]
fn there_is_an_answer_before_the_first_move() {
    let rates = Rates::default();
    let (small, large) = (rates.forecast(&node("b"), size(10)), rates.forecast(&node("b"), size(1024)));
    assert!((50.0..500.0).contains(&small.downtime_ms), "{small:?}");
    assert!((1000.0..2500.0).contains(&large.downtime_ms), "{large:?}");
    assert!(small.total_ms > small.downtime_ms && large.total_ms > large.downtime_ms);
}

#[test]
fn three_moves_are_enough_for_the_fourth() {
    for (mib, slowness) in [(64, 0.3), (64, 1.0), (64, 10.0), (1024, 0.5), (1, 4.0)] {
        let mut rates = Rates::default();
        for _ in 0..3 {
            assert!(rates.learn(&node("b"), seen(mib, slowness)));
        }
        let forecast = rates.forecast(&node("b"), size(mib));
        assert!(is_near(forecast, &seen(mib, slowness), 0.2), "{mib} MiB, {slowness}: {forecast:?}");
    }
}

/// A move whose four parts took these times.
fn timed(size: Size, [copy_ms, dump_ms, restore_ms, rest_ms]: [f64; 4]) -> Move {
    let downtime_ms = dump_ms + restore_ms;
    let total_ms = copy_ms + downtime_ms + rest_ms;
    Move { size, sent: size.memory, copy_ms, restore_ms, downtime_ms, total_ms, expected: None }
}

proptest! {
    /// What is promised: whatever the machine, its link and the workload, if parts of equal moves differ by a third at most.
    #[test]
    fn after_three_moves_the_next_is_predicted_within_a_factor_of_two(
        memory in 1_u64 << 20..1 << 36,
        files in 0_u64..1 << 36,
        powers in prop::array::uniform4(1.0..4.5),
        noise in prop::array::uniform4(prop::array::uniform4(0.75..1.33)),
    ) {
        let size = Size { memory, files };
        let moves = noise.map(|noise| timed(size, std::array::from_fn(|part| 10_f64.powf(powers[part]) * noise[part])));
        let mut rates = Rates::default();
        for seen in &moves[..3] {
            prop_assert!(rates.learn(&node("b"), *seen));
        }
        let (forecast, next) = (rates.forecast(&node("b"), size), moves[3]);
        for (predicted, measured) in [(forecast.downtime_ms, next.downtime_ms), (forecast.total_ms, next.total_ms)] {
            prop_assert!((measured / 2.0..=measured * 2.0).contains(&predicted), "{predicted} for {measured}");
        }
    }
}

#[test]
fn moves_of_two_sizes_tell_about_a_third() {
    let mut rates = Rates::default();
    for mib in [16, 256, 16, 256, 16, 256] {
        rates.learn(&node("b"), seen(mib, 2.0));
    }
    for mib in [4, 64, 1024] {
        assert!(is_near(rates.forecast(&node("b"), size(mib)), &seen(mib, 2.0), 0.1), "{mib}");
    }
}

/// Another machine, or another link: the old moves fade.
#[test]
fn it_follows_a_change() {
    let mut rates = Rates::default();
    (0..KEPT).for_each(|_| _ = rates.learn(&node("b"), seen(64, 1.0)));
    (0..KEPT).for_each(|_| _ = rates.learn(&node("b"), seen(64, 5.0)));
    assert!(is_near(rates.forecast(&node("b"), size(64)), &seen(64, 5.0), 0.05));
}

#[test]
fn one_odd_move_among_many_does_not_count_for_much() {
    let mut rates = Rates::default();
    (0..10).for_each(|_| _ = rates.learn(&node("b"), seen(64, 1.0)));
    rates.learn(&node("b"), seen(64, 100.0));
    assert!(is_near(rates.forecast(&node("b"), size(64)), &seen(64, 1.0), 0.25));
}

#[test]
fn a_target_that_was_never_met_is_like_the_others() {
    let mut rates = Rates::default();
    (0..4).for_each(|_| _ = rates.learn(&node("b"), seen(64, 8.0)));
    assert!(is_near(rates.forecast(&node("c"), size(64)), &seen(64, 8.0), 0.1));
    (0..4).for_each(|_| _ = rates.learn(&node("c"), seen(64, 1.0)));
    assert!(is_near(rates.forecast(&node("c"), size(64)), &seen(64, 1.0), 0.1));
    assert!(is_near(rates.forecast(&node("b"), size(64)), &seen(64, 8.0), 0.1));
}

#[test]
fn nonsense_is_not_learned() {
    let good = seen(64, 1.0);
    let bad = [
        Move { total_ms: f64::NAN, ..good },
        Move { total_ms: f64::INFINITY, ..good },
        Move { total_ms: 0.0, downtime_ms: 0.0, copy_ms: 0.0, restore_ms: 0.0, ..good },
        Move { total_ms: LONGEST_MS * 2.0, ..good },
        Move { copy_ms: -1.0, ..good },
        Move { downtime_ms: good.total_ms + 100.0, ..good },
        Move { restore_ms: good.downtime_ms + 100.0, ..good },
    ];
    let mut rates = Rates::default();
    for bad in bad {
        assert!(!rates.learn(&node("b"), bad), "{bad:?}");
    }
    assert_eq!(rates, Rates::default());
}

/// Whatever is learned, what is forecast is a time.
#[test]
fn forecasts_are_times() {
    let mut rates = Rates::default();
    for mib in [0, 1, 1 << 20, 3, u64::MAX / MIB] {
        rates.learn(&node("b"), Move { size: size(mib), ..seen(7, 1.0) });
        for asked in [0, 64, u64::MAX / MIB] {
            let forecast = rates.forecast(&node("b"), size(asked));
            assert!((0.0..=4.0 * LONGEST_MS).contains(&forecast.total_ms), "{mib} {asked} {forecast:?}");
            assert!(forecast.downtime_ms <= forecast.total_ms);
        }
    }
}

#[test]
fn what_is_kept_is_bounded() {
    let mut rates = Rates::default();
    for target in 0..TARGETS * 2 {
        (0..KEPT * 2).for_each(|_| _ = rates.learn(&node(&format!("n{target}")), seen(64, 1.0)));
    }
    assert_eq!(rates.targets.len(), TARGETS);
    assert!(rates.targets.values().all(|moves| moves.len() == KEPT));
    assert!(rates.targets.contains_key(&node(&format!("n{}", TARGETS * 2 - 1))));
}

#[test]
fn the_error_is_the_mean_of_relative_errors() {
    let mut rates = Rates::default();
    assert_eq!(rates.error(), PredictionView::default());
    let good = seen(64, 1.0);
    let expected = |factor: f64| {
        Some(Forecast { downtime_ms: good.downtime_ms * factor, total_ms: good.total_ms * (2.0 - factor) })
    };
    rates.learn(&node("b"), good);
    rates.learn(&node("b"), Move { expected: expected(1.5), ..good });
    rates.learn(&node("c"), Move { expected: expected(0.9), ..good });
    let error = rates.error();
    assert_eq!(error.moves, 2);
    assert!((error.downtime_error.unwrap() - 0.3).abs() < 1e-9, "{error:?}");
    assert!((error.total_error.unwrap() - 0.3).abs() < 1e-9, "{error:?}");
}

#[test]
fn experience_survives_the_agent_and_damage_is_no_harm() {
    let state = tempfile::tempdir().unwrap();
    let forecasts = Forecasts::open(state.path());
    let before = forecasts.forecast(&node("b"), size(64));
    (0..3).for_each(|_| forecasts.learn(&node("b"), seen(64, 20.0)));
    let learned = forecasts.forecast(&node("b"), size(64));
    assert!(learned.total_ms > before.total_ms * 2.0);
    assert_eq!(Forecasts::open(state.path()).forecast(&node("b"), size(64)), learned);

    let file = state.path().join("forecasts.json");
    let text = std::fs::read(&file).unwrap();
    for damaged in [&text[..text.len() / 2], b"", b"\xff\xfe", b"{}"] {
        std::fs::write(&file, damaged).unwrap();
        assert_eq!(Forecasts::open(state.path()).forecast(&node("b"), size(64)), before);
    }
    // And goes on learning.
    let anew = Forecasts::open(state.path());
    anew.learn(&node("b"), seen(64, 20.0));
    assert!(Forecasts::open(state.path()).forecast(&node("b"), size(64)).total_ms > before.total_ms);
}
