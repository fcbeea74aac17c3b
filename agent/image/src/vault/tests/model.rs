//! Random histories of a workload and its vault against what must be in it.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    /// Pages get this content; few contents, so that many are equal.
    Write {
        at: usize,
        pages: usize,
        content: u8,
    },
    /// A block of the layer gets this content.
    Layer {
        block: usize,
        content: u8,
    },
    /// The memory grows or shrinks.
    Resize(usize),
    /// A checkpoint, its streams cut like this; with the pages sent ahead or not.
    Take {
        cut: usize,
        ahead: bool,
    },
    /// One that is given up.
    GiveUp,
    /// The generation with this place goes.
    Drop(usize),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0..700usize, 1..200usize, 0..40u8).prop_map(|(at, pages, content)| Op::Write { at, pages, content }),
        2 => (0..4usize, 0..3u8).prop_map(|(block, content)| Op::Layer { block, content }),
        1 => (0..3_000_000usize).prop_map(Op::Resize),
        4 => (prop_oneof![Just(CHUNK_BYTES), 1000..CHUNK_BYTES], any::<bool>()).prop_map(|(cut, ahead)| Op::Take { cut, ahead }),
        1 => Just(Op::GiveUp),
        2 => (0..8usize).prop_map(Op::Drop),
        1 => Just(Op::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_generation_is_what_the_workload_was(ops in proptest::collection::vec(op(), 1..30)) {
        let dir = tempfile::tempdir().unwrap();
        let (mut vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
        let mut content = Content::of(Vec::new());
        content.layer = vec![0; 3 * BLOCK_BYTES + 10_000];
        let mut kept: Vec<(CheckpointId, Content)> = Vec::new();
        let mut known: Option<Known> = None;
        for op in ops {
            match op {
                Op::Write { at, pages, content: new } => {
                    let memory = content.memory();
                    for number in at..at + pages {
                        if let Some(page) = memory.get_mut(number * PAGE_BYTES..).filter(|rest| !rest.is_empty()) {
                            let len = page.len().min(PAGE_BYTES);
                            // The content 0 is zeros.
                            let bytes = if new == 0 { vec![0; len] } else { noise(len, u64::from(new) + number as u64 % 3) };
                            page[..len].copy_from_slice(&bytes);
                        }
                    }
                }
                Op::Layer { block, content: new } => {
                    if let Some(rest) = content.layer.get_mut(block * BLOCK_BYTES..) {
                        let len = rest.len().min(BLOCK_BYTES);
                        rest[..len].fill(new);
                    }
                }
                Op::Resize(len) => content.memory().resize(len, 3),
                Op::Take { cut, ahead } => {
                    let writing = vault.begin(known.take());
                    if ahead {
                        let whole = content.memory().len() / PAGE_BYTES * PAGE_BYTES;
                        for raw in content.memory()[..whole].chunks(CHUNK_BYTES / 2) {
                            let (header, body) = raw_chunk(crate::chunk::AHEAD_STREAM, 0, raw);
                            writing.take(&header, &body).unwrap();
                        }
                    }
                    let (images, layer) = send(&writing, &content, cut).unwrap();
                    let number = vault.next_number(&name());
                    let (generation, now) = writing.commit(about(number), &images, layer).unwrap();
                    known = Some(now);
                    kept.push((generation.id, content.clone()));
                }
                Op::GiveUp => {
                    let writing = vault.begin(known.take());
                    send(&writing, &content, CHUNK_BYTES).unwrap();
                }
                Op::Drop(place) => {
                    if !kept.is_empty() {
                        let (id, _) = kept.remove(place % kept.len());
                        vault.drop_generation(id).unwrap();
                    }
                }
                Op::Reopen => {
                    drop(vault);
                    let opened = Vault::open(dir.path(), PLENTY).unwrap();
                    prop_assert!(opened.1.is_empty());
                    vault = opened.0;
                    known = kept.last().map(|(id, _)| vault.known(*id).unwrap());
                }
            }
            let ids: Vec<CheckpointId> = vault.generations(&name()).iter().map(|generation| generation.id).collect();
            prop_assert_eq!(&ids, &kept.iter().map(|(id, _)| *id).collect::<Vec<_>>());
            let on_disk: u64 = files(dir.path()).iter().map(|(_, len)| len).sum();
            prop_assert_eq!(vault.used_bytes(), on_disk);
        }
        for (id, content) in &kept {
            prop_assert_eq!(&load(&vault, *id).unwrap(), content);
            vault.check_segments(*id).unwrap();
        }
        for (id, _) in kept {
            vault.drop_generation(id).unwrap();
        }
        prop_assert_eq!(files(dir.path()), Vec::new());
    }
}
