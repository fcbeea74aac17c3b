//! Programs that verify their own state, each moved node1 → node2 → node3 → node1 by real CRIU. What each kind proves is in
//! tests/specimen/src/kinds; what CRIU does not carry in tests/specimen/NOT_CARRIED.md.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::Lab;

/// Cycles before the first move, and after each.
const SOME: u64 = 5;

/// Moves the specimen once around the lab.
fn around(words: &[&str]) {
    let lab = Lab::up(3);
    lab.specimen("traveller", "node1", words);
    let mut reached = lab.wait_for_more_ok("traveller", SOME);
    for (from, to, epoch) in [("node1", "node2", 2), ("node2", "node3", 3), ("node3", "node1", 4)] {
        let report = lab.force("traveller", to);
        assert_eq!((report.from.as_str(), report.epoch.0), (from, epoch), "{report:?}");
        lab.assert_runs_only_on("traveller", to);
        let now = lab.wait_for_more_ok("traveller", SOME);
        assert!(now >= reached + SOME, "ok {reached} before the move to {to}, ok {now} after it");
        reached = now;
    }
    assert_eq!(lab.view("traveller").epoch.0, 4);
    lab.assert_clean();
}

macro_rules! moves_around {
    ($($test:ident: $($word:literal)+;)+) => {$(
        #[test]
        fn $test() {
            around(&[$($word),+]);
        }
    )+};
}

moves_around! {
    counter: "counter";
    threads_and_futexes: "threads";
    process_tree_with_a_zombie: "tree";
    signals_timers_and_event_descriptors: "signals";
    shared_memory: "shm";
    file_locks: "locks";
    open_files: "files";
    files_with_odd_names_and_attributes: "tree-of-files";
    sockets: "sockets";
    memory_of_zeros: "memory" "--mib" "64" "--kind" "zero";
    memory_of_random_bytes: "memory" "--mib" "64" "--kind" "random";
    memory_of_both: "memory" "--mib" "64" "--kind" "mixed";
    memory_of_text: "memory" "--mib" "64" "--kind" "text";
    clocks: "clocks";
    surroundings: "surroundings";
    a_little_of_everything: "demo" "--mib" "64";
}
