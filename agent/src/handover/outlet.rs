//! Where what is read of a workload goes: to a peer, for a move; into the vault, for a checkpoint.

use async_trait::async_trait;
use bytes::Bytes;
use migrate_image::chunk::ChunkHeader;
use migrate_proto::error::Problem;
use migrate_proto::manifest::StreamName;
use migrate_proto::message::Message;
use tokio::sync::mpsc;

use crate::talk::Speaker;

/// Takes streams, chunk by chunk.
#[async_trait]
pub(crate) trait Outlet: Send + Sync {
    /// A stream of the image begins.
    async fn open_stream(&self, stream: u32, name: StreamName) -> Result<(), Problem>;

    /// A chunk of it, of the layer or of what is copied ahead. Returns when there is room for the next one.
    async fn chunk(&self, header: ChunkHeader, bytes: Bytes) -> Result<(), Problem>;

    /// Waits until everything has arrived.
    async fn flush(&self) -> Result<(), Problem>;
}

#[async_trait]
impl Outlet for Speaker {
    async fn open_stream(&self, stream: u32, name: StreamName) -> Result<(), Problem> {
        self.say(&Message::OpenStream { stream, name }).await
    }

    async fn chunk(&self, header: ChunkHeader, bytes: Bytes) -> Result<(), Problem> {
        self.say_with(&super::receive::to_message(&header), bytes).await
    }

    async fn flush(&self) -> Result<(), Problem> {
        Speaker::flush(self).await
    }
}

/// Hands chunks over as they come; `count` is told raw bytes and bytes sent.
pub(super) async fn send_chunks(
    mut chunks: mpsc::Receiver<(ChunkHeader, Bytes)>,
    outlet: &dyn Outlet,
    count: impl Fn(u64, u64),
) -> Result<(), Problem> {
    while let Some((header, bytes)) = chunks.recv().await {
        let (raw, sent) = (u64::from(header.raw_len), bytes.len() as u64);
        outlet.chunk(header, bytes).await?;
        count(raw, sent);
    }
    Ok(())
}
