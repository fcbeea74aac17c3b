//! Membership in small clusters, as `scripts/simulate --swim` measures it in large ones: what must hold for the figures to mean
//! anything, and what they say.

use std::time::Duration;

use migrate_simulation::swim::{Circumstances, Extent, measure, percentile, row, sizes};

const SECOND: Duration = Duration::from_secs(1);

fn measured(nodes: usize, lost: u8, slow: u8, deaths: usize) -> migrate_simulation::swim::Figures {
    measure(&Circumstances::usual(nodes, lost, slow), Extent { deaths, quiet: 10 * SECOND }, 7)
}

#[test]
fn how_soon_a_death_is_suspected_and_what_it_costs_does_not_depend_on_the_size() {
    let figures = [10, 30, 90].map(|nodes| measured(nodes, 0, 0, 18));
    for figures in &figures {
        assert_eq!((figures.false_deaths, figures.false_suspicions, figures.unknown), (0, 0, 0));
        assert_eq!((figures.suspected.len(), figures.everywhere.len()), (18, 18));
        // Half a period until it is asked, on average at most; a period until that has failed. One can be unlucky thrice.
        assert!(percentile(&figures.suspected, 50).is_some_and(|middle| middle < 2 * SECOND), "{figures:?}");
        assert!(figures.everywhere.iter().all(|known| *known < 10 * SECOND), "{figures:?}");
        assert!(figures.suspected.iter().zip(&figures.everywhere).all(|(suspected, known)| suspected < known));
        assert!(figures.datagrams > 3.0 && figures.datagrams < 5.5, "{}", figures.datagrams);
        assert!(figures.most >= figures.datagrams && figures.most < 2.0 * figures.datagrams, "{}", figures.most);
    }
    let middle = figures.each_ref().map(|figures| percentile(&figures.suspected, 50).unwrap_or_default().as_secs_f64());
    assert!(middle.iter().all(|time| *time < 2.0 * middle[0] && *time > 0.5 * middle[0]), "{middle:?}");
}

#[test]
fn loss_and_slow_nodes_cost_suspicions_and_no_death() {
    let figures = measured(20, 20, 10, 4);
    assert_eq!((figures.false_deaths, figures.unknown), (0, 0));
    assert!(figures.false_suspicions > 10, "nothing was hard: {}", figures.false_suspicions);
    assert!(figures.datagrams < 35.0, "{}", figures.datagrams);
}

#[test]
fn a_suspicion_too_short_for_the_network_is_seen() {
    let mut circumstances = Circumstances::usual(20, 45, 30);
    circumstances.settings.suspicion = 3 * circumstances.settings.period;
    circumstances.settings.gossip_to = 1;
    circumstances.settings.gossip_every = 4 * circumstances.settings.period;
    let figures = measure(&circumstances, Extent { deaths: 2, quiet: 60 * SECOND }, 7);
    assert!(figures.false_deaths > 0, "false deaths would not be noticed either: {figures:?}");
}

#[test]
fn a_seed_gives_the_same_figures() {
    let one = row(12, &measured(12, 10, 10, 2));
    assert_eq!(one, row(12, &measured(12, 10, 10, 2)));
    let other = measure(&Circumstances::usual(12, 10, 10), Extent { deaths: 2, quiet: 10 * SECOND }, 8);
    assert_ne!(one, row(12, &other));
}

#[test]
fn a_table_ends_with_the_size_that_was_asked_for() {
    assert_eq!(sizes(1000), [10, 30, 100, 300, 1000]);
    assert_eq!(sizes(50), [10, 30, 50]);
    assert_eq!(sizes(2), [2]);
}
