//! Asking a workload whether it is well: a command beside it, a connection, a page. Every question has an end, also where the other side
//! has none.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use migrate_proto::api::Exit;
use migrate_proto::care::restart::End;
use migrate_proto::care::{Page, Watch, shorten};
use migrate_proto::text::Text;
use nix::sched::{CloneFlags, setns};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::host::Host;
use crate::output;
use crate::workload::Workload;

/// More than that no health command may write.
const MOST_OUTPUT: usize = 1 << 20;
/// So much of it is kept for the reason.
const KEPT_OUTPUT: usize = 200;
/// So many commands beside a workload that do not end, though they were killed, and no more are started.
const MOST_COMMANDS: usize = 16;
/// The first line of an answer is shorter.
const LONGEST_LINE: usize = 256;

/// Asks once; `Err` says why it is not well. Dropped, it ends what it has begun.
pub(super) async fn ask(host: &Host, workload: &Arc<Workload>, watch: &Watch, limit: Duration) -> Result<(), String> {
    let asked = async {
        match watch {
            Watch::Command(argv) => command(host, workload, argv).await,
            Watch::Tcp(port) => inside(workload, connect_to(loopback(*port), limit)).await,
            Watch::Http(page) => inside(workload, get(page.clone(), limit)).await,
            // Nobody asks; it says so itself.
            Watch::Pulse(_) => Ok(()),
        }
    };
    let answer = tokio::time::timeout(limit, asked).await;
    answer.unwrap_or_else(|_| Err(format!("no answer within {limit:?}"))).map_err(|why| shorten(&why))
}

// ---- a command ---------------------------------------------------------------------------------------------------

/// It and everything that it has started end with it, and with this future.
async fn command(host: &Host, workload: &Workload, argv: &[Text]) -> Result<(), String> {
    let beside = host.cgroup(workload.name().as_str()).ok().and_then(|cgroup| cgroup.beside());
    let groups = beside.and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    if groups.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count() >= MOST_COMMANDS {
        return Err(format!("{MOST_COMMANDS} commands beside it have not ended"));
    }
    let (mut child, letter) =
        output::beside(host, workload, argv.to_vec(), Stdio::null()).map_err(|problem| problem.message)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let copied = async { tokio::try_join!(take_in(stdout), take_in(stderr)) };
    let (said, complained) = copied.await.map_err(|TooMuch| format!("it wrote more than {MOST_OUTPUT} bytes"))?;
    let ended = child.wait().await;
    drop(letter);
    let exit = output::exit_of(ended.map_err(|error| error.to_string())?);
    if exit == Exit::Code(0) {
        return Ok(());
    }
    let words = if complained.trim().is_empty() { said } else { complained };
    let words = if words.trim().is_empty() { String::new() } else { format!(": {}", words.trim()) };
    Err(format!("the health command {}{words}", End::Exit(exit)))
}

struct TooMuch;

/// The beginning of what is written, to its end.
async fn take_in(pipe: Option<impl AsyncRead + Unpin>) -> Result<String, TooMuch> {
    let Some(mut pipe) = pipe else { return Ok(String::new()) };
    let (mut kept, mut count, mut piece) = (Vec::new(), 0, vec![0; 16 << 10]);
    loop {
        match pipe.read(&mut piece).await {
            Ok(0) | Err(_) => return Ok(String::from_utf8_lossy(&kept).into_owned()),
            Ok(length) => {
                count += length;
                let room = KEPT_OUTPUT.saturating_sub(kept.len()).min(length);
                kept.extend_from_slice(&piece[..room]);
            }
        }
        if count > MOST_OUTPUT {
            return Err(TooMuch);
        }
    }
}

// ---- a connection ------------------------------------------------------------------------------------------------

/// Does it in the workload's network, on a thread of its own that ends soon, also where nobody waits for it any more.
async fn inside(workload: &Workload, work: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
    let main = workload.pid().ok_or("it does not run")?;
    let (done, answer) = tokio::sync::oneshot::channel();
    let asking = move || {
        let _ = done.send(enter_network(main).map_err(|error| format!("its network: {error}")).and_then(|()| work()));
    };
    std::thread::Builder::new().name("probe".into()).spawn(asking).map_err(|error| error.to_string())?;
    answer.await.unwrap_or_else(|_| Err("nobody asked".to_owned()))
}

/// This thread's network is that of the process from now on.
fn enter_network(process: i32) -> io::Result<()> {
    let theirs = std::fs::File::open(format!("/proc/{process}/ns/net"))?;
    let own = std::fs::metadata("/proc/thread-self/ns/net")?;
    if theirs.metadata()?.ino() == own.ino() {
        return Ok(());
    }
    Ok(setns(theirs, CloneFlags::CLONE_NEWNET)?)
}

