//! `simulate`: many histories of a cluster in which everything fails. See `--help`, and docs/reliability.md.

use std::io::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use migrate_simulation::campaign::{self, Outcome};
use migrate_simulation::{Bug, World, cluster, swim};

/// Prints a line; whoever does not want to read on may close the pipe.
macro_rules! say {
    ($($word:tt)*) => {
        drop(writeln!(std::io::stdout(), $($word)*))
    };
}

/// How much of a history is shown when it fails.
const LAST: usize = 60;

/// Simulates clusters in which messages, agents, nodes, disks and clocks fail, and judges whether anything is ever lost.
#[derive(Parser)]
struct Options {
    /// How many histories.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed; from the clock where it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// Do one thing wrongly, on purpose.
    #[arg(long, value_name = "NAME")]
    bug: Option<String>,
    /// Only the history of `--seed`, with everything that happens in it.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Clusters that agree and heal themselves, in place of those that only move workloads.
    #[arg(long, conflicts_with = "swim")]
    cluster: bool,
    /// With `--cluster`: judge this invariant alone.
    #[arg(long, value_name = "INVARIANT", requires = "cluster")]
    only: Option<cluster::Invariant>,
    /// With `--cluster`: how many histories at once; as many as there are processors where it is not given.
    #[arg(long, requires = "cluster")]
    jobs: Option<usize>,
    /// Membership in clusters of 10 and more nodes, up to so many, in place of all that: a table.
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u32).range(2..=10_000))]
    swim: Option<u32>,
    /// With `--swim`: how many of a hundred datagrams are lost.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, requires = "swim", value_parser = clap::value_parser!(u8).range(0..=90))]
    lost: u8,
    /// With `--swim`: how many of a hundred nodes are slow.
    #[arg(long, value_name = "PERCENT", default_value_t = 0, requires = "swim", value_parser = clap::value_parser!(u8).range(0..=90))]
    slow: u8,
    /// With `--swim`: how many deaths are measured for each size.
    #[arg(long, default_value_t = 40, requires = "swim")]
    deaths: usize,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let from_clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let first = options.seed.unwrap_or_else(from_clock);
    if let Some(nodes) = options.swim {
        return membership(&options, nodes);
    }
    let known = if options.cluster { of_clusters(&options, first) } else { of_moves(&options, first) };
    known.unwrap_or_else(|problem| {
        drop(writeln!(std::io::stderr(), "{problem}"));
        ExitCode::from(2)
    })
}

/// How the line goes on that reproduces a failure.
fn and_bug(bug: Option<impl std::fmt::Display>) -> String {
    bug.map(|bug| format!(" --bug {bug}")).unwrap_or_default()
}

fn of_moves(options: &Options, first: u64) -> Result<ExitCode, String> {
    let bug = options.bug.as_deref().map(str::parse::<Bug>).transpose()?;
    if options.trace {
        return Ok(show(first, bug, usize::MAX));
    }
    let outcome = campaign::run(first, options.seeds, bug);
    report(first, &outcome);
    let Some((seed, violation)) = &outcome.failed else { return Ok(ExitCode::SUCCESS) };
    say!("\nseed {seed} fails: {violation}\n");
    show(*seed, bug, LAST);
    say!("\nreproduce: scripts/simulate --seed {seed}{} --trace", and_bug(bug));
    Ok(ExitCode::FAILURE)
}

fn of_clusters(options: &Options, first: u64) -> Result<ExitCode, String> {
    let bug = options.bug.as_deref().map(str::parse::<cluster::Bug>).transpose()?;
    if options.trace {
        return Ok(show_cluster(first, bug, options.only, usize::MAX));
    }
    let jobs = options.jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let outcome = cluster::run(first, options.seeds, bug, options.only, jobs);
    let took = outcome.took.as_secs_f64();
    say!("{} seeds from {first} in {took:.1} s: {:.0} seeds/s", outcome.seeds, outcome.seeds as f64 / took);
    say!("{}", outcome.tally);
    let Some((seed, violation)) = &outcome.failed else { return Ok(ExitCode::SUCCESS) };
    say!("\nseed {seed} fails: {violation}\n");
    show_cluster(*seed, bug, options.only, LAST);
    say!("\nreproduce: scripts/simulate --cluster --seed {seed}{} --trace", and_bug(bug));
    Ok(ExitCode::FAILURE)
}

/// Runs one history of a cluster again and shows the last things that happened.
fn show_cluster(seed: u64, bug: Option<cluster::Bug>, only: Option<cluster::Invariant>, last: usize) -> ExitCode {
    let mut world = cluster::World::new(seed, bug, true);
    if let Some(only) = only {
        world = world.judge_only(only);
    }
    let verdict = world.live();
    let all = world.trace().count();
    world.trace().skip(all.saturating_sub(last)).for_each(|line| say!("{line}"));
    conclude(seed, verdict)
}

fn conclude(seed: u64, verdict: Result<(), impl std::fmt::Display>) -> ExitCode {
    match verdict {
        Ok(()) => {
            say!("seed {seed}: every invariant holds");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            say!("seed {seed}: {violation}");
            ExitCode::FAILURE
        }
    }
}

/// The same seed for the same figures: 0 where none is given.
fn membership(options: &Options, most: u32) -> ExitCode {
    let seed = options.seed.unwrap_or(0);
    let sizes = swim::sizes(most as usize);
    say!("{} % of datagrams lost, {} % of nodes slow, seed {seed}\n\n{}", options.lost, options.slow, swim::HEAD);
    let mut false_deaths = 0;
    for nodes in sizes {
        let circumstances = swim::Circumstances::usual(nodes, options.lost, options.slow);
        let figures = swim::measure(&circumstances, swim::Extent::of(options.deaths), seed);
        say!("{}", swim::row(nodes, &figures));
        false_deaths += figures.false_deaths + figures.unknown;
    }
    if false_deaths == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(first: u64, outcome: &Outcome) {
    let Outcome { seeds, things, handovers, moved, lost, restored_again, took, .. } = outcome;
    say!("{seeds} seeds from {first} in {:.1} s: {:.0} seeds/s", took.as_secs_f64(), outcome.rate());
    say!("{things} things happened; {handovers} handovers, {moved} of them committed");
    say!("{restored_again} images restored again; {lost} workloads went with a node's power\n");
    say!("{}\n", outcome.coverage.table());
    let never = outcome.coverage.never();
    let missed: Vec<&str> = never.iter().filter(|(_, why)| why.is_none()).map(|(cell, _)| cell.as_str()).collect();
    say!("{} cells cannot be (–)", never.len() - missed.len());
    match missed[..] {
        [] => say!("every other cell was hit"),
        _ => say!("not hit: {}", missed.join("; ")),
    }
}

/// Runs one history again and shows the last things that happened.
fn show(seed: u64, bug: Option<Bug>, last: usize) -> ExitCode {
    let mut world = World::new(seed, bug, true);
    let verdict = world.live();
    let all = world.trace().count();
    world.trace().skip(all.saturating_sub(last)).for_each(|line| say!("{line}"));
    conclude(seed, verdict)
}
