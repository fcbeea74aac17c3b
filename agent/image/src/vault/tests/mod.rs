#![allow(clippy::unwrap_used)]
//! Generations against a model of them; what happens to bytes on disk, and to an agent that dies, has files of its own.

mod crash;
mod damage;
pub(super) mod fuse;
mod model;
mod shipping;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use migrate_proto::cluster::record::CheckpointKind;
use migrate_proto::id::Epoch;
use migrate_proto::message::Needs;
use migrate_proto::spec::WorkloadSpec;

use super::*;
use crate::chunk::{CHUNK_BYTES, ChunkHeader, Encoding, LAYER_STREAM, PAGE_BYTES, StreamSummary, stream_digest};
use crate::layer::{BLOCK_BYTES, layer_digest};

const PLENTY: Limits = Limits { bytes: u64::MAX, keep_free: 0 };

/// What a workload consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    images: Vec<(String, Vec<u8>)>,
    layer: Vec<u8>,
}

impl Content {
    fn of(memory: Vec<u8>) -> Content {
        Content {
            images: vec![("inventory.img".into(), b"small".to_vec()), ("pages-1.img".into(), memory)],
            layer: vec![0; 3 * BLOCK_BYTES],
        }
    }

    fn memory(&mut self) -> &mut Vec<u8> {
        &mut self.images[1].1
    }
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn page(memory: &mut [u8], page: usize) -> &mut [u8] {
    &mut memory[page * PAGE_BYTES..][..PAGE_BYTES]
}

fn name() -> WorkloadName {
    "w".parse().unwrap()
}

fn about(number: u64) -> About {
    let spec = serde_json::json!({ "name": "w", "argv": ["/bin/true"] });
    let spec: WorkloadSpec = serde_json::from_value(spec).unwrap();
    About {
        spec,
        number,
        taken_ms: 1_000 * number,
        kind: CheckpointKind::Asked,
        healthy: true,
        epoch: Epoch(3),
        node: "node1".parse().unwrap(),
        started: None,
        last_pid: 7,
        needs: Needs {
            criu_version: "4.2.1".into(),
            kernel: "6.18".into(),
            arch: "x86_64".into(),
            cpu_flags: vec!["fpu".into()],
            mapped_files: Vec::new(),
        },
        demands: None,
        care: None,
    }
}

fn raw_chunk(stream: u32, offset: u64, raw: &[u8]) -> (ChunkHeader, Vec<u8>) {
    let zero = crate::chunk::is_zero(raw);
    let encoding = if zero { Encoding::Zero } else { Encoding::Raw };
    let header = ChunkHeader { stream, offset, raw_len: raw.len() as u32, encoding, digest: Digest::of(raw) };
    (header, if zero { Vec::new() } else { raw.to_vec() })
}

/// Hands a workload over, its streams cut into pieces of at most `cut` bytes.
fn send(writing: &Writing, content: &Content, cut: usize) -> Result<(Vec<StreamSummary>, Layer), WriteError> {
    let mut summaries = Vec::new();
    for (stream, (name, bytes)) in (0u32..).zip(&content.images) {
        let (mut offset, mut digests) = (0, Vec::new());
        for raw in bytes.chunks(cut.min(CHUNK_BYTES)) {
            let (header, body) = raw_chunk(stream, offset, raw);
            writing.take(&header, &body)?;
            digests.push(header.digest);
            offset += raw.len() as u64;
        }
        let (length, digest) = (bytes.len() as u64, stream_digest(&digests));
        summaries.push(StreamSummary { stream, name: name.clone(), length, digest });
    }
    let mut blocks = Vec::new();
    for (index, block) in (0u64..).zip(content.layer.chunks(BLOCK_BYTES)) {
        if !crate::chunk::is_zero(block) {
            let (header, body) = raw_chunk(LAYER_STREAM, index * BLOCK_BYTES as u64, block);
            writing.take(&header, &body)?;
            blocks.push((index, header.digest));
        }
    }
    let size = content.layer.len() as u64;
    Ok((summaries, Layer { size, digest: layer_digest(size, blocks) }))
}

fn store(vault: &Vault, content: &Content, known: Option<Known>) -> Result<(Generation, Known), WriteError> {
    let writing = vault.begin(known);
    let (images, layer) = send(&writing, content, CHUNK_BYTES)?;
    writing.commit(about(vault.next_number(&name())), &images, layer)
}

/// What a generation holds, as it is served.
fn load(vault: &Vault, id: CheckpointId) -> Result<Content, VaultError> {
    let image = vault.open_image(id)?;
    let (manifest, _) = vault.manifest(id)?;
    let mut images = Vec::new();
    for table in &manifest.images {
        let (mut reader, writer) = io::pipe().unwrap();
        let (served, bytes) = std::thread::scope(|scope| {
            let serving = scope.spawn(|| image.serve(&table.name, writer.into()));
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            (serving.join().unwrap(), bytes)
        });
        served?;
        assert_eq!(image.read(&table.name, u64::MAX)?, bytes);
        images.push((table.name.clone(), bytes));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    image.write_layer(&path)?;
    Ok(Content { images, layer: fs::read(path).unwrap() })
}

/// All files below a directory, with their lengths.
fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for path in disk::list(dir).unwrap() {
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push((path.clone(), path.metadata().unwrap().len())),
        }
    }
    found.sort();
    found
}

