//! Measures the whole way of an image: pipe → chunks → store → pipe, for kinds of data.
//!
//! `cargo run --release -p migrate-image --example pipeline [-- MiB [DIR]]`; DIR should be a tmpfs. Wall time depends on how
//! many processors there are; "of one core" counts the processor time of everything but the feeding and reading ends.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use migrate_image::chunk::{Chunk, StreamSummary};
use migrate_image::incoming::Incoming;
use migrate_image::layer::{self, LayerSource, LayerTarget};
use migrate_image::outgoing::{Options, Outgoing};
use migrate_image::store::{Store, StoredImage};
use nix::sys::resource::{UsageWho, getrusage};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{SpliceFlags, splice};
use tokio::sync::mpsc;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Fills a megabyte.
type Fill = fn(usize, &mut [u8]);

const KINDS: [(&str, Fill); 3] = [("zero", |_, _| {}), ("random", random), ("text", text)];

fn random(seed: usize, room: &mut [u8]) {
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(room);
}

/// Lines as a log has them: words in random order with random numbers between.
fn text(seed: usize, room: &mut [u8]) {
    const WORDS: [&str; 8] = ["GET ", "/index.html ", "status=200 ", "user=alice ", "INFO ", "took ", "ms ", "\n"];
    let mut noise = vec![0; room.len() / 4];
    random(seed, &mut noise);
    let mut out = &mut room[..];
    for byte in noise.iter().cycle() {
        let number = byte.to_string();
        let piece = if byte % 4 == 0 { number.as_bytes() } else { WORDS[usize::from(byte / 4 % 8)].as_bytes() };
        let len = piece.len().min(out.len());
        out[..len].copy_from_slice(&piece[..len]);
        out = &mut out[len..];
        if out.is_empty() {
            return;
        }
    }
}

fn make(mib: usize, fill: Fill) -> Outcome<File> {
    let mut file = File::from(memfd_create("data", MemfdFlags::CLOEXEC)?);
    let mut block = vec![0; 1 << 20];
    for seed in 0..mib {
        fill(seed, &mut block);
        file.write_all(&block)?;
    }
    Ok(file)
}

fn cpu(who: UsageWho) -> Duration {
    let time = |t: nix::sys::time::TimeVal| Duration::new(t.tv_sec() as u64, t.tv_usec() as u32 * 1000);
    getrusage(who).map_or(Duration::ZERO, |usage| time(usage.user_time()) + time(usage.system_time()))
}

/// Runs `end` on a thread and returns what processor time it took.
fn aside(end: impl FnOnce() -> io::Result<()> + Send + 'static) -> std::thread::JoinHandle<io::Result<Duration>> {
    std::thread::spawn(move || {
        let before = cpu(UsageWho::RUSAGE_THREAD);
        end()?;
        Ok(cpu(UsageWho::RUSAGE_THREAD) - before)
    })
}

/// Puts references to the file's pages into the pipe, as CRIU does with memory.
fn feed(file: File, bytes: u64, pipe: OwnedFd) -> io::Result<()> {
    let mut at = 0;
    while at < bytes {
        let left = (bytes - at) as usize;
        splice(&file, Some(&mut at), &pipe, None, left, SpliceFlags::empty())?;
    }
    Ok(())
}

struct Meter {
    begun: Instant,
    cpu: Duration,
}

impl Meter {
    fn start() -> Meter {
        Meter { begun: Instant::now(), cpu: cpu(UsageWho::RUSAGE_SELF) }
    }

    fn show(&self, what: &str, bytes: u64, not_ours: Duration) {
        let (wall, cpu) = (self.begun.elapsed(), cpu(UsageWho::RUSAGE_SELF) - self.cpu);
        let rate = |time: Duration| bytes as f64 / 1e9 / time.as_secs_f64();
        let ours = cpu.saturating_sub(not_ours);
        println!("  {what:<24} {:>6.2} GB/s, {:>6.2} GB/s of one core", rate(wall), rate(ours));
    }
}

/// Sends the file; `take` gets every chunk.
async fn send(
    file: &File,
    bytes: u64,
    mut take: impl AsyncFnMut(Chunk) -> Outcome<()>,
) -> Outcome<(Vec<StreamSummary>, Meter, Duration)> {
    let (mut outgoing, mut chunks) = Outgoing::start(Options::default())?;
    let meter = Meter::start();
    let (read, write) = io::pipe()?;
    outgoing.add_pipe("pages-1.img", read.into())?;
    let file = file.try_clone()?;
    let feeder = aside(move || feed(file, bytes, write.into()));
    let finished = tokio::spawn(outgoing.finish());
    while let Some(chunk) = chunks.recv().await {
        take(chunk).await?;
    }
    let summaries = finished.await??;
    let fed = feeder.join().map_err(|_| "feeder")??;
    Ok((summaries, meter, fed))
}

