//! A workload that is seen from outside: again and again it says in a file on shared storage when and where it runs. Who reads the
//! file need not believe anybody's report: of two copies at once, both would be in it.

use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::blocks::{Blocks, Content};
use crate::verdict::{MustSucceed, Verdict};

/// Appends `NANOSECONDS PLACE NUMBER` for ever, and holds `mib` MiB meanwhile. The place is the network it is in: that is its
/// node's. The file is opened for each line, so that a restored copy does not depend on how long it was.
pub(crate) fn shine(path: &Path, mib: usize, pause: Duration) -> Verdict<Infallible> {
    let _held = (mib > 0).then(|| Blocks::new(mib, Content::Random, 1)).transpose()?;
    for number in 1_u64.. {
        let (place, now) = place_and_time()?;
        let opened = File::options().append(true).create(true).open(path);
        let mut file = opened.must(format_args!("opening {}", path.display()))?;
        file.write_all(format!("{now} {place} {number}\n").as_bytes()).must("appending a line")?;
        std::thread::sleep(pause);
    }
    unreachable!("numbers do not end")
}

/// Where it is, and when. Who is frozen in between and goes on elsewhere looks again: else it would say of its new life that it is where it was.
fn place_and_time() -> Verdict<(u64, u128)> {
    let place = || Ok(std::fs::metadata("/proc/self/ns/net").must("stat of the network namespace")?.ino());
    let mut here = place()?;
    loop {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let still = std::mem::replace(&mut here, place()?);
        if still == here {
            return Ok((here, now));
        }
    }
}
