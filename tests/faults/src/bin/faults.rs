//! `faults`: runs the matrix, or a part of it, and prints what came of it. Exits with 1 where a cell failed.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use migrate_faults::matrix::{self, Cell, Fault, Moment, Side};
use migrate_faults::report::{self, Row};
use migrate_faults::stage::Stage;
use migrate_faults::{cell, interrupt, interrupt::say};
use migrate_proto::phase::Phase;

/// Faults in every phase of real moves
#[derive(Parser)]
struct Options {
    /// Only these faults
    #[arg(long, value_delimiter = ',', value_name = "FAULT")]
    only: Vec<Fault>,
    /// Only in these phases
    #[arg(long, value_delimiter = ',', value_name = "PHASE", value_parser = matrix::phase)]
    phase: Vec<Phase>,
    /// Only on this side
    #[arg(long)]
    side: Option<Side>,
    /// At which moment of the phase, entered or begun; else by turns, one for each time
    #[arg(long)]
    moment: Option<Moment>,
    /// In a cluster, where the record decides about moves; else with peers that are listed
    #[arg(long)]
    cluster: bool,
    /// How often each cell is run
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// Labs at once
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Write every row there, one JSON object a line
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the agents' logs of failed cells in this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    interrupt::mark_only();
    let all_if_empty = |chosen: &[Fault]| if chosen.is_empty() { Fault::ALL.to_vec() } else { chosen.to_vec() };
    let phases = if options.phase.is_empty() { Phase::ALL.to_vec() } else { options.phase.clone() };
    let sides = options.side.map_or(Side::ALL.to_vec(), |side| vec![side]);
    let moments = options.moment.map_or(vec![Moment::Begun, Moment::Entered], |moment| vec![moment]);
    let once = |moment| matrix::cells(&all_if_empty(&options.only), &phases, &sides, moment);
    let work: VecDeque<Cell> = moments.into_iter().cycle().take(options.times).flat_map(once).collect();
    let total = work.len();
    say(report::HEAD);
    let (work, rows) = (Mutex::new(work), Mutex::new(Vec::new()));
    let unclean: Vec<String> = std::thread::scope(|scope| {
        let serving = || serve(&options, &work, &rows);
        let servants: Vec<_> = (0..options.jobs.min(total)).map(|_| scope.spawn(serving)).collect();
        servants
            .into_iter()
            .filter_map(|servant| servant.join().unwrap_or_else(|panic| Err(words_of(panic))).err())
            .collect()
    });
    let rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    let failed = rows.iter().filter(|row| !row.passed()).count();
    say(format_args!("\n{}\n", report::matrix(&rows)));
    let (passed, left_out) = (rows.len() - failed, total - rows.len());
    say(format_args!("{passed} of {total} cells passed, {failed} failed, {left_out} were not run"));
    unclean.iter().for_each(say);
    if passed == total && unclean.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs cells on a lab of its own until there are none left; an error where that does not go down cleanly.
fn serve(options: &Options, work: &Mutex<VecDeque<Cell>>, rows: &Mutex<Vec<Row>>) -> Result<(), String> {
    let mut stage = None;
    while !interrupt::is_asked() {
        let Some(cell) = work.lock().unwrap_or_else(PoisonError::into_inner).pop_front() else { break };
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let up = || if options.cluster { Stage::up_cluster() } else { Stage::up(2) };
            let stage = stage.get_or_insert_with(up);
            let row = cell::run(stage, cell, cell::RESUMED_WITHIN);
            if !row.passed() {
                keep(options, stage, cell);
            }
            row
        }));
        let mut row = ran.unwrap_or_else(|panic| {
            let mut row = Row::of(cell);
            row.wrong.push(format!("the instrument failed: {}", words_of(panic)));
            row.dirty = true;
            row
        });
        if row.dirty {
            row.wrong.extend(take_down(stage.take()).err());
        }
        let mut rows = rows.lock().unwrap_or_else(PoisonError::into_inner);
        say(row.line());
        note(options, &row);
        rows.push(row);
    }
    take_down(stage)
}

/// A lab that does not go down cleanly panics.
fn take_down(stage: Option<Stage>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(move || drop(stage))).map_err(words_of)
}

fn words_of(panic: Box<dyn Any + Send>) -> String {
    let said = panic.downcast_ref::<String>().cloned();
    said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn note(options: &Options, row: &Row) {
    use std::io::Write;
    let Some(path) = &options.json else { return };
    let written = serde_json::to_string(row).map_err(std::io::Error::other).and_then(|line| {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path)?;
        writeln!(file, "{line}")
    });
    if let Err(error) = written {
        eprintln!("{}: {error}", path.display());
    }
}

/// Copies what the agents said.
fn keep(options: &Options, stage: &Stage, cell: Cell) {
    let Some(dir) = &options.keep else { return };
    let dir = dir.join(cell.to_string().replace(' ', "-"));
    let _ = std::fs::create_dir_all(&dir);
    for node in stage.nodes().keys() {
        let _ = std::fs::copy(stage.log_of(node), dir.join(format!("{node}.log")));
    }
}
