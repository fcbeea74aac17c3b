//! How long a commit takes here. Not a test: the figures depend on the machine. To be run by hand:
//! `cargo nextest run -p migrate-ownership --run-ignored only how_long --no-capture`, in a release build for the record.

use std::io::Write;
use std::time::{Duration, Instant};

use openraft::storage::RaftLogStorage;

use super::{admit, append, open_file};

const APPENDS: u64 = 2_000;

fn told(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    println!("{what}: p50 {:?}, p99 {:?}, longest {:?}", at(0.5), at(0.99), at(1.0));
}

#[tokio::test]
#[ignore = "measures, and asserts nothing"]
async fn how_long_a_commit_takes() {
    let directory = tempfile::tempdir_in(".").unwrap();
    let (mut log, _machine) = open_file(&directory).await.split();
    let mut took = Vec::new();
    for index in 0..APPENDS {
        let begun = Instant::now();
        log.save_committed(index.checked_sub(1).map(|last| super::at(1, last))).await.unwrap();
        append(&mut log, [admit(1, index)]).await.unwrap();
        took.push(begun.elapsed());
    }
    told("append of one entry", took);

    let mut file = std::fs::File::create(directory.path().join("plain")).unwrap();
    let plain = (0..APPENDS).map(|_| {
        let begun = Instant::now();
        file.write_all(&[7; 4096]).and_then(|()| file.sync_data()).unwrap();
        begun.elapsed()
    });
    told("4 KiB appended to a plain file, and fdatasync", plain.collect());
}
