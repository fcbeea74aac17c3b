//! CRIU's image socket, both directions. Whoever connects first may speak there, also from inside the sandbox.
//!
//! What is understood must not depend on how the bytes are cut; a name is one plain part of a path, a pipe is the right end of a
//! pipe, and no descriptor stays open.

use std::cell::OnceCell;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use migrate_criu::stream::capture::Capturing;
use migrate_criu::stream::serve::Serving;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::runtime::{Builder, Runtime};

use crate::script::Script;

thread_local! {
    static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
}

/// Bytes, and what comes with the first of them.
struct Segment<'a> {
    bytes: &'a [u8],
    with: With,
}

#[derive(Clone, Copy, PartialEq)]
enum With {
    Nothing,
    ReadEnd,
    WriteEnd,
    TwoReadEnds,
    SomethingElse,
}

/// The first byte says which direction, the second what is there for a restore.
pub(crate) fn run(input: &[u8], _: &Path) {
    let mut script = Script::new(input);
    let (is_dump, present) = (script.byte() & 1 == 0, script.byte());
    let mut segments = Vec::new();
    while !script.is_over() && segments.len() < 256 {
        let with = match script.byte() % 8 {
            0 => With::ReadEnd,
            1 => With::WriteEnd,
            2 => With::TwoReadEnds,
            3 => With::SomethingElse,
            _ => With::Nothing,
        };
        segments.push(Segment { bytes: script.piece(), with });
    }
    let single: Vec<Segment<'_>> = segments.iter().flat_map(cut).collect();
    assert_eq!(understood(&segments, is_dump, present), understood(&single, is_dump, present));
}

fn cut<'a>(segment: &'a Segment<'_>) -> impl Iterator<Item = Segment<'a>> {
    let with = |at| if at == 0 { segment.with } else { With::Nothing };
    segment.bytes.chunks(1).enumerate().map(move |(at, bytes)| Segment { bytes, with: with(at) })
}

fn understood(segments: &[Segment<'_>], is_dump: bool, present: u8) -> Vec<String> {
    let (here, there) = UnixStream::pair().expect("a pair of sockets");
    let kept: Vec<OwnedFd> = segments.iter().flat_map(|segment| send(&here, segment)).collect();
    here.shutdown(std::net::Shutdown::Write).expect("a socket that is open");
    let seen = RUNTIME.with(|runtime| {
        let runtime = runtime.get_or_init(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));
        runtime.block_on(async {
            there.set_nonblocking(true).expect("a socket that is open");
            let socket = tokio::net::UnixStream::from_std(there).expect("a socket that is open");
            if is_dump { capture(socket).await } else { serve(socket, present).await }
        })
    });
    for end in &kept {
        let mut ends = [PollFd::new(end, PollFlags::IN | PollFlags::OUT)];
        poll(&mut ends, Some(&Timespec::default())).expect("poll");
        assert!(ends[0].revents().intersects(PollFlags::HUP | PollFlags::ERR), "a descriptor stayed open");
    }
    if !is_dump {
        let mut answers = Vec::new();
        (&here).read_to_end(&mut answers).ok();
        let is_answer = |answer: &[u8]| matches!(answer, [2, 0, 0, 0, 8, 0 | 1]);
        assert!(answers.chunks(6).all(is_answer), "{answers:?}");
    }
    seen
}

/// The other ends of the pipes.
fn send(to: &UnixStream, segment: &Segment<'_>) -> Vec<OwnedFd> {
    if segment.bytes.is_empty() {
        return Vec::new();
    }
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let other = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let with: Vec<BorrowedFd<'_>> = match segment.with {
        With::Nothing => vec![],
        With::ReadEnd => vec![read.as_fd()],
        With::WriteEnd => vec![write.as_fd()],
        With::TwoReadEnds => vec![read.as_fd(), other.0.as_fd()],
        With::SomethingElse => vec![to.as_fd()],
    };
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    if !with.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&with));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    // A full socket drops the rest: the script is too long.
    let _ = rustix::net::sendmsg(to, &[IoSlice::new(segment.bytes)], &mut control, flags);
    match segment.with {
        With::ReadEnd => vec![write],
        With::WriteEnd => vec![read],
        With::TwoReadEnds => vec![write, other.1],
        With::Nothing | With::SomethingElse => vec![],
    }
}

async fn capture(socket: tokio::net::UnixStream) -> Vec<String> {
    let mut capturing = Capturing::over(socket);
    let mut seen = Vec::new();
    loop {
        match capturing.next().await {
            Ok(Some(image)) => {
                check(&image.name, &image.pipe, OFlags::RDONLY);
                assert!(!seen.contains(&image.name), "{} twice", image.name);
                seen.push(image.name);
            }
            Ok(None) => return seen,
            Err(error) => {
                seen.push(format!("error: {error}"));
                return seen;
            }
        }
    }
}

async fn serve(socket: tokio::net::UnixStream, present: u8) -> Vec<String> {
    let mut serving = Serving::over(socket);
    let mut seen = Vec::new();
    loop {
        let answered = match serving.next().await {
            Ok(Some(request)) => {
                let name = request.name().to_owned();
                let is_there = present >> (seen.len() % 8) & 1 == 1;
                seen.push(name.clone());
                match is_there {
                    true => request.present().await.map(|pipe| check(&name, &pipe, OFlags::WRONLY)),
                    false => request.absent().await,
                }
            }
            Ok(None) => return seen,
            Err(error) => Err(error),
        };
        if let Err(error) = answered {
            seen.push(format!("error: {error}"));
            return seen;
        }
    }
}

fn check(name: &str, pipe: &OwnedFd, mode: OFlags) {
    assert!(!name.is_empty() && name.len() <= 255 && !name.starts_with('.') && !name.contains(['/', '\0']), "{name:?}");
    let status = rustix::fs::fstat(pipe).expect("an open descriptor");
    assert_eq!(FileType::from_raw_mode(status.st_mode), FileType::Fifo);
    assert_eq!(rustix::fs::fcntl_getfl(pipe).expect("an open descriptor") & OFlags::RWMODE, mode);
}