fn loopback(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

fn addresses(page: &Page) -> Vec<SocketAddr> {
    match page.host.parse::<IpAddr>() {
        Ok(address) => vec![(address, page.port).into()],
        Err(_) => loopback(page.port),
    }
}

/// The first that answers; else why the first did not.
fn connect(to: &[SocketAddr], deadline: Instant) -> Result<TcpStream, String> {
    let mut first = None;
    for address in to {
        match left(deadline).and_then(|left| TcpStream::connect_timeout(address, left)) {
            Ok(stream) => return Ok(stream),
            Err(error) => drop(first.get_or_insert_with(|| format!("{address}: {error}"))),
        }
    }
    Err(first.unwrap_or_default())
}

fn connect_to(to: Vec<SocketAddr>, limit: Duration) -> impl FnOnce() -> Result<(), String> + Send {
    let deadline = Instant::now() + limit;
    move || connect(&to, deadline).map(drop)
}

/// Whether a page answers with success. Blocks.
pub(crate) fn page_answers(page: Page, limit: Duration) -> Result<(), String> {
    get(page, limit)()
}

fn get(page: Page, limit: Duration) -> impl FnOnce() -> Result<(), String> + Send {
    let deadline = Instant::now() + limit;
    move || {
        let stream = connect(&addresses(&page), deadline)?;
        let line = first_line(stream, &page, deadline).map_err(|error| error.to_string())?;
        match status(&line) {
            Some(200..400) => Ok(()),
            Some(status) => Err(format!("the answer has status {status}")),
            None => Err(format!("the answer is no HTTP: {}", String::from_utf8_lossy(&line))),
        }
    }
}

/// No more is read than the line, and no longer than until the deadline, however slowly it comes.
fn first_line(mut stream: TcpStream, page: &Page, deadline: Instant) -> io::Result<Vec<u8>> {
    let host = if page.host.contains(':') { format!("[{}]", page.host) } else { page.host.clone() };
    let request = format!("GET {} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: migrate\r\n\r\n", page.path);
    stream.set_write_timeout(Some(left(deadline)?))?;
    stream.write_all(request.as_bytes())?;
    let (mut line, mut piece) = (Vec::new(), [0; LONGEST_LINE]);
    while line.len() < LONGEST_LINE && !line.contains(&b'\n') {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut piece)? {
            0 => break,
            length => line.extend_from_slice(&piece[..length]),
        }
    }
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
    line.truncate(end.min(LONGEST_LINE));
    Ok(line)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// Of `HTTP/1.1 204 No Content`, 204.
fn status(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.strip_prefix("HTTP/")?.split_ascii_whitespace().skip(1);
    words.next().filter(|status| status.len() == 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Answers one connection with what `answer` does with it.
    fn server(answer: impl FnOnce(TcpStream) + Send + 'static) -> (Page, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = std::thread::spawn(move || answer(listener.accept().unwrap().0));
        (Page { host: "127.0.0.1".into(), port, path: "/health?x=1".into() }, serving)
    }

    fn answered(with: &'static [u8]) -> Result<(), String> {
        let (page, serving) = server(move |mut stream| {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            assert!(request.starts_with(b"GET /health?x=1 HTTP/1.0\r\nHost: 127.0.0.1\r\n"));
            // Who asked may have heard enough.
            let _ = stream.write_all(with);
        });
        let answer = get(page, LIMIT)();
        serving.join().unwrap();
        answer
    }

    #[test]
    fn a_status_from_200_to_399_is_well() {
        for good in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"HTTP/1.0 204\r\n", b"HTTP/1.1 399 X", b"HTTP/2 301 Moved\n"] {
            assert_eq!(answered(good), Ok(()), "{}", String::from_utf8_lossy(good));
        }
        for bad in [&b"HTTP/1.1 500 No\r\n\r\n"[..], b"HTTP/1.1 404 No\n", b"HTTP/1.1 199 No\n", b"HTTP/1.1 400 No\n"] {
            let why = answered(bad).unwrap_err();
            assert!(why.starts_with("the answer has status"), "{why}");
        }
        for odd in [&b""[..], b"HTTP/1.1", b"HTTP/1.1 2000 X\n", b"SSH-2.0-x\n", b"\xff\xfe\n", b"HTTP/1.1 -20 X\n"] {
            let why = answered(odd).unwrap_err();
            assert!(why.starts_with("the answer is no HTTP"), "{why}");
        }
    }

    #[test]
    fn an_endless_first_line_is_cut() {
        let why = answered(&[b'x'; 1 << 16]).unwrap_err();
        assert!(why.len() < 2 * LONGEST_LINE, "{why}");
    }

    #[test]
    fn who_answers_byte_by_byte_gains_no_time() {
        let (page, serving) = server(|mut stream| {
            // Ends when who asked is gone.
            while stream.write_all(b" ").is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        // 250 bytes would take longer than that.
        let why = get(page, Duration::from_millis(300))().unwrap_err();
        assert!(!why.is_empty());
        serving.join().unwrap();
    }

    #[test]
    fn who_does_not_listen_is_not_well() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(connect_to(loopback(port), LIMIT)(), Ok(()));
        drop(listener);
        let why = connect_to(loopback(port), LIMIT)().unwrap_err();
        assert!(why.starts_with(&format!("127.0.0.1:{port}: ")), "{why}");
    }

    #[tokio::test]
    async fn what_a_command_writes_is_bounded() {
        let long = vec![b'x'; MOST_OUTPUT];
        let taken = take_in(Some(&long[..])).await;
        assert_eq!(taken.ok().map(|kept| kept.len()), Some(KEPT_OUTPUT));
        let longer = tokio::io::repeat(b'x');
        assert!(take_in(Some(longer)).await.is_err());
    }

    #[test]
    fn the_network_of_this_process_is_entered_already() {
        assert!(enter_network(std::process::id() as i32).is_ok());
        assert!(enter_network(-1).is_err());
    }
}
