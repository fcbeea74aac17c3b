//! One checkpoint crosses from one node to another: only what the other one lacks.
//!
//! ```text
//!   giver                       taker
//!   Have        ─────────►            (an owner ships; or the answer to Lack: another node fetches)
//!               ◄─────────  Kept      it is there already; else:
//!               ◄─────────  Outline
//!   OutlinePiece… ───────►
//!               ◄─────────  Want      segments that it lacks, some thousand at once
//!   Segment…    ─────────►            each compared with its name before it is stored; Want and Segment again
//!               ◄─────────  Kept      all of it is on disk
//! ```
//!
//! Either side says `Refused` instead of going on. What has come of a crossing that broke off is kept for a while ([`Halves`]), so
//! that the next one asks only for the rest. Which segments there are the generation's file says, whose digest is the
//! checkpoint's identity: whoever has all of them has what the giver had.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use migrate_image::vault::{Generation, Looked, Outline, Receiving, Vault};
use migrate_proto::cluster::CheckpointId;
use migrate_proto::error::{Code, Problem};
use migrate_proto::id::Digest;
use migrate_proto::message::{MOST_OUTLINE, MOST_WANTED, Message};
use migrate_proto::name::WorkloadName;

use super::{Checkpoints, locked, of_vault, short};
use crate::events::{Clock, SystemClock};
use crate::host::Host;
use crate::talk::{Talk, unexpected};

/// How long the other side may take for its next word: it may have to read and to write a lot before.
pub(super) const NEXT_WORD: Duration = Duration::from_secs(120);
/// How long a part of a checkpoint is kept that nobody goes on with.
const KEPT_HALF: Duration = Duration::from_secs(3600);
/// Of how many checkpoints at most.
const MOST_HALVES: usize = 8;

/// What came of giving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given {
    /// What crossed: segments, and the generation's file.
    pub bytes: u64,
}

/// Gives a checkpoint of this node to the other side, who then has all of it.
pub(super) async fn give(
    talk: &mut Talk,
    vault: &Vault,
    workload: &WorkloadName,
    checkpoint: CheckpointId,
) -> Result<Given, Problem> {
    let reading = vault.clone();
    let outline = tokio::task::spawn_blocking(move || reading.outline(checkpoint)).await.map_err(Problem::internal)?;
    let (file, segments) = match outline {
        Ok(outline) => outline,
        Err(error) => {
            let problem = of_vault(error);
            let _ = talk.speaker.say_last(&Message::Refused(problem.clone())).await;
            return Err(problem);
        }
    };
    let (workload, length) = (workload.clone(), file.len() as u64);
    talk.speaker.say(&Message::Have { workload, checkpoint, bytes: length }).await?;
    let (file, segments) = (Bytes::from(file), segments.into_iter().collect::<HashSet<Digest>>());
    let mut bytes = 0;
    loop {
        match next(talk).await? {
            (Message::Kept { checkpoint: kept }, _) if kept == checkpoint => return Ok(Given { bytes }),
            (Message::Outline, _) => {
                for start in (0..file.len()).step_by(MOST_OUTLINE) {
                    let piece = file.slice(start..file.len().min(start + MOST_OUTLINE));
                    bytes += piece.len() as u64;
                    talk.speaker.say_with(&Message::OutlinePiece, piece).await?;
                }
            }
            (Message::Want { segments: wanted }, _) => {
                for digest in wanted {
                    if !segments.contains(&digest) {
                        return Err(odd(format!("wants the segment {digest}, which is none of {}", short(checkpoint))));
                    }
                    let reading = vault.clone();
                    let read = tokio::task::spawn_blocking(move || reading.segment(digest)).await;
                    let segment = match read.map_err(Problem::internal)? {
                        Ok(segment) => segment,
                        Err(error) => {
                            let problem = of_vault(error);
                            let _ = talk.speaker.say_last(&Message::Refused(problem.clone())).await;
                            return Err(problem);
                        }
                    };
                    bytes += segment.len() as u64;
                    talk.speaker.say_with(&Message::Segment { digest }, segment.into()).await?;
                }
            }
            (Message::Refused(problem), _) => return Err(problem),
            (other, _) => return Err(unexpected(&other)),
        }
    }
}

/// What the other side says that it has.
#[derive(Debug, Clone)]
pub(super) struct Offered {
    /// Of which workload.
    pub workload: WorkloadName,
    /// Which.
    pub checkpoint: CheckpointId,
    /// The length of its file.
    pub bytes: u64,
}

/// Takes a checkpoint that the other side has, and answers; the last answer is said here.
pub(super) async fn take(host: &Arc<Host>, talk: &mut Talk, offered: Offered) -> Result<Generation, Problem> {
    let taken = take_all(host, talk, &offered).await;
    let said = match &taken {
        Ok(generation) => talk.speaker.say(&Message::Kept { checkpoint: generation.id }).await,
        Err(problem) => talk.speaker.say_last(&Message::Refused(problem.clone())).await,
    };
    taken.and_then(|generation| said.map(|()| generation))
}

