//! The naive way: `criu dump` to disk, `tar | zstd`, a copy over TCP, unpacking, `criu restore`, one after the other. The copy
//! goes over loopback, which is faster than any network.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::burrow::Burrow;

/// What `zstd` takes where nobody says otherwise.
const USUAL_LEVEL: i32 = 3;

/// How long each step took, in milliseconds.
pub(crate) type Steps = [(&'static str, f64); 5];

/// Moves the burrow's process; `place` is a directory on disk.
pub(crate) fn dump_copy_restore(burrow: &Burrow, place: &Path) -> Result<Steps> {
    let (source, target) = (place.join("naive-source"), place.join("naive-target"));
    std::fs::create_dir(&source)?;
    std::fs::create_dir(&target)?;
    let steps = [
        ("dump", timed(|| burrow.dump(&source.join("images")))?),
        ("pack", timed(|| pack(&source, &source.join("archive")))?),
        ("copy", timed(|| copy(&source.join("archive"), &target.join("archive")))?),
        ("unpack", timed(|| unpack(&target.join("archive"), &target))?),
        ("restore", timed(|| burrow.restore(&target.join("images")))?),
    ];
    std::fs::remove_dir_all(&source)?;
    std::fs::remove_dir_all(&target)?;
    Ok(steps)
}

fn timed(step: impl FnOnce() -> Result<()>) -> Result<f64> {
    let begun = Instant::now();
    step()?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

fn pack(directory: &Path, archive: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--directory").arg(directory).arg("images").stdout(Stdio::piped());
    let mut tar = tar.spawn().context("starting tar")?;
    let mut packed = tar.stdout.take().context("tar has no stdout")?;
    zstd::stream::copy_encode(&mut packed, File::create(archive)?, USUAL_LEVEL)?;
    finish(tar)
}

fn unpack(archive: &Path, directory: &Path) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--directory").arg(directory).stdin(Stdio::piped());
    let mut tar = tar.spawn().context("starting tar")?;
    let packed = tar.stdin.take().context("tar has no stdin")?;
    zstd::stream::copy_decode(File::open(archive)?, packed)?;
    finish(tar)
}

fn finish(mut tar: std::process::Child) -> Result<()> {
    let ended = tar.wait()?;
    if !ended.success() {
        bail!("tar: {ended}");
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || io::copy(&mut File::open(from)?, &mut TcpStream::connect(address)?));
        let received = io::copy(&mut listener.accept()?.0, &mut File::create(to)?)?;
        let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        if sent != received {
            bail!("{received} bytes came of {sent}");
        }
        Ok(())
    })
}
