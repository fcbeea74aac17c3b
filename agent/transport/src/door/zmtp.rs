//! Watches the bytes of a ZMTP 3 connection (RFC 23) that pass through the door, so that nothing reaches the ZeroMQ library
//! that it would trip over: no frame or message over the limit, no identity that is not the peer's own.
//!
//! The library believes every length that it reads and allocates at once; and whoever claims an identity gets its messages.

use thiserror::Error;

/// No frame may be longer.
pub const MAX_FRAME: u64 = 2 << 20;
/// No message may be longer, all its frames together: a session header, and the largest parcel.
pub const MAX_MESSAGE: u64 = (64 + crate::parcel::MAX_HEADER + crate::parcel::MAX_BULK) as u64;
/// No message may have more frames.
pub const MAX_FRAMES: u32 = 4;

const GREETING: usize = 64;
/// READY with a socket type and an identity is far below this.
const MAX_READY: u64 = 1024;
const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// Why a connection is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Violation {
    /// Not a ZMTP 3 greeting with the NULL mechanism.
    #[error("it does not begin with a ZMTP 3 greeting")]
    Greeting,
    /// Something other than READY came after the greeting, or a command later.
    #[error("it sent a command where none is due, or none where one is")]
    Command,
    /// READY cannot be read.
    #[error("its READY command is malformed")]
    Ready,
    /// READY claims an identity that is not the peer's.
    #[error("it claims the identity {0:?}, which does not begin with its own name")]
    Identity(String),
    /// A reserved bit is set.
    #[error("a frame has flags that do not exist")]
    Flags,
    /// A frame claims to be too long.
    #[error("a frame of {0} bytes is over the limit of {MAX_FRAME}")]
    FrameTooLong(u64),
    /// A message is too long.
    #[error("a message is over the limit of {MAX_MESSAGE} bytes or {MAX_FRAMES} frames")]
    MessageTooLong,
    /// The identity cannot be used now.
    #[error("{0}")]
    Refused(&'static str),
}

/// Where in the stream the next byte is.
#[derive(Debug)]
enum Place {
    Greeting,
    Flags,
    Length { flags: u8, left: u8, length: u64 },
    Ready { left: usize },
    Body { left: u64 },
}

/// What to do with the identity once it is known.
pub type OnReady = Box<dyn FnMut(&[u8]) -> Result<(), Violation> + Send>;

/// Follows one direction of a connection.
pub struct Watch {
    /// Identities must begin with this: the peer's name and a slash.
    prefix: Vec<u8>,
    on_ready: OnReady,
    place: Place,
    /// The greeting or the READY command, as far as it is here.
    gathered: Vec<u8>,
    ready: bool,
    message: u64,
    frames: u32,
}

impl Watch {
    /// For what `node` sends. `on_ready` hears its identity before any of it is passed on.
    pub fn new(node: &str, on_ready: OnReady) -> Watch {
        Watch {
            prefix: format!("{node}/").into_bytes(),
            on_ready,
            place: Place::Greeting,
            gathered: Vec::with_capacity(GREETING),
            ready: false,
            message: 0,
            frames: 0,
        }
    }

    /// Whether the peer has said who it is.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// The next bytes of the stream. After an error none of them may be passed on.
    pub fn inspect(&mut self, mut bytes: &[u8]) -> Result<(), Violation> {
        while !bytes.is_empty() {
            bytes = self.advance(bytes)?;
        }
        Ok(())
    }

