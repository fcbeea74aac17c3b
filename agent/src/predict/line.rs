//! A straight line through points, starting from another line: relative errors count, an odd point does not count for much, and
//! nothing is below zero.

/// `fixed + slope × x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    pub(super) fixed: f64,
    pub(super) slope: f64,
}

impl Line {
    pub(super) fn at(self, x: f64) -> f64 {
        self.fixed + self.slope * x
    }
}

/// What was seen, and how much it counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) weight: f64,
}

/// Below this many milliseconds an error of so many milliseconds is all the same.
const FINEST: f64 = 5.0;
/// A point that is further off than this factor is taken for one that is so far off.
const ODD: f64 = 2.0;
/// How much the line from which it starts counts, at each of two places.
const BASE: f64 = 0.02;

/// The line `base`, drawn to where the points are: first as a whole, by the median of their distances, then in its slope. `far` is
/// an x far from zero.
pub(super) fn drawn(base: Line, far: f64, points: &[Point]) -> Line {
    let Some(factor) =
        median(points.iter().map(|point| (point.y.max(FINEST) / base.at(point.x).max(FINEST), point.weight)))
    else {
        return base;
    };
    let scaled = Line { fixed: base.fixed * factor, slope: base.slope * factor };
    let expected = |x: f64| scaled.at(x).max(FINEST);
    let anchors = [0.0, far].map(|x| Point { x, y: scaled.at(x), weight: BASE });
    let seen = points
        .iter()
        .map(|point| Point { y: point.y.clamp(expected(point.x) / ODD, expected(point.x) * ODD), ..*point });
    fit(anchors
        .into_iter()
        .chain(seen)
        .map(|point| Point { weight: point.weight / expected(point.x).powi(2), ..point }))
}

/// The value with half of the weight on either side.
fn median(values: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let mut values: Vec<(f64, f64)> = values.collect();
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = values.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut below = 0.0;
    values.into_iter().find_map(|(value, weight)| {
        below += weight;
        (below >= half).then_some(value)
    })
}

/// Weighted sums over all points.
#[derive(Default)]
struct Sums {
    w: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

/// The line of the least squares. Neither part is negative: a part that would be is zero.
fn fit(points: impl Iterator<Item = Point>) -> Line {
    let mut sums = Sums::default();
    for Point { x, y, weight: w } in points {
        sums = Sums {
            w: sums.w + w,
            x: sums.x + w * x,
            y: sums.y + w * y,
            xx: sums.xx + w * x * x,
            xy: sums.xy + w * x * y,
        };
    }
    let Sums { w, x, y, xx, xy } = sums;
    let through_zero = Line { fixed: 0.0, slope: if xx > 0.0 { xy / xx } else { 0.0 } };
    let level = Line { fixed: if w > 0.0 { y / w } else { 0.0 }, slope: 0.0 };
    let determinant = w * xx - x * x;
    // All at the same place: there is no slope to be seen.
    if determinant <= w * xx * 1e-12 {
        return level;
    }
    let line = Line { fixed: (y * xx - x * xy) / determinant, slope: (w * xy - x * y) / determinant };
    match line {
        Line { slope, .. } if slope < 0.0 => level,
        Line { fixed, .. } if fixed < 0.0 => through_zero,
        line => line,
    }
}