async fn take_all(host: &Arc<Host>, talk: &mut Talk, offered: &Offered) -> Result<Generation, Problem> {
    let id = offered.checkpoint;
    let vault = host.checkpoints().vault()?;
    let here = vault.generation(id);
    if let Some(here) = here.as_ref().filter(|here| here.is_usable()) {
        return Ok(here.clone());
    }
    let file = hear_file(talk, offered.bytes).await?;
    let outline = Outline::read(&file).map_err(of_vault)?;
    if outline.id != id || outline.about.spec.name != offered.workload {
        return Err(odd(format!("sends another checkpoint than {}", short(id))));
    }
    let half = host.checkpoints().halves.take_up(id, vault);
    // One that is known to be damaged is read, so that only what is wrong with it comes again.
    let (segments, damaged, looking) = (outline.segments, here.is_some(), half.clone());
    let lacking = tokio::task::spawn_blocking(move || match damaged {
        true => locked(&looking).missing_or_damaged(&segments).map_err(of_vault),
        false => Ok(locked(&looking).missing(&segments)),
    });
    let lacking = lacking.await.map_err(Problem::internal)??;
    let come = async {
        for wanted in lacking.chunks(MOST_WANTED) {
            talk.speaker.say(&Message::Want { segments: wanted.to_vec() }).await?;
            for digest in wanted {
                let segment = match next(talk).await? {
                    (Message::Segment { digest: named }, segment) if named == *digest => segment,
                    (Message::Refused(problem), _) => return Err(problem),
                    (other, _) => return Err(unexpected(&other)),
                };
                let (putting, digest) = (half.clone(), *digest);
                let put = tokio::task::spawn_blocking(move || locked(&putting).put(digest, &segment));
                put.await.map_err(Problem::internal)?.map_err(of_vault)?;
            }
        }
        Ok(())
    };
    if let Err(problem) = come.await {
        host.checkpoints().halves.leave(id, half);
        return Err(problem);
    }
    let (installing, vault) = (half, vault.clone());
    let installed = tokio::task::spawn_blocking(move || {
        let generation = locked(&installing).install(&file).map_err(of_vault)?;
        let looked = Looked::Sound { at_ms: SystemClock.now_ms() };
        vault.note(generation.id, looked.clone()).map_err(of_vault)?;
        Ok(Generation { looked: Some(looked), ..generation })
    });
    let installed = installed.await.map_err(Problem::internal)?;
    host.checkpoints().changed();
    installed
}

/// The file of a generation, in pieces.
async fn hear_file(talk: &mut Talk, length: u64) -> Result<Bytes, Problem> {
    if length > Outline::MOST_BYTES as u64 {
        return Err(odd(format!("speaks of a checkpoint whose file has {length} bytes")));
    }
    talk.speaker.say(&Message::Outline).await?;
    // Not reserved: the length is only what somebody says.
    let mut file = BytesMut::new();
    while (file.len() as u64) < length {
        match next(talk).await? {
            (Message::OutlinePiece, piece) if !piece.is_empty() && (file.len() + piece.len()) as u64 <= length => {
                file.extend_from_slice(&piece);
            }
            (Message::Refused(problem), _) => return Err(problem),
            (other, _) => return Err(unexpected(&other)),
        }
    }
    Ok(file.freeze())
}

/// What the other side says next, in bounded time.
pub(super) async fn next(talk: &mut Talk) -> Result<(Message, Bytes), Problem> {
    let peer = &talk.peer.node;
    match tokio::time::timeout(NEXT_WORD, talk.listener.hear()).await {
        Ok(heard) => heard?.ok_or_else(|| {
            Problem::new(Code::LinkLost, format!("{peer} ended the conversation about a checkpoint early"))
        }),
        Err(_) => Err(Problem::new(Code::TimedOut, format!("{peer} said nothing for {NEXT_WORD:?}"))),
    }
}

fn odd(what: String) -> Problem {
    Problem::new(Code::Corrupt, format!("the other node {what}"))
}

/// Checkpoints of which a part has come.
#[derive(Default)]
pub(super) struct Halves(Mutex<Vec<Half>>);

struct Half {
    id: CheckpointId,
    came: Arc<Mutex<Receiving>>,
    since: Instant,
}

impl Halves {
    /// What has come of it, or nothing yet.
    fn take_up(&self, id: CheckpointId, vault: &Vault) -> Arc<Mutex<Receiving>> {
        self.tidy();
        let mut halves = locked(&self.0);
        let known = halves.iter().position(|half| half.id == id);
        known.map_or_else(|| Arc::new(Mutex::new(vault.receive())), |place| halves.swap_remove(place).came)
    }

    /// Somebody may go on with it.
    fn leave(&self, id: CheckpointId, came: Arc<Mutex<Receiving>>) {
        let mut halves = locked(&self.0);
        if halves.len() >= MOST_HALVES {
            halves.remove(0);
        }
        halves.push(Half { id, came, since: Instant::now() });
    }

    /// What nobody went on with for long goes.
    pub(super) fn tidy(&self) {
        locked(&self.0).retain(|half| half.since.elapsed() < KEPT_HALF);
    }
}

/// For logs: a message about what went over the wire.
pub(super) fn told(given: Given, checkpoint: CheckpointId) -> String {
    format!("{}: {} KiB", short(checkpoint), given.bytes >> 10)
}

impl Checkpoints {
    /// What is here, or elsewhere, is not what it was.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}