/// Over a link of 100 MB/s: how fast the raw bytes go.
async fn narrow(file: &File, bytes: u64) -> Outcome<()> {
    let begun = tokio::time::Instant::now();
    let mut sent = 0;
    let (_, meter, fed) = send(file, bytes, async |(_, body)| {
        sent += body.len() as u64;
        tokio::time::sleep_until(begun + Duration::from_nanos(10 * sent)).await;
        Ok(())
    })
    .await?;
    meter.show("source to 100 MB/s", bytes, fed);
    Ok(())
}

async fn stored(file: &File, bytes: u64, dir: PathBuf, reserve: bool) -> Outcome<StoredImage> {
    let store = Arc::new(Store::create(dir, bytes * 2)?);
    if reserve {
        store.reserve(bytes)?;
    }
    let incoming = Incoming::new(store.clone(), 2);
    let (summaries, meter, fed) =
        send(file, bytes, async |(header, body)| Ok(incoming.push(header, body).await?)).await?;
    incoming.drained().await?;
    let what = if reserve { "pipe to reserved store" } else { "pipe to store" };
    let image = store.complete(&summaries)?;
    meter.show(what, bytes, fed);
    Ok(image)
}

async fn target_only(file: &File, bytes: u64, dir: PathBuf, reserve: bool) -> Outcome<()> {
    let mut kept = Vec::new();
    let (summaries, ..) = send(file, bytes, async |(header, body)| {
        kept.push((header, bytes::Bytes::copy_from_slice(&body)));
        Ok(())
    })
    .await?;
    let store = Arc::new(Store::create(dir, bytes * 2)?);
    if reserve {
        store.reserve(bytes)?;
    }
    let incoming = Incoming::new(store.clone(), 2);
    let meter = Meter::start();
    for (header, body) in kept {
        incoming.push(header, body).await?;
    }
    incoming.drained().await?;
    store.verify(&summaries)?;
    let what = if reserve { "target alone, reserved" } else { "target alone" };
    meter.show(what, bytes, Duration::ZERO);
    Ok(())
}

fn serve(image: &StoredImage, bytes: u64) -> Outcome<()> {
    let meter = Meter::start();
    let (mut read, write) = io::pipe()?;
    let reader = aside(move || {
        let mut room = vec![0; 1 << 20];
        while read.read(&mut room)? > 0 {}
        Ok(())
    });
    image.serve("pages-1.img", write.into())?;
    let taken = reader.join().map_err(|_| "reader")??;
    meter.show("store to pipe", bytes, taken);
    Ok(())
}

async fn layer(mib: usize, fill: Fill, dir: &Path) -> Outcome<()> {
    let bytes = (mib as u64) << 20;
    let (from, to) = (dir.join("from.img"), dir.join("to.img"));
    let mut file = File::create(&from)?;
    let mut content = make(mib, fill)?;
    content.rewind()?;
    io::copy(&mut content, &mut file)?;
    drop(content);
    file.set_len(bytes * 8)?;
    let mut source = LayerSource::open(&from, layer::Options::default())?;
    let target = Arc::new(LayerTarget::create(&to, source.size())?);
    for what in ["layer, first round", "layer, nothing changed"] {
        let meter = Meter::start();
        let (out, mut chunks) = mpsc::channel(8);
        let round = tokio::task::spawn_blocking(move || {
            let stats = source.round(&out);
            (source, stats)
        });
        let incoming = Incoming::new(target.clone(), 2);
        while let Some((header, body)) = chunks.recv().await {
            incoming.push(header, body).await?;
        }
        incoming.drained().await?;
        let (back, stats) = round.await?;
        stats?;
        source = back;
        meter.show(what, bytes, Duration::ZERO);
    }
    assert_eq!(source.digest(), target.digest());
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let mib: usize = args.next().map_or(Ok(1024), |mib| mib.parse())?;
    let parent = args.next().map_or_else(|| PathBuf::from("/dev/shm"), PathBuf::from);
    let bytes = (mib as u64) << 20;
    for (kind, fill) in KINDS {
        println!("{kind}, {mib} MiB");
        let dir = tempfile::tempdir_in(&parent)?;
        let file = make(mib, fill)?;
        let (_, meter, fed) = send(&file, bytes, async |_| Ok(())).await?;
        meter.show("source alone", bytes, fed);
        narrow(&file, bytes / 4).await?;
        for reserve in [false, true] {
            target_only(&file, bytes, dir.path().join("target"), reserve).await?;
            std::fs::remove_dir_all(dir.path().join("target"))?;
        }
        stored(&file, bytes, dir.path().join("plain"), false).await?;
        std::fs::remove_dir_all(dir.path().join("plain"))?;
        let image = stored(&file, bytes, dir.path().join("reserved"), true).await?;
        serve(&image, bytes)?;
        std::fs::remove_dir_all(dir.path().join("reserved"))?;
        drop((image, file));
        layer(mib, fill, dir.path()).await?;
    }
    Ok(())
}
