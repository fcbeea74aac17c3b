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
use super::layer_out::LayerOut;
use crate::guardline::Standing;
use crate::talk::Speaker;

/// How long CRIU, whose images have ended too early, may take to end as well.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// Everything that is needed for it.
pub(super) struct LastBytes {
    pub(super) call: Arc<CriuCall>,
    /// CRIU's images, once all of them have been sent.
    pub(super) streams: oneshot::Receiver<Result<Vec<StreamSummary>, Problem>>,
    pub(super) layer: Arc<OnceCell<LayerOut>>,
    pub(super) speaker: Speaker,
    pub(super) criu_version: String,
    pub(super) terms: Terms,
}

impl LastBytes {
    /// Returns when CRIU is held at `post-dump` and the peer's session has every byte.
    pub(super) async fn send(mut self) -> Result<Manifest, Problem> {
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

    async fn all(&mut self) -> Result<Manifest, Problem> {
        let layer = self.layer.get().ok_or_else(|| Problem::internal("the layer was not copied"))?;
        let mut summaries = Vec::new();
        let criu_done = async {
            summaries = (&mut self.streams).await.map_err(Problem::internal)??;
            match self.call.guard.past(Some(Hook::PreDump)).await {
                Standing::At(Hook::PostDump) => Ok(()),
                other => Err(self.call.failure(Code::DumpFailed, other)),
            }
        };
        let sent = layer.last(criu_done).await?;
        self.speaker.flush().await?;
        let mut streams = vec![Stream { name: StreamName::layer(), length: sent.size, digest: sent.digest }];
        for summary in summaries {
            let name = StreamName::image(&summary.name).map_err(Problem::internal)?;
            streams.push(Stream { name, length: summary.length, digest: summary.digest });
        }
        let (from, epoch) = (self.terms.from.clone(), self.terms.epoch);
        Ok(Manifest::new(self.criu_version.clone(), from, epoch, streams))
    }
}
