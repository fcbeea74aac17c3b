//! Programs that verify their own state, each moved node1 → node2 → node3 → node1 by real CRIU. What each kind proves is in
//! tests/specimen/src/kinds; what CRIU does not carry in tests/specimen/NOT_CARRIED.md.

#![allow(clippy::unwrap_used)]

mod harness;

use harness::Lab;

/// Moves the specimen once around a lab.
fn around(words: &[&str]) {
    let lab = Lab::up(3);
    lab.specimen("traveller", "node1", words);
    lab.carry_around("traveller", || ());
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

/// What `run` is told about a workload's surroundings is there from the beginning, and stays.
#[test]
fn surroundings_that_run_was_told() {
    let lab = Lab::up(3);
    let options = ["--dir", "/tmp", "--env", "ODD NAME=two  words, a \n newline and \"quotes\" 'both'"];
    lab.run_with("traveller", "node1", &options, &["/programs/specimen", "surroundings"]);
    lab.carry_around("traveller", || ());
    lab.assert_clean();
}