#[test]
fn what_was_stored_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, broken) = Vault::open(dir.path(), PLENTY).unwrap();
    assert!(broken.is_empty() && vault.generations(&name()).is_empty());
    let mut content = Content::of(noise(5 << 20, 1));
    content.memory().extend(vec![0; 3 << 20]);
    content.memory().extend(b"and a short end");
    content.layer[BLOCK_BYTES..][..5].copy_from_slice(b"layer");
    let (generation, _) = store(&vault, &content, None).unwrap();
    assert_eq!(load(&vault, generation.id).unwrap(), content);
    vault.check(generation.id, None).unwrap();
    vault.check_segments(generation.id).unwrap();

    let (again, broken) = Vault::open(dir.path(), PLENTY).unwrap();
    assert!(broken.is_empty());
    assert_eq!(again.generations(&name()).len(), 1);
    assert_eq!(again.used_bytes(), vault.used_bytes());
    assert_eq!(load(&again, generation.id).unwrap(), content);
}

#[test]
fn a_workload_that_changed_little_takes_little() {
    const PAGES: usize = 16384;
    let dir = tempfile::tempdir().unwrap();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    let mut content = Content::of(noise(PAGES * PAGE_BYTES, 1));
    let (mut last, mut known) = store(&vault, &content, None).unwrap();
    for round in 0..3u64 {
        let places = noise(8 * PAGES / 100, 100 + round);
        let changed: std::collections::BTreeSet<usize> =
            places.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes) as usize % PAGES).collect();
        for at in &changed {
            let new = noise(PAGE_BYTES, round << 32 | *at as u64);
            page(content.memory(), *at).copy_from_slice(&new);
        }
        let (used, bytes) = (vault.used_bytes(), (changed.len() * PAGE_BYTES) as f64);
        (last, known) = store(&vault, &content, Some(known)).unwrap();
        let (grown, told) = ((vault.used_bytes() - used) as f64, last.new_bytes as f64);
        println!("round {round}: {bytes} changed, {grown} stored: {:.3}", grown / bytes);
        assert!(grown <= 1.3 * bytes && grown == told, "{grown} and {told} of {bytes}");
    }
    assert_eq!(load(&vault, last.id).unwrap(), content);

    // Known again from what is on disk, it is the same.
    let again = vault.known(last.id).unwrap();
    page(content.memory(), 5).fill(7);
    let used = vault.used_bytes();
    let (generation, _) = store(&vault, &content, Some(again)).unwrap();
    assert!(vault.used_bytes() - used < 64 << 10);
    assert_eq!(load(&vault, generation.id).unwrap(), content);
}

#[test]
fn a_page_is_known_wherever_it_moves_and_short_ends_too() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    let mut content = Content::of(noise(512 * PAGE_BYTES + 100, 1));
    let (_, known) = store(&vault, &content, None).unwrap();
    content.memory()[..512 * PAGE_BYTES].rotate_left(17 * PAGE_BYTES);
    let (generation, _) = store(&vault, &content, Some(known)).unwrap();
    assert_eq!(lock(&vault.inner.stock).find(generation.id).unwrap().view().new_bytes, generation.new_bytes);
    let (manifest, file) = vault.manifest(generation.id).unwrap();
    assert_eq!(manifest.new_bytes, 0, "no page is new");
    assert_eq!(generation.new_bytes, file.len() as u64);
    assert_eq!(load(&vault, generation.id).unwrap(), content);
}

#[test]
fn what_is_mostly_of_no_use_is_stored_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    let mut content = Content::of(noise(1024 * PAGE_BYTES, 1));
    let (first, mut known) = store(&vault, &content, None).unwrap();
    // Of every segment a few pages stay.
    for at in (0..1024).filter(|at| at % 4 != 0) {
        page(content.memory(), at).fill(0);
    }
    let second;
    (second, known) = store(&vault, &content, Some(known)).unwrap();
    assert!(known.is_worn());
    vault.drop_generation(first.id).unwrap();
    let (third, known) = store(&vault, &content, Some(known)).unwrap();
    assert!(!known.is_worn());
    vault.drop_generation(second.id).unwrap();
    assert_eq!(load(&vault, third.id).unwrap(), content);
    assert!(vault.used_bytes() < 300 * PAGE_BYTES as u64, "{}", vault.used_bytes());
}

