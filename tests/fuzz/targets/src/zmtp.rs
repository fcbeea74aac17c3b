//! The door's look at ZMTP. What passes is compared with a second reading of the same rules, written in another way; and
//! where the stream is cut must not matter.

use std::path::Path;

use migrate_transport::door::zmtp::{MAX_FRAME, MAX_FRAMES, MAX_MESSAGE, Watch};

use crate::script::Script;

const NODE: &str = "a";

/// The first byte says how much of a good beginning there is, the second how the stream is cut; then come its bytes.
pub(crate) fn run(input: &[u8], _: &Path) {
    let mut script = Script::new(input);
    let (beginning, cut) = (script.byte(), script.byte());
    let stream = [&honest()[..honest().len().min(beginning.into())], script.rest()].concat();

    let mut identities = 0;
    let whole = watched(&stream, usize::MAX);
    assert_eq!(whole, watched(&stream, usize::from(cut).max(1)), "cut after every {cut} bytes");
    let expected = allowed(&stream, &mut identities);
    assert_eq!(whole.is_ok(), expected.is_some(), "{whole:?}");
    assert!(identities <= 1);
}

fn watched(stream: &[u8], step: usize) -> Result<(bool, usize), migrate_transport::door::zmtp::Violation> {
    let heard = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let hears = heard.clone();
    let on_ready = Box::new(move |identity: &[u8]| {
        assert!(identity.starts_with(b"a/") && identity.len() <= 255);
        hears.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    });
    let mut watch = Watch::new(NODE, on_ready);
    stream.chunks(step).try_for_each(|part| watch.inspect(part))?;
    Ok((watch.is_ready(), heard.load(std::sync::atomic::Ordering::Relaxed)))
}

fn honest() -> Vec<u8> {
    let mut greeting = [0; 64];
    (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
    greeting[12..16].copy_from_slice(b"NULL");
    let mut ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x03a/1".to_vec();
    ready.splice(..0, [4, ready.len() as u8]);
    [&greeting, &ready[..]].concat()
}

/// `None` where the stream, as far as it is here, breaks a rule. Bytes that are not a whole thing yet break none, but for
/// flags and lengths, which count at once.
fn allowed(stream: &[u8], identities: &mut usize) -> Option<()> {
    let Some((greeting, mut rest)) = stream.split_at_checked(64) else { return Some(()) };
    let mechanism = [&b"NULL"[..], &[0; 16]].concat();
    if greeting[0] != 0xff || greeting[9] != 0x7f || greeting[10] < 3 || greeting[12..32] != mechanism {
        return None;
    }
    let (mut bytes, mut frames) = (0, 0);
    while let [flags, after @ ..] = rest {
        let (more, long, command) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
        if flags & !7 != 0 || (command && more) || command != (*identities == 0) {
            return None;
        }
        let width = if long { 8 } else { 1 };
        let Some((length, after)) = after.split_at_checked(width) else { return Some(()) };
        let length = length.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        if length > MAX_FRAME {
            return None;
        }
        if command {
            if !(1..=1024).contains(&length) {
                return None;
            }
        } else {
            (bytes, frames) = (bytes + length, frames + 1);
            if bytes > MAX_MESSAGE || frames > MAX_FRAMES {
                return None;
            }
        }
        let Some((body, after)) = after.split_at_checked(length as usize) else { return Some(()) };
        if command {
            let identity = identity(body)?;
            if !identity.starts_with(b"a/") || identity.len() > 255 {
                return None;
            }
            *identities += 1;
        } else if !more {
            (bytes, frames) = (0, 0);
        }
        rest = after;
    }
    Some(())
}

fn identity(ready: &[u8]) -> Option<&[u8]> {
    let mut properties = ready.strip_prefix(b"\x05READY")?;
    let mut found = Vec::new();
    while !properties.is_empty() {
        let name = properties.get(1..1 + usize::from(properties[0]))?;
        properties = &properties[1 + name.len()..];
        let length = properties.get(..4)?.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
        let value = properties.get(4..4 + length)?;
        properties = &properties[4 + length..];
        if name.eq_ignore_ascii_case(b"identity") {
            found.push((name, value));
        }
    }
    match found[..] {
        [(b"Identity", value)] => Some(value),
        _ => None,
    }
}
