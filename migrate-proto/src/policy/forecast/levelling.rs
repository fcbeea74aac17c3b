//! Whether growth becomes less: the means of three thirds of the time say it.

/// How far off two differences have to be, in errors, to be different.
const DIFFERENT: f64 = 2.0;

/// Of all growth, the part that must not be in the last third.
const BEGUN: f64 = 0.27;

/// How growth goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Course {
    /// At the same rate.
    Straight,
    /// Less and less, but not to an end that is certain; the last rate, per block.
    Slows(f64),
    /// More and more; the last rate, and what that becomes more by, in the time of a block.
    Hastens {
        /// The rate.
        per_block: f64,
        /// What it gains.
        more: f64,
    },
    /// It has hardly grown before the last third: that is no growth yet.
    Begins,
    /// Less and less, to this level at most.
    Ends(f64),
}

/// The course of the means of blocks that follow each other.
pub(super) fn course(means: &[f64]) -> Course {
    let third = means.len() / 3;
    if third == 0 {
        return Course::Straight;
    }
    let mean = |from: usize| means[from..from + third].iter().sum::<f64>() / third as f64;
    let first = means.len() - 3 * third;
    let levels = [mean(first), mean(first + third), mean(first + 2 * third)];
    let (earlier, later) = (levels[1] - levels[0], levels[2] - levels[1]);
    let error = noise(means) * (2.0 / third as f64).sqrt();
    if earlier < BEGUN * (earlier + later) {
        return Course::Begins;
    }
    let per_block = later / third as f64;
    if later > earlier + DIFFERENT * error {
        let more = (later - earlier) / (third * third) as f64;
        // The difference is that of the middle between two thirds; now is one third later.
        return Course::Hastens { per_block: per_block + more * third as f64, more };
    }
    if later >= earlier - DIFFERENT * error {
        return Course::Straight;
    }
    // A geometric series, if each step is as much smaller than the one before as the last one was; at the least.
    let ratio = ((later + error) / (earlier - error)).max(0.0);
    match ratio < 0.95 {
        true => Course::Ends(levels[2] + later.max(0.0) * ratio / (1.0 - ratio) + error),
        false => Course::Slows(per_block),
    }
}

/// How much values are off that follow each other, whatever curve they follow.
pub(super) fn noise(values: &[f64]) -> f64 {
    let bends = values.windows(3).map(|three| three[0] - 2.0 * three[1] + three[2]);
    let count = values.len().saturating_sub(2).max(1) as f64;
    (bends.map(|bend| bend * bend).sum::<f64>() / count / 6.0).sqrt()
}
