//! Membership in large clusters: real `migrate_members::Swim`s on a network that exists only in memory, in virtual time.
//!
//! What is measured, for clusters of any size: how long after a node has lost its power somebody suspects it, how long until everybody
//! knows that it is dead, what membership costs each node, and how often a node that lives is said to be dead. Everybody knows
//! everybody at the beginning: how a cluster comes together is shown by the tests of `migrate-members`.

mod network;
mod report;

use std::collections::BTreeSet;
use std::time::Duration;

use migrate_members::{Out, Settings};

use network::{Network, Said};
pub use report::{HEAD, percentile, row};

const SECOND: Duration = Duration::from_secs(1);

/// Before anything is measured: probes of different nodes have nothing to do with each other any more.
const SETTLE: Duration = Duration::from_secs(10);

/// A death that is not known everywhere after this never will be.
const AT_MOST: Duration = Duration::from_secs(60);

/// The circumstances.
#[derive(Debug, Clone)]
pub struct Circumstances {
    /// How many nodes.
    pub nodes: usize,
    /// Of a thousand datagrams, how many are lost.
    pub lost: u64,
    /// How long a datagram takes at most; at least a twentieth of that.
    pub delay: Duration,
    /// Of a thousand nodes, how many get no processor for up to 800 ms, again and again, and then run for up to 200 ms.
    pub slow: u64,
    /// The members' settings.
    pub settings: Settings,
}

impl Circumstances {
    /// A cluster with the default settings on a network of up to 2 ms a way.
    pub fn usual(nodes: usize, lost_percent: u8, slow_percent: u8) -> Circumstances {
        let (lost, slow) = (u64::from(lost_percent) * 10, u64::from(slow_percent) * 10);
        Circumstances { nodes, lost, delay: Duration::from_millis(2), slow, settings: Settings::default() }
    }
}

/// The sizes that a table has, up to this one.
pub fn sizes(most: usize) -> Vec<usize> {
    [10, 30, 100, 300, 1000, 3000].into_iter().filter(|size| *size < most).chain([most]).collect()
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// How many deaths, in as many histories as that takes: at most a tenth of a cluster dies.
    pub deaths: usize,
    /// How long nobody dies, in each history.
    pub quiet: Duration,
}

impl Extent {
    /// So many deaths, and twenty seconds without one in each history.
    pub fn of(deaths: usize) -> Extent {
        Extent { deaths, quiet: Duration::from_secs(20) }
    }
}

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// From each death until the first suspicion anywhere.
    pub suspected: Vec<Duration>,
    /// From each death until the first node says that it is dead.
    pub first: Vec<Duration>,
    /// From each death until everybody who lives says so.
    pub everywhere: Vec<Duration>,
    /// Deaths that were not known everywhere within a minute.
    pub unknown: usize,
    /// Datagrams that each node sent in each second in which nobody died.
    pub datagrams: f64,
    /// Their bytes, without the seal and what carries it.
    pub bytes: f64,
    /// Of the single node that sent most.
    pub most: f64,
    /// How many lives were said to be over by somebody while they were not.
    pub false_deaths: usize,
    /// How often a node said of a node that lived that it is suspected.
    pub false_suspicions: usize,
    /// Node-seconds that were simulated.
    pub lived: f64,
}

/// Measures. The same seed gives the same figures on every machine.
pub fn measure(circumstances: &Circumstances, extent: Extent, seed: u64) -> Figures {
    let mut figures = Figures::default();
    let at_once = (circumstances.nodes / 10).max(1);
    let (mut left, mut histories) = (extent.deaths, 0);
    while left > 0 {
        let deaths = left.min(at_once);
        history(circumstances, deaths, extent.quiet, seed.wrapping_add(histories), &mut figures);
        left -= deaths;
        histories += 1;
    }
    let histories = histories as f64;
    figures.datagrams /= histories;
    figures.bytes /= histories;
    figures
}

fn history(circumstances: &Circumstances, deaths: usize, quiet: Duration, seed: u64, figures: &mut Figures) {
    let mut network = Network::new(circumstances, seed);
    network.run(SETTLE);
    quietly(&mut network, quiet, figures);
    for death in 0..deaths {
        // Not all in the same moment of a period.
        network.run(SECOND + Duration::from_millis((death as u64 * 137) % 500));
        one_dies(&mut network, figures);
    }
    let mistakes = || network.said().iter().filter(|said| said.lives);
    let deaths = mistakes().filter_map(|said| match &said.what {
        Out::Down(member) => Some((said.of, member.generation())),
        _ => None,
    });
    figures.false_deaths += deaths.collect::<BTreeSet<_>>().len();
    figures.false_suspicions += mistakes().filter(|said| matches!(said.what, Out::Suspect(_))).count();
    figures.lived += network.now().as_secs_f64() * circumstances.nodes as f64;
}

fn quietly(network: &mut Network, quiet: Duration, figures: &mut Figures) {
    let before = network.sent();
    network.run(quiet);
    let seconds = quiet.as_secs_f64();
    let sent: Vec<(u64, u64)> =
        network.sent().iter().zip(before).map(|(after, before)| (after.0 - before.0, after.1 - before.1)).collect();
    let nodes = sent.len() as f64;
    figures.datagrams += sent.iter().map(|sent| sent.0).sum::<u64>() as f64 / nodes / seconds;
    figures.bytes += sent.iter().map(|sent| sent.1).sum::<u64>() as f64 / nodes / seconds;
    let most = sent.iter().map(|sent| sent.0).max().unwrap_or(0) as f64 / seconds;
    figures.most = figures.most.max(most);
}

/// Somebody loses its power.
fn one_dies(network: &mut Network, figures: &mut Figures) {
    let (begun, from) = (network.now(), network.said().len());
    let victim = network.kill_one();
    let (mut suspected, mut knows) = (None, 0);
    let mut first = None;
    let living = network.living();
    let mut read = from;
    while network.now() < begun + AT_MOST && knows < living {
        network.step();
        for said in &network.said()[read..] {
            let Said { at, of, what, .. } = said;
            if *of == Some(victim) {
                let after = *at - begun;
                match what {
                    Out::Suspect(_) => suspected = suspected.or(Some(after)),
                    Out::Down(_) => {
                        first = first.or(Some(after));
                        knows += 1;
                    }
                    _ => {}
                }
            }
        }
        read = network.said().len();
    }
    figures.suspected.extend(suspected);
    figures.first.extend(first);
    if knows < living {
        figures.unknown += 1;
    } else {
        figures.everywhere.push(network.now() - begun);
    }
}
