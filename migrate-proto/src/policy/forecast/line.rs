//! A straight line through points, and how certain its slope is.

/// A line through the time before now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Line {
    /// Where it is now.
    pub(super) now: f64,
    /// How much it rises in a second.
    pub(super) slope: f64,
    /// How uncertain that is: one standard error, larger where what is left over hangs together.
    pub(super) error: f64,
}

impl Line {
    /// Through points `(seconds, value)`; least squares. Nothing is certain of fewer than four.
    pub(super) fn through(points: impl Iterator<Item = (f64, f64)> + Clone) -> Line {
        let count = points.clone().count();
        let n = count as f64;
        let (sum_x, sum_y) = points.clone().fold((0.0, 0.0), |(sx, sy), (x, y)| (sx + x, sy + y));
        let (mid_x, mid_y) = (sum_x / n, sum_y / n);
        let (xx, xy) = points.clone().fold((0.0, 0.0), |(xx, xy), (x, y)| {
            let (dx, dy) = (x - mid_x, y - mid_y);
            (xx + dx * dx, xy + dx * dy)
        });
        if count < 4 || xx <= 0.0 {
            return Line { now: mid_y, slope: 0.0, error: f64::INFINITY };
        }
        let slope = xy / xx;
        let left = points.map(|(x, y)| y - mid_y - slope * (x - mid_x));
        let squares: f64 = left.clone().map(|off| off * off).sum();
        let together: f64 = left.clone().zip(left.skip(1)).map(|(a, b)| a * b).sum();
        let scatter = (squares / (n - 2.0)).sqrt();
        let alike = if squares > 0.0 { (together / squares).clamp(0.0, 0.9) } else { 0.0 };
        let error = scatter / xx.sqrt() * ((1.0 + alike) / (1.0 - alike)).sqrt();
        Line { now: mid_y - slope * mid_x, slope, error }
    }

    /// So many errors its slope is above zero.
    pub(super) fn certainty(&self) -> f64 {
        if self.slope == 0.0 { 0.0 } else { self.slope / self.error }
    }

    /// Where it is so many seconds from now.
    pub(super) fn at(&self, seconds: f64) -> f64 {
        self.now + self.slope * seconds
    }
}
