//! Runs every target without libFuzzer: the kept inputs, and some thousand random mutations of them.
//!
//! Mutations are new each time. A failure names the input; `MIGRATE_FUZZ_SEED` repeats a run.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use migrate_fuzz_targets::{TARGETS, Target};

/// For each target.
const MUTATIONS: usize = 300;
const LONGEST: usize = 4096;

/// All targets in one test: each prints its line, and the whole takes seconds.
#[test]
fn kept_inputs_and_mutations_of_them() {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64);
    let seed = std::env::var("MIGRATE_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(clock);
    println!("MIGRATE_FUZZ_SEED={seed}");
    for target in TARGETS {
        let scratch = tempfile::tempdir().expect("a directory for files");
        let kept = kept_inputs(target);
        kept.iter().for_each(|input| run(target, input, scratch.path()));
        let mut dice = Dice(seed | 1);
        for _ in 0..MUTATIONS {
            run(target, &dice.mutation(&kept), scratch.path());
        }
        let left = fs::read_dir(scratch.path()).expect("it is there").count();
        assert_eq!(left, 0, "{} left files behind", target.name);
        println!("{:12} {:4} kept inputs, {MUTATIONS} mutations: {}", target.name, kept.len(), target.decodes);
    }
}

#[test]
fn every_directory_of_the_corpus_is_a_targets_and_the_whole_is_small() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    let mut bytes = 0;
    for dir in fs::read_dir(corpus).expect("the corpus") {
        let dir = dir.expect("the corpus").path();
        let target = TARGETS.iter().find(|target| dir.ends_with(target.name));
        let target = target.unwrap_or_else(|| panic!("there is no target for {}", dir.display()));
        bytes += kept_inputs(target).iter().map(Vec::len).sum::<usize>();
    }
    assert!(bytes < 300 << 10, "the corpus has {bytes} bytes; `scripts/fuzz --keep` makes it smaller");
}

fn kept_inputs(target: &Target) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> =
        fs::read_dir(target.corpus()).expect("a corpus").map(|entry| entry.expect("a corpus").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no kept inputs", target.name);
    paths.iter().map(|path| fs::read(path).expect("a kept input")).collect()
}

fn run(target: &Target, input: &[u8], scratch: &Path) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target.run(input, scratch))) {
        eprintln!("{} fails on b\"{}\"", target.name, input.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

/// Xorshift: not random, but of many kinds.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        match self.below(4) {
            0 => [0, 1, 0x7f, 0x80, 0xff, b'0', b'"', b'/'][self.below(8)],
            _ => self.below(256) as u8,
        }
    }

    fn mutation(&mut self, kept: &[Vec<u8>]) -> Vec<u8> {
        let mut input = kept[self.below(kept.len())].clone();
        for _ in 0..=self.below(4) {
            let (at, other) = (self.below(input.len() + 1), self.below(input.len() + 1));
            let (from, to) = (at.min(other), at.max(other));
            match self.below(6) {
                0 => input.insert(at, self.byte()),
                1 if at < input.len() => input[at] ^= 1 << self.below(8),
                2 if at < input.len() => input[at] = self.byte(),
                3 => drop(input.drain(from..to)),
                4 => input.extend_from_within(from..to),
                _ => {
                    let with = &kept[self.below(kept.len())];
                    let begin = self.below(with.len() + 1);
                    input.splice(from..to, with[begin..].iter().copied());
                }
            }
            input.truncate(LONGEST);
        }
        input
    }
}
