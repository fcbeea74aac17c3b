//! What became of the trips in a history.

use migrate_proto::policy::forecast::{Alarm, LEAST_EVIDENCE_MS, need_ms};

use crate::histories::History;

/// After a trip the workload is elsewhere: nothing is said about it for so long.
const COOL_DOWN_S: usize = 600;
/// How far ahead a trip may be.
const AHEAD_S: f64 = 3600.0;

/// Something that says when a workload is to be moved.
pub(crate) trait Alarming {
    /// Hears a value; whether it is time.
    fn hear(&mut self, second: usize, value: f64, total_s: f64) -> bool;
}

impl Alarming for Alarm {
    fn hear(&mut self, second: usize, value: f64, total_s: f64) -> bool {
        Alarm::hear(self, second as u64 * 1000, value, 1.0, (total_s * 1000.0) as u64).is_some()
    }
}

/// A fixed threshold.
pub(crate) struct Threshold(pub(crate) f64);

impl Alarming for Threshold {
    fn hear(&mut self, _second: usize, value: f64, _total_s: f64) -> bool {
        value >= self.0
    }
}

/// How it went.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    /// Histories that met their limit, and left time for a move.
    pub(crate) needed: u32,
    /// Of these: a trip in time.
    pub(crate) caught: u32,
    /// A trip, and less than three times the move's time left.
    pub(crate) late: u32,
    /// Trips without a need.
    pub(crate) needless: u32,
    /// Time left at the trip, in times of a move.
    pub(crate) leads: Vec<f64>,
}

impl Tally {
    /// The part of all trips that had a need.
    pub(crate) fn precision(&self) -> f64 {
        let good = f64::from(self.caught + self.late);
        good / (good + f64::from(self.needless))
    }

    /// The part of what was needed that had a trip.
    pub(crate) fn recall(&self) -> f64 {
        f64::from(self.caught + self.late) / f64::from(self.needed)
    }

    /// The part of these trips that left three times the move's time.
    pub(crate) fn in_time(&self) -> f64 {
        f64::from(self.caught) / f64::from(self.caught + self.late)
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.needed += other.needed;
        self.caught += other.caught;
        self.late += other.late;
        self.needless += other.needless;
        self.leads.extend(&other.leads);
    }
}

/// Lets an alarm hear a history.
pub(crate) fn judge(history: &History, alarm: &mut dyn Alarming) -> Tally {
    let end = history.end();
    let mut tally = Tally::default();
    let evidence_s = need_ms((history.total_s * 1000.0) as u64).max(LEAST_EVIDENCE_MS) as f64 / 1000.0;
    if let (Some(end), Some(onset)) = (end, history.onset) {
        tally.needed = u32::from((end - onset) as f64 >= 3.0 * history.total_s + evidence_s);
    }
    let mut quiet_until = 0;
    for (second, value) in history.values.iter().enumerate() {
        if !alarm.hear(second, *value, history.total_s) || second < quiet_until {
            continue;
        }
        let left_s = end.map(|end| (end - second) as f64);
        let is_true = history.onset.is_some_and(|onset| second >= onset) && left_s.is_some_and(|left| left <= AHEAD_S);
        match left_s.filter(|_| is_true) {
            Some(left_s) => {
                let lead = left_s / history.total_s;
                tally.leads.push(lead);
                *(if lead >= 3.0 { &mut tally.caught } else { &mut tally.late }) += tally.needed;
                return tally;
            }
            None => tally.needless += 1,
        }
        quiet_until = second + COOL_DOWN_S;
    }
    tally
}