    /// Takes at least one byte and returns the rest.
    fn advance<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Violation> {
        match self.place {
            Place::Greeting => {
                let rest = self.gather(bytes, GREETING - self.gathered.len());
                if self.gathered.len() == GREETING {
                    check_greeting(&std::mem::take(&mut self.gathered))?;
                    self.place = Place::Flags;
                }
                Ok(rest)
            }
            Place::Flags => {
                let flags = bytes[0];
                if flags & !(MORE | LONG | COMMAND) != 0 || flags & (MORE | COMMAND) == MORE | COMMAND {
                    return Err(Violation::Flags);
                }
                if (flags & COMMAND != 0) == self.ready {
                    return Err(Violation::Command);
                }
                let left = if flags & LONG != 0 { 8 } else { 1 };
                self.place = Place::Length { flags, left, length: 0 };
                Ok(&bytes[1..])
            }
            Place::Length { flags, left, length } => {
                let length = length << 8 | u64::from(bytes[0]);
                self.place = match left {
                    1 => self.frame_begins(flags, length)?,
                    _ => Place::Length { flags, left: left - 1, length },
                };
                Ok(&bytes[1..])
            }
            Place::Ready { left } => {
                let rest = self.gather(bytes, left);
                let left = left - (bytes.len() - rest.len());
                self.place = Place::Ready { left };
                if left == 0 {
                    self.ready_is_here()?;
                    self.place = Place::Flags;
                }
                Ok(rest)
            }
            Place::Body { left } => {
                let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                let left = left - taken as u64;
                self.place = if left == 0 { Place::Flags } else { Place::Body { left } };
                Ok(&bytes[taken..])
            }
        }
    }

    fn gather<'a>(&mut self, bytes: &'a [u8], wanted: usize) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(wanted.min(bytes.len()));
        self.gathered.extend_from_slice(taken);
        rest
    }

    fn frame_begins(&mut self, flags: u8, length: u64) -> Result<Place, Violation> {
        if length > MAX_FRAME {
            return Err(Violation::FrameTooLong(length));
        }
        if flags & COMMAND != 0 {
            return match usize::try_from(length) {
                Ok(left) if left > 0 && length <= MAX_READY => Ok(Place::Ready { left }),
                _ => Err(Violation::Ready),
            };
        }
        self.message += length;
        self.frames += 1;
        if self.message > MAX_MESSAGE || self.frames > MAX_FRAMES {
            return Err(Violation::MessageTooLong);
        }
        if flags & MORE == 0 {
            (self.message, self.frames) = (0, 0);
        }
        Ok(if length == 0 { Place::Flags } else { Place::Body { left: length } })
    }

    fn ready_is_here(&mut self) -> Result<(), Violation> {
        let command = std::mem::take(&mut self.gathered);
        let identity = identity_in(&command).ok_or(Violation::Ready)?;
        if !identity.starts_with(&self.prefix) || identity.len() > 255 {
            return Err(Violation::Identity(identity.escape_ascii().take(100).map(char::from).collect()));
        }
        self.ready = true;
        (self.on_ready)(identity)
    }
}

fn check_greeting(greeting: &[u8]) -> Result<(), Violation> {
    let mut null = [0; 20];
    null[..4].copy_from_slice(b"NULL");
    let good = greeting[0] == 0xff && greeting[9] == 0x7f && greeting[10] >= 3 && greeting[12..32] == null;
    if good { Ok(()) } else { Err(Violation::Greeting) }
}

