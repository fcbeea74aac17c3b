//! `chaos`: witnesses go round a lab of three nodes while agents and CRIU processes are killed at random. Exits with 1 where one of
//! them does not come through, or anything is left over.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use migrate_faults::interrupt::{self, say};
use migrate_faults::stage::{Stage, soon};
use migrate_proto::api::State;
use rustix::process::{Pid, Signal, kill_process};

const NODES: u8 = 3;
/// Lines after which a witness has checked all of its memory.
const WHOLE: u64 = 20;
/// How long everything may take to settle in the end.
const SETTLING: Duration = Duration::from_secs(60);

/// A loop of moves under random deaths
#[derive(Parser)]
struct Options {
    /// How long
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Which random choices; from the clock where absent
    #[arg(long)]
    seed: Option<u64>,
    /// How many workloads
    #[arg(long, default_value_t = 3)]
    witnesses: u8,
    /// Seconds between two deaths, about
    #[arg(long, default_value_t = 8.0)]
    every: f64,
}

/// A pseudo-random sequence (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// What happened.
#[derive(Default)]
struct Counts {
    moved: AtomicU32,
    stayed: AtomicU32,
    unanswered: AtomicU32,
    agents: AtomicU32,
    criu: AtomicU32,
}

fn main() -> ExitCode {
    let options = Options::parse();
    interrupt::mark_only();
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let seed = options.seed.unwrap_or_else(clock);
    say(format_args!("seed {seed}, {} witnesses, {} minutes", options.witnesses, options.minutes));
    let mut stage = Stage::up(NODES);
    let names: Vec<String> = (0..options.witnesses).map(|n| stage.begin_witness(&node(u64::from(n)), false)).collect();
    let counts = Counts::default();
    rage(&stage, &names, &options, seed, &counts);
    let wrong = judge(&stage, &names);
    names.iter().for_each(|name| stage.remove(name));
    let mut left = Vec::new();
    soon(SETTLING, || {
        left = stage.remains(&[]);
        left.is_empty()
    });
    let wrong: Vec<String> =
        wrong.into_iter().chain(left.into_iter().map(|what| format!("left behind: {what}"))).collect();
    let count = |of: &AtomicU32| of.load(Ordering::Relaxed);
    say(format_args!(
        "killed: {} agents, {} CRIU processes; moves: {} moved, {} stayed, {} without an answer",
        count(&counts.agents),
        count(&counts.criu),
        count(&counts.moved),
        count(&counts.stayed),
        count(&counts.unanswered)
    ));
    wrong.iter().for_each(|what| say(format_args!("WRONG: {what}")));
    say(if wrong.is_empty() { "every workload runs once, whole, and nothing was left behind" } else { "FAILED" });
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn node(number: u64) -> String {
    format!("node{}", 1 + number % u64::from(NODES))
}

/// Moves and kills until the time is up.
fn rage(stage: &Stage, names: &[String], options: &Options, seed: u64, counts: &Counts) {
    let until = Instant::now() + Duration::from_secs_f64(options.minutes * 60.0);
    let over = AtomicBool::new(false);
    let is_over = || over.load(Ordering::Relaxed) || interrupt::is_asked();
    let log = Mutex::new(Instant::now());
    std::thread::scope(|scope| {
        // Dropped however this ends: nobody moves on when the killing is over.
        let _end = SetWhenDropped(&over);
        for (number, name) in names.iter().enumerate() {
            let mut dice = Dice(seed ^ ((number as u64 + 1) << 32));
            scope.spawn(move || {
                while !is_over() {
                    keep_moving(stage, name, &mut dice, counts, &is_over);
                }
            });
        }
        let mut dice = Dice(seed);
        while Instant::now() < until && !interrupt::is_asked() {
            let pause = Duration::from_secs_f64(options.every * (0.5 + dice.below(1000) as f64 / 1000.0));
            let wake = (Instant::now() + pause).min(until);
            soon(wake - Instant::now(), interrupt::is_asked);
            if Instant::now() < until {
                kill_somebody(stage, &mut dice, counts, &log);
            }
        }
    });
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn keep_moving(stage: &Stage, name: &str, dice: &mut Dice, counts: &Counts, is_over: &dyn Fn() -> bool) {
    let mut ordered = stage.order_move(name, &node(dice.below(u64::from(NODES))));
    // An answer that nobody gives is not waited for: what counts is where it is in the end.
    soon(Duration::from_secs(20), || ordered.is_over() || is_over());
    let said = ordered.end();
    let which = match serde_json::from_str::<serde_json::Value>(&said).unwrap_or_default()["outcome"].as_str() {
        Some("moved") => &counts.moved,
        Some("stayed") => &counts.stayed,
        _ => &counts.unanswered,
    };
    which.fetch_add(1, Ordering::Relaxed);
}

/// SIGKILL to an agent, or to a CRIU that runs.
fn kill_somebody(stage: &Stage, dice: &mut Dice, counts: &Counts, begun: &Mutex<Instant>) {
    let mut criu = Vec::new();
    if dice.below(2) == 0 {
        // One runs for a moment of each move only.
        soon(Duration::from_secs(3), || {
            criu = stage.all_criu();
            !criu.is_empty()
        });
    }
    let (what, at, pid, count) = match criu.get(dice.below(criu.len().max(1) as u64) as usize) {
        Some(criu) => ("CRIU", criu.node.clone(), Some(criu.pid), &counts.criu),
        None => {
            let node = node(dice.below(u64::from(NODES)));
            let pid = stage.pid(&node, "agent_pid");
            ("the agent", node, pid, &counts.agents)
        }
    };
    // It may have ended by itself meanwhile, or not be there at the moment.
    let killed = pid.and_then(Pid::from_raw).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok());
    if killed {
        count.fetch_add(1, Ordering::Relaxed);
        let seconds = begun.lock().map(|begun| begun.elapsed().as_secs()).unwrap_or_default();
        say(format_args!("{seconds:>4} s: killed {what} of {at}"));
    }
}

/// Every workload runs once and goes on, its journal is whole, and nothing of a move is left.
fn judge(stage: &Stage, names: &[String]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut homes: Vec<(&str, String)> = Vec::new();
    for name in names {
        let mut home = None;
        soon(SETTLING, || {
            let views = stage.views(name).unwrap_or_default();
            home = match &views[..] {
                [view] if view.state == State::Running => Some(view.node.to_string()),
                _ => None,
            };
            home.is_some()
        });
        match home {
            Some(home) => homes.push((name, home)),
            None => wrong.push(format!("it does not settle: {}", stage.ps(name).trim())),
        }
    }
    let homes: Vec<(&str, &str)> = homes.iter().map(|(name, home)| (*name, &**home)).collect();
    let mut left = Vec::new();
    soon(SETTLING, || {
        left = stage.remains(&homes);
        left.is_empty()
    });
    wrong.extend(left.into_iter().map(|what| format!("left over while all are at home: {what}")));
    for (name, home) in homes {
        if !stage.goes_on(name, WHOLE) {
            wrong.push(format!("{name} is said to run on {home}, and writes nothing"));
        }
        let (proof, copies) = (stage.journal(name).prove(), stage.copies(name));
        if copies.len() != 1 {
            wrong.push(format!("{name} has {} copies: {copies:?}", copies.len()));
        }
        say(format_args!(
            "{name}: on {home}, {} lines, {} sandboxes, longest pause {} ms, {}",
            proof.lines.len(),
            proof.sandboxes(),
            proof.longest_pause(0).map_or(0, |pause| pause.milliseconds()),
            if proof.faults.is_empty() { "intact" } else { "DAMAGED" }
        ));
        wrong.extend(proof.faults.into_iter().map(|fault| format!("{name}: {fault}")));
    }
    wrong
}
