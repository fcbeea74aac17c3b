//! What is known of a node and of a workload at a moment: named quantities, each within a range. What cannot be seen is absent, never zero.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

/// Of a node. Shares are of what there is, from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeFigure {
    /// CPU in use, a share.
    Cpu,
    /// Processes that run or want to, for each core.
    Load,
    /// Memory in use that cannot be dropped, a share.
    Memory,
    /// Swap in use, a share.
    Swap,
    /// Disk in use where the state is kept, a share.
    Disk,
    /// Time in which the disk was busy, a share.
    DiskBusy,
    /// Time in which somebody waited for a core, a share.
    PressureCpu,
    /// Time in which somebody waited for memory, a share.
    PressureMemory,
    /// Time in which all waited for memory, a share.
    PressureMemoryFull,
    /// Time in which somebody waited for a disk, a share.
    PressureIo,
    /// Time in which all waited for a disk, a share.
    PressureIoFull,
    /// The hottest sensor, as a share of what it takes for critical.
    Temperature,
    /// Corrected memory errors in the last day.
    MemoryErrors,
    /// Memory errors that could not be corrected, since the node was started.
    MemoryErrorsUncorrected,
    /// Disks that say that they are failing.
    DisksFailing,
    /// Errors and drops of its links, in a second.
    LinkErrors,
    /// How far its clock is off, in seconds.
    ClockOff,
    /// How late its agent's loops are, in seconds.
    AgentLate,
}

/// Of a workload. Shares are of its own limit, else of what its node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadFigure {
    /// CPU, a share of the node's.
    Cpu,
    /// Memory that cannot be dropped, a share.
    Memory,
    /// Memory in proportion to who else has it mapped, a share of the node's.
    MemoryProportional,
    /// What it reads and writes, bytes in a second.
    Io,
    /// Descriptors of the process that has the largest share of its limit, a share.
    Descriptors,
    /// Threads, a share of its control group's limit.
    Threads,
    /// How long it has given no sign of life, as a share of how long it may.
    Silence,
}

const SHARE: RangeInclusive<f64> = 0.0..=1.0;
const COUNT: RangeInclusive<f64> = 0.0..=1e15;

/// A named quantity.
pub trait Figure: Copy + Ord {
    /// What it can be. Anything else is nonsense of a sensor, and absent.
    fn range(self) -> RangeInclusive<f64>;
}

impl Figure for NodeFigure {
    fn range(self) -> RangeInclusive<f64> {
        match self {
            NodeFigure::Load => 0.0..=1e5,
            // Some say critical well before they switch off.
            NodeFigure::Temperature => 0.0..=1.5,
            NodeFigure::MemoryErrors
            | NodeFigure::MemoryErrorsUncorrected
            | NodeFigure::DisksFailing
            | NodeFigure::LinkErrors => COUNT,
            NodeFigure::ClockOff | NodeFigure::AgentLate => 0.0..=1e9,
            _ => SHARE,
        }
    }
}

impl Figure for LoadFigure {
    fn range(self) -> RangeInclusive<f64> {
        match self {
            LoadFigure::Io => COUNT,
            LoadFigure::Silence => 0.0..=1e6,
            _ => SHARE,
        }
    }
}

/// What is known at a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent, bound(deserialize = "F: Figure + Deserialize<'de>"))]
pub struct Figures<F: Figure>(BTreeMap<F, f64>);

impl<F: Figure> Default for Figures<F> {
    fn default() -> Figures<F> {
        Figures(BTreeMap::new())
    }
}

impl<F: Figure> Figures<F> {
    /// Takes a value, unless it is nonsense. A share may be a little too large by the way it was measured.
    pub fn set(&mut self, figure: F, value: f64) {
        let range = figure.range();
        let value = if value > *range.end() && value <= range.end() * 1.05 { *range.end() } else { value };
        if range.contains(&value) {
            self.0.insert(figure, value);
        }
    }

    /// The value, where there is one that makes sense.
    pub fn get(&self, figure: F) -> Option<f64> {
        self.0.get(&figure).copied().filter(|value| figure.range().contains(value))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use super::*;

    #[test]
    fn nonsense_is_absent() {
        let mut figures = Figures::default();
        for (figure, value) in [
            (NodeFigure::Cpu, f64::NAN),
            (NodeFigure::Memory, -0.1),
            (NodeFigure::Disk, 1.2),
            (NodeFigure::Load, f64::INFINITY),
        ] {
            figures.set(figure, value);
            assert_eq!(figures.get(figure), None, "{figure:?}");
        }
        figures.set(NodeFigure::Cpu, 1.01);
        assert_eq!(figures.get(NodeFigure::Cpu), Some(1.0));
        // What is read from a file was not looked at.
        let read: Figures<NodeFigure> = serde_json::from_str(r#"{"cpu": 7.0, "pressure-memory-full": 0.25}"#).unwrap();
        assert_eq!((read.get(NodeFigure::Cpu), read.get(NodeFigure::PressureMemoryFull)), (None, Some(0.25)));
        assert!(serde_json::from_str::<Figures<LoadFigure>>(r#"{"mood": 1.0}"#).is_err());
    }
}