/// The value of the one property `Identity` of a READY command.
fn identity_in(command: &[u8]) -> Option<&[u8]> {
    let mut rest = command.strip_prefix(b"\x05READY")?;
    let mut identity = None;
    while let Some((&name_length, after)) = rest.split_first() {
        let (name, after) = after.split_at_checked(name_length.into())?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let (value, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        // Names are compared as the library compares them; one that differs in case only might fool a later one.
        if name.eq_ignore_ascii_case(b"Identity") && (name != b"Identity" || identity.replace(value).is_some()) {
            return None;
        }
        rest = after;
    }
    identity
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::{Arc, Mutex};

    use super::*;

    fn greeting() -> Vec<u8> {
        let mut greeting = vec![0; 64];
        (greeting[0], greeting[9], greeting[10]) = (0xff, 0x7f, 3);
        greeting[12..16].copy_from_slice(b"NULL");
        greeting
    }

    fn property(name: &str, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![name.len() as u8];
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&(value.len() as u32).to_be_bytes());
        bytes.extend_from_slice(value);
        bytes
    }

    fn ready(properties: &[Vec<u8>]) -> Vec<u8> {
        let body = [b"\x05READY".to_vec(), properties.concat()].concat();
        [vec![COMMAND, body.len() as u8], body].concat()
    }

    fn honest() -> Vec<u8> {
        [greeting(), ready(&[property("Socket-Type", b"DEALER"), property("Identity", b"a/1")])].concat()
    }

    fn frame(flags: u8, length: u64, body: &[u8]) -> Vec<u8> {
        [vec![flags | LONG], length.to_be_bytes().to_vec(), body.to_vec()].concat()
    }

    fn watch() -> (Watch, Arc<Mutex<Vec<Vec<u8>>>>) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let on_ready: OnReady = Box::new(move |identity| {
            log.lock().unwrap().push(identity.to_vec());
            Ok(())
        });
        (Watch::new("a", on_ready), seen)
    }

    fn verdict(bytes: &[u8]) -> Result<(), Violation> {
        let whole = watch().0.inspect(bytes);
        let mut slowly = watch().0;
        let one_by_one = bytes.iter().try_for_each(|byte| slowly.inspect(&[*byte]));
        assert_eq!(whole, one_by_one, "where the stream is cut must not matter");
        whole
    }

    #[test]
    fn an_honest_stream_passes_and_its_identity_is_told() {
        let message = [frame(MORE, 3, b"abc"), frame(MORE, 0, b""), vec![0, 2, b'd', b'e']].concat();
        let (mut watch, seen) = watch();
        let stream = [honest(), message.clone(), message].concat();
        assert_eq!(watch.inspect(&stream), Ok(()));
        assert_eq!(verdict(&stream), Ok(()));
        assert_eq!(*seen.lock().unwrap(), [b"a/1".to_vec()]);
        assert!(watch.is_ready());
    }

    #[test]
    fn a_tebibyte_is_refused_at_its_header() {
        let stream = [honest(), frame(0, 1 << 40, b"")].concat();
        assert_eq!(verdict(&stream), Err(Violation::FrameTooLong(1 << 40)));
        let before_ready = [greeting(), frame(COMMAND, 1 << 40, b"")].concat();
        assert_eq!(verdict(&before_ready), Err(Violation::FrameTooLong(1 << 40)));
        assert_eq!(
            verdict(&[honest(), frame(0, MAX_FRAME + 1, b"")].concat()),
            Err(Violation::FrameTooLong(MAX_FRAME + 1))
        );
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let many = [honest(), frame(MORE, 0, b"").repeat(5)].concat();
        assert_eq!(verdict(&many), Err(Violation::MessageTooLong));
        let mib = frame(MORE, 1 << 20, &vec![0; 1 << 20]);
        let mut watch = watch().0;
        assert_eq!(watch.inspect(&[honest(), mib.repeat(3)].concat()), Err(Violation::MessageTooLong));
    }

    #[test]
    fn a_foreign_identity_is_refused() {
        for identity in [&b"b/1"[..], b"a", b"ab/1", b"", b"A/1"] {
            let stream = [greeting(), ready(&[property("Identity", identity)])].concat();
            assert!(matches!(verdict(&stream), Err(Violation::Identity(_))), "{identity:?}");
        }
    }

    #[test]
    fn ready_needs_exactly_one_identity() {
        let good = property("Identity", b"a/1");
        for properties in [vec![], vec![good.clone(), good.clone()], vec![good.clone(), property("identity", b"b/1")]] {
            assert_eq!(verdict(&[greeting(), ready(&properties)].concat()), Err(Violation::Ready));
        }
        let mut short = [greeting(), ready(&[good])].concat();
        short[65] -= 1;
        assert_eq!(verdict(&short), Err(Violation::Ready));
    }

    #[test]
    fn whatever_is_no_zmtp_is_refused() {
        assert_eq!(verdict(&[b'G'; 64]), Err(Violation::Greeting));
        let mut curve = greeting();
        curve[12..17].copy_from_slice(b"CURVE");
        assert_eq!(verdict(&curve), Err(Violation::Greeting));
        assert_eq!(
            verdict(&[greeting(), vec![0, 1, b'x']].concat()),
            Err(Violation::Command),
            "a message before READY"
        );
        assert_eq!(verdict(&[honest(), ready(&[])].concat()), Err(Violation::Command), "a command after READY");
        assert_eq!(verdict(&[honest(), vec![0x80]].concat()), Err(Violation::Flags));
    }

    #[test]
    fn an_identity_can_be_refused_by_who_keeps_them() {
        let mut watch = Watch::new("a", Box::new(|_| Err(Violation::Refused("in use"))));
        assert_eq!(watch.inspect(&honest()), Err(Violation::Refused("in use")));
    }
}
