//! From a dump into the vault: chunks are taken on blocking threads, a few at once.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use migrate_image::chunk::{ChunkHeader, LAYER_STREAM};
use migrate_image::incoming::{Incoming, IncomingError};
use migrate_image::vault::{WriteError, Writing};
use migrate_proto::error::Problem;
use migrate_proto::manifest::StreamName;

use super::of_write;
use crate::handover::outlet::Outlet;

/// The layer's blocks may come again in a later round: one after the other. The image's chunks come once.
const LAYER_AT_ONCE: u32 = 1;
const IMAGE_AT_ONCE: u32 = 2;

/// The way into a generation.
pub(super) struct VaultOutlet {
    layer: Incoming<Writing>,
    image: Incoming<Writing>,
}

impl VaultOutlet {
    pub(super) fn new(writing: &Arc<Writing>) -> VaultOutlet {
        VaultOutlet {
            layer: Incoming::new(writing.clone(), LAYER_AT_ONCE),
            image: Incoming::new(writing.clone(), IMAGE_AT_ONCE),
        }
    }
}

fn problem(error: IncomingError<WriteError>) -> Problem {
    match error {
        IncomingError::Refused(error) => of_write(error),
        IncomingError::Failed => Problem::internal("an earlier part of the checkpoint could not be stored"),
    }
}

#[async_trait]
impl Outlet for VaultOutlet {
    async fn open_stream(&self, _stream: u32, _name: StreamName) -> Result<(), Problem> {
        // The vault learns the names in the end, with lengths and digests.
        Ok(())
    }

    async fn chunk(&self, header: ChunkHeader, bytes: Bytes) -> Result<(), Problem> {
        let to = if header.stream == LAYER_STREAM { &self.layer } else { &self.image };
        to.push(header, bytes).await.map_err(problem)
    }

    async fn flush(&self) -> Result<(), Problem> {
        self.layer.drained().await.map_err(problem)?;
        self.image.drained().await.map_err(problem)
    }
}
