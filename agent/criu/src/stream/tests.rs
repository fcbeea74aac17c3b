//! Our two ends against a peer that plays CRIU, well and badly. The real one is in `tests/real_criu.rs`.
#![allow(clippy::unwrap_used)]

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use prost::Message;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::capture::{Capture, Capturing};
use super::serve::{Serve, Serving};
use super::*;

struct Peer(UnixStream);

impl Peer {
    fn connect(dir: &Path, socket: &str) -> Peer {
        Peer(UnixStream::connect(dir.join(socket)).unwrap())
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    fn request(&mut self, name: &str) {
        self.send(&request(name));
    }

    fn send_descriptors(&mut self, descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        rustix::net::sendmsg(&self.0, &[IoSlice::new(&[0])], &mut control, SendFlags::empty()).unwrap();
    }

    fn answer(&mut self) -> bool {
        let mut answer = [0; 6];
        self.0.read_exact(&mut answer).unwrap();
        assert_eq!(&answer[..5], [&2u32.to_ne_bytes()[..], &[8]].concat());
        answer[5] == 1
    }
}

fn request(name: &str) -> Vec<u8> {
    let body = wire::Request { filename: name.to_owned() }.encode_to_vec();
    [&u32::try_from(body.len()).unwrap().to_ne_bytes(), body.as_slice()].concat()
}

fn is_me(pid: i32) -> bool {
    pid == std::process::id() as i32
}

async fn capture() -> (tempfile::TempDir, Capturing, Peer) {
    let dir = tempfile::tempdir().unwrap();
    let capture = Capture::bind(dir.path()).unwrap();
    let peer = Peer::connect(dir.path(), "streamer-capture.sock");
    (dir, capture.accept(is_me).await.unwrap(), peer)
}

async fn serve() -> (tempfile::TempDir, Serving, Peer) {
    let dir = tempfile::tempdir().unwrap();
    let serve = Serve::bind(dir.path()).unwrap();
    let peer = Peer::connect(dir.path(), "streamer-serve.sock");
    (dir, serve.accept(is_me).await.unwrap(), peer)
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe().unwrap()
}

fn read_all(pipe: OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::fs::File::from(pipe).read_to_end(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn a_dumps_images_arrive_by_name_and_the_last_one_is_known() {
    let (_dir, mut capturing, mut peer) = capture().await;
    for name in ["pages-1.img", LAST_IMAGE] {
        assert!(!capturing.is_last());
        let (read, write) = pipe();
        peer.request(name);
        peer.send_descriptors(&[read.as_fd()]);
        drop(read);
        std::fs::File::from(write).write_all(name.as_bytes()).unwrap();

        let image = capturing.next().await.unwrap().unwrap();
        assert_eq!(image.name, name);
        assert_eq!(read_all(image.pipe), name.as_bytes());
    }
    assert!(capturing.is_last());
    drop(peer);
    assert!(capturing.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_restore_gets_what_is_there_and_learns_what_is_not() {
    let (_dir, mut serving, mut peer) = serve().await;
    peer.request("cgroup.img");
    let request = serving.next().await.unwrap().unwrap();
    assert_eq!(request.name(), "cgroup.img");
    request.absent().await.unwrap();
    assert!(!peer.answer());

    peer.request(LAST_IMAGE);
    let (read, write) = pipe();
    peer.send_descriptors(&[write.as_fd()]);
    drop(write);
    let ours = serving.next().await.unwrap().unwrap().present().await.unwrap();
    assert!(peer.answer());
    std::fs::File::from(ours).write_all(b"inventory").unwrap();
    assert_eq!(read_all(read), b"inventory");
    drop(peer);
    assert!(serving.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_cancelled_wait_loses_nothing() {
    let (_dir, mut capturing, mut peer) = capture().await;
    let (read, _write) = pipe();
    let bytes = request("core-1.img");
    for byte in &bytes {
        peer.send(&[*byte]);
        // Dropped at whatever point it has reached.
        assert!(tokio::time::timeout(Duration::from_millis(1), capturing.next()).await.is_err());
    }
    peer.send_descriptors(&[read.as_fd()]);
    assert_eq!(capturing.next().await.unwrap().unwrap().name, "core-1.img");
}

#[tokio::test]
async fn only_root_can_connect_and_the_name_vanishes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("streamer-capture.sock");
    let listening = Capture::bind(dir.path()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let second = Capture::bind(dir.path()).unwrap_err();
    assert!(second.to_string().contains("streamer-capture.sock"), "{second}");
    assert!(path.exists(), "a failed bind must leave the first one's socket");

    let _peer = Peer::connect(dir.path(), "streamer-capture.sock");
    let _capturing = listening.accept(is_me).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn whoever_is_not_criu_is_not_heard() {
    let dir = tempfile::tempdir().unwrap();
    let listening = Capture::bind(dir.path()).unwrap();
    let mut intruder = Peer::connect(dir.path(), "streamer-capture.sock");
    let calls = std::sync::atomic::AtomicUsize::new(0);
    // The second that connects is who is meant.
    let second = |_| calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 1;
    let (accepted, mut meant) = tokio::join!(listening.accept(second), async {
        while calls.load(std::sync::atomic::Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        Peer::connect(dir.path(), "streamer-capture.sock")
    });
    let mut capturing = accepted.unwrap();
    meant.request("core-1.img");
    let (read, _write) = pipe();
    meant.send_descriptors(&[read.as_fd()]);
    assert_eq!(capturing.next().await.unwrap().unwrap().name, "core-1.img");
    assert_eq!(intruder.0.read(&mut [0]).unwrap(), 0);
}

#[tokio::test]
async fn a_directory_longer_than_a_sockets_address_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let _listening = Serve::bind(&deep).unwrap();
    assert!(deep.join("streamer-serve.sock").exists());
}

#[tokio::test]
async fn bad_requests_are_refused() {
    let long = "x".repeat(MAX_NAME + 1);
    let names = ["", ".", "..", "../x", "a/b", "a b", "a\nb", "ä", long.as_str()];
    for name in names {
        let (_dir, mut capturing, mut peer) = capture().await;
        peer.request(name);
        let error = capturing.next().await.unwrap_err();
        assert!(matches!(error, StreamError::BadName { .. }), "{name:?}: {error}");
        assert!(!error.to_string().contains('\n'));
    }
    let huge = u32::MAX.to_ne_bytes();
    let garbage = [&4u32.to_ne_bytes()[..], b"\xff\xff\xff\xff"].concat();
    let not_utf8 = [&4u32.to_ne_bytes()[..], b"\x0a\x02\xff\xff"].concat();
    for (bytes, expected) in [(&huge[..], "4294967295 bytes"), (&garbage, "no request"), (&not_utf8, "no request")] {
        let (_dir, mut serving, mut peer) = serve().await;
        peer.send(bytes);
        let error = serving.next().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn anything_but_one_right_end_of_a_pipe_is_refused() {
    let (read, write) = pipe();
    let file = tempfile::tempfile().unwrap();
    let cases: [&[BorrowedFd<'_>]; 5] =
        [&[], &[write.as_fd()], &[file.as_fd()], &[read.as_fd(), read.as_fd()], &[read.as_fd(); 4]];
    for descriptors in cases {
        let (_dir, mut capturing, mut peer) = capture().await;
        peer.request("fs-1.img");
        if descriptors.is_empty() {
            peer.send(&[0]);
        } else {
            peer.send_descriptors(descriptors);
        }
        let error = capturing.next().await.unwrap_err();
        assert!(matches!(&error, StreamError::NoPipe { name } if name == "fs-1.img"), "{descriptors:?}: {error}");
    }
}

#[tokio::test]
async fn a_descriptor_in_the_middle_of_a_request_is_refused() {
    let (_dir, mut capturing, mut peer) = capture().await;
    let (read, _write) = pipe();
    peer.send_descriptors(&[read.as_fd()]);
    assert!(matches!(capturing.next().await, Err(StreamError::Garbled)));
}

#[tokio::test]
async fn an_image_is_written_once() {
    let (_dir, mut capturing, mut peer) = capture().await;
    let (read, _write) = pipe();
    for _ in 0..2 {
        peer.request("mm-1.img");
        peer.send_descriptors(&[read.as_fd()]);
    }
    capturing.next().await.unwrap().unwrap();
    assert!(matches!(capturing.next().await, Err(StreamError::Twice { name }) if name == "mm-1.img"));
}

#[tokio::test]
async fn the_end_inside_a_request_is_no_good_end() {
    let bytes = request("mm-1.img");
    for length in 1..=bytes.len() {
        let (_dir, mut capturing, mut peer) = capture().await;
        peer.send(&bytes[..length]);
        drop(peer);
        let error = capturing.next().await.unwrap_err();
        assert!(matches!(error, StreamError::Truncated), "after {length} bytes: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_stops_halfway_times_out_and_silence_before_it_does_not() {
    let (_dir, mut capturing, mut peer) = capture().await;
    let silence = REQUEST_TIMEOUT * 3;
    assert!(tokio::time::timeout(silence, capturing.next()).await.is_err(), "waiting for a request has no limit");
    let bytes = request("mm-1.img");
    peer.send(&bytes[..bytes.len() - 1]);
    assert!(matches!(capturing.next().await, Err(StreamError::Stalled)));
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_take_long_and_the_pipe_after_it_may_not() {
    let (_dir, mut serving, mut peer) = serve().await;
    peer.request("mm-1.img");
    let request = serving.next().await.unwrap().unwrap();
    tokio::time::advance(REQUEST_TIMEOUT * 3).await;
    let (_read, write) = pipe();
    peer.send_descriptors(&[write.as_fd()]);
    request.present().await.unwrap();

    peer.request("mm-2.img");
    let request = serving.next().await.unwrap().unwrap();
    assert!(matches!(request.present().await, Err(StreamError::Stalled)));
}
