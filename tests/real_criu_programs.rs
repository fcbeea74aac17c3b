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

/// A token that rises, for storage that refuses whoever comes with an older one; also where the workload holds the file open.
#[test]
fn a_workload_can_read_the_epoch_in_which_it_runs() {
    let lab = Lab::up(2);
    let script = "exec 3<\"$MIGRATE_EPOCH_FILE\"; while :; do cat \"$MIGRATE_EPOCH_FILE\"; sleep 0.1; done";
    lab.run("token", "node1", &["/bin/sh", "-c", script]);
    let epoch = |epoch: u64| format!("{epoch:020}");
    lab.wait_for_line("token", &epoch(1));
    lab.force("token", "node2");
    lab.wait_for_line("token", &epoch(2));
    let said: Vec<String> = lab.logs("token").lines().map(str::to_owned).collect();
    let after = said.iter().position(|line| *line == epoch(2)).unwrap();
    let (old, new) = said.split_at(after);
    assert!(old.iter().all(|line| *line == epoch(1)) && new.iter().all(|line| *line == epoch(2)), "{said:?}");
    assert_eq!(lab.exec("token", &["/bin/sh", "-c", "cat \"$MIGRATE_EPOCH_FILE\""]).trim(), epoch(2));
    lab.done(["rm", "-f", "token"]);
    lab.assert_clean();
}
