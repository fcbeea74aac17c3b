//! How well it is foretold that something meets its limit: histories of many kinds, judged by migrate's forecasts and, beside them, by a fixed
//! threshold.

mod chance;
mod histories;
mod judge;

use clap::Parser;
use migrate_proto::policy::forecast::Alarm;

use histories::{FAILING, HEALTHY, Kind, history};
use judge::{Alarming, Tally, Threshold, judge};

const DAY_S: usize = 86_400;

/// What is asked for.
#[derive(Parser)]
struct Arguments {
    /// Histories of each kind, of three hours at most.
    #[arg(long, default_value_t = 100)]
    runs: u64,
    /// The first seed. What was tuned was tuned on those below a million.
    #[arg(long, default_value_t = 1_000_000)]
    seed: u64,
    /// So many days of each kind of healthy load at one go, with as many seeds.
    #[arg(long, default_value_t = 0)]
    days: usize,
    /// Names each history that was not judged well.
    #[arg(long)]
    wrong: bool,
    /// What `cargo bench` says.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Somebody who says when it is time, and a new one for each history.
type Rival = (&'static str, fn() -> Box<dyn Alarming>);

const RIVALS: [Rival; 3] = [
    ("migrate", || Box::new(Alarm::default())),
    ("above 90 %", || Box::new(Threshold(0.9))),
    ("above 80 %", || Box::new(Threshold(0.8))),
];

fn main() {
    let arguments = Arguments::parse();
    if arguments.days > 0 {
        return days(&arguments);
    }
    for rival in RIVALS {
        println!("\n{}\n{:<20} needed  in time  late  missed  needless  5 % of leads below", rival.0, "");
        let mut all = Tally::default();
        for kind in FAILING.into_iter().chain(HEALTHY) {
            let mut tally = tally(rival, kind, &arguments, 3 * 3600);
            row(&format!("{kind:?}"), &mut tally);
            all.add(&tally);
        }
        row("all", &mut all);
        println!("precision {:.3}, recall {:.3}, of these in time {:.3}", all.precision(), all.recall(), all.in_time());
    }
}

/// Days in a row in which nothing is to be done.
fn days(arguments: &Arguments) {
    println!("{:<20} days  needless, by migrate", "");
    let (mut days, mut needless) = (0, 0);
    for kind in HEALTHY {
        let tally = tally(RIVALS[0], kind, arguments, arguments.days * DAY_S);
        let these = arguments.runs * arguments.days as u64;
        println!("{:<20} {these:>4} {:>9}", format!("{kind:?}"), tally.needless);
        days += these;
        needless += tally.needless;
    }
    println!("all: {:.1} years, {:.2} needless a year", days as f64 / 365.0, f64::from(needless) * 365.0 / days as f64);
}

fn tally((name, make): Rival, kind: Kind, arguments: &Arguments, seconds: usize) -> Tally {
    let mut tally = Tally::default();
    for seed in arguments.seed..arguments.seed + arguments.runs {
        let judged = judge(&history(kind, seed, seconds), &mut *make());
        if arguments.wrong && (judged.needless > 0 || judged.caught < judged.needed) {
            println!("  {name}: {kind:?}, seed {seed}: {judged:?}");
        }
        tally.add(&judged);
    }
    tally
}

fn row(name: &str, tally: &mut Tally) {
    tally.leads.sort_by(f64::total_cmp);
    let low = tally.leads.get(tally.leads.len() / 20).map_or_else(String::new, |lead| format!("{lead:.1}"));
    let missed = tally.needed - tally.caught - tally.late;
    let Tally { needed, caught, late, needless, .. } = tally;
    println!("{name:<20} {needed:>6} {caught:>8} {late:>5} {missed:>7} {needless:>9}  {low}");
}
