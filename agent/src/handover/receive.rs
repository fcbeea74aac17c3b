//! What comes in on the target: chunks of the layer into its file, chunks of the image into the store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use migrate_image::chunk::{AHEAD_STREAM, ChunkHeader, Encoding, LAYER_STREAM, StreamSummary};
use migrate_image::incoming::{Incoming, IncomingError};
use migrate_image::layer::{LayerError, LayerTarget};
use migrate_image::store::{Store, StoreError, StoredImage};
use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::target::Event;
use migrate_proto::manifest::{Manifest, StreamName};
use migrate_proto::message::{self, Message};
use tokio::sync::{mpsc, watch};

use super::Input;
use super::line::Intake;
use super::meter::Meter;

/// The layer's blocks may come again in a later round: one after the other. The image's chunks come once.
const LAYER_AT_ONCE: u32 = 1;
const IMAGE_AT_ONCE: u32 = 2;

/// Where chunks go.
pub(super) struct Reception {
    layer: Incoming<LayerTarget>,
    layer_target: Arc<LayerTarget>,
    image: Incoming<Store>,
    store: Arc<Store>,
    names: Mutex<BTreeMap<u32, StreamName>>,
}

impl Reception {
    /// Makes the layer's file and the image's directory. Blocks.
    pub(super) fn prepare(
        layer: &Path,
        layer_bytes: u64,
        image: &Path,
        expected: u64,
        budget: u64,
    ) -> Result<Reception, Problem> {
        let layer_target = Arc::new(LayerTarget::create(layer, layer_bytes).map_err(Problem::internal)?);
        if let Some(parent) = image.parent() {
            std::fs::create_dir_all(parent).map_err(Problem::internal)?;
        }
        let store = Arc::new(Store::create(image, budget).map_err(Problem::internal)?);
        store
            .reserve(expected)
            .map_err(|error| Problem::new(Code::NoMemory, format!("cannot set memory aside for the image: {error}")))?;
        Ok(Reception {
            layer: Incoming::new(layer_target.clone(), LAYER_AT_ONCE),
            image: Incoming::new(store.clone(), IMAGE_AT_ONCE),
            layer_target,
            store,
            names: Mutex::default(),
        })
    }

    async fn take(&self, header: ChunkHeader, bytes: Bytes) -> Result<(), Problem> {
        if header.stream == LAYER_STREAM {
            self.layer.push(header, bytes).await.map_err(of_layer)
        } else {
            self.image.push(header, bytes).await.map_err(of_image)
        }
    }

    /// Waits until all of the layer that has come is on disk.
    async fn settle_layer(&self) -> Result<(), Problem> {
        self.layer.drained().await.map_err(of_layer)?;
        let target = self.layer_target.clone();
        tokio::task::spawn_blocking(move || target.sync()).await.map_err(Problem::internal)?.map_err(Problem::internal)
    }

    /// Waits until all memory that was copied ahead is there: from now on images may refer to it.
    async fn settle_memory(&self) -> Result<(), Problem> {
        self.image.drained().await.map_err(of_image)
    }

    /// Compares everything with the manifest, and makes it durable.
    pub(super) async fn verify(&self, manifest: &Manifest) -> Result<Arc<StoredImage>, Problem> {
        self.settle_layer().await?;
        self.settle_memory().await?;
        let target = self.layer_target.clone();
        let layer = tokio::task::spawn_blocking(move || target.digest()).await.map_err(Problem::internal)?;
        let expected = manifest.stream(&StreamName::layer()).map(|stream| stream.digest);
        if expected != Some(layer) {
            return Err(corrupt("the layer has another digest".into()));
        }
        let streams = self.summaries(manifest)?;
        let store = self.store.clone();
        let complete =
            tokio::task::spawn_blocking(move || store.complete(&streams)).await.map_err(Problem::internal)?;
        complete.map(Arc::new).map_err(|error| corrupt(error.to_string()))
    }

    /// The manifest's images, by the numbers under which they came.
    fn summaries(&self, manifest: &Manifest) -> Result<Vec<StreamSummary>, Problem> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let images = manifest.streams.iter().filter_map(|stream| Some((stream, stream.name.image_file()?)));
        let number = |name: &StreamName| names.iter().find(|(_, known)| *known == name).map(|(number, _)| *number);
        images
            .map(|(stream, file)| {
                let missing = || corrupt(format!("the image {file} was announced and never came"));
                let number = number(&stream.name).ok_or_else(missing)?;
                Ok(StreamSummary {
                    stream: number,
                    name: file.to_owned(),
                    length: stream.length,
                    digest: stream.digest,
                })
            })
            .collect()
    }

    fn open_stream(&self, stream: u32, name: StreamName) -> Result<(), Problem> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() >= migrate_proto::manifest::MAX_STREAMS || names.insert(stream, name).is_some() {
            return Err(corrupt(format!("stream {stream} was opened twice, or is one too many")));
        }
        Ok(())
    }
}

