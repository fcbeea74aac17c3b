//! How long a moved process stands still: by migrate, by bare CRIU through a tmpfs, and the naive way, in turns.

use anyhow::Result;
use migrate_proto::phase::Phase;

use crate::burrow::Burrow;
use crate::figure::{Bound, Figures, Unit, median};
use crate::lab::Lab;
use crate::{Measure, naive, tell};

/// Where a workload goes from run to run.
const ROUND: [&str; 3] = ["node2", "node3", "node1"];

pub(crate) fn measure(lab: &Lab, options: &Measure, runs: usize, figures: &mut Figures) -> Result<()> {
    small(lab, options, runs, figures)?;
    large(lab, options, runs, figures)
}

/// Where little is to be moved, everything else is the pause.
fn small(lab: &Lab, options: &Measure, runs: usize, figures: &mut Figures) -> Result<()> {
    let size = "10 MiB";
    let taken = Taken::measure(lab, options, 10, runs * 2, false)?;
    let bare = figures.told(format!("{size}: pause by bare CRIU, through a tmpfs"), &taken.bare, Unit::Milliseconds);
    let ours = figures.told(format!("{size}: pause by migrate"), &taken.ours, Unit::Milliseconds);
    figures.bounded(format!("{size}: migrate / bare CRIU"), ours / bare, Unit::Times, Bound::AtMost(2.0));
    Ok(())
}

fn large(lab: &Lab, options: &Measure, runs: usize, figures: &mut Figures) -> Result<()> {
    let size = "1 GiB random";
    let taken = Taken::measure(lab, options, 1024, runs, true)?;
    let bare = figures.told(format!("{size}: pause by bare CRIU, through a tmpfs"), &taken.bare, Unit::Milliseconds);
    let naive = figures.told(format!("{size}: pause the naive way"), &taken.naive, Unit::Milliseconds);
    for (step, times) in &taken.naive_steps {
        figures.told(format!("    of it {step}"), times, Unit::Milliseconds);
    }
    let ours = figures.told(format!("{size}: pause by migrate"), &taken.ours, Unit::Milliseconds);
    for (phase, times) in &taken.phases {
        if median(times) >= 1.0 {
            figures.told(format!("    phase {}", phase.as_str()), times, Unit::Milliseconds);
        }
    }
    figures.told(format!("{size}: pause as migrate reports it"), &taken.reported, Unit::Milliseconds);
    figures.told(format!("{size}: total of a move by migrate"), &taken.total, Unit::Milliseconds);
    figures.bounded(format!("{size}: migrate / bare CRIU"), ours / bare, Unit::Times, Bound::AtMost(1.5));
    figures.bounded(format!("{size}: migrate / naive way"), ours / naive, Unit::Times, Bound::AtMost(1.0 / 3.0));
    Ok(())
}

/// Times in milliseconds, one a run.
#[derive(Default)]
struct Taken {
    ours: Vec<f64>,
    bare: Vec<f64>,
    naive: Vec<f64>,
    naive_steps: Vec<(&'static str, Vec<f64>)>,
    phases: Vec<(Phase, Vec<f64>)>,
    reported: Vec<f64>,
    total: Vec<f64>,
}

impl Taken {
    /// Moves a process with `mib` MiB of random memory `runs` times each way.
    fn measure(lab: &Lab, options: &Measure, mib: usize, runs: usize, with_naive: bool) -> Result<Taken> {
        let mib = mib.to_string();
        let words = ["pause", "--mib", &mib, "--kind", "random"];
        let workload = lab.specimen(&format!("pause-{mib}"), &words)?;
        let specimen = options.programs.join("specimen");
        let specimen = specimen.to_string_lossy();
        let argv: Vec<&str> = std::iter::once(&*specimen).chain(words).collect();
        let burrow = Burrow::dig(&options.place, &options.criu, &argv)?;
        let (mut inside, mut outside) = (workload.observer()?, burrow.observer()?);
        let mut taken = Taken::default();
        for (run, node) in ROUND.iter().cycle().take(runs).enumerate() {
            inside.begin(|| workload.output())?;
            taken.note_report(&workload.move_to(node)?);
            taken.ours.push(inside.longest(|| workload.output())?);

            outside.begin(|| burrow.output())?;
            burrow.dump_and_restore(&options.tmpfs.join("images"))?;
            taken.bare.push(outside.longest(|| burrow.output())?);

            if with_naive {
                outside.begin(|| burrow.output())?;
                taken.note_steps(&naive::dump_copy_restore(&burrow, &options.place)?);
                taken.naive.push(outside.longest(|| burrow.output())?);
            }
            taken.tell(&mib, run + 1, runs);
        }
        drop(burrow);
        workload.remove()?;
        Ok(taken)
    }

    fn note_report(&mut self, report: &migrate_proto::api::MoveReport) {
        self.reported.extend(report.downtime_ms);
        self.total.push(report.total_ms);
        for phase in &report.phases {
            push(&mut self.phases, phase.name, phase.ms);
        }
    }

    fn note_steps(&mut self, steps: &naive::Steps) {
        steps.iter().for_each(|(step, time)| push(&mut self.naive_steps, *step, *time));
    }

    fn tell(&self, mib: &str, run: usize, runs: usize) {
        let last = |times: &[f64]| times.last().map_or("-".to_owned(), |time| format!("{time:.0} ms"));
        tell(format_args!(
            "{mib} MiB, run {run} of {runs}: migrate {}, bare CRIU {}, naive {}",
            last(&self.ours),
            last(&self.bare),
            last(&self.naive)
        ));
    }
}

fn push<K: PartialEq>(all: &mut Vec<(K, Vec<f64>)>, key: K, time: f64) {
    match all.iter_mut().find(|(known, _)| *known == key) {
        Some((_, times)) => times.push(time),
        None => all.push((key, vec![time])),
    }
}