#[test]
fn what_is_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    let (first, known) = store(&vault, &Content::of(noise(3 << 20, 1)), None).unwrap();
    let before = files(dir.path());
    let writing = vault.begin(Some(known));
    send(&writing, &Content::of(noise(3 << 20, 2)), CHUNK_BYTES).unwrap();
    assert!(files(dir.path()).len() > before.len());
    // What it refers to stays for as long as it may need it.
    vault.drop_generation(first.id).unwrap();
    assert!(before.iter().filter(|(path, _)| path.starts_with(dir.path().join("seg"))).all(|(path, _)| path.exists()));
    drop(writing);
    assert_eq!(files(dir.path()), []);
    assert_eq!(vault.used_bytes(), 0);
}

#[test]
fn an_opened_generation_outlives_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    let mut content = Content::of(noise(2 << 20, 1));
    let (generation, _) = store(&vault, &content, None).unwrap();
    let image = vault.open_image(generation.id).unwrap();
    vault.drop_generation(generation.id).unwrap();
    assert_eq!(&image.read("pages-1.img", u64::MAX).unwrap(), content.memory());
    drop(image);
    vault.sweep().unwrap();
    assert_eq!(files(dir.path()), []);
}

#[test]
fn streams_that_are_not_what_was_announced_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (vault, _) = Vault::open(dir.path(), PLENTY).unwrap();
    let content = Content::of(noise(2 << 20, 1));
    type Change = fn(&mut Vec<StreamSummary>, &mut Layer);
    let changes: [(&str, Change); 5] = [
        ("digest", |images, _| images[1].digest = Digest::of(b"another")),
        ("length", |images, _| images[1].length += 1),
        ("missing", |images, _| drop(images.pop())),
        ("layer", |_, layer| layer.digest = Digest::of(b"another")),
        ("layer's size", |_, layer| layer.size += 1),
    ];
    for (what, change) in changes {
        let writing = vault.begin(None);
        let (mut images, mut layer) = send(&writing, &content, CHUNK_BYTES).unwrap();
        change(&mut images, &mut layer);
        let refused = writing.commit(about(1), &images, layer);
        assert!(matches!(refused, Err(WriteError::Stream(_))), "{what}: {refused:?}");
        assert!(writing.take(&raw_chunk(0, 0, b"late").0, b"late").is_err(), "{what}");
    }
    let writing = vault.begin(None);
    let (header, body) = raw_chunk(0, 0, b"once");
    writing.take(&header, &body).unwrap();
    assert!(writing.take(&header, &body).is_err());
    let short = ChunkHeader { raw_len: 5, offset: 4, ..header };
    assert!(matches!(writing.take(&short, &body), Err(WriteError::Chunk(_))));
    drop(writing);
    assert_eq!(files(dir.path()), []);
}

#[test]
fn a_full_vault_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { bytes: 4 << 20, keep_free: 0 };
    let (vault, _) = Vault::open(dir.path(), limits).unwrap();
    let content = Content::of(noise(3 << 20, 1));
    let (first, known) = store(&vault, &content, None).unwrap();
    let before = files(dir.path());
    let refused = store(&vault, &Content::of(noise(3 << 20, 2)), Some(known));
    assert!(matches!(refused, Err(WriteError::Vault(VaultError::OverBudget { .. }))), "{refused:?}");
    assert_eq!(files(dir.path()), before);
    assert_eq!(load(&vault, first.id).unwrap(), content);

    // The disk says so itself, at any point.
    for at in 0.. {
        let known = vault.known(first.id).unwrap();
        let mut content = content.clone();
        page(content.memory(), 3).fill(1);
        vault.inner.disk.fuse.full_after(at);
        let stored = store(&vault, &content, Some(known));
        vault.inner.disk.fuse.mend();
        match stored {
            Ok(_) => {
                assert!(at > 2);
                break;
            }
            Err(error) => {
                assert!(matches!(error, WriteError::Vault(VaultError::DiskFull { .. })), "{at}: {error:?}");
                // What is durable though its directory could not be synced may stay.
                for generation in vault.generations(&name()).iter().skip(1) {
                    vault.drop_generation(generation.id).unwrap();
                }
                assert_eq!(files(dir.path()), before, "{at}");
            }
        }
    }
    let none_free = Limits { bytes: u64::MAX, keep_free: u64::MAX / 2 };
    let (vault, _) = Vault::open(dir.path(), none_free).unwrap();
    let refused = store(&vault, &Content::of(noise(1 << 20, 9)), None);
    assert!(matches!(refused, Err(WriteError::Vault(VaultError::DiskFull { .. }))), "{refused:?}");
}
