//! The migration benchmark: what moving costs, against other ways of doing it, and what the agents cost. `scripts/bench` runs
//! it: that builds, chooses directories, and removes what is left when this is interrupted.
//!
//! Machines are shared and noisy. So what is compared is measured in turns, in one run, and medians are compared: a ratio
//! means more than its parts. The pause is what the moved process sees of it: the longest gap in its CLOCK_REALTIME.
//!
//! `pause`, `memory`, `idle`, `link`, `recovery` and `partitions` each measure one group of figures; `lab`, `cluster`, `burrow`, `naive`
//! and `wire` are what they measure in; `observer`, `beacon`, `resident` and `crossing` are how.

mod beacon;
mod burrow;
mod checkpoints;
mod cluster;
mod crossing;
mod figure;
mod idle;
mod lab;
mod link;
mod memory;
mod naive;
mod observer;
mod partitions;
mod pause;
mod recovery;
mod resident;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};

use figure::Figures;
use lab::Lab;

/// What moving costs
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
    /// Given by cargo
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, print a table, write JSON
    Measure(Measure),
    /// The receiving end of a plain TCP stream; says on stdout how fast it came
    Receive {
        /// Where to listen
        address: SocketAddr,
    },
    /// The sending end
    Send {
        /// Where to
        address: SocketAddr,
        /// How much
        bytes: u64,
    },
}

#[derive(clap::Args)]
struct Measure {
    /// An empty directory on a disk, for the lab and for what the naive way writes
    #[arg(long)]
    place: PathBuf,
    /// An empty directory on a tmpfs, for CRIU's images
    #[arg(long)]
    tmpfs: PathBuf,
    /// Where the figures go as JSON
    #[arg(long)]
    json: PathBuf,
    /// Where migrate, migrate-agent, migrate-init and specimen are
    #[arg(long)]
    programs: PathBuf,
    /// CRIU, for the ways without migrate
    #[arg(long)]
    criu: PathBuf,
    /// How often each thing is measured
    #[arg(long, default_value_t = 5, overrides_with = "runs", value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// For how long `endurance` lasts
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Only these groups of figures
    #[arg(value_enum)]
    groups: Vec<Group>,
}

/// Figures that are measured together.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Group {
    /// What agents with nothing to do cost
    Idle,
    /// How long a moved process stands still
    Pause,
    /// How a narrow link is used
    Link,
    /// What agents take while they move much
    Memory,
    /// How long a dead node's workload is away, and a cluster without a leader
    Recovery,
    /// What a checkpoint costs of which little has changed
    Checkpoints,
    /// Whether two copies ever run
    Partitions,
    /// Whether anybody is taken for dead who is not
    Endurance,
}

impl Group {
    /// Of one move, between nodes with a list of peers.
    const OF_MOVES: [Group; 4] = [Group::Idle, Group::Pause, Group::Link, Group::Memory];
    /// Of a cluster. They take an hour, so they are measured only where that is asked for.
    const OF_CLUSTERS: [Group; 4] = [Group::Recovery, Group::Checkpoints, Group::Partitions, Group::Endurance];
}

fn main() -> Result<()> {
    match Options::parse().command {
        Command::Measure(options) => measure(&options),
        Command::Receive { address } => wire::receive(address),
        Command::Send { address, bytes } => wire::send(address, bytes),
    }
}

fn measure(options: &Measure) -> Result<()> {
    let mut figures = Figures::default();
    let runs = usize::from(options.runs);
    // Idle comes first: agents that have moved something are another matter, and looked at at the end of `memory`.
    let wanted = |group: &Group| options.groups.contains(group);
    for group in Group::OF_MOVES.into_iter().filter(|group| options.groups.is_empty() || wanted(group)) {
        // Agents are new for each group, so that the order of groups does not matter.
        let lab = Lab::up(&options.place, &options.programs)?;
        match group {
            Group::Idle => idle::measure(&lab, &mut figures),
            Group::Pause => pause::measure(&lab, options, runs, &mut figures),
            Group::Link => link::measure(&lab, runs, &mut figures),
            _ => memory::measure(&lab, &mut figures),
        }
        .context("a figure could not be measured")?;
        lab.down()?;
    }
    for group in Group::OF_CLUSTERS.into_iter().filter(wanted) {
        match group {
            Group::Recovery => recovery::measure(options, runs, &mut figures),
            Group::Checkpoints => checkpoints::measure(options, runs.div_ceil(6), &mut figures),
            Group::Partitions => partitions::measure(options, runs * 5 / 3, &mut figures),
            _ => partitions::endure(options, options.minutes, &mut figures),
        }
        .context("a figure could not be measured")?;
    }
    print!("{}", figures.table());
    figures.write(&options.json)?;
    println!("\nas JSON: {}", options.json.display());
    Ok(())
}

/// Says what is being done.
fn tell(what: std::fmt::Arguments) {
    eprintln!("  {what}");
}
