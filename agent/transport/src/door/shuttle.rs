//! Moves the bytes of one connection between ZeroMQ's Unix socket and the peer's door, and watches both directions.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsStream;
use tokio_util::sync::CancellationToken;

use super::HANDSHAKE;
use super::zmtp::{Violation, Watch};

const BUFFER: usize = 512 << 10;
/// How long the peer may take to close after this side has closed.
const LINGER: Duration = Duration::from_secs(2);

/// How long a peer may read nothing while there is something for it. Far longer than a session waits for a sign of life: this
/// is about one that speaks on and does not listen, for which words would pile up here.
const DEAF: Duration = Duration::from_secs(15);

/// Why a connection ended, when not by being closed.
#[derive(Debug, Error)]
pub enum ShuttleError {
    /// One side broke the rules.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// ZeroMQ on one side did not introduce itself.
    #[error("it did not introduce itself in time")]
    Silent,
    /// The other side does not read.
    #[error("it does not read what is sent to it")]
    Deaf,
    /// The key that the peer proved itself with was retired.
    #[error("its key is trusted no longer")]
    Retired,
}

/// One connection, ready to be carried.
pub struct Shuttle {
    /// ZeroMQ.
    pub local: UnixStream,
    /// The peer's door.
    pub remote: TlsStream<TcpStream>,
    /// What ZeroMQ sends.
    pub from_local: Watch,
    /// What the peer sends.
    pub from_remote: Watch,
}

impl Shuttle {
    /// Moves bytes until the peer closes, this side has closed, or something is wrong. `stop` asks it to come to an end
    /// soon.
    pub async fn run(self, stop: CancellationToken) -> Result<(), ShuttleError> {
        let Shuttle { local, mut remote, mut from_local, mut from_remote } = self;
        super::enlarge_buffers(&local);
        match &mut remote {
            TlsStream::Client(stream) => stream.get_mut().1.set_buffer_limit(Some(BUFFER)),
            TlsStream::Server(stream) => stream.get_mut().1.set_buffer_limit(Some(BUFFER)),
        }
        let (mut local_read, mut local_write) = local.into_split();
        let (mut remote_read, mut remote_write) = tokio::io::split(remote);
        let inbound = pump(&mut remote_read, &mut local_write, &mut from_remote);
        let outbound = async {
            tokio::select! {
                ended = pump(&mut local_read, &mut remote_write, &mut from_local) => ended?,
                // What ZeroMQ still has to say may be a goodbye.
                () = async { stop.cancelled().await; sleep(LINGER).await } => return Ok(()),
            }
            // Read on until the peer has closed too: closing with bytes unread would destroy what it has yet to read.
            sleep(LINGER).await;
            Ok::<(), ShuttleError>(())
        };
        let ended = tokio::select! {
            ended = inbound => ended,
            ended = outbound => ended,
        };
        // The peer waits for our end as we would for its.
        let _ = timeout(LINGER, remote_write.shutdown()).await;
        ended
    }
}

/// Moves one direction until its end, and passes the end on.
async fn pump<R, W>(from: &mut R, to: &mut W, watch: &mut Watch) -> Result<(), ShuttleError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    let ready_by = Instant::now() + HANDSHAKE;
    loop {
        let filled = if watch.is_ready() {
            fill(from, &mut buffer).await?
        } else {
            timeout_at(ready_by, fill(from, &mut buffer)).await.map_err(|_| ShuttleError::Silent)??
        };
        if filled == 0 {
            to.shutdown().await?;
            return Ok(());
        }
        watch.inspect(&buffer[..filled])?;
        hand_over(&buffer[..filled], to).await?;
    }
}

async fn hand_over<W: AsyncWrite + Unpin>(mut bytes: &[u8], to: &mut W) -> Result<(), ShuttleError> {
    let deaf = |_| ShuttleError::Deaf;
    while !bytes.is_empty() {
        let written = timeout(DEAF, to.write(bytes)).await.map_err(deaf)??;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        bytes = &bytes[written..];
    }
    Ok(timeout(DEAF, to.flush()).await.map_err(deaf)??)
}

/// Waits for bytes, then takes all that are there: TLS gives them out in records of 16 KiB.
async fn fill<R: AsyncRead + Unpin>(from: &mut R, buffer: &mut [u8]) -> io::Result<usize> {
    let mut buffer = ReadBuf::new(buffer);
    poll_fn(|cx| {
        loop {
            let before = buffer.filled().len();
            match Pin::new(&mut *from).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if buffer.filled().len() > before && buffer.remaining() > 0 => {}
                Poll::Pending if before == 0 => return Poll::Pending,
                Poll::Ready(Err(error)) if before == 0 => return Poll::Ready(Err(error)),
                // What is here comes first; an end or an error will be there again.
                _ => return Poll::Ready(Ok(buffer.filled().len())),
            }
        }
    })
    .await
}
