//! What reaches a sandbox's own programs: requests to its PID 1, orders to a guard, and the words of CRIU's hooks, whose socket
//! lies within the workload's reach. Also the letters that start those programs.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use migrate_proto::handover::Decision;
use migrate_sandbox::errand::Errand;
use migrate_sandbox::guard::{Call, Hook, Order, Told};
use migrate_sandbox::{Plan, outside};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first byte says which of them.
pub(crate) fn run(input: &[u8], _: &Path) {
    let Some((which, rest)) = input.split_first() else { return };
    match which % 8 {
        0 => request(rest),
        // With a length that fits.
        1 => request(&[&(rest.len() as u32).to_be_bytes(), rest].concat()),
        2 => order(rest),
        3 => hook(rest),
        4 => letter::<Call>(rest),
        5 => letter::<Errand>(rest),
        6 => letter::<Plan>(rest),
        _ => {
            letter::<Told>(rest);
            letter::<Decision>(rest);
        }
    }
}

/// A socket on which the bytes have come, and then the end. What does not fit is too long for anything here.
fn sent(bytes: &[u8]) -> UnixStream {
    let (mut here, there) = UnixStream::pair().expect("a pair of sockets");
    here.set_nonblocking(true).expect("a socket that is open");
    let _ = here.write_all(bytes);
    there
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(600)
}

fn request(bytes: &[u8]) {
    let Ok(Some(again)) = outside::request(&sent(bytes), soon()) else { return };
    assert_eq!(outside::request(&sent(&again), soon()).expect("what is written can be read"), Some(again));
}

/// One line of at most a thousand bytes; what is after it is for later.
fn order(bytes: &[u8]) {
    let order = outside::order(&sent(bytes));
    let line = bytes.iter().position(|byte| *byte == b'\n').filter(|end| *end <= 1024).map(|end| &bytes[..end]);
    assert_eq!(order, line.and_then(|line| serde_json::from_slice::<Order>(line).ok()));
}

fn hook(bytes: &[u8]) {
    let heard = outside::hook(&sent(bytes), soon());
    let expected = match bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default() {
        b"pre-dump\n" => Some(Hook::PreDump),
        b"post-dump\n" => Some(Hook::PostDump),
        b"post-restore\n" => Some(Hook::PostRestore),
        _ => None,
    };
    assert_eq!(heard, expected, "{bytes:?}");
}

fn letter<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(letter) = serde_json::from_slice::<T>(bytes) else { return };
    let again = serde_json::to_vec(&letter);
    // A path that is not text cannot come out of JSON.
    let again = again.expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<T>(&again).expect("what is written can be read"), letter);
}