/// Takes what belongs to the reception out of a conversation. Chunks that come before it is ready wait.
pub(super) struct ReceptionDesk {
    /// Filled when the sandbox is being built.
    pub(super) reception: watch::Receiver<Option<Arc<Reception>>>,
    /// Where the machine's input goes.
    pub(super) inputs: mpsc::UnboundedSender<Input<Event>>,
    /// Counts.
    pub(super) meter: Arc<Meter>,
    /// Something could not be taken, and the machine knows.
    pub(super) failed: bool,
}

impl ReceptionDesk {
    async fn reception(&mut self) -> Result<Arc<Reception>, Problem> {
        let ready = self.reception.wait_for(Option::is_some).await.map_err(Problem::internal)?;
        ready.clone().ok_or_else(|| Problem::internal("the reception is closed"))
    }

    async fn handle(&mut self, message: Message, bulk: Bytes) -> Result<Option<Message>, Problem> {
        match message {
            Message::OpenStream { stream, name } => self.reception().await?.open_stream(stream, name)?,
            Message::Chunk { stream, offset, raw_len, encoding, digest } => {
                let header = ChunkHeader { stream, offset, raw_len, encoding: from_wire(encoding), digest };
                let (raw, came) = (u64::from(raw_len), bulk.len() as u64);
                if stream == AHEAD_STREAM {
                    self.meter.ahead(raw, came)
                } else {
                    self.meter.memory(raw, came)
                }
                self.reception().await?.take(header, bulk).await?;
            }
            Message::LayerAheadDone { .. } => {
                let reception = self.reception().await?;
                reception.settle_memory().await?;
                reception.settle_layer().await?;
                let _ = self.inputs.send(Input::Event(Event::LayerArrived));
            }
            other => return Ok(Some(other)),
        }
        Ok(None)
    }
}

#[async_trait]
impl Intake for ReceptionDesk {
    /// After a failure the rest is heard and dropped: who stopped listening would break the conversation off, and the source
    /// would never hear why.
    async fn take(&mut self, message: Message, bulk: Bytes) -> Result<Option<Message>, Problem> {
        let is_content =
            matches!(message, Message::OpenStream { .. } | Message::Chunk { .. } | Message::LayerAheadDone { .. });
        if self.failed && is_content {
            return Ok(None);
        }
        match self.handle(message, bulk).await {
            Err(problem) => {
                self.failed = true;
                let _ = self.inputs.send(Input::Event(Event::ReceiveFailed(problem)));
                Ok(None)
            }
            taken => taken,
        }
    }
}

/// A file that cannot be written is not the sender's fault.
fn of_layer(error: IncomingError<LayerError>) -> Problem {
    match &error {
        IncomingError::Refused(LayerError::Io { .. }) => Problem::new(Code::NoDisk, error.to_string()),
        _ => corrupt(error.to_string()),
    }
}

fn of_image(error: IncomingError<StoreError>) -> Problem {
    match &error {
        IncomingError::Refused(StoreError::Io { .. }) => Problem::new(Code::NoMemory, error.to_string()),
        _ => corrupt(error.to_string()),
    }
}

/// TLS has authenticated every byte: this is damaged memory, a bug, or a lie.
fn corrupt(what: String) -> Problem {
    Problem::new(Code::Corrupt, format!("what arrived is not what was sent: {what}"))
        .hint("try again; where it comes back, test the memory of both nodes")
}

fn from_wire(encoding: message::Encoding) -> Encoding {
    match encoding {
        message::Encoding::Raw => Encoding::Raw,
        message::Encoding::Zstd => Encoding::Zstd,
        message::Encoding::Zero => Encoding::Zero,
        message::Encoding::Refs => Encoding::Refs,
    }
}

/// A chunk's header as it travels.
pub(super) fn to_message(header: &ChunkHeader) -> Message {
    let encoding = match header.encoding {
        Encoding::Raw => message::Encoding::Raw,
        Encoding::Zstd => message::Encoding::Zstd,
        Encoding::Zero => message::Encoding::Zero,
        Encoding::Refs => message::Encoding::Refs,
    };
    Message::Chunk {
        stream: header.stream,
        offset: header.offset,
        raw_len: header.raw_len,
        encoding,
        digest: header.digest,
    }
}
