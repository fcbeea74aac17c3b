//! The program's own code. CRIU runs system calls in a process by writing two instructions over the beginning of its lowest
//! executable mapping, and puts back what was there; an image that was read in between would have them for ever.

use std::io::IoSliceMut;

use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::getpid;

use crate::verdict::{MustSucceed, Verdict, Violation};

const PAGE: usize = 4096;

/// The beginnings of all executable mappings of files, as they are at first.
pub(crate) struct Code(Vec<(usize, Vec<u8>)>);

impl Code {
    /// What it is now.
    pub(crate) fn now() -> Verdict<Code> {
        let maps = std::fs::read("/proc/self/maps").must("reading /proc/self/maps")?;
        // Paths may be any bytes.
        let maps = String::from_utf8_lossy(&maps);
        let pages = executable(&maps).map(|at| Ok((at, page(at)?)));
        pages.collect::<Verdict<_>>().map(Code)
    }

    /// It must not have changed.
    pub(crate) fn check(&self) -> Verdict {
        for (at, before) in &self.0 {
            let now = page(*at)?;
            if let Some(place) = (0..PAGE).find(|place| now[*place] != before[*place]) {
                let shown = |bytes: &[u8]| format!("{:02x?}", &bytes[place..PAGE.min(place + 8)]);
                return Err(Violation::new(format!("code at {:#x}", at + place), shown(before), shown(&now)));
            }
        }
        Ok(())
    }
}

/// Where the executable mappings of files begin.
fn executable(maps: &str) -> impl Iterator<Item = usize> {
    maps.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (place, rights) = (words.next()?, words.next()?);
        let is_of_a_file = words.nth(3)?.starts_with('/');
        let begin = usize::from_str_radix(place.split_once('-')?.0, 16).ok()?;
        (is_of_a_file && rights.starts_with("r-x")).then_some(begin)
    })
}

/// Without a file that would be open: a move may come at any time.
fn page(at: usize) -> Verdict<Vec<u8>> {
    let mut bytes = vec![0; PAGE];
    let remote = [RemoteIoVec { base: at, len: PAGE }];
    process_vm_readv(getpid(), &mut [IoSliceMut::new(&mut bytes)], &remote).must("reading the own code")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_changed_byte_is_seen() {
        let mut code = Code::now().unwrap();
        assert!(!code.0.is_empty());
        code.check().unwrap();
        code.0[0].1[4095] ^= 1;
        assert!(code.check().unwrap_err().to_string().starts_with("code at 0x"));
    }

    #[test]
    fn only_code_of_files_is_looked_at() {
        let maps = "1000-2000 r--p 00000000 00:01 7 /bin/x\n2000-3000 r-xp 00001000 00:01 7 /bin/x\n\
                    7000-8000 r-xp 00000000 00:00 0 [vdso]\n8000-9000 r-xp 00000000 00:00 0\n";
        assert_eq!(executable(maps).collect::<Vec<_>>(), [0x2000]);
    }
}
