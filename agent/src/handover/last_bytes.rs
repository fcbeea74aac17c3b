//! What crosses during the pause: the layer's last changes beside CRIU's images, and then what all of it is.

use std::sync::Arc;
use std::time::Duration;

use migrate_image::chunk::StreamSummary;
use migrate_proto::error::{Code, Problem};
use migrate_proto::handover::Terms;
use migrate_proto::manifest::{Manifest, Stream, StreamName};
use migrate_sandbox::guard::Hook;
use tokio::sync::{OnceCell, oneshot};

use super::dump::CriuCall;
use super::layer_out::{LayerOut, Sent};
use super::outlet::Outlet;
use crate::guardline::Standing;

/// How long CRIU, whose images have ended too early, may take to end as well.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Everything that is needed for it.
pub(crate) struct LastBytes {
    pub(crate) call: Arc<CriuCall>,
    /// CRIU's images, once all of them have been sent.
    pub(crate) streams: oneshot::Receiver<Result<Vec<StreamSummary>, Problem>>,
    pub(crate) layer: Arc<OnceCell<LayerOut>>,
    pub(crate) outlet: Arc<dyn Outlet>,
}

/// What all of it is.
pub(crate) struct Whole {
    /// CRIU's images.
    pub(crate) streams: Vec<StreamSummary>,
    /// The layer.
    pub(crate) layer: Sent,
}

impl Whole {
    /// The same, as it is told to a peer.
    pub(super) fn manifest(self, criu_version: String, terms: &Terms) -> Result<Manifest, Problem> {
        let Whole { streams: summaries, layer } = self;
        let mut streams = vec![Stream { name: StreamName::layer(), length: layer.size, digest: layer.digest }];
        for summary in summaries {
            let name = StreamName::image(&summary.name).map_err(Problem::internal)?;
            streams.push(Stream { name, length: summary.length, digest: summary.digest });
        }
        Ok(Manifest::new(criu_version, terms.from.clone(), terms.epoch, streams))
    }
}

impl LastBytes {
    /// Returns when CRIU is held at `post-dump` and every byte has arrived.
    pub(crate) async fn send(mut self) -> Result<Whole, Problem> {
        match self.all().await {
            // Where CRIU is ending its own words are worth more than the broken pipe.
            Err(problem) if problem.code == Code::DumpFailed => {
                match tokio::time::timeout(LAST_WORDS, self.call.guard.end()).await {
                    Ok(Some(exit)) => Err(self.call.failure(Code::DumpFailed, Standing::Ended(exit))),
                    _ => Err(problem),
                }
            }
            sent => sent,
        }
    }

    async fn all(&mut self) -> Result<Whole, Problem> {
        let layer = self.layer.get().ok_or_else(|| Problem::internal("the layer was not copied"))?;
        let mut streams = Vec::new();
        let criu_done = async {
            streams = (&mut self.streams).await.map_err(Problem::internal)??;
            match self.call.guard.past(Some(Hook::PreDump)).await {
                Standing::At(Hook::PostDump) => Ok(()),
                other => Err(self.call.failure(Code::DumpFailed, other)),
            }
        };
        let layer = layer.last(criu_done).await?;
        self.outlet.flush().await?;
        Ok(Whole { streams, layer })
    }
}
